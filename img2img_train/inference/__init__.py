"""Application of trained models: images of any size, videos, and export to ONNX.

Reading a checkpoint (runs) and scoring (evaluation) do not belong here.
"""
