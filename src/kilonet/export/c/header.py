"""The header of the C form: what a program needs to know of the network, and the functions that it calls."""

import math
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from kilonet.data.preprocessing import PreprocessingFacts, preprocessing_facts
from kilonet.export.c.prefix import DEFAULT_PREFIX, with_prefix
from kilonet.export.integer import IntegerNetwork, Pixels, integer_logits
from kilonet.models.calibration import UNFITTED
from kilonet.models.metadata import Metadata
from kilonet.network.c_ram import words
from kilonet.network.operations import Shape
from kilonet.network.section import ModelSection

_PLAIN_BYTES = frozenset(f"{string.ascii_letters}{string.digits} .-_".encode())
_LARGEST_LOGIT = (1 << 31) - 1
_AVR_TABLES = 65_000
"""Bytes: the first 64 KB of flash without the interrupt vectors."""
_VECTORS_RING = 1 << 15
"""The most bytes in the ring of a depthwise convolution for kilonet_kernels.h with KILONET_MVE."""


IN_BLOCKS, BY_OUTPUT, IN_FOURS = "KILONET_BLOCK == 16", "KILONET_MVE", "KILONET_TAPS"
IN_PLANES = "KILONET_TAPS && !KILONET_MVE"
"""Where operations may be KILONET_BY_PLANES, as a condition of the preprocessor."""
_SWITCHES = {IN_BLOCKS: "KILONET_NO_BLOCKS", BY_OUTPUT: "KILONET_NO_MVE", IN_FOURS: "KILONET_NO_TAPS"}
GENERIC = "generic"
FAMILIES: Mapping[str, tuple[str, ...]] = {
    GENERIC: (IN_BLOCKS, BY_OUTPUT, IN_FOURS, ""),
    "cortex-m0": ("",),
    "cortex-m4": (IN_FOURS, ""),
    "cortex-m55": (BY_OUTPUT, ""),
    "rv32": ("",),
    "avr": ("",),
}
"""The orders of the weights that the C form has for a family of processors, as conditions of the preprocessor, in which
they are asked; '' is for all else, and for the plain C that runs anywhere."""


@dataclass(frozen=True)
class CFacts:
    """What the header says of a model beside its network and metadata."""

    prefix: str = DEFAULT_PREFIX
    """What the names of functions, macros and files begin with."""
    model_sha256: str = ""
    """SHA-256 of the exported model file."""
    accuracy: float | None = None
    """Fraction of the test images that the integers classify rightly; None if it is not known."""
    licence: str | None = None
    """The model's licence; None if it is not known."""
    family: str = GENERIC
    """The processors for whose instructions the weights are ordered, a name of `FAMILIES`."""


NO_FACTS = CFacts()


@dataclass(frozen=True)
class TableFacts:
    """What the header says of the tables, and of the kilonet_state that they need."""

    operations: int
    """Number of operations."""
    index_bits: int
    """Bits of an index of a byte in the working memory."""
    sums: int
    """Number of int32."""
    memory: int
    """Bytes."""
    pairs_memory: int
    """Bytes where KILONET_TAPS alone is 1."""
    scratch: int
    """Bytes."""
    used: Mapping[str, bool]
    """Whether the network has what a part of the runtime is for, by the name of that."""
    pairs_scratch: int
    """Bytes where KILONET_TAPS is 1."""
    vectors_scratch: int
    """Bytes where KILONET_MVE is 1."""
    depthwise_ring: int
    """Bytes of the largest ring of a depthwise convolution."""
    scratch_in_blocks: int
    """Bytes where vectors execute the network."""
    state: int
    """Bytes of a kilonet_state on a microcontroller."""
    flash: int
    """Bytes of all tables on a microcontroller."""
    crcs: Mapping[str, int]
    """CRC-32 of all tables, by the preprocessor's condition for the order of the weights; the last is for all else."""


