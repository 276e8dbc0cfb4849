"""A training loop of your own on a corpus: plain PyTorch, with the batches of img2img.

Example:
  img2img-data blur photos/ corpora/mine --size 128 --split train=0.9,test=0.1
  python examples/own_training_loop.py corpora/mine 20
"""

import sys

import torch
from torch import Tensor, nn

import img2img_train as train


class Residual(nn.Module):
    """Three convolutions that predict the difference between target and input."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, width, 5, padding=2), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
            nn.Conv2d(width, 3, 3, padding=1),
        )
        nn.init.zeros_(self.layers[-1].weight)  # starts as the identity

    def forward(self, image: Tensor) -> Tensor:
        """Return the restored image."""
        return image + self.layers(image)


def psnr(output: Tensor, target: Tensor) -> float:
    """Return the PSNR in dB of images in [-1, 1]."""
    return float(10 * torch.log10(4 / (output.clamp(-1, 1) - target).square().mean()))


def main(corpus: str, epochs: int = 20) -> None:
    """Train on the train split, and score on the test split."""
    torch.manual_seed(0)
    pairs, held_out = (
        train.PairDataset(corpus, batch=8, flip=True),
        train.PairDataset(corpus, "test"),
    )
    network = Residual()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for epoch in range(epochs):
        # Another order and other flips in each epoch, the same whenever you run it.
        for input, target in pairs.batches(epoch):
            loss = (network(input) - target).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.4f}")
    with torch.no_grad():
        scores = [
            (psnr(input, target), psnr(network(input[None])[0], target))
            for input, target in held_out
        ]
    before, after = (sum(side) / len(scores) for side in zip(*scores, strict=True))
    print(f"PSNR {after:.2f} dB, input {before:.2f}, on {len(scores)} held-out images")


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))
