"""Core: errors, files, settings, progress, archives; what every room needs, without images."""