def header(
    network: IntegerNetwork, section: ModelSection, metadata: Metadata, facts: CFacts, tables: TableFacts
) -> str:
    """Return the text of model.h, or of its like with a prefix.

    Args:
        network: the integer network.
        section: the network that it was made from.
        metadata: the model's metadata.
        facts: the prefix, and what else it states.
        tables: what it states of the tables.
    """
    channels, rows, columns = network.input_shape
    reads_digits = metadata.reads_digits(network.input_shape, network.classes)
    preprocessing = preprocessing_facts(section, reads_digits=reads_digits)
    # Names of classes are not to be changed by a prefix.
    before, after = (
        f"""/* Written by kilonet export. C99, for C and C++. All names begin with kilonet_ or KILONET_: to link several
 * networks to one program, export each with a --prefix of its own. */
#ifndef KILONET_MODEL_H
#define KILONET_MODEL_H

{_family_macros(facts.family)}#define KILONET_INDEX uint{tables.index_bits}_t
#include "kilonet_runtime.h"

#ifdef __cplusplus
extern "C" {{
#endif

{_model_macros(facts)}
#define KILONET_CHANNELS {channels}
#define KILONET_ROWS {rows}
#define KILONET_COLUMNS {columns}
#define KILONET_PIXELS {channels * rows * columns}
#define KILONET_ROW_BYTES {channels * columns}
#define KILONET_CLASSES {network.classes}
/* A logit divided by two to this power is approximately the logit of the float network. */
#define KILONET_FRACTION_BITS {network.fraction_bits}
/* 1 if the images are digits as MNIST has them: light on black, 20 pixels long, the centre of mass in the middle. */
#define KILONET_READS_DIGITS {int(reads_digits)}
{_preprocessing_macros(preprocessing)}""",
        f"""{_calibration_macros(metadata)}{_answer_macros(network, metadata)}
{_selftest_macros(network, tables)}
{_declarations(network, tables, reads_digits=reads_digits)}
#ifdef __cplusplus
}}
#endif

#endif
""",
    )
    names = _names_macro([metadata.name_of(label) for label in range(network.classes)], facts.prefix)
    return with_prefix(before, facts.prefix) + names + with_prefix(after, facts.prefix)


def _family_macros(family: str) -> str:
    """Return macros of which instructions are not to be used, as the weights are not in the order that they read."""
    left_out = [switch for order, switch in _SWITCHES.items() if order not in FAMILIES[family]]
    if not left_out:
        return ""
    macros = "".join(f"#define {switch}\n" for switch in left_out)
    note = f"/* Exported for {family}; on a processor without its instructions this is plain C, which is slower. */\n"
    return f"{note}{macros}\n"


def _model_macros(facts: CFacts) -> str:
    """Return macros of which model this is, and how good."""
    macros = f"""/* SHA-256 of the model file that was exported. */
#define KILONET_MODEL_SHA256 {_c_string(facts.model_sha256)}
"""
    if facts.licence is not None:
        macros += f"/* The licence of the model. */\n#define KILONET_LICENCE {_c_string(facts.licence)}\n"
    if facts.accuracy is not None:
        macros += f"""/* How many of 10,000 test images are classified rightly, as measured on the model's own. */
#define KILONET_ACCURACY {round(10_000 * facts.accuracy)}
"""
    return macros


