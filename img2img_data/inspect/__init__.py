"""Inspection of corpora: page, verification, leakage; contact sheets and demo photos.

Nothing here changes a corpus.
"""
