"""The functions of a compiled library, and the structures that they take, as declared in trainer.hpp."""

import ctypes
from typing import Any, ClassVar

from kilonet.engines.native.build import load_library
from kilonet.network.section import ModelSection


class TrainerSettings(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        *((name, ctypes.c_void_p) for name in ("pixels", "labels", "values", "momentum", "second_moment", "average")),
        *(
            (name, ctypes.c_double)
            for name in ("momentum_decay", "weight_decay", "smoothing", "dropout", "mean", "std")
        ),
        *((name, ctypes.c_double) for name in ("temperature", "soft_weight")),
        ("seed", ctypes.c_uint64),
        ("threads", ctypes.c_int64),
    ]


class TeacherNetwork(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("trainer", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
        ("scale", ctypes.c_double),
        ("shift", ctypes.c_double),
    ]


class TrainerTotals(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("loss", ctypes.c_double),
        ("correct", ctypes.c_int64),
        ("images", ctypes.c_int64),
    ]


def load_declared_library(model: ModelSection, precision: str) -> ctypes.CDLL:
    """Return the network's library with its functions declared; see `load_library`."""
    library, pointer, count = load_library(model, precision), ctypes.c_void_p, ctypes.c_int64
    batch = [pointer, pointer, count, ctypes.c_double, ctypes.c_double, count, count]
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "kilonet_create_trainer": (pointer, [pointer]),
        "kilonet_destroy_trainer": (None, [pointer]),
        "kilonet_add_teacher": (None, [pointer, pointer]),
        "kilonet_prepare_teacher": (None, [pointer]),
        "kilonet_train_batch": (None, [pointer, *batch]),
        "kilonet_logits": (None, [pointer, pointer, count, pointer, pointer]),
        "kilonet_take_totals": (None, [pointer, pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
