"""What one task makes: a pair of a corpus, a selected image, a replayed input; and merged shards."""

__all__ = ["merge", "pairings", "pairs", "replay", "resize_folder", "select"]
