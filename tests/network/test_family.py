"""The family of networks from which a recipe for one's own images takes the largest within a budget."""

from hypothesis import given, settings
from hypothesis import strategies as st

from kilonet.network.cost import network_cost
from kilonet.network.family import largest_member, least_features, member, smallest_members
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe

shapes = st.tuples(st.sampled_from([1, 3]), st.integers(8, 128), st.integers(8, 128))


def test_best_is_of_the_family() -> None:
    assert member((1, 28, 28), 10, 36, 1).layers == load_recipe("best").model.layers


@settings(max_examples=25, deadline=None)
@given(shape=shapes, classes=st.integers(2, 1000), parameters=st.integers(50, 60_000), ram=st.integers(500, 200_000))
def test_the_largest_member_keeps_the_budget_or_there_is_none(
    shape: tuple[int, int, int], classes: int, parameters: int, ram: int
) -> None:
    found = largest_member(shape, classes, parameters, ram)
    if found is None:
        smallest = smallest_members(shape, classes)
        assert all(one.parameters > parameters or one.c_ram_bytes > ram for one in smallest)
        return
    section = ModelSection(input=shape, layers=found.layers)
    cost = network_cost(section)
    assert section.classes == classes
    assert (cost.parameters, cost.macs, cost.c_ram_bytes) == (found.parameters, found.macs, found.c_ram_bytes)
    assert cost.parameters <= parameters
    assert cost.c_ram_bytes <= ram


@settings(max_examples=10, deadline=None)
@given(shape=shapes, classes=st.integers(2, 1000))
def test_more_room_never_gives_a_smaller_network(shape: tuple[int, int, int], classes: int) -> None:
    sizes = [
        0 if found is None else found.parameters
        for found in (largest_member(shape, classes, budget, 1 << 40) for budget in (2000, 8000, 32_000, 128_000))
    ]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 0


@settings(max_examples=25, deadline=None)
@given(shape=shapes, classes=st.integers(2, 200), parameters=st.integers(2000, 60_000))
def test_a_stage_adds_its_input_once(shape: tuple[int, int, int], classes: int, parameters: int) -> None:
    """Three sums in a row diverged on photos of 100 classes at the rate that is proposed."""
    largest = largest_member(shape, classes, parameters, 1 << 40)
    for one in [*smallest_members(shape, classes), *([largest] if largest else [])]:
        sums = [layer.endswith("residual") for layer in one.layers if "depthwise" in layer]
        assert sums == [True, True, True, False, False]


def test_a_network_has_a_feature_for_each_binary_digit_of_a_class() -> None:
    assert [least_features(classes) for classes in (2, 4, 5, 10, 100, 1000)] == [2, 2, 3, 4, 7, 10]
