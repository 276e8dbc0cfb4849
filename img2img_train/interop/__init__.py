"""Weights and options of other projects: the PyTorch CycleGAN/pix2pix repository.

What belongs here: reading and writing their files, and translating their options to settings of
this package. Networks and settings themselves do not.
"""
