"""What other libraries take on microcontrollers, for benchmarks/chip.py.

They are built from their own sources, which the user gives, and counted under the same emulators. CMSIS-NN executes a
Kilonet network's layers with its int8 weights; its arithmetic is another, so answers are not compared. BitNetMCU
executes its own models on the same test images, scaled to 16x16 pixels as its own test does.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kilonet.data.datasets import Images
from kilonet.export.c.targets import Counted, Target, count, write_images, write_start
from kilonet.export.integer import IntegerAveragePooling, IntegerConvolution, IntegerMaxPooling, IntegerNetwork
from kilonet.network.operations import GlobalAveragePooling

IMAGES = 20
"""Counts of CMSIS-NN are the same for each image, those of BitNetMCU nearly."""
BITNETMCU_MODELS = ("12k", "cnn_64")
"""Its test program has memory for the largest of its convolutional models alone."""
_SCRATCH = 48 << 10
_LIBC = ("-lc", "-lgcc")
_HOSTED = "-fhosted"
"""They copy words by memcpy, which the compiler replaces by an instruction only where it knows the function."""
_HEADER = """#include <stdint.h>
#define KILONET_CLASSES 11
#define KILONET_PIXELS {pixels}
#define KILONET_FLASH
void kilonet_classify(const uint8_t *pixels, int32_t *logits);
"""
_CMSIS = """#include "model.h"

#include "arm_nnfunctions.h"

static int8_t maps[MAPS] __attribute__((aligned(16)));
static int8_t scratch[SCRATCH] __attribute__((aligned(16)));
static int32_t used;

/* Maps lie at both ends of the memory in turns. */
static int8_t *other(const int8_t *from, int32_t size)
{
    return from == maps ? maps + MAPS - size : maps;
}

static void use(int32_t size)
{
    if (size > used)
        used = size;
}

__attribute__((unused)) static int8_t *convolve(int8_t *from, const int8_t *weights, const int32_t *bias,
                                                const int32_t *multiplier, const int32_t *shift, int channels, int rows,
                                                int columns, int outputs, int kernel, int padding, int stride)
{
    const cmsis_nn_conv_params how = {128, -128, {stride, stride}, {padding, padding}, {1, 1}, {-128, 127}};
    const cmsis_nn_per_channel_quant_params scale = {(int32_t *)multiplier, (int32_t *)shift};
    const int h = (rows + 2 * padding - kernel) / stride + 1, w = (columns + 2 * padding - kernel) / stride + 1;
    const cmsis_nn_dims in = {1, rows, columns, channels}, window = {outputs, kernel, kernel, channels},
                        each = {1, 1, 1, outputs}, out = {1, h, w, outputs};
    const cmsis_nn_context memory = {scratch, SCRATCH};
    int8_t *to = other(from, h * w * outputs);
    use(arm_convolve_wrapper_s8_get_buffer_size(&how, &in, &window, &out));
    arm_convolve_wrapper_s8(&memory, &how, &scale, &in, from, &window, weights, &each, bias, &out, to);
    return to;
}

__attribute__((unused)) static int8_t *depthwise(int8_t *from, const int8_t *weights, const int32_t *bias,
                                                 const int32_t *multiplier, const int32_t *shift, int channels,
                                                 int rows, int columns, int outputs, int kernel, int padding,
                                                 int stride)
{
    const cmsis_nn_dw_conv_params how = {128, -128, outputs / channels, {stride, stride}, {padding, padding}, {1, 1},
                                         {-128, 127}};
    const cmsis_nn_per_channel_quant_params scale = {(int32_t *)multiplier, (int32_t *)shift};
    const int h = (rows + 2 * padding - kernel) / stride + 1, w = (columns + 2 * padding - kernel) / stride + 1;
    const cmsis_nn_dims in = {1, rows, columns, channels}, window = {1, kernel, kernel, outputs},
                        each = {1, 1, 1, outputs}, out = {1, h, w, outputs};
    const cmsis_nn_context memory = {scratch, SCRATCH};
    int8_t *to = other(from, h * w * outputs);
    use(arm_depthwise_conv_wrapper_s8_get_buffer_size(&how, &in, &window, &out));
    arm_depthwise_conv_wrapper_s8(&memory, &how, &scale, &in, from, &window, weights, &each, bias, &out, to);
    return to;
}

