"""Weights and options of the PyTorch CycleGAN/pix2pix repository."""

__all__ = ["junyanz_options", "junyanz_weights"]
