"""The C form as an engineer uses it: prefixes, C++, rows from a camera, the answer in integers and the self-test."""

import functools
import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from test_c import STRICT, each_target, integers, needs_cross_compiler, run
from test_metadata_in_forms import NAMES

from helpers import command, in_ci, needs, refusal
from kilonet.data.datasets import DataSet
from kilonet.export.c import codegen
from kilonet.export.c.header import CFacts
from kilonet.export.c.prefix import C_FILES, check_prefix, clashes, file_name, original_name, with_prefix
from kilonet.export.exporter import export_model
from kilonet.export.integer import IntegerNetwork, integer_logits
from kilonet.export.manifest import read_manifest
from kilonet.export.quantisation import QuantisationResult
from kilonet.models.calibration import Calibration, energies
from kilonet.models.metadata import NO_METADATA, Metadata
from kilonet.models.model import load_model
from kilonet.network.section import ModelSection
from kilonet.training.run_folder import Run
from kilonet.utils.errors import KilonetError
from strategies import images_for, model_of

pytestmark = pytest.mark.usefixtures("c_compiled_quickly")

DIGITS = ModelSection(layers=("conv 3", "maxpool 2", "conv 4", "gap", "pointwise 10"))
# The last row and column are dropped by the max-pool.
COLOURED = ModelSection(
    input=(3, 9, 11), layers=("conv 5 same", "conv 5 same residual", "maxpool 2", "conv 10 depthwise", "gap")
)
CALIBRATED = Metadata(calibration=Calibration(temperature=0.9, sure_from=0.95, energy_from=4.8))
NAMED = Metadata(
    names=NAMES, digits=False, calibration=Calibration(temperature=1.7, sure_from=0.4, energy_from=1.0, rejects=True)
)
CPP = ("g++", "clang++")


@functools.cache
def network_of(section: ModelSection) -> IntegerNetwork:
    return integers(model_of(section, 3), images_for(section, 3, 30))


def write(
    section: ModelSection, folder: Path, prefix: str = "kilonet", metadata: Metadata = NO_METADATA
) -> IntegerNetwork:
    network = network_of(section)
    for name, text in codegen.sources(network, section, metadata, CFacts(prefix)).items():
        (folder / name).write_text(text, encoding="utf-8")
    return network


