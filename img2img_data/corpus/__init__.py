"""The corpus on disk: names, rows, keys, and the layouts of other tools that can be read as one."""

__all__ = ["format", "layouts"]
