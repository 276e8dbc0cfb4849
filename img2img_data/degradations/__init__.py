"""Degradations: the parameters that each one draws, and how it applies them. No files."""
