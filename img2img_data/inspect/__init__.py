"""Inspection of corpora: page, verification, leakage; contact sheets and demo photos.

Nothing here changes a corpus.
"""

__all__ = ["contact_sheet", "corpus_page", "demo_photos", "leakage", "verify"]
