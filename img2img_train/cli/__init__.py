"""The command line: commands and options. Parses, calls, prints."""

__all__ = ["main", "options"]
