"""Degradations: the parameters that each one draws, and how it applies them. No files."""

__all__ = ["base", "compose", "registry", "resample", "spec"]
