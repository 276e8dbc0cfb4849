"""The training loop: setup, steps, validation, logging, early stopping."""

__all__ = ["fit", "signals"]
