"""From a corpus to batches of tensors: decoding, caching, augmentation, color spaces,
deconvolution.
"""

__all__ = ["augment", "checks", "color", "dataset", "deconvolution", "device_cache", "loader",
           "on_the_fly", "pair_dataset"]  # fmt: skip
