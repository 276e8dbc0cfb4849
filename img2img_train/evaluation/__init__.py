"""Scoring models on corpora: the matrix of runs and corpora, by tag, with baselines."""

__all__ = ["evaluate", "score"]
