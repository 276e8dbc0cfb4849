"""Metrics of images and of sets of images, and the confidence intervals of their means.

Which models and corpora are scored is the matter of `evaluation`.
"""
