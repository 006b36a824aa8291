"""MLPerf Tiny's ResNet-8 for CIFAR-10, trained on the same files as a recipe of kilonet by its own published recipe.

    python benchmarks/mlperf_resnet8.py DATA [--seeds 3] [--epochs 500] [--device auto|cpu|cuda] [--holdout]

Network and training are those of the MLCommons repository `tiny` at its tag v1.1 (commit 360bf09), in
`benchmark/training/image_classification`, written anew in torch:

- a 3x3 convolution with 16 filters, then three residual blocks of two with 16, 32 and 64; the last two halve the image
  and have a 1x1 convolution on their shortcut, without batch norm; the mean of each channel, and a dense layer. Padding
  is Keras' "same", weights begin as Keras' `he_normal`, convolutions have biases, batch norms have epsilon 0.001 and
  momentum 0.99. 78,666 parameters by Keras' counting, which includes the running statistics of batch norms; 77,360
  without biases and batch norms.
- Pixels from 0 to 255, as they are. Each image is turned by up to 15 degrees, shifted by up to a tenth of each side and
  mirrored half of the time, with bilinear interpolation; beyond the border it shows the nearest pixel.
- 500 epochs at batch 32; Adam at 0.001 * 0.99^epoch; an L2 penalty of 1e-4 on the convolutions' kernels.

The data are read by kilonet, so training images, test images and those of `--holdout` are the same as for its recipes.
Printed is the mean accuracy of the last epoch over the seeds; no other epoch is scored. On a GPU a step of all seeds is
one CUDA graph, in which the seeds run side by side; convolutions may round their factors to TF32, as TensorFlow's do.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.adam import adam

from kilonet.data.augment import apply_transforms
from kilonet.data.datasets import Images, load_data
from kilonet.evaluation.statistics import mean_and_std
from kilonet.utils.environment import processor_name

BATCH = 32
FILTERS = 16
PENALTY = 1e-4
ROTATION = 15
SHIFT = 0.1
WARM_UP_STEPS = 3
CHUNK = 1000
"""The number of images that are changed or scored at once."""
EPOCHS_BETWEEN_LINES = 25


def learning_rate(epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0."""
    return float(0.001 * 0.99**epoch)


class Convolution(nn.Conv2d):
    """A convolution with Keras' padding "same": an odd number of pixels has its greater half below and to the right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride)

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = (self._added(size) for size in images.shape[2:])
        if rows % 2 or columns % 2:
            images = functional.pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            rows = columns = 0
        return functional.conv2d(images, self.weight, self.bias, self.stride, (rows // 2, columns // 2))

    def _added(self, size: int) -> int:
        """Return how many pixels are added in all to a side of so many."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)


