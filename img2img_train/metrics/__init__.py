"""Image metrics, metrics of sets of images, confidence intervals."""

__all__ = ["bootstrap", "color_overlap", "image", "perceptual"]