def _declarations(network: IntegerNetwork, tables: TableFacts, *, reads_digits: bool) -> str:
    """Return the types and functions."""
    channels = network.input_shape[0]
    planes = {1: "grey levels", 3: "levels of red, green and blue"}.get(channels, "levels")
    levels = (
        "of light ink on black paper: 0 is the paper, 255 the ink"
        if reads_digits
        else "as the training images have them; in a picture 0 is black"
    )
    none = "the image is unlike those of the training" if reads_digits else "only where KILONET_REJECTS is 1"
    return f"""#define KILONET_OPERATIONS {tables.operations}
extern const kilonet_operation kilonet_operations[KILONET_OPERATIONS];
/* Parts of the runtime that this network has no use for are left out. */
{_used_macros(tables.used)}
{_avr_error(tables)}{_vectors_error(tables)}
/* All that is kept of an image while it is classified, {tables.state:,} bytes on a microcontroller. Its fields are for
 * the functions below alone. */
typedef struct {{
    kilonet_position positions[KILONET_OPERATIONS];
    int32_t sums[{tables.sums}];
    uint8_t memory[{_memory(tables)}];
    uint32_t scratch[KILONET_BLOCK > 1 ? {words(tables.scratch_in_blocks)}
                     : KILONET_MVE     ? {words(tables.vectors_scratch)}
                     : KILONET_TAPS    ? {words(tables.pairs_scratch)}
                                       : {words(tables.scratch)}];
}} kilonet_state;
#define KILONET_STATE_BYTES sizeof(kilonet_state)

#if KILONET_BLOCK > 1
/* Where vectors execute the network the state is larger, and code that was compiled without them shall not link. */
#define kilonet_begin kilonet_begin_vectors
#define kilonet_classify_with kilonet_classify_with_vectors
#define kilonet_selftest kilonet_selftest_vectors
#endif

/* Pixels are {planes} from 0 to 255, {levels}.
 * They are not normalised: the weights do that. Functions that are given a state may run at once, each with its own. */

/* Classifies one image: KILONET_PIXELS pixels [channel][row][column] to one logit for each class; the largest is that
 * of the predicted class. The state is static, so calls must not overlap. */
void kilonet_classify(const uint8_t *pixels, int32_t logits[KILONET_CLASSES]);

/* The same with a state of the caller's. */
void kilonet_classify_with(kilonet_state *state, const uint8_t *pixels, int32_t logits[KILONET_CLASSES]);

/* The same for an image that is never in memory as a whole: begin, then give each of its rows [column][channel], the
 * upper one first. Returns 1 as soon as the logits are written, which is with the last row or, where the network does
 * not look at the last rows, with an earlier one; until then 0. Rows after that change nothing. */
void kilonet_begin(kilonet_state *state);
int kilonet_row(kilonet_state *state, const uint8_t row[KILONET_ROW_BYTES], int32_t logits[KILONET_CLASSES]);

typedef struct {{
    uint16_t label; /* the most probable class, from 0 */
    uint16_t confidence; /* its calibrated probability in 65,536ths, 65,535 at most */
    uint8_t uncertain; /* 1: below KILONET_SURE_CONFIDENCE, or an image unlike those of the training */
    uint8_t none; /* 1: none of the classes: {none} */
}} kilonet_answer;

/* Returns the answer for logits, as `kilonet predict` gives it. Compile kilonet_answer.c for it. */
kilonet_answer kilonet_top(const int32_t logits[KILONET_CLASSES]);

/* Returns 1 if all tables are as written and two stored test vectors give their logits, else 0. `after_row` is called
 * after every row of the two images, to feed a watchdog; it may be null. Compile kilonet_selftest.c for it. */
int kilonet_selftest(kilonet_state *state, void (*after_row)(void));
"""


def _memory(tables: TableFacts) -> str:
    if tables.memory == tables.pairs_memory:
        return str(tables.memory)
    return f"{IN_PLANES} ? {tables.pairs_memory} : {tables.memory}"


def _used_macros(used: Mapping[str, bool]) -> str:
    return "\n".join(f"#define KILONET_HAS_{name} {int(is_used)}" for name, is_used in used.items())


def _avr_error(tables: TableFacts) -> str:
    """Return what ends a compilation for an AVR if its pointers of 16 bits do not reach all tables; else ''."""
    if tables.flash <= _AVR_TABLES:
        return ""
    return f"""#ifdef __AVR__
#error "the network has {tables.flash:,} bytes of weights and tables, and an AVR reads {_AVR_TABLES:,} at most"
#endif
"""


def _vectors_error(tables: TableFacts) -> str:
    """Return what ends a compilation for vectors whose places of 16 bits do not reach all of a ring; else ''."""
    if tables.depthwise_ring <= _VECTORS_RING:
        return ""
    return f"""#if KILONET_MVE
#error "a depthwise convolution keeps {tables.depthwise_ring:,} bytes, vectors reach {_VECTORS_RING:,}: -DKILONET_PLAIN"
#endif
"""


