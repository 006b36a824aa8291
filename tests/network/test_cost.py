"""The cost of a network, compared with torch and with the table of the ERA homework's README."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import BASELINE_LAYERS, GOLDEN, command, model_section
from kilonet.network.cost import classic_table, network_cost
from kilonet.network.layers import parse_layer
from kilonet.network.module import Network
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe
from kilonet.utils.errors import KilonetError

LAYERS = st.one_of(
    st.builds("conv {} {}x{}".format, st.integers(1, 4), *[st.shared(st.integers(1, 5), key="kernel")] * 2),
    st.builds("conv {} {} same".format, st.integers(1, 4), st.sampled_from(["1x1", "3x3", "5x5"])),
    st.builds("conv {} depthwise".format, st.just("CHANNELS")),
    st.builds("conv {} same depthwise residual".format, st.just("CHANNELS")),
    st.builds("conv {} 5x5 same residual".format, st.just("CHANNELS")),
    st.builds("pointwise {}".format, st.integers(1, 4)),
    st.builds("conv {} {} stride {}".format, st.integers(1, 4), st.sampled_from(["2x2", "3x3"]), st.integers(1, 4)),
    st.builds("conv {} 5x5 same stride {} depthwise".format, st.just("CHANNELS"), st.integers(1, 3)),
    st.builds("maxpool {}".format, st.integers(1, 3)),
    st.builds("avgpool {}".format, st.integers(1, 3)),
)


@st.composite
def networks(draw: st.DrawFn, most: int = 6) -> ModelSection:
    """Random lists of layers of every kind that fit one another."""
    channels, words = 1, []
    for text in draw(st.lists(LAYERS, min_size=1, max_size=most)):
        word = text.replace("CHANNELS", str(channels))
        channels = getattr(parse_layer(word), "channels", channels)
        words.append(word)
    rows, columns = draw(st.integers(60, 70)), draw(st.integers(60, 70))
    try:
        return model_section(*words, "gap", f"pointwise {draw(st.integers(1, 3))}", input=(1, rows, columns))
    except KilonetError:
        return model_section("gap", input=(1, rows, columns))


def probed_field(section: ModelSection, count: int) -> tuple[int, int]:
    """Measure, by its gradient, how far the rows and columns reach that an output after `count` layers depends on."""
    network = Network(section).eval()
    layers = network.layers[:count]
    for module in list(layers.modules()):
        for name, child in module.named_children():
            # A maximum has a gradient for its largest input only, and a ReLU none for negative inputs.
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size))
            elif isinstance(child, nn.ReLU):
                setattr(module, name, nn.Identity())
    for parameter in network.parameters():
        # With positive weights no two paths cancel.
        nn.init.ones_(parameter)
    image = torch.zeros(1, *section.input_shape, requires_grad=True)
    output = layers(image)
    output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()
    assert image.grad is not None
    rows, columns = image.grad[0, 0].nonzero().T
    # A stride larger than the kernel leaves rows and columns out.
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


@settings(max_examples=60)
@given(section=networks())
def test_the_receptive_field_is_what_a_gradient_reaches(section: ModelSection) -> None:
    _, rows, columns = section.input_shape
    for number, cost in enumerate(network_cost(section).layers, 1):
        seen_rows, seen_columns = probed_field(section, number)
        if any(word.startswith("gap") for word in section.layers[:number]):
            # A mean depends on its whole input, so the longer side counts.
            assert max(seen_rows, seen_columns) <= cost.receptive_field
            clipped = any("same" in word for word in section.layers)
            assert clipped or max(seen_rows, seen_columns) == cost.receptive_field
        elif cost.receptive_field <= min(rows, columns) // 3:
            assert (seen_rows, seen_columns) == (cost.receptive_field, cost.receptive_field)


@pytest.mark.parametrize(
    ("count", "field", "jump"),
    [
        (1, 3, 1),
        (2, 5, 1),
        (3, 5, 1),
        (4, 6, 2),
        (5, 10, 2),
        (6, 14, 2),
        (7, 18, 2),
        (8, 28, 2),
        (9, 28, 2),
    ],
)
def test_the_seeds_receptive_fields(count: int, field: int, jump: int) -> None:
    section = load_recipe("baseline").model
    cost = network_cost(section).layers[count - 1]
    assert (cost.receptive_field, cost.jump) == (field, jump)
    assert probed_field(section, count) == (field, field)


def measured(section: ModelSection) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return the parameters, multiply-accumulates and output shape of each layer, counted while torch runs it."""
    network = Network(section).eval()
    macs = dict.fromkeys(network.layers, 0)
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def count(layer: nn.Module, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        # Each output element is a sum over one window of its group's input channels.
        window = inputs[0].shape[1] // module.groups * module.kernel_size[0] * module.kernel_size[1]
        macs[layer] += output.numel() * window

    for layer in network.layers:
        layer.register_forward_hook(lambda module, _, output: shapes.update({module: tuple(output.shape[1:])}))
        for module in layer.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(
                    lambda module, inputs, output, layer=layer: count(layer, module, inputs, output)
                )
    network(torch.zeros(1, *section.input_shape))
    numel = {layer: sum(parameter.numel() for parameter in layer.parameters()) for layer in network.layers}
    return [(numel[layer], macs[layer], shapes[layer]) for layer in network.layers]


@settings(max_examples=60)
@given(section=networks())
def test_parameters_macs_and_shapes_are_torchs(section: ModelSection) -> None:
    cost = network_cost(section)
    expected = measured(section)
    assert [(layer.parameters, layer.macs, layer.output_shape) for layer in cost.layers] == expected
    assert cost.parameters == sum(parameter.numel() for parameter in Network(section).parameters())
    assert cost.parameters == section.parameters
    assert cost.macs == sum(macs for _, macs, _ in expected)


@given(section=networks())
def test_bytes_follow_from_the_shapes(section: ModelSection) -> None:
    cost = network_cost(section)
    convolutions = [module for module in Network(section).modules() if isinstance(module, nn.Conv2d)]
    assert cost.weight_bytes == sum(module.weight.numel() for module in convolutions)
    sizes = [
        torch.Size(shape).numel() for shape in [section.input_shape, *(layer.output_shape for layer in cost.layers)]
    ]
    assert [layer.activation_bytes for layer in cost.layers] == sizes[1:]
    assert cost.peak_activation_bytes == max(before + after for before, after in pairwise(sizes))


def test_the_reference_network_costs_what_is_claimed() -> None:
    cost = network_cost(load_recipe("baseline").model)
    assert cost.parameters == 7662
    assert cost.macs == 1_498_880
    assert cost.weight_bytes == 7510
    assert cost.peak_activation_bytes == 20 * 24 * 24 + 10 * 26 * 26


def test_the_seeds_table_is_reproduced() -> None:
    golden = (GOLDEN / "classic.txt").read_text()
    assert classic_table(load_recipe("baseline").model) == golden.rstrip("\n")


def test_the_golden_table_is_whole() -> None:
    golden = (GOLDEN / "classic.txt").read_text()
    assert sum(f"-{row} " in golden for row in range(1, 25)) == 24
    for figure in ("params: 7,662", "(MB): 0.00", "(MB): 0.70", "(MB): 0.03", "(MB): 0.73"):
        assert figure in golden


def test_the_command_prints_the_seeds_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "summary", "baseline", "--classic").out == (GOLDEN / "classic.txt").read_text()


def test_the_command_prints_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "summary", "best").out == (GOLDEN / "summary.txt").read_text()


def test_the_budget_as_json_holds_rows_and_totals() -> None:
    table = network_cost(load_recipe("baseline").model).as_json()
    assert [row["layer"] for row in table["layers"]] == list(BASELINE_LAYERS)
    assert {name: table[name] for name in ("parameters", "macs", "weight_bytes", "peak_activation_bytes")} == {
        "parameters": 7662,
        "macs": 1_498_880,
        "weight_bytes": 7510,
        "peak_activation_bytes": 18_280,
    }
    assert table["c_ram_bytes"] == 2892


@pytest.mark.parametrize(("name", "ram"), [("best", 11_608), ("mcu", 2076)])
def test_the_ram_in_c_is_what_an_export_states(name: str, ram: int, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/results/shipping-c.md and export.json hold what `kilonet export --to c` printed."""
    assert network_cost(load_recipe(name).model).c_ram_bytes == ram
    assert f"RAM in C: {ram:,} bytes" in command(capsys, "summary", name).out
