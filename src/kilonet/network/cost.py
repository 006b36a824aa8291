"""The cost of a network, computed from its layers: parameters, MACs, receptive field, RAM, bytes of weights."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kilonet.network.c_ram import c_ram_bytes, computed_operations
from kilonet.network.operations import (
    AveragePooling,
    BatchNorm,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    MaxPooling,
    Operation,
    ReLU,
    Shape,
    elements,
)
from kilonet.network.section import ModelSection
from kilonet.utils.text_tables import aligned

_MEBIBYTE = 1 << 20
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer."""

    layer: str
    """The layer's text form."""
    output_shape: Shape
    """(channels, rows, columns)."""
    parameters: int
    """Trainable parameters, batch norm included."""
    macs: int
    """Multiply-accumulates for one image; batch norm is folded into the next layer and costs none."""
    kernel: int
    """Side of the window of the layer's input that one output depends on."""
    receptive_field: int
    """Side of the window of the image that one output depends on, pixels."""
    jump: int
    """Distance between the windows of neighbouring outputs in the image, pixels."""
    activation_bytes: int
    """Bytes of the output at one byte an element (int8)."""
    weight_bytes: int
    """Bytes of the convolution weights at one byte each (int8); biases and multipliers are not counted."""


@dataclass(frozen=True)
class NetworkCost:
    """The cost of a network, layer by layer. `str()` returns it as a table."""

    input_shape: Shape
    layers: tuple[LayerCost, ...]
    c_ram_bytes: int
    """Bytes of RAM of the C form: pixels, logits and working memory, without the stack."""

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """The number of multiply-accumulates for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all convolution weights at one byte each (int8)."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def peak_activation_bytes(self) -> int:
        """The most bytes that the input and the output of one layer take together, at one byte an element.

        What keeps whole feature maps, as the page and ONNX runtimes do, takes at least so much RAM.
        """
        outputs = [elements(self.input_shape), *(layer.activation_bytes for layer in self.layers)]
        return max(before + after for before, after in itertools.pairwise(outputs))

    def as_json(self) -> dict[str, Any]:
        """Return the layers and the totals as plain lists and numbers, for JSON."""
        totals = ("parameters", "macs", "weight_bytes", "peak_activation_bytes")
        return {**asdict(self), **{name: getattr(self, name) for name in totals}}

    def __str__(self) -> str:
        """Return the table, one line for each layer."""
        heads = ("layer", "output", "parameters", "MACs", "kernel", "field", "jump", "map bytes", "int8 bytes")
        rows = [heads, *(_cells(layer) for layer in self.layers)]
        totals = ("total", "", f"{self.parameters:,}", f"{self.macs:,}", "", "", "", "")
        rows.append((*totals, f"{self.weight_bytes:,}"))
        lines = aligned(rows, (0, 1))
        rule = "-" * max(map(len, lines))
        memory = [
            f"RAM in C: {self.c_ram_bytes:,} bytes, pixels and logits included, stack not",
            f"RAM where maps are kept whole, as in the page and in ONNX: at least {self.peak_activation_bytes:,} bytes",
        ]
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *memory])


def network_cost(model: ModelSection) -> NetworkCost:
    """Return the cost of a network.

    Source of the receptive-field arithmetic: A. Araujo, W. Norris, J. Sim, "Computing receptive fields of
    convolutional neural networks", Distill, 2019.
    """
    ram = c_ram_bytes(computed_operations(model), model.input_shape, model.classes)
    return NetworkCost(model.input_shape, tuple(_layer_costs(model)), ram)


def _layer_costs(model: ModelSection) -> Iterator[LayerCost]:
    field, jump = 1, 1
    for placed in model.placed:
        kernel = max(_window(operation, placed.input_shape) for operation in placed.operations)
        field += (kernel - 1) * jump
        jump *= max(_stride(operation) for operation in placed.operations)
        convolutions = [operation for operation in placed.operations if isinstance(operation, Convolution)]
        _, rows, columns = placed.output_shape
        weights = sum(convolution.weights for convolution in convolutions)
        yield LayerCost(
            layer=placed.text,
            output_shape=placed.output_shape,
            parameters=placed.parameters,
            macs=weights * rows * columns,
            kernel=kernel,
            receptive_field=field,
            jump=jump,
            activation_bytes=elements(placed.output_shape),
            weight_bytes=weights,
        )


def _window(operation: Operation, input_shape: Shape) -> int:
    """Return the side of the window of the layer's input that one output of an operation depends on."""
    match operation:
        case Convolution(kernel=kernel):
            return kernel
        case MaxPooling(size) | AveragePooling(size):
            return size
        case GlobalAveragePooling():
            return max(input_shape[1:])
        case ReLU() | BatchNorm() | Dropout():
            return 1


def _stride(operation: Operation) -> int:
    """Return the distance of the windows of neighbouring outputs; a single output has none, so its is 1."""
    match operation:
        case Convolution(stride=stride):
            return stride
        case MaxPooling(size) | AveragePooling(size):
            return size
        case GlobalAveragePooling() | ReLU() | BatchNorm() | Dropout():
            return 1


def _cells(layer: LayerCost) -> tuple[str, ...]:
    shape = "x".join(map(str, layer.output_shape))
    counts = (f"{layer.parameters:,}", f"{layer.macs:,}", f"{layer.kernel}x{layer.kernel}")
    windows = (f"{layer.receptive_field}", f"{layer.jump}")
    return (layer.layer, shape, *counts, *windows, f"{layer.activation_bytes:,}", f"{layer.weight_bytes:,}")


def classic_table(model: ModelSection) -> str:
    """Return the table of the ERA homework's README: one row for each operation, with torch's names and float32 sizes.

    As in that table, an activation counts twice, once forward and once backward, and MB are mebibytes.
    """
    rule, double = "-" * 64, "=" * 64
    lines, parameters, activations, number = [], 0, 0, 0
    for placed in model.placed:
        shape = placed.input_shape
        for operation in placed.operations:
            number += 1
            shape = operation.output_shape(shape)
            parameters += operation.parameters
            activations += elements(shape)
            name = f"{operation.torch_name}-{number}"
            lines.append(f"{name:>20}  {[-1, *shape]!s:>25} {operation.parameters:>15,}")
    sizes = [elements(model.input_shape), 2 * activations, parameters]
    mebibytes = [count * _FLOAT_BYTES / _MEBIBYTE for count in sizes]
    return "\n".join(
        [
            rule,
            f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}",
            double,
            *lines,
            double,
            f"Total params: {parameters:,}",
            f"Trainable params: {parameters:,}",
            "Non-trainable params: 0",
            rule,
            f"Input size (MB): {mebibytes[0]:.2f}",
            f"Forward/backward pass size (MB): {mebibytes[1]:.2f}",
            f"Params size (MB): {mebibytes[2]:.2f}",
            f"Estimated Total Size (MB): {sum(mebibytes):.2f}",
            rule,
        ]
    )