def fed(program: Path, content: bytes) -> bytes:
    done = subprocess.run([program], input=content, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


TWO = r"""#include "gauge_model.h"
#include "meter_model.h"
#include <cstdio>

static const char *const names[METER_CLASSES] = METER_CLASS_NAMES;
static uint8_t pixels[METER_PIXELS], row[METER_ROW_BYTES], digits[2][GAUGE_PIXELS];
static int32_t logits[METER_CLASSES], others[2][GAUGE_CLASSES];
static meter_state state;
static gauge_state states[2];
static int rows_of_tests;

static void feed_watchdog() { rows_of_tests++; }

int main()
{
    static_assert(METER_STATE_BYTES != GAUGE_STATE_BYTES, "two networks");
    if (!meter_selftest(&state, feed_watchdog) || !gauge_selftest(states, nullptr) || names[0][0] != 'u')
        return 1;
    if (rows_of_tests != 2 * METER_ROWS)
        return 2;
    if (fread(pixels, sizeof pixels, 1, stdin) != 1 || fread(digits, sizeof digits, 1, stdin) != 1)
        return 3;
    meter_begin(&state);
    gauge_begin(states);
    gauge_begin(states + 1);
    int done = 0;
    for (int y = 0; y < GAUGE_ROWS; y++) {
        for (int i = 0; i < METER_ROW_BYTES && y < METER_ROWS; i++)
            row[i] = pixels[(i % METER_CHANNELS * METER_ROWS + y) * METER_COLUMNS + i / METER_CHANNELS];
        done = meter_row(&state, row, logits);
        done += gauge_row(states, digits[0] + y * GAUGE_COLUMNS, others[0]);
        done += gauge_row(states + 1, digits[1] + y * GAUGE_COLUMNS, others[1]);
    }
    if (done != 3)
        return 4;
    fwrite(logits, sizeof logits, 1, stdout);
    fwrite(others, sizeof others, 1, stdout);
    const meter_answer answer = meter_top(logits);
    const gauge_answer other = gauge_top(others[0]);
    fwrite(&answer.label, sizeof answer.label, 1, stdout);
    fwrite(&other.label, sizeof other.label, 1, stdout);
    return 0;
}
"""


@pytest.mark.parametrize("compiler", [CPP[0], *in_ci(CPP[1])])
@each_target
def test_two_models_fit_into_one_cpp_program(compiler: str, target: str, tmp_path: Path) -> None:
    """Both folders are dropped whole into one, and the rows of three images come by turns."""
    needs(compiler)
    meter, gauge = write(COLOURED, tmp_path, "meter", NAMED), write(DIGITS, tmp_path, "gauge", CALIBRATED)
    (tmp_path / "main.cpp").write_text(TWO, encoding="utf-8")
    plain = ["-DMETER_PLAIN", "-DGAUGE_PLAIN"] if "PLAIN" in target else [target]
    files = sorted(file.name for file in tmp_path.glob("*.c"))
    assert len(files) == 14
    warnings = run("gcc", "-std=c99", "-pedantic", "-O1", *plain, "-c", *files, folder=tmp_path)
    assert not warnings
    objects = [file.name for file in tmp_path.glob("*.o")]
    run(compiler, "-std=c++17", *STRICT[1:5], *plain, "-o", "both", "main.cpp", *objects, folder=tmp_path)
    picture, digits = images_for(COLOURED, 1, 1).numpy(), images_for(DIGITS, 2, 2).numpy()
    found = fed(tmp_path / "both", picture.tobytes() + digits.tobytes())
    wanted, others = integer_logits(meter, picture), integer_logits(gauge, digits)
    labels = np.array([wanted[0].argmax(), others[0].argmax()], np.uint16)
    assert found == wanted.tobytes() + others.tobytes() + labels.tobytes()


@pytest.mark.parametrize("compiler", [*CPP, "gcc", "clang"])
def test_the_header_is_clean_in_c_and_cpp_whatever_the_classes_are_called(compiler: str, tmp_path: Path) -> None:
    needs(compiler)
    write(DIGITS, tmp_path, "meter", NAMED)
    source = (
        '#include "meter_model.h"\nint first(void);\nint first(void)\n{\n'
        "    static const char *const names[METER_CLASSES] = METER_CLASS_NAMES;\n    return names[0][0];\n}\n"
    )
    name, standards = ("one.cpp", ("c++11", "c++17")) if compiler in CPP else ("one.c", ("c99", "c11"))
    (tmp_path / name).write_text(source, encoding="utf-8")
    for standard, target in itertools.product(standards, ("-march=native", "-DMETER_PLAIN")):
        run(compiler, f"-std={standard}", *STRICT[1:], "-Wtrigraphs", target, "-c", name, folder=tmp_path)


def test_names_of_classes_and_the_licence_are_not_changed_by_a_prefix(tmp_path: Path) -> None:
    metadata = Metadata(names=("kilonet_x", "KILONET_X", "model.h"))
    section = ModelSection(input=(1, 6, 6), layers=("gap", "pointwise 3"))
    write(section, tmp_path, "meter", metadata)
    (tmp_path / "one.c").write_text(
        '#include "meter_model.h"\n#include <stdio.h>\nint main(void)\n{\n'
        "    static const char *const names[METER_CLASSES] = METER_CLASS_NAMES;\n"
        '    return printf("%s %s %s", names[0], names[1], names[2]) < 0;\n}\n',
        encoding="utf-8",
    )
    run("gcc", *STRICT, "-o", "one", "one.c", folder=tmp_path)
    assert fed(tmp_path / "one", b"") == b"kilonet_x KILONET_X model.h"


FLIPS = r"""#include "meter_model.h"
#include <stdio.h>
static int failed(void *number, int bytes)
{
    static meter_state state;
    unsigned char *place = (unsigned char *)number;
    int i, passed = 0;
    for (i = 0; i < bytes; i++) {
        place[i] ^= (unsigned char)(1 << i % 8);
        passed += meter_selftest(&state, 0);
        place[i] ^= (unsigned char)(1 << i % 8);
    }
    return passed;
}
int main(void)
{
    static meter_state state;
    int i, count = 0, passed = 0;
    for (i = 0; i < METER_OPERATIONS; i++) {
        const meter_operation *one = meter_operations + i;
        const void *tables[] = {one->weights, one->requantisation, one->skip, one->pad, one->offset};
        const int sizes[] = {1, 8, 4, 1, one->narrow ? 4 : 8};
        int table;
        for (table = 0; table < 5; table++) {
            int numbers = table == 3 ? one->inputs : one->outputs;
            if (table == 0)
                numbers *= one->window * one->window * (one->multiple ? 1 : one->inputs);
            if (!tables[table])
                continue;
            count += numbers * sizes[table];
            passed += failed((void *)(size_t)tables[table], numbers * sizes[table]);
        }
    }
    printf("%d %d %d\n", meter_selftest(&state, 0), count, passed);
    return 0;
}
"""


def test_the_self_test_fails_if_any_byte_of_any_table_is_changed(tmp_path: Path) -> None:
    network = write(COLOURED, tmp_path, "meter")
    model = (tmp_path / "meter_model.c").read_text()
    # So that the program can change its own tables.
    writable, tables = re.subn(r"static const (\w+ \w+_\d+\[)", r"static \1", model)
    assert tables > 10
    (tmp_path / "meter_model.c").write_text(writable)
    (tmp_path / "flips.c").write_text(FLIPS, encoding="utf-8")
    files = ("flips.c", "meter_model.c", "meter_runtime.c", "meter_selftest.c")
    run("gcc", "-std=c99", "-O2", "-DMETER_PLAIN", "-o", "flips", *files, folder=tmp_path)
    passes, count, missed = map(int, fed(tmp_path / "flips", b"").split())
    assert passes == 1
    assert count > codegen.weight_bytes(network) + 100
    assert missed == 0


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("meter_model.c", r"(weights_1\[\d+\] METER_FLASH = {\s*)-?\d+", r"\g<1>127"),
        (
            "meter_model.c",
            r"(?s)-?\d+(,\s*};\s*(#endif\s*)?static const meter_requantisation requantisation_2)",
            r"127\1",
        ),
        ("meter_runtime.c", re.escape("floor_shift_64(value, how->shift)"), "floor_shift_64(value, how->shift + 1u)"),
        ("meter_kernels.h", re.escape("(uint32_t)how->bias + more"), "(uint32_t)how->bias + more + 100"),
        ("meter_kernels.h", re.escape("*taken > *largest"), "*taken < *largest"),
        ("meter_model.h", r"(LOGITS \\\s*{{)", r"\g<1>1+"),
    ],
)
def test_the_self_test_fails_if_a_weight_the_code_or_a_logit_is_wrong(
    file: str, right: str, wrong: str, tmp_path: Path
) -> None:
    write(COLOURED, tmp_path, "meter")
    (tmp_path / "one.c").write_text(
        '#include "meter_model.h"\nint main(void) { static meter_state state; return meter_selftest(&state, 0); }\n'
    )
    build = ("gcc", "-std=c99", "-O1", "-DMETER_PLAIN", "-o", "one", "one.c")
    files = ("meter_model.c", "meter_runtime.c", "meter_selftest.c")
    run(*build, *files, folder=tmp_path)
    run(tmp_path / "one", folder=tmp_path, status=1)
    text, changes = re.subn(right, wrong, (tmp_path / file).read_text())
    assert changes
    (tmp_path / file).write_text(text)
    run(*build, *files, folder=tmp_path)
    run(tmp_path / "one", folder=tmp_path, status=0)


