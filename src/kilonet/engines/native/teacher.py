"""A teacher for the native engine: a trained network, compiled like the network that learns from it."""

import ctypes

import torch

from kilonet.engines.native.bindings import TeacherNetwork, TrainerSettings, by_channel
from kilonet.engines.native.build import load_library
from kilonet.engines.native.codegen import value_ranges
from kilonet.models.model import Model
from kilonet.network.section import ModelSection


class NativeTeacher:
    """Computes a trained network's logits with its running statistics, in the arithmetic of the student's training.

    With `float32` the logits are those of `Model.logits`; with `bfloat16` convolutions round as they do in training.
    """

    def __init__(self, model: Model, precision: str, threads: int) -> None:
        """Compile the network, or load it from the cache.

        Args:
            model: the trained network.
            precision: `float32` or `bfloat16`.
            threads: how many of the student's threads may compute logits at the same time.

        Raises:
            KilonetError: the network cannot be compiled on this machine, or there is too little memory.
        """
        self._section = model.section
        self._library = load_library(model.section, precision)
        state = model.network.state()
        self._values = torch.cat([state[one.name].detach().flatten() for one in value_ranges(model.section)])
        settings = TrainerSettings(values=self._values.data_ptr(), threads=threads)
        self._trainer = ctypes.c_void_p()
        self._library.kilonet_create_trainer(ctypes.byref(settings), ctypes.byref(self._trainer))
        self._library.kilonet_prepare_teacher(self._trainer)

    def __del__(self) -> None:
        if getattr(self, "_trainer", None):
            self._library.kilonet_destroy_trainer(self._trainer)

    def for_student(self, student: ModelSection) -> TeacherNetwork:
        """Return the function to call and how the teacher's normalised pixels differ from the student's."""
        own = self._section
        return TeacherNetwork(
            trainer=self._trainer.value,
            logits=ctypes.cast(self._library.kilonet_teacher_logits, ctypes.c_void_p).value,
            scale=by_channel(theirs / std for theirs, std in zip(student.stds, own.stds, strict=True)),
            shift=by_channel(
                (theirs - mean) / std for theirs, mean, std in zip(student.means, own.means, own.stds, strict=True)
            ),
        )
