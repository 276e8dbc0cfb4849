"""Scores of models on corpora: per image, by tag and as a matrix of runs and corpora.

The metrics themselves are in `metrics`, the HTML pages in `report`.
"""
