"""The training loop: setup, steps, validation, logging, early stopping, signals.

Objectives, networks, data and the files of a run folder belong to rooms of their own.
"""
