"""The command line: commands, options, recipes. Parses, calls, prints."""

__all__ = ["main"]
