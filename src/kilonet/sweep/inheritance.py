"""The weights that a network takes over from one that it was changed from: its parent in an evolutionary search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from torch import Tensor

from kilonet.models.model import Model
from kilonet.network.graph import PlacedLayer
from kilonet.network.layers import Conv
from kilonet.network.module import initial_network
from kilonet.network.operations import BatchNorm, Convolution
from kilonet.network.section import ModelSection
from kilonet.sweep.mutations import channel_groups

_CONVOLUTION = "convolution.weight"
_BATCH_NORM = tuple(f"batch_norm.{name}" for name in ("weight", "bias", "running_mean", "running_var"))


def inherit(parent: Model, section: ModelSection, seed: int) -> Model:
    """Return a network with the weights of another one as far as they fit, to begin its training with.

    Layers are matched in their order by their kind. Of channels that are fewer than the parent's, those with the
    largest batch-norm weights stay (Z. Liu and others, "Learning efficient convolutional networks through network
    slimming", 2017); channels that are new add nothing to what follows at first. A smaller kernel is the middle of a
    larger one. A layer that is new passes its input on where it can: a pointwise layer begins as the identity, a
    depthwise one with the middle of its kernel, a residual one adds nothing. All else is drawn from the seed.

    Args:
        parent: the trained network.
        section: the layers of the other one, for images of the same shape.
        seed: of the weights that are not taken over.
    """
    network = initial_network(section, seed)
    state = network.state()
    old = parent.network.state()
    matches = _matches(parent.section.placed, section.placed)
    channels = _ChannelMaps.of(parent, section, matches)
    for layer in section.placed:
        match = matches.get(layer.number)
        if match is None:
            _pass_on(layer, state)
            continue
        before = channels.before(layer.number, match.number)
        after = channels.before(layer.number + 1, match.number + 1)
        for operation in layer.operations:
            if isinstance(operation, Convolution) and layer.owner == layer.number:
                name = layer.tensor_name(_CONVOLUTION)
                given = old[match.tensor_name(_CONVOLUTION)]
                # Of one channel too, where a depthwise convolution has a single group as others have.
                depthwise = isinstance(layer.layer, Conv) and layer.layer.depthwise
                state[name] = _taken_over(state[name], given, after, None if depthwise else before)
            if isinstance(operation, BatchNorm):
                for key in _BATCH_NORM:
                    state[layer.tensor_name(key)] = _rows(
                        state[layer.tensor_name(key)], old[match.tensor_name(key)], after
                    )
    return Model(section, state)


def _matches(parent: Sequence[PlacedLayer], child: Sequence[PlacedLayer]) -> dict[int, PlacedLayer]:
    """Return the parent's layer for each of the child's that has one, by the number of the child's."""
    old, new = ([_kind(layer) for layer in placed] for placed in (parent, child))
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    return {
        of_child: parent[of_parent]
        for first, second, count in blocks
        for of_parent, of_child in zip(range(first, first + count), range(second, second + count), strict=True)
    }


def _kind(layer: PlacedLayer) -> tuple[str, bool, bool]:
    depthwise = isinstance(layer.layer, Conv) and layer.layer.depthwise
    return type(layer.layer).__name__, depthwise, layer.owner != layer.number


@dataclass(frozen=True)
class _ChannelMaps:
    """Which of the parent's channels each channel of the child is, int64, -1 for a new one; for each group."""

    maps: Mapping[int, Tensor]
    """By the child's group."""
    origins: Mapping[int, int]
    """The parent's group of each of the child's groups."""
    groups: tuple[list[int], list[int]]
    """The groups of the parent and of the child."""
    widths: tuple[list[int], list[int]]
    """The number of channels at each place of the parent and of the child."""

    @classmethod
    def of(cls, parent: Model, section: ModelSection, matches: Mapping[int, PlacedLayer]) -> "_ChannelMaps":
        both = parent.section.placed, section.placed
        groups = channel_groups(both[0]), channel_groups(both[1])
        widths = _widths(both[0]), _widths(both[1])
        origins: dict[int, int] = {}
        maps: dict[int, Tensor] = {}
        for number, match in matches.items():
            for mine, theirs in ((number, match.number), (number + 1, match.number + 1)):
                group, origin = groups[1][mine], groups[0][theirs]
                if group not in origins:
                    origins[group] = origin
                    maps[group] = _kept(_importance(parent, groups[0], origin, widths[0][theirs]), widths[1][mine])
        return cls(maps, origins, groups, widths)

    def before(self, mine: int, theirs: int) -> Tensor:
        """Return the map for the channels before the child's layer `mine`, which stand for those before `theirs`."""
        group = self.groups[1][mine]
        if self.origins[group] == self.groups[0][theirs]:
            return self.maps[group]
        # Elsewhere the group stands for other channels of the parent.
        return _kept(torch.zeros(self.widths[0][theirs]), self.widths[1][mine])


def _widths(placed: Sequence[PlacedLayer]) -> list[int]:
    return [placed[0].input_shape[0], *(layer.output_shape[0] for layer in placed)]


def _importance(parent: Model, groups: Sequence[int], group: int, width: int) -> Tensor:
    """Return how much each channel of a group of the parent counts: the sum of its batch-norm weights' sizes."""
    state = parent.network.state()
    layers = [layer for layer in parent.section.placed if groups[layer.number + 1] == group]
    scales = [
        state[layer.tensor_name("batch_norm.weight")].abs()
        for layer in layers
        if any(isinstance(operation, BatchNorm) for operation in layer.operations)
    ]
    return torch.stack(scales).sum(0) if scales else torch.zeros(width)


def _kept(importance: Tensor, count: int) -> Tensor:
    """Return the places of the `count` largest values in their order; beyond what there is, -1."""
    most = torch.argsort(importance, descending=True, stable=True)[:count].sort().values
    return torch.cat([most, torch.full((count - len(most),), -1)])


def _rows(fresh: Tensor, given: Tensor, places: Tensor) -> Tensor:
    """Return the rows of `given` at `places`, and those of `fresh` where a place is -1."""
    known = (places >= 0).view(-1, *[1] * (given.dim() - 1))
    return torch.where(known, given[places.clamp(min=0)], fresh)


def _taken_over(fresh: Tensor, given: Tensor, after: Tensor, before: Tensor | None) -> Tensor:
    """Return the weights, (outputs, inputs, rows, columns), of a convolution that takes over those of another.

    Args:
        fresh: the weights of outputs that are new.
        given: the other's weights.
        after: the place of each output among the other's, -1 for a new one.
        before: the same of each input, whose weights begin at zero where it is new; None for a depthwise layer.
    """
    given = _resized(given, fresh.shape[-1])
    if before is not None:
        given = _rows(torch.zeros(len(before), *given.transpose(0, 1).shape[1:]), given.transpose(0, 1), before)
        given = given.transpose(0, 1)
    return _rows(fresh, given, after)


def _resized(weights: Tensor, kernel: int) -> Tensor:
    """Return the middle of larger kernels, or smaller ones within zeros."""
    more = kernel - weights.shape[-1]
    first, last = more // 2, more - more // 2
    return torch.nn.functional.pad(weights, (first, last, first, last))


def _pass_on(layer: PlacedLayer, state: dict[str, Tensor]) -> None:
    """Let a new layer change as little as it can of what passes through it."""
    if layer.layer.residual:
        state[layer.tensor_name("batch_norm.weight")] = torch.zeros(layer.output_shape[0])
        return
    for operation in layer.operations:
        if not isinstance(operation, Convolution) or layer.owner != layer.number:
            continue
        name = layer.tensor_name(_CONVOLUTION)
        kernel, width = operation.kernel, layer.output_shape[0]
        if operation.groups == width and kernel % 2:
            state[name] = _resized(torch.ones(width, 1, 1, 1), kernel)
        elif kernel == 1 and layer.input_shape[0] == width:
            state[name] = torch.eye(width).view(width, width, 1, 1)
