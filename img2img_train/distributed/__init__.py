"""Several processes that train one model, and what to do when memory runs out."""

__all__ = ["memory", "processes"]
