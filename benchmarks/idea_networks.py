"""The networks of `ideas.py` that are trained in another form than they are used in, for the torch engine.

Each is trained as it is and gives, by `folded`, the weights of the plain network that computes the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from kilonet.data.datasets import Images
from kilonet.engines.torch_engine import TorchEngine
from kilonet.models.model import Model
from kilonet.network.layers import Again, Conv, LayerEntry, Pointwise, parse_layer
from kilonet.network.module import Network, initial_network
from kilonet.network.section import ModelSection
from kilonet.recipe import Recipe
from kilonet.sweep.mutations import last_with_channels

_BRANCHES = 4
_BETWEEN = 4
"""How many times as many channels lie between the two layers that are trained for a pointwise one."""
_WIDER = 3
"""How many times as many channels the network has that another one is trained as a part of."""
_LARGEST = 7
"""The largest level of a weight of 4 bits, with a sign."""


def expanded(layers: Sequence[str]) -> tuple[str, ...]:
    """Return the layers with two for each pointwise one, between which there are more channels."""
    result: list[LayerEntry] = []
    # How many layers of the result stand for each layer of the network.
    counts: list[int] = []
    for entry in map(parse_layer, layers):
        if isinstance(entry, Pointwise):
            result += [Pointwise(_BETWEEN * entry.channels), entry]
            counts.append(2)
        elif isinstance(entry, Again):
            repeated = counts[-entry.layers :]
            result.append(replace(entry, layers=sum(repeated)))
            counts += entry.times * repeated
        else:
            result.append(entry)
            counts.append(1)
    return tuple(map(str, result))


def wider(layers: Sequence[str]) -> tuple[str, ...]:
    """Return the layers with more channels, those of the classes apart."""
    entries = [parse_layer(text) for text in layers]
    last = last_with_channels(entries)
    return tuple(
        str(replace(entry, channels=_WIDER * entry.channels))
        if isinstance(entry, Conv | Pointwise) and place != last
        else str(entry)
        for place, entry in enumerate(entries)
    )


class ComputedConvolution(nn.Module):
    """A convolution whose weight is computed from what is trained."""

    def __init__(self, given: nn.Conv2d) -> None:
        super().__init__()
        self.given = given

    def weight(self) -> Tensor:
        """Return the weight, (outputs, inputs of a group, rows, columns)."""
        raise NotImplementedError

    def forward(self, values: Tensor) -> Tensor:
        """Return the convolution of values (N, C, H, W)."""
        given = self.given
        return functional.conv2d(values, self.weight(), None, given.stride, given.padding, groups=given.groups)


class Rounded(ComputedConvolution):
    """A convolution rounded to 4 bits, with a step for each output channel and the straight-through estimator."""

    def weight(self) -> Tensor:
        exact = self.given.weight
        step = exact.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12) / _LARGEST
        rounded = (exact.detach() / step).round() * step
        return exact + (rounded - exact.detach())


class Branches(ComputedConvolution):
    """A convolution that is a sum of branches, each with a factor for every output channel."""

    def __init__(self, given: nn.Conv2d) -> None:
        super().__init__(given)
        weight, outputs = given.weight, given.out_channels
        self.others = nn.ParameterList(_drawn(weight) for _ in range(_BRANCHES - 1))
        self.point = nn.Parameter(_drawn(weight[..., :1, :1]))
        # Of one dimension, as what has more is decayed. The sum of as many independent branches varies as much as one.
        self.factors = nn.Parameter(torch.full((_BRANCHES * outputs,), _BRANCHES**-0.5))
        self.point_factor = nn.Parameter(torch.zeros(outputs))
        keeps_shape = given.in_channels == outputs and given.stride == (1, 1) and given.kernel_size[0] % 2 == 1
        self.input_factor = nn.Parameter(torch.zeros(outputs)) if keeps_shape else None

    def weight(self) -> Tensor:
        branches = torch.stack([self.given.weight, *self.others])
        total = (self.factors.view(_BRANCHES, -1, 1, 1, 1) * branches).sum(0)
        middle = self.point_factor.view(-1, 1, 1, 1) * self.point
        if self.input_factor is not None:
            inputs = torch.eye(len(total)) if self.given.groups == 1 else torch.ones(len(total), 1)
            middle = middle + (self.input_factor.view(-1, 1) * inputs)[..., None, None]
        more = self.given.kernel_size[0] - 1
        return total + functional.pad(middle, (more // 2, more - more // 2) * 2)


class ComputedNetwork(Network):
    """A network of computed convolutions, shared where those of the plain network are."""

    def __init__(self, plain: Network, kind: type[ComputedConvolution], *, pointwise: bool, seed: int = 0) -> None:
        """Take over the weights of a network.

        Args:
            plain: the network that this one is in the end.
            kind: makes a computed convolution.
            pointwise: whether the pointwise layers are computed too.
            seed: of what a computed convolution draws.
        """
        super().__init__(plain.model)
        self.load(plain.state())
        made: dict[int, ComputedConvolution] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for placed in plain.model.placed:
                if isinstance(placed.layer, Conv) or (pointwise and isinstance(placed.layer, Pointwise)):
                    name = _module_of(placed.second_name or placed.tensor_name("convolution.weight"))
                    if placed.owner == placed.number:
                        made[placed.number] = kind(cast("nn.Conv2d", self.get_submodule(name)))
                    self.set_submodule(name, made[placed.owner])

    def state(self) -> dict[str, Tensor]:
        """Return what is trained and the batch norms' statistics, each under one of its names."""
        found = {tensor.data_ptr(): (name, tensor) for name, tensor in reversed(self.state_dict().items())}
        return {name: tensor for name, tensor in found.values() if tensor.is_floating_point()}

    def folded(self) -> dict[str, Tensor]:
        """Return the state of the plain network that computes the same."""
        state, own = Network(self.model).state(), self.state()
        for name in state:
            module = self.get_submodule(_module_of(name))
            state[name] = module.weight().detach() if isinstance(module, ComputedConvolution) else own[name]
        return state


