"""Metrics of images and of sets of images, and the confidence intervals of their means.

The choice of models and corpora to score belongs to `evaluation`.
"""
