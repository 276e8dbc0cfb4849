"""Builds: corpora of pairs, selections, resized folders; merges of shards, replays of inputs."""

__all__ = ["image_folders", "merge", "pairings", "pairs", "replay"]
