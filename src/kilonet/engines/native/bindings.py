"""The functions of a compiled library, and the structures that they take, as declared in trainer.hpp."""

import ctypes
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from kilonet.utils.errors import KilonetError

MAXIMUM_INPUT_CHANNELS = 16

_DONE, _OUT_OF_MEMORY = 0, 1
_BY_CHANNEL = ctypes.c_double * MAXIMUM_INPUT_CHANNELS


class TrainerSettings(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        *((name, ctypes.c_void_p) for name in ("pixels", "labels", "class_weights")),
        *((name, ctypes.c_void_p) for name in ("values", "momentum", "second_moment", "average")),
        *((name, ctypes.c_double) for name in ("momentum_decay", "weight_decay", "smoothing", "dropout")),
        *((name, _BY_CHANNEL) for name in ("mean", "std")),
        *((name, ctypes.c_double) for name in ("temperature", "soft_weight")),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_int64) for name in ("threads", "repeats_edges")),
    ]


class TrainingBatch(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        *((name, ctypes.c_void_p) for name in ("indices", "transforms", "blurs", "colours")),
        *((name, ctypes.c_void_p) for name in ("noise_levels", "noise_starts", "noise_values", "cutouts", "shares")),
        ("count", ctypes.c_int64),
    ]


class TeacherNetwork(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("trainer", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
        ("scale", _BY_CHANNEL),
        ("shift", _BY_CHANNEL),
    ]


class TrainerTotals(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("loss", ctypes.c_double),
        ("correct", ctypes.c_int64),
        ("images", ctypes.c_int64),
    ]


_STRUCTURES = (TrainerSettings, TrainingBatch, TeacherNetwork, TrainerTotals)
"""In the order in which `kilonet_sizes` gives their sizes."""


def by_channel(values: Iterable[float]) -> ctypes.Array[ctypes.c_double]:
    """Return a value for each channel of the input, at most `MAXIMUM_INPUT_CHANNELS`, as the structures have them."""
    return _BY_CHANNEL(*values)


def declare_functions(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the functions of a network's library, and return it. A function that fails raises KilonetError.

    Raises:
        KilonetError: it is not the library of a network.
    """
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    batch = [pointer, ctypes.c_double, ctypes.c_double, count, count]
    signatures = {
        "kilonet_create_trainer": [pointer, pointer],
        "kilonet_add_teacher": [pointer, pointer],
        "kilonet_prepare_teacher": [pointer],
        "kilonet_train_batch": [pointer, *batch],
        "kilonet_logits": [pointer, pointer, count, pointer, pointer],
        "kilonet_take_totals": [pointer, pointer],
    }
    sizes = (ctypes.c_int64 * len(_STRUCTURES))()
    try:
        library.kilonet_sizes.restype, library.kilonet_sizes.argtypes = None, [pointer]
        library.kilonet_sizes(sizes)
        library.kilonet_error.restype, library.kilonet_error.argtypes = ctypes.c_char_p, []
        library.kilonet_destroy_trainer.restype, library.kilonet_destroy_trainer.argtypes = None, [pointer]
        for name, arguments in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes, function.errcheck = ctypes.c_int, arguments, _checker(library)
    except AttributeError as error:
        raise KilonetError(f"the compiled native engine cannot be used: {error}") from None
    for structure, size in zip(_STRUCTURES, sizes, strict=True):
        if ctypes.sizeof(structure) != size:
            raise KilonetError(
                f"the compiled native engine cannot be used: its {structure.__name__} has {size} bytes, "
                f"not {ctypes.sizeof(structure)}"
            )
    return library


def _checker(library: ctypes.CDLL) -> Callable[[int, Any, tuple[Any, ...]], int]:
    """Return a function that ctypes calls with the status of each call, as `Status` in trainer.hpp has it."""

    def check(status: int, _function: Any, _arguments: tuple[Any, ...]) -> int:
        if status == _OUT_OF_MEMORY:
            raise KilonetError(
                "the native engine gets no memory for this network; try a smaller --batch-size, fewer --threads or "
                "--engine torch"
            )
        if status != _DONE:
            raise KilonetError(f"the native engine failed: {library.kilonet_error().decode(errors='replace')}")
        return status

    return check
