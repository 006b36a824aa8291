"""One training step as a CUDA graph: on a GPU a tiny network's step is all launches, and a graph is one launch."""

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UP_STEPS = 3


class CapturedStep:
    """A step recorded once and replayed; source: torch's documentation, "CUDA Graphs", whole-network capture.

    Making one runs the step a few times, so the caller must restore whatever state the step changes.
    """

    def __init__(self, step: Callable[[Tensor, Tensor], None], example: tuple[Tensor, Tensor]) -> None:
        """Warm up and record `step` on copies of the example's two tensors, whose shapes every replay must have."""
        self._inputs = example[0].clone(), example[1].clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                step(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            step(*self._inputs)

    def __call__(self, first: Tensor, second: Tensor) -> None:
        """Replay the step on new inputs."""
        self._inputs[0].copy_(first)
        self._inputs[1].copy_(second)
        self._graph.replay()
