"""Degradations: what each one draws and how it applies it. No files, no corpora."""

__all__ = ["compose", "registry", "spec"]