class PartNetwork(Network):
    """A network that is trained for itself and as a part of a wider one.

    The first channels of the wider one's convolutions are its own. Batch norms are each their own, as the wider one's
    channels have other statistics.
    """

    def __init__(self, plain: Network, seed: int) -> None:
        super().__init__(plain.model)
        self.load(plain.state())
        keys = plain.model.model_dump() | {"layers": wider(plain.model.layers), "max_parameters": None}
        self.whole = initial_network(ModelSection.model_validate(keys), seed)
        self.whole_logits: Tensor | None = None
        """Of the last batch that was trained on."""

    def forward(self, pixels: Tensor) -> Tensor:
        if self.training:
            self.whole_logits = functional_call(self.whole, dict(self._with_part()), pixels)
        return super().forward(pixels)

    def _with_part(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the convolutions of the wider network with those of the part in their first channels."""
        for name, wide in self.whole.named_parameters():
            if wide.ndim > 1:
                part = self.get_parameter(name)
                total = wide.clone()
                total[: len(part), : part.shape[1]] = part
                yield name, total

    def state(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in super().state().items() if not name.startswith("whole.")}

    def folded(self) -> dict[str, Tensor]:
        """Return the weights of the part alone."""
        return self.state()


class FoldedEngine(TorchEngine):
    """Trains one of these networks, and keeps the plain one."""

    def network_state(self) -> dict[str, Tensor]:
        """Return the state of the plain network."""
        return cast("ComputedNetwork | PartNetwork", self._final).folded()


class PartEngine(FoldedEngine):
    """Trains a network with the loss of the wider one that it is a part of besides its own."""

    def _label_loss(self, logits: Tensor, labels: Tensor, shares: Tensor | None) -> Tensor:
        own = super()._label_loss(logits, labels, shares)
        whole = cast("PartNetwork", self._network).whole_logits
        if whole is None:
            raise AssertionError("a step has no logits of the wider network")
        return own + super()._label_loss(whole, labels, shares)


def engine_of(idea: str, recipe: Recipe, images: Images, network: Network, teachers: Sequence[Model]) -> TorchEngine:
    """Return the engine that trains a network by an idea: `branches`, `augmented` or `four-bit`."""
    match idea:
        case "branches":
            changed = ComputedNetwork(network, Branches, pointwise=False, seed=recipe.run.seed)
            return FoldedEngine(recipe, images, changed, teachers)
        case "four-bit":
            return FoldedEngine(recipe, images, ComputedNetwork(network, Rounded, pointwise=True), teachers)
        case "augmented":
            return PartEngine(recipe, images, PartNetwork(network, recipe.run.seed), teachers)
    raise ValueError(idea)


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]


def _drawn(weight: Tensor) -> Tensor:
    """Return weights of a convolution as torch draws them, in the shape of a weight."""
    fresh = torch.empty(weight.shape)
    nn.init.kaiming_uniform_(fresh, a=5**0.5)
    return fresh
