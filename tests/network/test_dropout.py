"""Dropout with a cheap mask equals torch's dropout in distribution."""

import pytest
import torch

from kilonet.network.module import DropoutModule


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("probability", [0.01, 0.05, 0.25, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(probability: float) -> None:
    values = torch.ones(1_000_000)
    result = DropoutModule(probability)(values)
    dropped = (result == 0).double().mean().item()
    assert dropped == pytest.approx(probability, abs=4 * (probability * (1 - probability) / 1e6) ** 0.5)
    kept = result[result != 0]
    assert kept.min() == kept.max() == pytest.approx(1 / (1 - probability), rel=1e-4)
    assert result.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(values, torch.ones(1_000_000))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 1001])
def test_any_number_of_elements_will_do(count: int) -> None:
    assert DropoutModule(0.5)(torch.ones(count)).shape == (count,)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_and_dtype_are_kept_and_every_place_is_dropped_alike(
    layout: torch.memory_format, dtype: torch.dtype
) -> None:
    values = torch.ones(200, 6, 10, 10, dtype=dtype).to(memory_format=layout)
    result = DropoutModule(0.3)(values)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=layout)
    kept = (result != 0).float()
    for axis in range(1, 4):
        others = [other for other in range(4) if other != axis]
        assert kept.mean(others).sub(0.7).abs().max() < 0.03
    assert result[kept.bool()].float().unique().numel() == 1


def test_neighbours_are_dropped_independently() -> None:
    kept = (DropoutModule(0.5)(torch.ones(400_000)) != 0).double()
    for distance in range(1, 9):
        assert torch.corrcoef(torch.stack([kept[:-distance], kept[distance:]]))[0, 1].abs() < 0.01


def test_gradients_pass_where_values_do() -> None:
    values = torch.ones(1000, requires_grad=True)
    result = DropoutModule(0.5)(values)
    result.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, result.detach())


def test_it_is_seeded_by_torch() -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(DropoutModule(0.5)(torch.ones(1000)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("module", [DropoutModule(0.5).eval(), DropoutModule(0.0)])
def test_it_does_nothing_when_scoring_or_at_zero(module: DropoutModule) -> None:
    values = torch.rand(100)
    before = torch.random.get_rng_state()
    assert module(values) is values
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_says_its_probability() -> None:
    assert repr(DropoutModule(0.25)) == "DropoutModule(p=0.25)"
