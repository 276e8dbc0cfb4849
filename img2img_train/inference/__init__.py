"""Applying a model: images of any size, videos, and export to ONNX."""

__all__ = ["inputs", "onnx_export", "translate", "video"]
