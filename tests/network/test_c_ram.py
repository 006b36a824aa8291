"""The RAM of the C form, computed from the layers, is that of the integer network that is exported."""

from hypothesis import given, settings
from hypothesis import strategies as st
from test_cost import networks

from helpers import model_section
from kilonet.export.folding import fold
from kilonet.models.model import Model
from kilonet.network.c_ram import c_ram_bytes, computed_operations
from kilonet.network.cost import network_cost
from kilonet.network.module import initial_network
from kilonet.network.operations import Convolution, MaxPooling
from kilonet.network.section import ModelSection


def folded_operations(section: ModelSection) -> list[object]:
    steps = fold(Model(section, initial_network(section, 0).state()))
    return [step if isinstance(step, MaxPooling) else step.operation for step in steps]


@settings(max_examples=40)
@given(section=networks())
def test_the_operations_are_those_that_are_exported(section: ModelSection) -> None:
    assert [operation for operation, _ in computed_operations(section)] == folded_operations(section)


def test_a_network_that_ends_in_a_max_pool_gets_the_convolution_that_its_export_has() -> None:
    section = model_section("conv 3 26x26", "pointwise 4", "maxpool 3")
    found = computed_operations(section)
    assert [operation for operation, _ in found] == folded_operations(section)
    assert found[-1] == (Convolution(4, 4, 1, groups=4), (4, 1, 1))


@settings(max_examples=20)
@given(section=networks(), more=st.integers(1, 3))
def test_ram_grows_with_rows_but_not_with_whole_maps(section: ModelSection, more: int) -> None:
    """Higher images take more memory for the image itself and for nothing else."""
    operations = computed_operations(section)
    channels, rows, columns = section.input_shape
    taller = [(one, (depth, more * high, wide)) for one, (depth, high, wide) in operations]
    before = c_ram_bytes(operations, section.input_shape, section.classes)
    after = c_ram_bytes(taller, (channels, more * rows, columns), section.classes)
    assert after - before == (more - 1) * channels * rows * columns
    assert before == network_cost(section).c_ram_bytes
