"""Run an exported model without img2img and PyTorch: ONNX Runtime, NumPy and Pillow are enough.

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

_, model, photo, out = sys.argv if len(sys.argv) == 4 else sys.exit(__doc__)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
image = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))  # any size
Image.fromarray(session.run(None, {"image": image[None]})[0][0]).save(out)  # N x H x W x 3 uint8
