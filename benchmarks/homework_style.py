"""One epoch of the baseline's network, or of that of `best`, as a plain PyTorch script of a course trains it.

One PIL image at a time is rotated, turned into a tensor and normalised inside a DataLoader; the network is a plain
`nn.Sequential` with dropout, run eagerly in float32, with the loss read after every batch for the progress bar. It is
written against torch alone, shares nothing with kilonet but the packaged data, and does what the ERA homework's README
describes. `benchmarks/train_speed.py` times it beside kilonet.
"""

import argparse
import gzip
import json
import random
import time
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm


class RotatedDigits(Dataset[tuple[torch.Tensor, int]]):
    """MNIST as a course script wraps it: a PIL image an item, rotated by up to 7 degrees, scaled and normalised."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.images[index]).rotate(random.uniform(-7, 7), resample=Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).unsqueeze(0).to(torch.float32) / 255
        return (pixels - 0.1307) / 0.3081, int(self.labels[index])


def read_packaged(name: str, header: int) -> Any:
    """Return the bytes of one packaged MNIST file after its IDX header of `header` bytes."""
    with gzip.open(str(files("kilonet.data") / "mnist" / name)) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=header)


def convolution(
    channels_in: int, channels_out: int, dropout: float, *, kernel: int = 3, padding: int = 0, groups: int = 1
) -> list[nn.Module]:
    """Return convolution, ReLU, batch norm and dropout in the baseline's order."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel, padding=padding, groups=groups, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(channels_out),
        nn.Dropout(dropout),
    ]


class Residual(nn.Module):
    """A depthwise 5x5 convolution, ReLU and batch norm, whose input is added to its output."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*depthwise(channels, dropout, padding=2))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the sum of the maps and of what the layers make of them."""
        total: torch.Tensor = maps + self.layers(maps)
        return total


def depthwise(channels: int, dropout: float, padding: int = 0) -> list[nn.Module]:
    """Return a depthwise 5x5 convolution, ReLU, batch norm and dropout."""
    return convolution(channels, channels, dropout, kernel=5, padding=padding, groups=channels)


def best_network(dropout: float) -> nn.Sequential:
    """Return the network of `best`: 7,662 parameters."""
    return nn.Sequential(
        *convolution(1, 10, dropout),
        nn.Conv2d(10, 10, 1, bias=False),
        Residual(10, dropout),
        nn.Conv2d(10, 18, 1, bias=False),
        Residual(18, dropout),
        nn.MaxPool2d(2),
        nn.Conv2d(18, 36, 1, bias=False),
        Residual(36, dropout),
        nn.Conv2d(36, 36, 1, bias=False),
        *depthwise(36, dropout),
        nn.Conv2d(36, 36, 1, bias=False),
        *depthwise(36, dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(36, 10, 1, bias=False),
        nn.Flatten(),
    )


def baseline_network(dropout: float) -> nn.Sequential:
    """Return the network of the baseline: 7,662 parameters."""
    return nn.Sequential(
        *convolution(1, 10, dropout),
        *convolution(10, 20, dropout),
        nn.Conv2d(20, 10, 1, bias=False),
        nn.MaxPool2d(2),
        *convolution(10, 10, dropout),
        *convolution(10, 16, dropout),
        *convolution(16, 20, dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(20, 10, 1, bias=False),
        nn.Flatten(),
    )


NETWORKS = {"baseline": baseline_network, "best": best_network}


def train_epoch(network: nn.Module, loader: Any, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
    """Train one epoch in place, showing a progress bar."""
    network.train()
    correct = seen = 0
    bar = tqdm(loader)
    for batch, (pixels, labels) in enumerate(bar):
        optimizer.zero_grad()
        logits = network(pixels)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        correct += int((logits.argmax(1) == labels).sum())
        seen += len(labels)
        bar.set_description(f"Accuracy={100 * correct / seen:.2f}, Batch_id={batch}, loss={loss.item():.3g}")


def test_accuracy(network: nn.Module) -> float:
    """Return the accuracy on the 10,000 test images, a fraction."""
    pixels = read_packaged("t10k-images.idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = torch.tensor(read_packaged("t10k-labels.idx1-ubyte.gz", 8).astype(np.int64))
    network.eval()
    with torch.no_grad():
        inputs = (torch.tensor(pixels, dtype=torch.float32) / 255 - 0.1307) / 0.3081
        hits = [
            network(part).argmax(1) == want for part, want in zip(inputs.split(1000), labels.split(1000), strict=True)
        ]
    return float(torch.cat(hits).float().mean())


def main() -> None:
    """Train for some epochs and print one JSON object: the seconds of each epoch's training part and the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="baseline")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=60_000, help="train on the first so many images")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-at", type=float, default=2.0, help="end after an epoch that reaches this accuracy")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    torch.set_num_threads(options.threads)
    images = read_packaged("train-images.idx3-ubyte.gz", 16).reshape(-1, 28, 28)[: options.images]
    labels = read_packaged("train-labels.idx1-ubyte.gz", 8)[: options.images]
    loader = DataLoader(RotatedDigits(images, labels), batch_size=options.batch_size, shuffle=True)
    network = NETWORKS[options.network](options.dropout)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=options.epochs * len(loader))
    seconds, accuracies = [], []
    for _ in range(options.epochs):
        start = time.perf_counter()
        train_epoch(network, loader, optimizer, scheduler)
        seconds.append(time.perf_counter() - start)
        accuracies.append(test_accuracy(network))
        if accuracies[-1] >= options.stop_at:
            break
    print(json.dumps({"seconds": seconds, "images": len(labels), "test_accuracy": accuracies}))


if __name__ == "__main__":
    main()
