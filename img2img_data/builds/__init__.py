"""Builds: corpora of pairs, selections, resized folders; merges of shards, replays of inputs."""

__all__ = ["merge", "pairings", "pairs", "replay", "resize_folder", "selection"]
