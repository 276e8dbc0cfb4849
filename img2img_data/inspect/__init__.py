"""Looking at a corpus: pages, statistics, verification, leaks between splits."""

__all__ = ["alignment_audit", "contact_sheet", "corpus_page", "demo_photos", "leakage", "verify"]