TOP = r"""#include "model.h"
#include <stdio.h>
int main(void)
{
    static int32_t logits[KILONET_CLASSES];
    while (fread(logits, 1, sizeof logits, stdin) == sizeof logits) {
        const kilonet_answer answer = kilonet_top(logits);
        fwrite(&answer, 1, sizeof answer, stdout);
    }
    return 0;
}
"""
ANSWER = np.dtype([("label", "u2"), ("confidence", "u2"), ("uncertain", "u1"), ("none", "u1")])
CALIBRATIONS = (
    None,
    Calibration(temperature=0.9, sure_from=0.95, energy_from=4.8),
    Calibration(temperature=1.7, sure_from=0.3, energy_from=-1.5, rejects=True),
    Calibration(temperature=0.02, sure_from=1.0, rejects=True),
    Calibration(temperature=50.0, sure_from=0.0, energy_from=2.5),
    Calibration(energy_from=1e300),
    Calibration(energy_from=-1e300),
)


class Answers(NamedTuple):
    """What kilonet_top gives, and the fraction bits of its network."""

    found: NDArray[np.void]
    bits: int


def answers_to(logits: NDArray[np.int32], calibration: Calibration | None, folder: Path, *, digits: bool) -> Answers:
    section = ModelSection(layers=("gap", f"pointwise {logits.shape[1]}"))
    network = write(section, folder, metadata=Metadata(digits=digits, calibration=calibration))
    bits = re.findall(r"FRACTION_BITS (\d+)", (folder / "model.h").read_text())
    assert bits == [str(network.fraction_bits)]
    (folder / "top.c").write_text(TOP, encoding="utf-8")
    sanitizers = ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all")
    run("gcc", *STRICT, *sanitizers, "-o", "top", "top.c", "kilonet_answer.c", folder=folder)
    return Answers(np.frombuffer(fed(folder / "top", logits.tobytes()), ANSWER), network.fraction_bits)


