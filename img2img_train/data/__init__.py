"""From a corpus to batches of tensors: decoding, caching, augmentation, color spaces,
deconvolution.
"""