__attribute__((unused)) static void add(int8_t *to, const int8_t *skipped, int size)
{
    arm_elementwise_add_s8(to, skipped, 128, 1 << 30, 0, 128, 1 << 30, 0, 20, to, -128, 1 << 30, -19, -128, 127, size);
}

__attribute__((unused)) static int8_t *pool(int8_t *from, int average, int channels, int rows, int columns, int high,
                                            int wide)
{
    const cmsis_nn_pool_params how = {{high, wide}, {0, 0}, {-128, 127}};
    const int h = rows / high, w = columns / wide;
    const cmsis_nn_dims in = {1, rows, columns, channels}, window = {1, high, wide, 1}, out = {1, h, w, channels};
    const cmsis_nn_context memory = {scratch, SCRATCH};
    int8_t *to = other(from, h * w * channels);
    if (average) {
        use(arm_avgpool_s8_get_buffer_size(w, channels));
        arm_avgpool_s8(&memory, &how, &in, from, &window, &out, to);
    } else {
        arm_max_pool_s8(&memory, &how, &in, from, &window, &out, to);
    }
    return to;
}
"""


@dataclass(frozen=True)
class PeerResult:
    """What another library took on a target."""

    name: str
    instructions: int
    """An image, in the mean."""
    flash: int
    """Bytes of code and tables."""
    ram: int
    """Bytes of maps, scratch memory, image and logits; of BitNetMCU, which keeps its maps there, also of the stack."""
    right: str = ""
    """How many of the images it classified rightly, if that is known."""

    def cells(self) -> tuple[str, ...]:
        """Return the columns of a table."""
        return (self.name, f"{self.instructions:,}", f"{self.flash:,}", f"{self.ram:,}", self.right)


HEADS = ("by", "instructions", "flash", "RAM", "right")
"""The heads of the columns of `PeerResult.cells`."""


def cmsis_nn(folder: Path, network: IntegerNetwork, images: Images, target: Target, level: str) -> Iterator[PeerResult]:
    """Count an image of a network that CMSIS-NN executes.

    Args:
        folder: a checkout of CMSIS-NN.
        network: the integer network.
        images: test images of its size.
        target: a Cortex-M.
        level: the level of optimisation.

    Raises:
        KilonetError: the compiler or the emulator fails.
    """
    kinds = ("Convolution", "Pooling", "BasicMath", "NNSupport", "Transpose")
    found = [path for kind in kinds for path in sorted((folder / "Source" / f"{kind}Functions").glob("*.c"))]
    files = [str(path.resolve()) for path in found if not path.stem.endswith(("_f16", "_f32"))]
    if not files:
        raise SystemExit(f"{folder}: not the sources of CMSIS-NN, whose Source/ConvolutionFunctions is not there")
    pixels = images.pixels[:IMAGES].numpy()
    flags = (*target.flags, level, f"-I{(folder / 'Include').resolve()}")
    text = _cmsis_program(network)
    counted = _count(replace(target, flags=flags), pixels, text, files)
    used = int(counted.logits[0, -1])
    ram = counted.variables - _SCRATCH - 4 + used + pixels[0].size + 40
    yield PeerResult("CMSIS-NN", counted.instructions, counted.flash, ram)


def _cmsis_program(network: IntegerNetwork) -> str:
    tables, calls, largest, stages = list[str](), list[str](), 0, list(network.placed)
    for number, (operation, shape) in enumerate(stages):
        channels, rows, columns = shape
        outputs = operation.output_shape(shape)
        largest = max(largest, int(np.prod(shape) + np.prod(outputs)))
        size = f"{channels}, {rows}, {columns}"
        match operation:
            case IntegerConvolution():
                kernel = operation.operation
                scale = np.abs(operation.output.multiplier) * 2.0**-operation.output.shift
                if number == len(stages) - 1:
                    # Logits are bytes there.
                    scale = scale * 127 / max(1.0, float((np.abs(operation.bias) * scale).max() * 4))
                mantissa, exponent = np.frexp(scale)
                in_groups = kernel.groups > 1
                order = (1, 2, 3, 0) if in_groups else (0, 2, 3, 1)
                tables += [
                    _table("int8_t", f"w{number}", operation.weights.transpose(order)),
                    _table("int32_t", f"b{number}", operation.bias),
                    _table("int32_t", f"m{number}", (mantissa * 2.0**31).clip(max=2**31 - 1).astype(np.int64)),
                    _table("int32_t", f"s{number}", exponent),
                ]
                of = ", ".join(f"{name}{number}" for name in "wbms")
                shapes = f"{outputs[0]}, {kernel.kernel}, {kernel.padding}, {kernel.stride}"
                calls.append(f"to = {'depthwise' if in_groups else 'convolve'}(from, {of}, {size}, {shapes});")
                if operation.skip is not None:
                    calls.append(f"add(to, from, {int(np.prod(outputs))});")
            case IntegerMaxPooling(pool):
                calls.append(f"to = pool(from, 0, {size}, {pool.size}, {pool.size});")
            case IntegerAveragePooling(pool):
                window = (rows, columns) if isinstance(pool, GlobalAveragePooling) else (pool.size, pool.size)
                calls.append(f"to = pool(from, 1, {size}, {window[0]}, {window[1]});")
        calls.append("from = to;")
    body = "\n    ".join(calls)
    count, classes = int(np.prod(network.input_shape)), network.classes
    return f"""#define MAPS {largest}
