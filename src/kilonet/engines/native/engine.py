"""The engine that runs on the processor by kernels compiled for the network."""

import ctypes
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kilonet.engines.contract import Totals, average_share
from kilonet.engines.native import bindings as library
from kilonet.engines.native.build import load_library, multiplies_bfloat16
from kilonet.engines.native.codegen import stretches
from kilonet.engines.native.teacher import NativeTeacher
from kilonet.models.model import Model
from kilonet.network.operations import check_pixels
from kilonet.network.section import ModelSection
from kilonet.recipe import Recipe
from kilonet.utils.errors import KilonetError


def native_objection(recipe: Recipe) -> str | None:
    """Say in one line why the native engine cannot train a recipe here, or return None; compiles it if need be."""
    if not recipe.model.parameters:
        return "the network has no weights to train"
    if recipe.run.precision == "bfloat16" and not multiplies_bfloat16():
        return "this processor has no bfloat16 instructions; use --precision float32"
    try:
        load_library(recipe.model, recipe.run.precision)
    except KilonetError as error:
        return str(error)
    return None


class NativeEngine:
    """Trains a network by compiled kernels; see `kilonet.engines.contract.Engine` for the contract.

    Its results do not depend on the number of threads.
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
        """Start from weights.

        Args:
            recipe: the network and its training; with precision `bfloat16` the training's convolutions multiply that,
                where the processor cannot by slow instructions; scoring is in float32 always.
            pixels: the training images, uint8 (N, C, H, W).
            labels: their classes, int64 (N,).
            weights: the network's initial values, named as in `Network.state()`.
            threads: how many threads compute, at least 1.
            teachers: trained networks of the same input and classes to learn from, as the recipe's `distill` says.

        Raises:
            KilonetError: a network cannot be compiled here, or a label is no class of it.
        """
        self.precision: str = "bfloat16" if recipe.run.precision == "bfloat16" else "float32"
        self._library = library.declared_library(recipe.model, self.precision)
        self._recipe = recipe
        self._pixels = _checked_pixels(pixels, recipe.model)
        self._labels = labels.to("cpu", torch.int64).contiguous()
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < recipe.model.classes:
            raise KilonetError(f"labels must lie from 0 to {recipe.model.classes - 1}, the classes of the network")
        self._layout = stretches(recipe.model)
        self._values = torch.cat(
            [weights[one.name].detach().to("cpu", torch.float32).flatten() for one in self._layout]
        )
        self._steps = 0
        self._buffers = self._make_buffers()
        self._teachers = [NativeTeacher(teacher, self.precision, max(threads, 1)) for teacher in teachers]
        self._settings = self._make_settings(threads)
        self._trainer = self._library.kilonet_open(ctypes.byref(self._settings))
        for teacher in self._teachers:
            self._library.kilonet_learn_from(self._trainer, ctypes.byref(teacher.for_student(recipe.model)))

    def __del__(self) -> None:
        """Free the trainer and end its threads."""
        if getattr(self, "_trainer", None):
            self._library.kilonet_close(self._trainer)

    def _make_buffers(self) -> dict[str, Tensor]:
        train = self._recipe.train
        names = ["momentum"]
        names += ["second_moment"] if train.optimizer == "adamw" else []
        names += ["average"] if train.ema else []
        return {"values": self._values} | {name: torch.zeros_like(self._values) for name in names}

    def _make_settings(self, threads: int) -> library.Settings:
        train, model = self._recipe.train, self._recipe.model
        pointers = {name: tensor.data_ptr() for name, tensor in self._buffers.items()}
        return library.Settings(
            pixels=self._pixels.data_ptr(),
            labels=self._labels.data_ptr(),
            **pointers,
            momentum_decay=train.momentum,
            weight_decay=train.weight_decay,
            smoothing=train.label_smoothing,
            dropout=model.dropout,
            mean=model.mean,
            std=model.std,
            temperature=self._recipe.distill.temperature,
            soft_weight=self._recipe.distill.weight if self._teachers else 0.0,
            seed=self._recipe.run.seed,
            threads=max(threads, 1),
        )

    def train_batch(self, indices: Tensor, transforms: Tensor, learning_rate: float, step: int) -> None:
        """Train one step; see the contract."""
        if not len(indices):
            return
        indices = indices.to("cpu", torch.int64).contiguous()
        transforms = transforms.to("cpu", torch.float32).contiguous()
        if transforms.shape != (len(indices), 2, 3):
            raise KilonetError(f"transforms have shape {tuple(transforms.shape)}, not ({len(indices)}, 2, 3)")
        if not 0 <= int(indices.min()) <= int(indices.max()) < len(self._pixels):
            raise KilonetError(f"indices must lie from 0 to {len(self._pixels) - 1}")
        addresses = indices.data_ptr(), transforms.data_ptr()
        share = average_share(self._recipe.train.ema, step)
        self._library.kilonet_step(self._trainer, *addresses, len(indices), learning_rate, share, step, self._steps)
        self._steps += 1

    def take_totals(self) -> Totals:
        """Return the sums since the last call; see the contract."""
        totals = library.Totals()
        self._library.kilonet_take_totals(self._trainer, ctypes.byref(totals))
        return Totals(totals.loss, totals.correct, totals.images)

    def logits(self, pixels: Tensor) -> Tensor:
        """Score images; see the contract."""
        pixels = _checked_pixels(pixels, self._recipe.model)
        result = torch.empty(len(pixels), self._recipe.model.classes)
        values = self._kept()
        self._library.kilonet_logits(
            self._trainer, pixels.data_ptr(), len(pixels), values.data_ptr(), result.data_ptr()
        )
        return result

    def state(self) -> dict[str, Tensor]:
        """Return all that the run needs to go on; see the contract."""
        copies = {name: tensor.clone() for name, tensor in self._buffers.items()}
        return copies | {"steps": torch.tensor(self._steps)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state; see the contract.

        Raises:
            KilonetError: it is no state of this recipe on this engine.
        """
        for name, tensor in self._buffers.items():
            if name not in state or state[name].shape != tensor.shape:
                raise KilonetError(f"the checkpoint holds no '{name}' of the native engine for this network")
        for name, tensor in self._buffers.items():
            tensor.copy_(state[name])
        self._steps = int(state["steps"])

    def network_state(self) -> dict[str, Tensor]:
        """Return the weights that would be kept; see the contract."""
        values = self._kept()
        return {one.name: values[one.begin : one.end].view(one.shape).clone() for one in self._layout}

    def _kept(self) -> Tensor:
        return self._buffers["average"] if self._steps and "average" in self._buffers else self._values


def _checked_pixels(pixels: Tensor, model: ModelSection) -> Tensor:
    check_pixels(pixels, model.input_shape)
    return pixels.to("cpu").contiguous()
