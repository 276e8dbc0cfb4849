"""Core: errors, files, settings, progress, archives; what every room needs, without images."""

__all__ = ["command_line", "errors", "files", "jsonl", "settings_model", "tar", "yaml_file"]
