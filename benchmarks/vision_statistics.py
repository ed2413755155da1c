"""Batch statistics of the first BatchNorm of a ResNet20 on CIFAR-10, to compare with those of a transformer.

python -m benchmarks.vision_statistics [--archive cifar-10-binary.tar.gz] [--updates 1000] [--results results]

The paper's Figure 2 says that batch statistics fluctuate more in a transformer than in a ResNet20 on CIFAR-10. This
script trains the ResNet20 of arXiv 1512.03385 (batch 128, SGD) and measures its first norm with the statistics probe of
our own runs, at the same updates (docs/probe.md). It writes ``vision_statistics.json`` to the results.
"""

from __future__ import annotations

import sys
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import parse, parser_with
from normplugins.cli import call
from normplugins.norms import build_norm
from normplugins.runs.record import git_commit, hardware, versions
from normplugins.training.statistics_probe import StatisticsProbe
from normplugins.utils.download import fetch
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256
from normplugins.utils.json_file import write_json
from normplugins.utils.steps import progress

PARSER = parser_with(__doc__)
PARSER.add_argument("--archive", type=Path, help="the archive; by default it is fetched to data/cifar10/raw")
PARSER.add_argument("--updates", type=int, default=1000, help="default: %(default)s")
PARSER.add_argument("--seed", type=int, default=1)
NAME = "cifar-10-binary.tar.gz"
ADDRESSES = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
"""The hash of the published archive. Another archive with the same layout is accepted, and its own hash recorded."""
SIZE, IMAGE = 32, 3 * 32 * 32
BATCH, RATE, WEIGHT_DECAY = 128, 0.1, 1e-4
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""The mean and standard deviation of the pixels of CIFAR-10's training images, by color."""


class PixelNorm(nn.Module):
    """The package's BatchNorm on images (N, C, H, W): each pixel is a token, as in ``nn.BatchNorm2d``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = build_norm("bn", channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (N, C, H, W)."""
        rows = x.movedim(1, -1)
        return self.norm(rows.reshape(-1, x.size(1))).view_as(rows).movedim(-1, 1)


class Block(nn.Module):
    """Two convolutions with an identity shortcut, which is subsampled and padded with zeros where the size changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.stride, self.added = stride, width - channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H / stride, W / stride)."""
        y = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(y + shortcut)


class ResNet20(nn.Module):
    """ResNet20 for images of 32 x 32, whose first norm is the package's own."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.convolution, self.first = nn.Conv2d(3, 16, 3, 1, 1, bias=False), PixelNorm(16)
        sizes = [(16, 16, 1), *[(16, 16, 1)] * 2, (16, 32, 2), *[(32, 32, 1)] * 2, (32, 64, 2), *[(64, 64, 1)] * 2]
        self.blocks = nn.Sequential(*(Block(*size) for size in sizes))
        self.output = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) to logits (N, classes)."""
        return self.output(self.blocks(F.relu(self.first(self.convolution(x)))).mean((2, 3)))


def read_images(archive: Path) -> tuple[Tensor, Tensor]:
    """Return the training images (N, 3, 32, 32) in uint8, and their classes (N,).

    Raises:
        UserError: the file is not an archive of CIFAR-10's binary version.
    """
    records = []
    try:
        with tarfile.open(archive) as tar:
            for member in sorted(tar.getnames()):
                if "data_batch" in member and (file := tar.extractfile(member)):
                    records.append(np.frombuffer(file.read(), np.uint8).reshape(-1, 1 + IMAGE))
    except (OSError, EOFError, tarfile.TarError, ValueError, zlib.error) as error:
        raise UserError(f"{archive} is no archive of CIFAR-10 in the binary version: {error}") from error
    if not records:
        raise UserError(f"{archive} holds no data_batch_*.bin: give the binary version of CIFAR-10 with --archive")
    rows = torch.from_numpy(np.concatenate(records))
    return rows[:, 1:].reshape(-1, 3, SIZE, SIZE), rows[:, 0].long()


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pad by 4 pixels, crop and flip at random, and normalize: uint8 (N, 3, 32, 32) to floats of the same shape."""
    padded = F.pad(images, (4, 4, 4, 4))
    corners = torch.randint(0, 9, (2, len(images)), generator=generator).tolist()
    crops = [one[:, y : y + SIZE, x : x + SIZE] for one, y, x in zip(padded, *corners, strict=True)]
    x = torch.stack(crops).float() / 255
    flipped = torch.rand(len(x), generator=generator) < 0.5
    x[flipped] = x[flipped].flip(-1)
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


def measure(images: Tensor, classes: Tensor, updates: int, seed: int = 1) -> list[dict[str, Any]]:
    """Train a ResNet20 and return the points of the statistics probe at its first norm, and the training loss."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, points = ResNet20().train(), []
    probe = StatisticsProbe(model, on=True)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=WEIGHT_DECAY)
    order = torch.empty(0, dtype=torch.long)
    for update in progress(range(1, updates + 1), "training a ResNet20", "updates"):
        if len(order) < BATCH:
            order = torch.randperm(len(images), generator=generator)
        chosen, order = order[:BATCH], order[BATCH:]
        with probe.watch(update) as found:
            loss = F.cross_entropy(model(augment(images[chosen], generator)), classes[chosen])
            optimizer.zero_grad()
            (loss * len(chosen)).backward()  # a sum, as in the probe of a transformer
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad /= len(chosen)
            optimizer.step()
        points += [{**point["layers"]["first.norm"], "update": update, "loss": loss.item()} for point in found]
    return points


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure and write the record."""
    options = parse(PARSER, argv)
    commit = git_commit("benchmarks")  # before the training: the checkout may change meanwhile
    archive = options.archive or fetch(NAME, ADDRESSES, Path("data/cifar10/raw"), print)
    images, classes = read_images(archive)
    digest = sha256(archive)
    points = measure(images, classes, options.updates, options.seed)
    record = {
        "model": "ResNet20 (arXiv 1512.03385)",
        "corpus": {"images": len(images), "sha256": digest, "published": digest == SHA256},
        "settings": {"batch": BATCH, "lr": RATE, "momentum": 0.9, "weight_decay": WEIGHT_DECAY, "bn_momentum": 0.1},
        "seed": options.seed,
        "updates": options.updates,
        "hardware": hardware(cpu=True, processes=1),
        "versions": versions(),
        "git_commit": commit,
        "points": points,
    }
    write_json(options.results / "vision_statistics.json", record)
    print(f"written: {options.results / 'vision_statistics.json'}")


if __name__ == "__main__":
    sys.exit(call(main))