class BatchNorm(nn.BatchNorm2d):
    """A batch norm with Keras' constants, and without torch's count of batches."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)

    def forward(self, images: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        # The share of the new value: torch's momentum is 1 - Keras'.
        return functional.batch_norm(images, mean, variance, self.weight, self.bias, self.training, 0.01, self.eps)


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = Convolution(inputs, outputs, 3, stride), BatchNorm(outputs)
        self.second, self.second_norm = Convolution(outputs, outputs, 3), BatchNorm(outputs)
        self.shortcut = Convolution(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.first_norm(self.first(images)))
        return functional.relu(self.shortcut(images) + self.second_norm(self.second(hidden)))


class ResNet8(nn.Module):
    """The network; it takes pixels from 0 to 255, float32 (N, channels, rows, columns)."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.norm = Convolution(channels, FILTERS, 3), BatchNorm(FILTERS)
        self.blocks = nn.Sequential(
            Block(FILTERS, FILTERS, 1), Block(FILTERS, 2 * FILTERS, 2), Block(2 * FILTERS, 4 * FILTERS, 2)
        )
        self.dense = nn.Linear(4 * FILTERS, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float32 (N, classes)."""
        features = self.blocks(functional.relu(self.norm(self.stem(images))))
        return cast("Tensor", self.dense(features.mean((2, 3))))

    @torch.no_grad()
    def start(self, seed: int) -> None:
        """Set all parameters to initial values, in place: kernels to Keras' `he_normal`, a truncated normal."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, Convolution | nn.Linear):
                kernel = torch.empty(module.weight.shape)
                # The standard deviation is that of what is left between -2 and 2 standard deviations.
                spread = math.sqrt(2 / kernel[0].numel()) / 0.87962566103423978
                nn.init.trunc_normal_(kernel, 0, spread, -2 * spread, 2 * spread, generator)
                module.weight.copy_(kernel)
                cast("Tensor", module.bias).zero_()
            elif isinstance(module, BatchNorm):
                module.reset_parameters()

    def macs(self, images: Tensor) -> int:
        """Return the multiplications of an image, of the size of the given ones."""
        counted = []

        def count(module: nn.Module, _: object, made: Tensor) -> None:
            counted.append(made[0].numel() * cast("Tensor", module.weight)[0].numel())

        layers = [one for one in self.modules() if isinstance(one, Convolution | nn.Linear)]
        hooks = [one.register_forward_hook(count) for one in layers]
        with torch.no_grad():
            self.eval()(images[:1].float())
        for hook in hooks:
            hook.remove()
        return sum(counted)


def keras_parameters(network: nn.Module) -> int:
    """Return the number of parameters with the running statistics of batch norms, as Keras counts them."""
    statistics = [value for name, value in network.named_buffers() if "running" in name]
    return sum(tensor.numel() for tensor in (*network.parameters(), *statistics))


def draw_transforms(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw a rotation, a shift and a flip for each image, as `kilonet.data.augment` has them: float32 (count, 2, 3).

    Keras moves a position, turns it around the centre, reads the image there, and mirrors what it has read.

    Args:
        count: the number of images.
        side: of an image, in pixels.
        generator: the source of the random numbers, on the device.
    """
    drawn = 2 * torch.rand(4, count, generator=generator, device=generator.device) - 1
    angle, shift_x, shift_y = math.radians(ROTATION) * drawn[0], SHIFT * side * drawn[1], SHIFT * side * drawn[2]
    mirrored = torch.where(drawn[3] < 0, -1.0, 1.0)
    cosine, sine = angle.cos(), angle.sin()
    rows = [
        *(cosine * mirrored, -sine, cosine * shift_x - sine * shift_y),
        *(sine * mirrored, cosine, sine * shift_x + cosine * shift_y),
    ]
    return torch.stack(rows, 1).view(count, 2, 3)


class Adam:
    """Adam with Keras' constants."""

    def __init__(self, parameters: list[Tensor], penalty: float) -> None:
        """Make the optimiser of some parameters that have an L2 penalty; its gradient is 2 * penalty * parameter."""
        self.parameters = parameters
        self._penalty = penalty
        self._averages = [torch.zeros_like(one) for one in parameters]
        self._squares = [torch.zeros_like(one) for one in parameters]
        self._steps = [torch.zeros((), device=one.device) for one in parameters]

    def start(self) -> None:
        """Forget all steps, in place."""
        for tensor in (*self._averages, *self._squares, *self._steps):
            tensor.zero_()

    @torch.no_grad()
    def step(self, gradients: list[Tensor], learning_rate: Tensor) -> None:
        """Change the parameters by their gradients; the learning rate is a scalar on their device."""
        adam(
            self.parameters,
            gradients,
            self._averages,
            self._squares,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            maximize=False,
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            eps=1e-7,
            weight_decay=2 * self._penalty,
        )


class Training:
    """The training of one seed. All that a step reads and writes stays where it is, so that a graph can replay it."""

    def __init__(self, pixels: Tensor, labels: Tensor, classes: int) -> None:
        """Make a training that has not begun.

        Args:
            pixels: the training images, uint8 (N, channels, rows, columns), on the device.
            labels: their classes, int64 (N,).
            classes: their number.
        """
        self._source, self._source_labels = pixels, labels
        self._pixels, self._labels = torch.empty(pixels.shape, device=pixels.device), labels.clone()
        self.network = ResNet8(pixels.shape[1], classes).to(pixels.device)
        kernels: list[Tensor] = [one.weight for one in self.network.modules() if isinstance(one, Convolution)]
        others: list[Tensor] = [one for one in self.network.parameters() if all(one is not own for own in kernels)]
        self._optimizers = Adam(kernels, PENALTY), Adam(others, 0)
        self._learning_rate, self._loss = (torch.zeros((), device=pixels.device) for _ in range(2))
        self.position = torch.zeros((), dtype=torch.int64, device=pixels.device)
        self._generator = torch.Generator(pixels.device)

    @torch.no_grad()
    def start(self, seed: int) -> None:
        """Begin the training of a seed, forgetting all that was trained before."""
        self.network.start(seed)
        self.network.train()
        self._generator.manual_seed(seed)
        for optimizer in self._optimizers:
            optimizer.start()

    @torch.no_grad()
    def begin_epoch(self, epoch: int) -> None:
        """Shuffle the images and change each at random."""
        count = len(self._labels)
        order = torch.randperm(count, generator=self._generator, device=self._source.device)
        for begin in range(0, count, CHUNK):
            part = order[begin : begin + CHUNK]
            transforms = draw_transforms(len(part), self._source.shape[-1], self._generator)
            self._pixels[begin : begin + CHUNK] = apply_transforms(self._source[part], transforms, "edge")
        self._labels.copy_(self._source_labels[order])
        self._learning_rate.fill_(learning_rate(epoch))
        self._loss.zero_()
        self.position.zero_()

    def step(self, size: int) -> None:
        """Train on the next images of the epoch."""
        places = self.position + torch.arange(size, device=self.position.device)
        loss = functional.cross_entropy(self.network(self._pixels[places]), self._labels[places])
        # Not by `backward`, which would add to `.grad` on a stream of its own choice.
        for optimizer, part in zip(self._optimizers, self._gradients(loss), strict=True):
            optimizer.step(part, self._learning_rate)
        self._loss += loss.detach() * size
        self.position += size

    def _gradients(self, loss: Tensor) -> Iterator[list[Tensor]]:
        """Yield the gradients of each optimiser's parameters."""
        gradients = iter(torch.autograd.grad(loss, [one for each in self._optimizers for one in each.parameters]))
        for optimizer in self._optimizers:
            yield [next(gradients) for _ in optimizer.parameters]

    def loss(self) -> float:
        """Return the mean loss of the epoch so far, without the penalty."""
        return self._loss.item() / max(int(self.position), 1)

    @torch.no_grad()
    def accuracy(self, images: Images) -> float:
        """Return the share of images whose class is right."""
        self.network.eval()
        device = self._source.device
        right = sum(
            int((self.network(pixels.to(device).float()).argmax(1).cpu() == labels).sum())
            for pixels, labels in zip(images.pixels.split(CHUNK), images.labels.split(CHUNK), strict=True)
        )
        self.network.train()
        return right / len(images)


def step_of_all(trainings: Sequence[Training], size: int) -> Callable[[], None]:
    """Return what trains all seeds on their next `size` images. On a GPU this is a graph, recorded here."""

    def step_each() -> None:
        for training in trainings:
            training.step(size)

    if trainings[0].position.device.type != "cuda":
        return step_each
    streams = [torch.cuda.Stream() for _ in trainings]

    def fork() -> None:
        main = torch.cuda.current_stream()
        for training, stream in zip(trainings, streams, strict=True):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                training.step(size)
        for stream in streams:
            main.wait_stream(stream)

    # cuDNN chooses its algorithms before the recording.
    for _ in range(WARM_UP_STEPS):
        for training in trainings:
            training.position.zero_()
        fork()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fork()
    return graph.replay


def train(trainings: Sequence[Training], images: int, epochs: int) -> float:
    """Train seeds from 0 upwards side by side, and return the seconds that it took."""
    torch.backends.cudnn.benchmark = True
    for training in trainings:
        # For the recording, which trains a few steps.
        training.start(0)
        training.begin_epoch(0)
    whole, rest = divmod(images, BATCH)
    steps = [(step_of_all(trainings, size), times) for size, times in ((BATCH, whole), (rest, 1)) if size and times]
    for seed, training in enumerate(trainings):
        training.start(seed)
    begin = time.perf_counter()
    for epoch in range(epochs):
        for training in trainings:
            training.begin_epoch(epoch)
        for step, times in steps:
            for _ in range(times):
                step()
        if epoch < 2 or (epoch + 1) % EPOCHS_BETWEEN_LINES == 0 or epoch + 1 == epochs:
            # Reading the loss waits for the device.
            losses = ", ".join(f"{training.loss():.4f}" for training in trainings)
            seconds = time.perf_counter() - begin
            left = seconds / (epoch + 1) * (epochs - epoch - 1)
            print(f"epoch {epoch + 1}/{epochs}: loss {losses}; {seconds:.1f} s, {left:.0f} s left", file=sys.stderr)
    return time.perf_counter() - begin


def main() -> None:
    """Train the seeds and print their mean accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--holdout", action="store_true", help="score held-out training images, not the test images")
    options = parser.parse_args()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    data = load_data(options.data, holdout=options.holdout)
    pixels, labels = data.train.pixels.to(device), data.train.labels.to(device)
    classes = int(data.train.labels.max()) + 1
    trainings = [Training(pixels, labels, classes) for _ in range(options.seeds)]
    macs, parameters = trainings[0].network.macs(pixels), keras_parameters(trainings[0].network)
    seconds = train(trainings, len(data.train), options.epochs)
    accuracies = [100 * training.accuracy(data.test) for training in trainings]
    machine = torch.cuda.get_device_name() if device == "cuda" else processor_name()
    print(f"{machine}, torch {torch.__version__}; {len(data.train):,} training images of {Path(options.data).name}")
    print(f"{len(data.test):,} {data.test.name.lower()} images: {', '.join(f'{one:.2f}' for one in accuracies)} %\n")
    deviation = f" ± {mean_and_std(accuracies)[1]:.2f}" if len(accuracies) > 1 else ""
    right = f"{sum(accuracies) / len(accuracies):.2f}{deviation} %"
    print("| model | parameters | MACs | epochs | right | n | seconds for all |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    row = f"{parameters:,} | {macs:,} | {options.epochs} | {right} | {options.seeds} | {seconds:.0f}"
    print(f"| MLPerf Tiny's ResNet-8 | {row} |")


if __name__ == "__main__":
    main()
