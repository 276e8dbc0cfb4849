"""Errors, settings models, YAML and JSON Lines files, progress bars: what every room needs and no image."""

__all__ = ["errors", "files", "jsonl", "progress", "settings_model", "tar", "yaml_file"]
