"""The engine that trains on the processor by kernels compiled for the network."""

import ctypes
from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from kilonet.data.augment import NOISE_STARTS, Batch
from kilonet.engines.class_weights import class_weights
from kilonet.engines.contract import Totals, average_share
from kilonet.engines.native.bindings import TrainerSettings, TrainerTotals, TrainingBatch, by_channel
from kilonet.engines.native.build import load_library, multiplies_bfloat16
from kilonet.engines.native.codegen import value_ranges
from kilonet.engines.native.teacher import NativeTeacher
from kilonet.models.model import Model
from kilonet.network.operations import array_type, check_pixels
from kilonet.network.section import ModelSection
from kilonet.recipe import Recipe
from kilonet.utils.errors import KilonetError


def native_unavailable_reason(recipe: Recipe) -> str | None:
    """Return why the native engine cannot train a recipe on this machine, in one line, or None if it can.

    Compiles the network if the cache does not hold it.
    """
    if recipe.run.precision == "bfloat16" and not multiplies_bfloat16():
        return "this processor has no bfloat16 instructions; use --precision float32"
    try:
        load_library(recipe.model, recipe.run.precision)
    except KilonetError as error:
        return str(error)
    return None


class NativeEngine:
    """Trains a network by compiled kernels; the contract is `kilonet.engines.contract.Engine`.

    Results do not depend on the number of threads.
    """

    name = "native"
    device = "cpu"

    def __init__(
        self,
        recipe: Recipe,
        pixels: Tensor,
        labels: Tensor,
        weights: Mapping[str, Tensor],
        threads: int,
        *,
        teachers: Sequence[Model] = (),
    ) -> None:
        """Make an engine that starts from given weights.

        Args:
            recipe: the network and its training. With precision `bfloat16` the convolutions of training multiply
                bfloat16, slowly if the processor has no instructions for it; scoring is always in float32.
            pixels: the training images, uint8 (N, C, H, W).
            labels: their classes, int64 (N,).
            weights: initial weights and statistics, named as in `Network.state()`.
            threads: number of threads; less than 1 means 1.
            teachers: trained networks with the same input and classes, used as the recipe's `distill` section says.

        Raises:
            KilonetError: a network cannot be compiled on this machine, a label is not a class of the network, a class
                to be balanced has no images, or there is too little memory.
        """
        self.precision: str = "bfloat16" if recipe.run.precision == "bfloat16" else "float32"
        self._library = load_library(recipe.model, self.precision)
        self._recipe = recipe
        self._pixels = _checked_pixels(pixels, recipe.model)
        self._labels = labels.to("cpu", torch.int64).contiguous()
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < recipe.model.classes:
            raise KilonetError(f"labels must lie from 0 to {recipe.model.classes - 1}, the classes of the network")
        self._class_weights = class_weights(recipe, self._labels)
        self._ranges = value_ranges(recipe.model)
        self._values = torch.cat(
            [weights[one.name].detach().to("cpu", torch.float32).flatten() for one in self._ranges]
        )
        self._steps = 0
        self._buffers = self._make_buffers()
        self._teachers = [NativeTeacher(teacher, self.precision, max(threads, 1)) for teacher in teachers]
        self._settings = self._make_settings(threads)
        self._trainer = ctypes.c_void_p()
        self._library.kilonet_create_trainer(ctypes.byref(self._settings), ctypes.byref(self._trainer))
        for teacher in self._teachers:
            self._library.kilonet_add_teacher(self._trainer, ctypes.byref(teacher.for_student(recipe.model)))

    def __del__(self) -> None:
        if getattr(self, "_trainer", None):
            self._library.kilonet_destroy_trainer(self._trainer)

    def _make_buffers(self) -> dict[str, Tensor]:
        train = self._recipe.train
        names = ["momentum"]
        names += ["second_moment"] if train.optimizer == "adamw" else []
        names += ["average"] if train.ema else []
        return {"values": self._values} | {name: torch.zeros_like(self._values) for name in names}

    def _make_settings(self, threads: int) -> TrainerSettings:
        train, model = self._recipe.train, self._recipe.model
        pointers = {name: tensor.data_ptr() for name, tensor in self._buffers.items()}
        return TrainerSettings(
            pixels=self._pixels.data_ptr(),
            labels=self._labels.data_ptr(),
            class_weights=None if self._class_weights is None else self._class_weights.data_ptr(),
            **pointers,
            momentum_decay=train.momentum,
            weight_decay=train.weight_decay,
            smoothing=train.label_smoothing,
            dropout=model.dropout,
            mean=by_channel(model.means),
            std=by_channel(model.stds),
            temperature=self._recipe.distill.temperature,
            soft_weight=self._recipe.distill.weight if self._teachers else 0.0,
            seed=self._recipe.run.seed,
            threads=max(threads, 1),
            repeats_edges=self._recipe.augment.outside == "edge",
        )

    def train_batch(self, batch: Batch, learning_rate: float, step: int) -> None:
        if not len(batch):
            return
        # Kept until the call returns: the structure has only their addresses.
        tensors = {name: tensor.to("cpu").contiguous() for name, tensor in batch.tensors().items()}
        self._check_batch(tensors, len(batch))
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        trained = TrainingBatch(**addresses, count=len(batch))
        share = average_share(self._recipe.train.ema, step)
        self._library.kilonet_train_batch(self._trainer, ctypes.byref(trained), learning_rate, share, step, self._steps)
        self._steps += 1

    def _check_batch(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Check what the compiled code reads: dtypes, shapes and places among the images."""
        shape = self._recipe.model.input_shape
        expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "indices": (torch.int64, (count,)),
            "transforms": (torch.float32, (count, 2, 3)),
            "blurs": (torch.float32, (count,)),
            "colours": (torch.float32, (count, shape[0], shape[0] + 1)),
            "noise_levels": (torch.float32, (count,)),
            "noise_starts": (torch.int64, (count,)),
            "noise_values": (torch.float32, (NOISE_STARTS + prod(shape),)),
            "cutouts": (torch.int32, (count, 4)),
            "shares": (torch.float32, (count,)),
        }
        for name, tensor in tensors.items():
            if (tensor.dtype, tuple(tensor.shape)) != expected[name]:
                dtype, wanted = str(expected[name][0]).removeprefix("torch."), expected[name][1]
                raise KilonetError(f"{name} are {array_type(tensor)} {tuple(tensor.shape)}, not {dtype} {wanted}")
        for name, end in (("indices", len(self._pixels)), ("noise_starts", NOISE_STARTS)):
            if name in tensors and not 0 <= int(tensors[name].min()) <= int(tensors[name].max()) < end:
                raise KilonetError(f"{name} must lie from 0 to {end - 1}")
        if len({"noise_levels", "noise_starts", "noise_values"} & tensors.keys()) not in (0, 3):
            raise KilonetError("noise needs its levels, starts and values")

    def take_totals(self) -> Totals:
        totals = TrainerTotals()
        self._library.kilonet_take_totals(self._trainer, ctypes.byref(totals))
        return Totals(totals.loss, totals.correct, totals.images)

    def logits(self, pixels: Tensor) -> Tensor:
        pixels = _checked_pixels(pixels, self._recipe.model)
        result = torch.empty(len(pixels), self._recipe.model.classes)
        values = self._scored_values()
        self._library.kilonet_logits(
            self._trainer, pixels.data_ptr(), len(pixels), values.data_ptr(), result.data_ptr()
        )
        return result

    def state(self) -> dict[str, Tensor]:
        copies = {name: tensor.clone() for name, tensor in self._buffers.items()}
        return copies | {"steps": torch.tensor(self._steps)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state that `state` returned.

        Raises:
            KilonetError: the state is of another recipe or another engine.
        """
        for name, tensor in self._buffers.items():
            if name not in state or state[name].shape != tensor.shape:
                raise KilonetError(f"the checkpoint holds no '{name}' of the native engine for this network")
        for name, tensor in self._buffers.items():
            tensor.copy_(state[name])
        self._steps = int(state["steps"])

    def network_state(self) -> dict[str, Tensor]:
        values = self._scored_values()
        return {one.name: values[one.begin : one.end].view(one.shape).clone() for one in self._ranges}

    def _scored_values(self) -> Tensor:
        return self._buffers["average"] if self._steps and "average" in self._buffers else self._values


def _checked_pixels(pixels: Tensor, model: ModelSection) -> Tensor:
    check_pixels(pixels, model.input_shape)
    return pixels.to("cpu").contiguous()
