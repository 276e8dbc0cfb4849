"""Perceptual hashes, duplicates, and the shift between the two halves of a pair."""

__all__ = ["alignment", "duplicates", "perceptual_hash"]