def check_confidence(
    found: NDArray[np.void], probabilities: NDArray[np.float32], scaled: NDArray[np.floating[Any]]
) -> None:
    """Check confidences against Python's, and against the softmax of scaled logits, which float32 rounds.

    They are rounded down to 65,536ths, save for a tenth of one.
    """
    np.testing.assert_allclose(found["confidence"] / 65536, probabilities, atol=1.5 / 65536)
    exact = 1 / np.exp(scaled - scaled.max(1, keepdims=True)).sum(1)
    above = found["confidence"] - 65536 * exact
    assert above.min() >= -1.1
    assert above.max() <= 0.1


@pytest.mark.parametrize("digits", [True, False])
@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_the_answer_is_python_s(calibration: Calibration | None, tmp_path: Path, *, digits: bool) -> None:
    """Label and confidence, and what is uncertain or none, save for images within a step of a threshold."""
    random = np.random.default_rng(0)
    spread = 2.0 ** random.uniform(8, 20, (4000, 1))
    logits = np.rint(random.normal(0, spread, (4000, 10))).astype(np.int32)
    # One class by far, ties, and the ends of the range.
    logits[:400, 3] += 1 << 20
    logits[400:500] = logits[400:500, :1]
    logits[500:510] = np.where(random.random((10, 10)) < 0.5, -(2**31), 2**31 - 1)
    found, bits = answers_to(logits, calibration, tmp_path, digits=digits)
    floats = (logits * 2.0**-bits).astype(np.float32)
    used = calibration or Calibration()
    with np.errstate(over="ignore"):
        probabilities = used.probabilities(floats).max(1)
        energy = energies(floats)
    assert np.array_equal(found["label"], logits.argmax(1))
    step = 1 / 65536
    check_confidence(found, probabilities, logits * 2.0**-bits / used.temperature)
    near = (np.abs(probabilities - used.sure_from) <= 1.1 * step) | (logits.max(1) == 2**31 - 1)
    if used.energy_from is not None:
        near |= np.abs(energy - used.energy_from) <= 2.0**-bits + 1e-6 * np.abs(energy)
    uncertain, strange = used.uncertain(floats), used.strange(floats)
    none = uncertain if used.rejects else strange & digits
    for name, wanted in (("uncertain", uncertain), ("none", none)):
        assert np.array_equal(found[name][~near], wanted[~near]), name
    assert near.mean() < 0.2 or used.sure_from == 1.0


