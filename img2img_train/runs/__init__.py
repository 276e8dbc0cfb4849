"""Run folders, checkpoints, and the models and weight files loaded from disk.

What trains a model is in `training`, what scores one in `evaluation`.
"""
