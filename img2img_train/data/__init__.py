"""From a corpus to batches of tensors: decoding, caching, augmentation, color spaces."""

__all__ = [
    "augment", "checks", "color", "dataset", "device_cache", "loader", "on_the_fly", "pair_dataset",
]  # fmt: skip