def _answer_macros(network: IntegerNetwork, metadata: Metadata) -> str:
    """Return the calibration in integers, or that of a model that was never calibrated."""
    calibration = metadata.calibration or UNFITTED
    factor, shift = _power_of_two(calibration.temperature, network.fraction_bits)
    sure = min(max(math.ceil(calibration.sure_from * 65536), 1), 65535)
    macros = f"""
/* 1 if an uncertain answer is none of the classes. */
#define KILONET_REJECTS {int(bool(calibration.rejects))}
/* A class of a lower confidence, in 65,536ths, is uncertain. */
#define KILONET_SURE_CONFIDENCE {sure}
/* The probabilities in integers: a logit that is lower by d makes one less probable by two to the power of
 * d * FACTOR / 2^(SHIFT + 24). */
#define KILONET_CONFIDENCE_FACTOR {factor}u
#define KILONET_CONFIDENCE_SHIFT {shift}
"""
    least = _least_energy(calibration.energy_from, network.fraction_bits)
    if least is None:
        return macros
    factor, shift = _power_of_two(1.0, network.fraction_bits)
    return f"""{macros}/* KILONET_ENERGY_FROM in the unit of the logits, and the powers for it. */
#define KILONET_LEAST_ENERGY {least}
#define KILONET_ENERGY_FACTOR {factor}u
#define KILONET_ENERGY_SHIFT {shift}
"""


def _power_of_two(temperature: float, fraction_bits: int) -> tuple[int, int]:
    """Return a factor below 2**32 and a shift.

    For a difference of logits d, exp(-d / 2**fraction_bits / temperature) is 2**-(d * factor / 2**(shift + 24)).
    """
    scale = 2.0 ** (24 - fraction_bits) / (math.log(2) * temperature)
    shift = 31 - math.frexp(scale)[1]
    return round(math.ldexp(scale, shift)), shift


def _least_energy(energy_from: float | None, fraction_bits: int) -> int | None:
    """Return the energy threshold in units of the logits; None if no image is below it."""
    if energy_from is None:
        return None
    # Every comparison with NaN is false, and what is not above the threshold is strange.
    scaled = math.inf if math.isnan(energy_from) else energy_from * 2.0**fraction_bits
    return None if scaled <= -_LARGEST_LOGIT else round(min(scaled, _LARGEST_LOGIT))


def _selftest_macros(network: IntegerNetwork, tables: TableFacts) -> str:
    rows = ", \\\n     ".join(
        f"{{{', '.join(map(int32_literal, row.tolist()))}}}"
        for row in integer_logits(network, selftest_images(network.input_shape))
    )
    return f"""/* What kilonet_selftest expects: the CRC-32 of all tables, and the logits of two images. */
{_crc_macros(tables.crcs)}
#define KILONET_SELFTEST_LOGITS \\
    {{{rows}}}
"""


def _crc_macros(crcs: Mapping[str, int]) -> str:
    *others, (_, plain) = ((condition, f"#define KILONET_SELFTEST_CRC {crc:#010x}u") for condition, crc in crcs.items())
    return alternatives(others, plain)


def alternatives(others: Sequence[tuple[str, str]], plain: str) -> str:
    """Return the text behind the first condition of the preprocessor that holds, else `plain`."""
    if not others:
        return plain
    chain = "".join(f"#{'el' * (place > 0)}if {condition}\n{text}\n" for place, (condition, text) in enumerate(others))
    return f"{chain}#else\n{plain}\n#endif"


