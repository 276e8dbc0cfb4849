"""A small Inception network with drawn weights, in a file such as that of pytorch-fid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def drawn(seed: int, *shape: int) -> Any:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values * (2 / max(1, values[0].numel())) ** 0.5


INCEPTION = {
    "Mixed_5": "branch1x1:11 branch5x5_1:11 branch5x5_2:55 branch3x3dbl_1:11 branch3x3dbl_2:33 "
    "branch3x3dbl_3:33 branch_pool:11",
    "Mixed_6a": "branch3x3:33 branch3x3dbl_1:11 branch3x3dbl_2:33 branch3x3dbl_3:33",
    "Mixed_6": "branch1x1:11 branch7x7_1:11 branch7x7_2:17 branch7x7_3:71 branch7x7dbl_1:11 "
    "branch7x7dbl_2:71 branch7x7dbl_3:17 branch7x7dbl_4:71 branch7x7dbl_5:17 branch_pool:11",
    "Mixed_7a": "branch3x3_1:11 branch3x3_2:33 branch7x7x3_1:11 branch7x7x3_2:17 branch7x7x3_3:71 "
    "branch7x7x3_4:33",
    "Mixed_7": "branch1x1:11 branch3x3_1:11 branch3x3_2a:13 branch3x3_2b:31 branch3x3dbl_1:11 "
    "branch3x3dbl_2:33 branch3x3dbl_3a:13 branch3x3dbl_3b:31 branch_pool:11",
}
"""The convolutions of each kind of block, by name and sides of the kernel."""
PARALLEL = {"Mixed_5": 4, "Mixed_6a": 2, "Mixed_6": 4, "Mixed_7a": 2, "Mixed_7": 6}
BLOCKS = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
FIRST_OF_BRANCH = ("branch1x1", "branch_pool", "branch3x3", "_1")


def inception_file(path: Path, width: int = 2) -> Path:
    tensors: dict[str, Any] = {}

    def convolution(name: str, inputs: int, high: int, wide: int) -> None:
        seed = len(tensors)
        tensors[f"{name}.conv.weight"] = drawn(seed, width, inputs, high, wide)
        tensors[f"{name}.bn.weight"] = tensors[f"{name}.bn.running_var"] = torch.ones(width)
        tensors[f"{name}.bn.bias"] = tensors[f"{name}.bn.running_mean"] = drawn(seed + 1, width)

    inputs = 3
    for stem, side in (("1a_3x3", 3), ("2a_3x3", 3), ("2b_3x3", 3), ("3b_1x1", 1), ("4a_3x3", 3)):
        convolution(f"Conv2d_{stem}", inputs, side, side)
        inputs = width
    for place in BLOCKS:
        kind = f"Mixed_{place}" if f"Mixed_{place}" in INCEPTION else f"Mixed_{place[0]}"
        for name, _, sides in (part.partition(":") for part in INCEPTION[kind].split()):
            first = name.endswith(FIRST_OF_BRANCH)
            convolution(
                f"Mixed_{place}.{name}", inputs if first else width, int(sides[0]), int(sides[1])
            )
        inputs = PARALLEL[kind] * width + (inputs if kind.endswith("a") else 0)
    tensors["fc.weight"] = drawn(1, 3, inputs)
    torch.save(tensors, path)
    return path
