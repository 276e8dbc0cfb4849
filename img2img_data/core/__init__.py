"""Core: what every room needs and that knows no images: errors, files, settings, progress, archives."""

__all__ = [
    "command_line",
    "errors",
    "files",
    "jsonl",
    "progress",
    "settings_model",
    "tar",
    "yaml_file",
]