@pytest.mark.parametrize("classes", [2, 300])
def test_the_answer_of_few_and_of_many_classes_is_python_s(classes: int, tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(0, 1 << 16, (500, classes)).astype(np.int32)
    found, bits = answers_to(logits, None, tmp_path, digits=False)
    probabilities = Calibration().probabilities((logits * 2.0**-bits).astype(np.float32)).max(1)
    assert np.array_equal(found["label"], logits.argmax(1))
    check_confidence(found, probabilities, logits * 2.0**-bits)


PREFIXES = (
    *(
        "",
        "1a",
        "Meter",
        "a b",
        "a;b",
        "a\n",
        "_a",
        "a_",
        "a__b",
        "int",
        "class",
        "a" * 17,
        "mètre",
        "a-b",
        '"',
        "../a",
    ),
    # Names that the C form has already, and of which kilonet_resize_row is one of another prefix.
    *("add", "load", "write", "meter_resize"),
    # Macros of signal.h and locale.h begin with SIG_ and LC_.
    *("sig", "lc", "sig_meter"),
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_that_cannot_be_is_refused_in_one_line(
    prefix: str, finished: Run, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.folder is not None
    words = (
        "export",
        finished.folder,
        "--to",
        "c",
        "--data",
        small_folder,
        "--out",
        tmp_path / "c",
        "--prefix",
        prefix,
    )
    answer = command(capsys, *words)
    assert answer.status == 2
    refusal(KilonetError(answer.err.strip()), "prefix")
    assert not (tmp_path / "c").exists()


def test_no_two_prefixes_give_the_same_name(tmp_path: Path) -> None:
    """Whatever the generated files hold besides the runtime's, too."""
    write(COLOURED, tmp_path, metadata=NAMED)
    texts = tuple(file.read_text(encoding="utf-8") for file in sorted(tmp_path.iterdir()))
    names = {name for text in texts for name in re.findall(r"(?i)\bkilonet_(\w+)(?!\w|\.[cho]\b)", text)}
    assert len(names) > 60
    for long, short in itertools.product(names, names):
        if long.lower().endswith(f"_{short.lower()}"):
            with pytest.raises(KilonetError):
                check_prefix(f"m_{long[: -len(short) - 1].lower()}")
    for prefix in ("meter", "m", "gauge_2", "digits", "a" * 16, "kilonet", "model", "main"):
        check_prefix(prefix)
        assert prefix == "kilonet" or not clashes(prefix, texts)
    files = [
        file_name(name, prefix) for name in C_FILES if name != "Makefile" for prefix in ("kilonet", "a", "a_b", "b")
    ]
    assert len(set(files)) == len(files)
    for name, prefix in itertools.product(C_FILES, ("kilonet", "meter", "a_b")):
        expected = (name, "kilonet" if name == "Makefile" else prefix)
        assert original_name(file_name(name, prefix)) == expected
    assert with_prefix("kilonet_a KILONET_B model.c main.o", "kilonet") == "kilonet_a KILONET_B model.c main.o"


@pytest.mark.usefixtures("pages_in_node")
def test_a_folder_with_a_prefix_is_verified_and_keeps_it(
    finished: Run,
    quantised: QuantisationResult,
    small: DataSet,
    *,
    small_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs("cc")
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised)
    folder = tmp_path / "meter"
    for form, prefix, family in (("c", "meter", "avr"), ("html", None, None), ("c", "meter", "cortex-m4")):
        written = export_model(form, finished.model, small, folder, "tiny", prefix=prefix, family=family)
        manifest = read_manifest(folder)
        assert (manifest.prefix, manifest.family) == ("meter", family or "avr")
    assert "Exported for cortex-m4" in (folder / "meter_model.h").read_text()
    accuracy = written.figures["test_integer_accuracy"]
    assert isinstance(accuracy, float)
    assert f"#define METER_ACCURACY {round(10_000 * accuracy)}" in (folder / "meter_model.h").read_text()
    assert finished.model.sha256 in (folder / "meter_model.h").read_text()
    answer = command(capsys, "verify", folder, "--data", small_folder)
    assert answer.status == 0, answer
    assert command(capsys, "evaluate", folder, "--data", small_folder).status == 0
    with pytest.raises(KilonetError) as error:
        export_model("c", finished.model, small, folder, "tiny")
    refusal(error, "prefix 'meter'", "--prefix")
    with pytest.raises(KilonetError) as error:
        export_model("html", finished.model, small, folder, "tiny", prefix="meter")
    refusal(error, "--to c")
    with pytest.raises(KilonetError) as error:
        export_model("html", finished.model, small, folder, "tiny", family="avr")
    refusal(error, "--target", "--to c")
    with pytest.raises(KilonetError) as error:
        export_model("c", finished.model, small, folder, "tiny", prefix="meter", family="cortex-m7")
    refusal(error, "cortex-m7", "cortex-m4")
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace('"cortex-m4"', '"cortex-m7"'))
    with pytest.raises(KilonetError) as error:
        read_manifest(folder)
    refusal(error, "family", "cortex-m7")
    (folder / "model.json").unlink()
    (folder / "index.html").unlink()
    export_model("c", finished.model, small, folder, "tiny", prefix="meter")
    changed = (folder / "meter_runtime.c").read_text().replace("floor_shift", "floor_shift_")
    (folder / "meter_runtime.c").write_text(changed)
    answer = command(capsys, "verify", folder, "--data", small_folder)
    assert (answer.status, answer.out.splitlines()[0].split(":")[0]) == (1, "meter_runtime.c")


def test_a_hostile_prefix_or_licence_in_a_manifest_is_refused_or_escaped(
    finished: Run, quantised: QuantisationResult, small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised)
    export_model("c", finished.model, small, tmp_path, "tiny", prefix="meter")
    table = json.loads((tmp_path / "model.json").read_text())
    for prefix in (*PREFIXES, "a" * 1000):
        (tmp_path / "model.json").write_text(json.dumps({**table, "prefix": prefix}))
        with pytest.raises(KilonetError) as error:
            read_manifest(tmp_path)
        refusal(error, "model.json", "prefix")
    hostile = '*/ "); int x; // \\\n#error'
    text = codegen.sources(quantised.network, DIGITS, NO_METADATA, CFacts("meter", hostile, 1.0, hostile))
    for name, content in text.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "one.c").write_text(
        '#include "meter_model.h"\nconst char *licence = METER_LICENCE METER_MODEL_SHA256;\n'
    )
    run("gcc", *STRICT, "-c", "one.c", folder=tmp_path)


def test_a_folder_of_before_there_were_prefixes_says_what_to_do(
    finished: Run,
    quantised: QuantisationResult,
    small: DataSet,
    *,
    small_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs("cc")
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised)
    export_model("c", finished.model, small, tmp_path, "tiny")
    table = json.loads((tmp_path / "model.json").read_text())
    del table["prefix"], table["licence"], table["accuracies"]["c"]
    (tmp_path / "model.json").write_text(json.dumps(table) + "\n")
    (tmp_path / "kilonet_selftest.c").unlink()
    answer = command(capsys, "verify", tmp_path, "--data", small_folder)
    assert (answer.status, answer.err) == (1, "")
    lines = answer.out.splitlines()
    assert lines[:2] == ["kilonet_selftest.c: missing", "model.h: differs from what kilonet export writes"]
    assert lines[2].endswith("export the model to it again")
    export_model("c", finished.model, small, tmp_path, "tiny")
    assert command(capsys, "verify", tmp_path, "--data", small_folder).status == 0


def test_the_programs_of_the_docs_compile_and_run(tmp_path: Path) -> None:
    """The camera's rows and the self-test, as C and as C++."""
    page = (Path(__file__).parents[2] / "docs" / "CHIP.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    camera, bootloader, frame = (block for block in blocks if "#include" in block)
    network = write(DIGITS, tmp_path, "meter", Metadata(names=tuple("abcdefghij"), digits=False))
    (tmp_path / "camera.c").write_text(camera)
    (tmp_path / "bootloader.c").write_text(bootloader)
    (tmp_path / "frame.c").write_text(frame)
    (tmp_path / "main.c").write_text(
        '#include "meter_model.h"\n#include <stdio.h>\n'
        "void camera_read_row(uint8_t row[METER_ROW_BYTES]);\nvoid feed_watchdog(void);\n"
        "const char *read_dial(void);\nint network_is_sound(void);\nstatic int fed;\n"
        "void feed_watchdog(void) { fed++; }\n"
        "void camera_read_row(uint8_t row[METER_ROW_BYTES])\n"
        "{\n    if (fread(row, 1, METER_ROW_BYTES, stdin) != METER_ROW_BYTES)\n        fed = -999;\n}\n"
        "int main(void)\n{\n    int sound = network_is_sound();\n    const char *name = read_dial();\n"
        '    return printf("%d %s %d", sound, name, fed) < 0;\n}\n'
    )
    sources = ("main.c", "camera.c", "bootloader.c", *(file.name for file in tmp_path.glob("meter_*.c")))
    run("gcc", *STRICT, "-DMETER_PLAIN", "-o", "dial", *sources, folder=tmp_path)
    image = images_for(DIGITS, 5, 1).numpy()
    logits = integer_logits(network, image)[0]
    probability = Calibration().probabilities((logits[None] * 2.0**-network.fraction_bits).astype(np.float32)).max()
    answer = "not sure" if probability < Calibration().sure_from else "abcdefghij"[int(logits.argmax())]
    assert fed(tmp_path / "dial", image.tobytes()).decode() == f"1 {answer} {3 * 28}"
    run("gcc", *STRICT, "-c", "frame.c", folder=tmp_path)
    needs("g++")
    for name in ("camera.c", "bootloader.c"):
        run("g++", "-std=c++11", *STRICT[1:], "-x", "c++", "-c", name, folder=tmp_path)


@needs_cross_compiler
def test_the_docs_state_what_mcu_takes(quantised_mcu: QuantisationResult, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "CHIP.md").read_text(encoding="utf-8")
    model = load_model("mcu")
    for name, text in codegen.sources(quantised_mcu.network, model.section, model.metadata).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    files = (*codegen.LIBRARY_FILES, "kilonet_answer.c", "kilonet_selftest.c")
    flags = ("-mcpu=cortex-m0", "-mthumb", "-Os", "-std=c99", "-ffunction-sections", "-fdata-sections", "-nostdlib")
    for entries in (("classify",), ("row", "begin"), ("row", "begin", "top", "selftest")):
        wanted = f"-Wl,--gc-sections,-ekilonet_{entries[0]}" + "".join(f",-ukilonet_{name}" for name in entries)
        run("arm-none-eabi-gcc", *flags, wanted, "-o", "image.elf", *files, "-lgcc", folder=tmp_path)
        flash = int(run("arm-none-eabi-size", "image.elf", folder=tmp_path).splitlines()[1].split()[0])
        assert f"| {flash:,} |" in page, (entries, flash)
    (tmp_path / "state.c").write_text('#include "model.h"\nkilonet_state state;\n')
    run("arm-none-eabi-gcc", *flags, "-c", "state.c", folder=tmp_path)
    state = int(run("arm-none-eabi-size", "state.o", folder=tmp_path).splitlines()[1].split()[2])
    assert f"{state:,} bytes on a microcontroller" in (tmp_path / "model.h").read_text()
    assert f"| {state + 28 + 40:,} |" in page
