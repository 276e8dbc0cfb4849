"""Inspection of a corpus: its page, verification, leakage between splits; contact sheets, demo
photos.

Nothing here changes a corpus.
"""

__all__ = ["contact_sheet", "corpus_page", "demo_photos", "leakage", "verify"]