def selftest_images(shape: Shape) -> Pixels:
    """Return the two images of noise that kilonet_selftest.c draws: uint8 (2, channels, rows, columns)."""
    channels, rows, columns = shape
    random, levels = 0, []
    for darker in (0, 2):
        for _ in range(prod(shape)):
            # Source: W. H. Press et al., "Numerical Recipes", the quick generator.
            random = (random * 1664525 + 1013904223) % 2**32
            levels.append(random >> 24 + darker)
    return np.array(levels, np.uint8).reshape(2, rows, columns, channels).transpose(0, 3, 1, 2).copy()


def _preprocessing_macros(facts: PreprocessingFacts | None) -> str:
    """Return macros of how a picture becomes the pixels; '' for a network that takes no pictures."""
    if facts is None:
        return ""
    digit = ""
    if facts.resize is None:
        digit = "\n * Here the picture has to show a digit as above: find it, and lay it out so, before or after."
    channels = "grey levels" if facts.channels == "grey" else "red, green and blue levels, a channel each"
    red, green, blue = facts.grey_weights
    return f"""
/* How a picture of any size becomes the pixels, {channels} from 0 to 255: kilonet_resize.h does it.{digit}
 * Of another shape it is cropped in its middle, padded, or squashed. Each pixel is a mean weighted by a triangle twice
 * as wide as the pixel, or as one of the picture where it is enlarged. After that, the grey level of a colour is
 * ({red} red + {green} green + {blue} blue) / 65536. */
#define KILONET_CROP 0
#define KILONET_PAD 1
#define KILONET_SQUASH 2
#define KILONET_RESIZE KILONET_{(facts.resize or "crop").upper()}
/* The level of each channel around a padded picture. */
#define KILONET_PADDING {_braces(facts.padding)}
/* Mean and standard deviation of the training pixels of each channel, as fractions of 255. The weights contain them:
 * give kilonet_classify the pixels as they are. */
#define KILONET_MEAN {_braces(facts.mean)}
#define KILONET_STD {_braces(facts.std)}
"""


def _braces(values: Iterable[float]) -> str:
    return f"{{{', '.join(map(repr, values))}}}"


def _names_macro(names: Sequence[str], prefix: str) -> str:
    """Return the macro of the classes' names, which takes no memory unless it is used."""
    strings = ", \\\n     ".join(map(_c_string, names))
    head = f"""
/* The names of the classes in UTF-8; those without names have their numbers from 0.
 * static const char *const names[KILONET_CLASSES] = KILONET_CLASS_NAMES;
 * in the flash of an AVR: static const char names[KILONET_CLASSES][KILONET_NAME_BYTES] KILONET_FLASH = ... */
#define KILONET_NAME_BYTES {max(len(name.encode()) for name in names) + 1}
#define KILONET_CLASS_NAMES \\
    """
    return f"{with_prefix(head, prefix)}{{{strings}}}\n"


def _calibration_macros(metadata: Metadata) -> str:
    """Return macros of the calibration, which only code with floating point can use; '' for none."""
    calibration = metadata.calibration
    if calibration is None:
        return ""
    macros = f"""
/* With l = logits / 2^KILONET_FRACTION_BITS, the probabilities are softmax(l / KILONET_TEMPERATURE). A class of a lower
 * probability than KILONET_SURE_FROM is uncertain. */
#define KILONET_TEMPERATURE {calibration.temperature!r}
#define KILONET_SURE_FROM {calibration.sure_from!r}
"""
    if calibration.energy_from is None:
        return macros
    return f"""{macros}/* An image is unlike those of the training if log(sum(exp(l))) is below this. */
#define KILONET_ENERGY_FROM ({calibration.energy_from!r})
"""


def _c_string(text: str) -> str:
    """Return a C string of a name. All but letters, figures, blanks, dots and hyphens becomes an octal escape.

    So no name can end the string, begin a trigraph or continue an escape.
    """
    return '"' + "".join(chr(byte) if byte in _PLAIN_BYTES else f"\\{byte:03o}" for byte in text.encode()) + '"'


def int32_literal(value: int) -> str:
    """Return an int32 in C, where -2147483648 does not fit: it is the literal 2147483648 with a sign."""
    return "-2147483647 - 1" if value == -(1 << 31) else str(value)