#define SCRATCH {_SCRATCH}
{_CMSIS}
{"".join(tables)}
void kilonet_classify(const uint8_t *pixels, int32_t *logits)
{{
    int8_t *from = maps, *to;
    int i;
    for (i = 0; i < {count}; i++)
        maps[i] = (int8_t)(pixels[i] - 128);
    {body}
    for (i = 0; i < {classes}; i++)
        logits[i] = from[i];
    logits[10] = used;
}}
"""


def _table(c_type: str, name: str, values: NDArray[np.generic]) -> str:
    return f"static const {c_type} {name}[{values.size}] = {{{','.join(map(str, values.flatten().tolist()))}}};\n"


def bitnetmcu(folder: Path, images: Images, target: Target, level: str) -> Iterator[PeerResult]:
    """Count an image of each of BitNetMCU's models.

    Args:
        folder: a checkout of BitNetMCU.
        images: the test images of MNIST.
        target: a Cortex-M.
        level: the level of optimisation.

    Raises:
        KilonetError: the compiler or the emulator fails.
    """
    pixels, labels = _small(images.pixels[:IMAGES, 0].numpy()), images.labels[:IMAGES].numpy()
    program = (folder / "BitNetMCU_MNIST_dll.c").resolve()
    for model in BITNETMCU_MODELS:
        header = folder / "mcu" / f"BitNetMCU_model_{model}.h"
        if not header.is_file() or not program.is_file():
            raise SystemExit(f"{folder}: not the sources of BitNetMCU, whose {header.name} is not there")
        text = f"""#include "{program}"

void kilonet_classify(const uint8_t *pixels, int32_t *logits)
{{
    int i;
    for (i = 0; i < 11; i++)
        logits[i] = 0;
    logits[BitMnistInference((int8_t *)pixels)] = 1;
}}
"""
        flags = (*target.flags, level, f"-I{folder.resolve()}", "-I.")
        extra = {"BitNetMCU_model.h": header.read_text(encoding="utf-8")}
        counted = _count(replace(target, flags=flags), pixels.view(np.uint8), text, (), extra)
        right = int((counted.logits.argmax(1) == labels).sum())
        ram = counted.variables + counted.stack + 256 + 40
        yield PeerResult(f"BitNetMCU {model}", counted.instructions, counted.flash, ram, f"{right} of {len(labels)}")


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return images as BitNetMCU takes them: int8 (N, 1, 16, 16), normalised, the largest magnitude 127."""
    scaled = [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)) for image in pixels]
    normalised = (np.array(scaled) / 255 - 0.1307) / 0.3081
    levels = normalised * 127 / np.abs(normalised).max((1, 2), keepdims=True)
    small: NDArray[np.int8] = np.rint(levels).clip(-128, 127).astype(np.int8)[:, None]
    return small


def _count(
    target: Target,
    pixels: NDArray[np.uint8],
    text: str,
    files: Sequence[str],
    extra: dict[str, str] | None = None,
) -> Counted:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_start(folder)
        write_images(folder, pixels)
        (folder / "model.h").write_text(_HEADER.format(pixels=pixels[0].size), encoding="utf-8")
        (folder / "peer.c").write_text(text, encoding="utf-8")
        for file, content in (extra or {}).items():
            (folder / file).write_text(content, encoding="utf-8")
        return count(target, folder, ("peer.c", *files), (_HOSTED,), _LIBC)
