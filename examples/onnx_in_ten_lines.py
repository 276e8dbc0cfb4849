"""A model without img2img and without PyTorch: ONNX Runtime, NumPy and Pillow are enough.

Example:
  img2img-train export runs/mine mine.onnx
  python examples/onnx_in_ten_lines.py mine.onnx photo.jpg restored.png
"""

import os
import sys

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, or ONNX Runtime reports its use
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = np.asarray(ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB"))  # any size
(restored,) = session.run(None, {"image": image[None]})  # N x H x W x 3 uint8, both
Image.fromarray(restored[0]).save(sys.argv[3])
