"""A trained network that the native engine learns from, compiled like the one that learns."""

import ctypes

import torch

from kilonet.engines.native.bindings import Settings, Teacher, declared_library
from kilonet.engines.native.codegen import stretches
from kilonet.models.model import Model
from kilonet.network.section import ModelSection


class NativeTeacher:
    """Answers with its running statistics, in the training's arithmetic, group of images by group.

    Its logits are those of `Model.logits` in float32; with `bfloat16` its convolutions round as the training's do.
    """

    def __init__(self, model: Model, precision: str, threads: int) -> None:
        """Compile the network, or find it compiled, for `threads` threads that may ask at once.

        Raises:
            KilonetError: the network cannot be compiled here.
        """
        self._section = model.section
        self._library = declared_library(model.section, precision)
        state = model.network.state()
        self._values = torch.cat([state[one.name].detach().flatten() for one in stretches(model.section)])
        settings = Settings(values=self._values.data_ptr(), threads=threads)
        self._trainer = self._library.kilonet_open(ctypes.byref(settings))
        self._library.kilonet_prepare_answers(self._trainer)

    def __del__(self) -> None:
        """Free the network."""
        if getattr(self, "_trainer", None):
            self._library.kilonet_close(self._trainer)

    def for_student(self, student: ModelSection) -> Teacher:
        """Return what the student's library has to know: whom to ask, and how the normalised pixels differ."""
        own = self._section
        return Teacher(
            trainer=self._trainer,
            answer=ctypes.cast(self._library.kilonet_answer, ctypes.c_void_p).value,
            scale=student.std / own.std,
            shift=(student.mean - own.mean) / own.std,
        )
