"""A model without img2img and without PyTorch: ONNX Runtime, NumPy and Pillow are enough.

Example:
  img2img-train export runs/mine mine.onnx
  python examples/onnx_in_ten_lines.py mine.onnx photo.jpg restored.png
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image

model, source, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
image = np.asarray(Image.open(source).convert("RGB"))  # any size
(restored,) = session.run(None, {"image": image[None]})  # N x H x W x 3 uint8, both
Image.fromarray(restored[0]).save(out)
