"""Builds: corpora of pairs, selections, resized folders; merges of shards, replays of inputs."""
