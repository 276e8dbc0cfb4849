"""Similarity: perceptual hashes, duplicates, and the shift between the two halves of a pair.

It compares pixels in memory and fingerprints in a file; it does not know corpora.
"""
