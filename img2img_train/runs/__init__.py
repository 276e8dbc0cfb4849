"""The run folder and its checkpoints, and models loaded from them."""

__all__ = ["checkpoint", "folder", "weight_files"]
