"""Builds: corpora of pairs, selections, resized folders; merging of shards, and replays of single inputs."""

__all__ = ["merge", "pairings", "pairs", "replay", "resize_folder", "selection"]
