"""HTML pages about runs and evaluations."""

__all__ = ["gallery", "page"]
