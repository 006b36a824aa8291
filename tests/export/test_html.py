"""The exported page in headless Chromium: its arithmetic, its drawing, its accessibility and its policy."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect

from browser import DESKTOP, PHONE, draw, intruded, touch, watched
from drawing_page import DIGITS, NOTHING, Pixels, said, seen, shows
from helpers import Answer, command, in_ci, refusal, write_idx_folder
from integer_networks import integer_networks, random_pixels
from kilonet.data.datasets import DataSet
from kilonet.export.exporter import model_name
from kilonet.export.html import browser as running
from kilonet.export.html import page as page_module
from kilonet.export.html.browser import PageRunner, encode_batches
from kilonet.export.html.page import PAGE_FILE, PageFacts, network_as_json, page_html, page_source
from kilonet.export.integer import (
    IntegerNetwork,
    integer_logits,
)
from kilonet.export.manifest import read_manifest
from kilonet.models.metadata import Metadata
from kilonet.models.model import Model, load_model
from kilonet.network.module import initial_network
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError


@pytest.fixture(scope="module")
def folder(exported_best: Path) -> Path:
    return exported_best


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return folder / PAGE_FILE


@pytest.fixture(scope="module")
def best(folder: Path) -> IntegerNetwork:
    return read_manifest(folder).network


@pytest.fixture(scope="module")
def page(chromium: Browser, file: Path) -> Iterator[Page]:
    """The page in a desktop window. Every test leaves it cleared."""
    with watched(chromium, file.as_uri(), **DESKTOP) as opened:
        yield opened


@pytest.fixture
def clean(page: Page) -> Iterator[Page]:
    page.keyboard.press("Escape")
    yield page
    page.keyboard.press("Escape")


@pytest.fixture(scope="module")
def interpreter(chromium: Browser) -> Iterator[Page]:
    """A bare page with nothing but `integer.js`."""
    with watched(chromium, "about:blank") as opened:
        opened.add_script_tag(content=page_source("integer.js"))
        yield opened


def base64_of(pixels: Pixels) -> str:
    return base64.b64encode(pixels.tobytes()).decode()


# Arithmetic


@hypothesis.settings(max_examples=150)
@hypothesis.given(integer_networks())
def test_any_network_gives_the_logits_of_the_specification(interpreter: Page, network: IntegerNetwork) -> None:
    pixels = random_pixels(network, 6)
    # As text: Playwright takes long for many numbers.
    found = interpreter.evaluate(
        """(text) => {
          const [network, images] = JSON.parse(text);
          const logits = integerNetwork(network);
          return JSON.stringify(images.map((image) => Array.from(logits(Uint8Array.from(image)))));
        }""",
        json.dumps([network_as_json(network), pixels.reshape(len(pixels), -1).tolist()]),
    )
    np.testing.assert_array_equal(json.loads(found), integer_logits(network, pixels))


def test_other_pixels_than_the_networks_are_refused(page: Page) -> None:
    for wrong in ("new Uint8Array(783)", "new Float32Array(784)", "'a'.repeat(784)"):
        assert page.evaluate(
            f"() => {{ try {{ kilonet.logits({wrong}); }} catch (error) {{ return error.message; }} }}"
        )


def test_the_page_gives_the_logits_of_the_specification(page: Page, best: IntegerNetwork, mnist: DataSet) -> None:
    pixels = mnist.test.pixels[:50].numpy()
    found = [row for batch in encode_batches(pixels) for row in page.evaluate(running.CHROMIUM_SCRIPT, batch)]
    assert np.count_nonzero(np.array(found) != integer_logits(best, pixels)) == 0


@pytest.mark.parametrize("place", ["Chromium", "Node"])
def test_verify_runs_the_pages_own_javascript(
    place: str, file: Path, best: IntegerNetwork, mnist: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only(place, monkeypatch)
    monkeypatch.setattr(running, "_IMAGES", 10)
    pixels = mnist.test.pixels[:21].numpy()
    np.testing.assert_array_equal(PageRunner(file).logits(pixels), integer_logits(best, pixels))


@pytest.mark.parametrize("place", ["Chromium", "Node"])
def test_a_page_that_computes_otherwise_is_found_out(
    place: str, folder: Path, mnist: DataSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _only(place, monkeypatch)
    text = (folder / PAGE_FILE).read_text(encoding="utf-8")
    changed = tmp_path / PAGE_FILE
    changed.write_text(
        re.sub(r'"bias":\[(-?\d+)', lambda match: f'"bias":[{int(match[1]) + 1}', text), encoding="utf-8"
    )
    pixels = mnist.test.pixels[:10].numpy()
    assert (PageRunner(changed).logits(pixels) != integer_logits(read_manifest(folder).network, pixels)).any()


@pytest.mark.parametrize("place", ["Chromium", "Node"])
def test_a_damaged_page_is_refused_in_one_line(
    place: str, file: Path, mnist: DataSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _only(place, monkeypatch)
    damaged = tmp_path / "index.html"
    pixels = mnist.test.pixels[:2].numpy()
    text = file.read_text(encoding="utf-8")
    cut = text.index('"kind"')
    for content in ("", "<p>another page</p>", text[:2000], text[:cut] + text[cut + 100 :]):
        damaged.write_text(content, encoding="utf-8")
        with pytest.raises(KilonetError) as error:
            PageRunner(damaged).logits(pixels)
        refusal(error, damaged)
    with pytest.raises(KilonetError) as error:
        PageRunner(tmp_path / "missing.html")
    refusal(error, "missing.html")


@pytest.mark.usefixtures("chromium")
def test_verify_holds_the_page_to_the_integers(
    folder: Path, small: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hundred = small.test.pixels[:100, 0].numpy(), small.test.labels[:100].numpy().astype(np.uint8)
    answer = command(capsys, "verify", folder, "--data", write_idx_folder(tmp_path, hundred, hundred), "--json")
    assert answer.status == 0
    rows = {row["form"]: row for row in json.loads(answer.out)["rows"]}
    assert rows["html"]["differing_logits"] == 0


def test_verify_says_where_it_cannot_run_a_page(
    folder: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without a form that can run here is not verified."""
    monkeypatch.setenv("PATH", "")
    answer = command(capsys, "verify", folder, "--data", small_folder)
    assert answer.status == 2
    for word in ("a page runs in Chromium", "playwright", "Node"):
        assert word in answer.err


def _only(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {
        "Chromium": (running.browser_path(), running.run_in_chromium),
        "Node": (shutil.which("node"), running.run_in_node),
    }
    there, run = runs[place]
    if not there:
        pytest.skip(f"needs {place}")
    monkeypatch.setattr(running, "_choose_runner", lambda: run)


# From ink to pixels


def by_hand(ink: Pixels) -> Pixels | None:
    """Centre ink as in MNIST, implemented with matrices: each new pixel is the mean over its area."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not rows.size:
        return None
    kept = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.int64)
    side = max(kept.shape)
    down, across = (_overlap(length, side) for length in kept.shape)
    # In integers, as an area of side * side twentieths squared is one new pixel's.
    values = (2 * (down @ kept @ across.T) + side**2) // (2 * side**2)
    if not values.any():
        return None
    field = np.zeros((28, 28), np.uint8)
    mass = values.sum()
    centres = [int((values.sum(1 - axis) * np.arange(values.shape[axis])).sum()) / int(mass) for axis in (0, 1)]
    top, left = (
        int(np.clip(np.floor(14.5 - centre), 0, 28 - length))
        for centre, length in zip(centres, values.shape, strict=True)
    )
    field[top : top + values.shape[0], left : left + values.shape[1]] = values
    return field


def _overlap(length: int, side: int) -> NDArray[np.int64]:
    """Return how much of each old pixel, 20 long, lies in each new one, `side` long."""
    new, old = np.arange(-(-length * 20 // side))[:, None] * side, np.arange(length)[None] * 20
    lengths: NDArray[np.int64] = np.clip(np.minimum(new + side, old + 20) - np.maximum(new, old), 0, None)
    return lengths


def centred(page: Page, ink: Pixels) -> Pixels | None:
    found = page.evaluate(
        """([ink, rows, columns]) => {
          const bytes = Uint8Array.from(atob(ink), (character) => character.charCodeAt(0));
          const pixels = kilonet.centred(bytes, rows, columns);
          return pixels && btoa(String.fromCharCode(...pixels));
        }""",
        [base64_of(ink), *ink.shape],
    )
    return None if found is None else np.frombuffer(base64.b64decode(found), np.uint8).reshape(28, 28)


@hypothesis.settings(max_examples=100)
@hypothesis.given(
    strategies.integers(0, 9999),
    strategies.integers(1, 9),
    strategies.tuples(strategies.integers(0, 40), strategies.integers(0, 40)),
)
def test_a_digit_of_any_size_anywhere_is_centred_as_by_hand(
    page: Page, mnist: DataSet, number: int, size: int, place: tuple[int, int]
) -> None:
    digit = mnist.test.pixels[number, 0].numpy().repeat(size, 0).repeat(size, 1)
    above, left = place
    ink = np.pad(digit, ((above, 3), (left, 5)))
    found = centred(page, ink)
    assert found is not None
    np.testing.assert_array_equal(found, by_hand(ink))
    original = mnist.test.pixels[number, 0].numpy()
    # It is the digit that MNIST's authors had centred, a tie at half a pixel aside.
    assert any(np.array_equal(found, np.roll(original, (down, across), (0, 1))) for down in (0, 1) for across in (0, 1))


@hypothesis.settings(max_examples=100)
@hypothesis.given(
    arrays.arrays(
        np.uint8,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=60),
        elements=strategies.sampled_from([0, 0, 0, 1, 90, 255]),
        fill=strategies.just(0),
    )
)
def test_any_ink_is_centred_as_by_hand(page: Page, ink: Pixels) -> None:
    found, expected = centred(page, ink), by_hand(ink)
    assert (found is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(found, expected)


# Drawing


@pytest.mark.parametrize("digit", [0, 3, 8, *in_ci(1, 2, 4, 5, 6, 7, 9)])
def test_a_digit_drawn_with_the_mouse_is_recognised(clean: Page, digit: int) -> None:
    draw(clean, "#paper", *DIGITS[digit])
    shows(clean, digit)
    assert re.fullmatch(rf"{digit}, \d+ % sure.*", said(clean))
    best_bar = clean.locator("#bars .best")
    assert best_bar.inner_text().split()[0] == str(digit)


def test_digits_drawn_with_a_finger_on_a_phone_are_recognised(chromium: Browser, file: Path) -> None:
    with watched(chromium, file.as_uri(), **PHONE) as phone:
        for digit in (2, 4, 7):
            touch(phone, "#paper", *DIGITS[digit])
            shows(phone, digit)
            phone.tap("#clear")
            shows(phone, None)
        assert phone.evaluate("scrollY") == 0, "drawing scrolls nothing"


@pytest.mark.ci
@pytest.mark.parametrize(("scale", "right", "down"), [(0.15, 0.3, -0.3), (0.4, 0, 0.1), (1.3, 0, 0)])
def test_small_and_large_digits_anywhere_are_recognised_alike(
    clean: Page, scale: float, right: float, down: float
) -> None:
    for digit in (2, 4, 6):
        moved = (
            [(0.5 + right + (x - 0.5) * scale, 0.5 + down + (y - 0.5) * scale) for x, y in line]
            for line in DIGITS[digit]
        )
        draw(clean, "#paper", *moved)
        shows(clean, digit)
        clean.keyboard.press("Escape")


def test_the_digit_changes_while_it_is_drawn(clean: Page) -> None:
    (seven,) = DIGITS[7]
    (x, y), *rest = seven
    box = clean.locator("#paper").bounding_box()
    assert box
    clean.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    clean.mouse.down()
    found = set()
    for x, y in rest:
        clean.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        clean.evaluate("() => new Promise(requestAnimationFrame)")
        found.add(clean.locator("#digit").inner_text())
    assert len(found) > 1
    assert said(clean) == "The paper is empty", "nothing is said in the middle of a stroke"
    clean.mouse.up()
    assert said(clean).startswith("7")


def test_what_is_seen_is_what_is_recognised(clean: Page, best: IntegerNetwork) -> None:
    draw(clean, "#paper", *DIGITS[5])
    shows(clean, 5)
    pixels = seen(clean)
    recognised = clean.evaluate("() => Array.from(kilonet.recognise().pixels)")
    np.testing.assert_array_equal(pixels.flatten(), recognised)
    calibration = load_model("best").metadata.calibration
    assert calibration
    scores = integer_logits(best, pixels[None, None])[0] / 2**best.fraction_bits / calibration.temperature
    expected = np.exp(scores - scores.max())
    shares = clean.evaluate("() => kilonet.recognise().shares")
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=1e-12)
    heights = clean.locator("#bars li").evaluate_all(
        "(bars) => bars.map((bar) => Number(bar.style.getPropertyValue('--share')))"
    )
    np.testing.assert_allclose(heights, shares, atol=1e-4)


def test_empty_paper_claims_no_digit(clean: Page) -> None:
    shows(clean, None)
    assert said(clean) == "The paper is empty"
    assert clean.locator("#bars .best").count() == 0
    assert not seen(clean).any()
    assert clean.evaluate("() => kilonet.recognise()") is None


def test_a_dot_is_no_digit(clean: Page) -> None:
    draw(clean, "#paper", [(0.5, 0.5), (0.51, 0.5)])
    shows(clean, None)
    assert said(clean) == "The paper shows no digit yet"


def test_only_the_main_button_draws(clean: Page) -> None:
    clean.locator("#paper").click(button="right", position={"x": 50, "y": 50})
    assert said(clean) == "The paper is empty"


def test_a_line_beyond_the_paper_stays_on_it(clean: Page) -> None:
    draw(clean, "#paper", [(0.5, 0.5), (1.2, 1.3)])
    points = clean.evaluate("() => kilonet.recognise().pixels.length")
    assert points == 784


# Undo, clear, keyboard


def test_undo_takes_back_a_stroke_and_a_clearing(clean: Page) -> None:
    draw(clean, "#paper", *DIGITS[4])
    four = seen(clean)
    clean.click("#undo")
    assert not np.array_equal(seen(clean), four)
    clean.click("#undo")
    shows(clean, None)
    draw(clean, "#paper", *DIGITS[4])
    clean.click("#clear")
    assert said(clean) == "The paper is empty"
    clean.click("#undo")
    np.testing.assert_array_equal(seen(clean), four)
    assert said(clean).startswith("4, ")


def test_the_keyboard_does_all_that_the_buttons_do(chromium: Browser, file: Path) -> None:
    with watched(chromium, file.as_uri(), **DESKTOP) as page:
        focused = []
        for _ in range(2):
            page.keyboard.press("Tab")
            focused.append(page.evaluate("document.activeElement.id"))
        assert focused == ["undo", "clear"]
        draw(page, "#paper", *DIGITS[4])
        page.focus("#undo")
        page.keyboard.press("Enter")
        expect(page.locator("#digit")).not_to_have_text(NOTHING)
        page.keyboard.press("Control+z")
        shows(page, None)
        draw(page, "#paper", *DIGITS[8])
        page.keyboard.press("Escape")
        shows(page, None)
        page.keyboard.press("Meta+z")
        shows(page, 8)
        page.focus("#clear")
        page.keyboard.press("Space")
        shows(page, None)


def test_buttons_without_anything_to_do_say_so_and_keep_the_focus(chromium: Browser, file: Path) -> None:
    with watched(chromium, file.as_uri(), **DESKTOP) as page:
        for name in ("undo", "clear"):
            assert page.get_attribute(f"#{name}", "aria-disabled") == "true"
        draw(page, "#paper", *DIGITS[1])
        assert page.get_attribute("#undo", "aria-disabled") == "false"
        page.focus("#undo")
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert page.get_attribute("#undo", "aria-disabled") == "true"
        assert page.evaluate("document.activeElement.id") == "undo"


def test_a_screen_reader_finds_names_for_everything(clean: Page) -> None:
    draw(clean, "#paper", *DIGITS[1])
    tree = clean.locator("body").aria_snapshot()
    for line in ('heading "Draw a digit"', 'button "Undo"', 'button "Clear"', 'img "Paper: draw', 'img "The 28 by 28'):
        assert line in tree
    assert re.search(r'- status: "?1, \d+ % sure', tree)
    assert re.search(r'- list "How likely each digit is":\s+- listitem: 0 \d+ %', tree)
    assert clean.get_attribute("#said", "aria-live") == "polite"


# Looks, accessibility and policy


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_colours_follow_the_system_and_can_be_read(
    chromium: Browser, file: Path, device: dict[str, Any], scheme: str
) -> None:
    with watched(chromium, file.as_uri(), color_scheme=scheme, **device) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs over the side"
        ground = _luminance(page, "body", "backgroundColor")
        assert (ground > 0.5) == (scheme == "light")
        draw(page, "#paper", *DIGITS[2])
        for text in ("h1", "header p", "#digit", "#sure", "#bars li", "#bars .best", "figcaption", "dt", "dd", "kbd"):
            lighter, darker = sorted([ground, _luminance(page, text, "color")], reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, text


def _luminance(page: Page, selector: str, name: str) -> float:
    """Return the relative luminance of a colour as WCAG 2.2 defines it."""
    colour = page.locator(selector).first.evaluate(f"(element) => getComputedStyle(element).{name}")
    shares = np.array([float(number) for number in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_digit_is_in_sight_while_a_phone_is_drawn_on(chromium: Browser, file: Path) -> None:
    with watched(chromium, file.as_uri(), **PHONE) as phone:
        for part_of_page in ("#paper", "#digit", "#bars"):
            box = phone.locator(part_of_page).bounding_box()
            assert box
            assert box["y"] + box["height"] <= 740
        for button in ("#undo", "#clear"):
            box = phone.locator(button).bounding_box()
            assert box
            assert box["height"] >= 44


def test_nothing_moves_where_motion_is_unwanted(chromium: Browser, file: Path) -> None:
    script = "getComputedStyle(document.querySelector('.track'), '::after').transitionDuration"
    for motion, moves in (("no-preference", True), ("reduce", False)):
        with watched(chromium, file.as_uri(), reduced_motion=motion, **DESKTOP) as page:
            durations = page.evaluate(
                "() => ['.hint', 'button'].map((_) => getComputedStyle(document.querySelector(_)).transitionDuration)"
            )
            assert (page.evaluate(script) != "0s") == moves
            assert (durations != ["0s", "0s"]) == moves


def test_the_policy_keeps_out_what_the_exporter_did_not_write(chromium: Browser, file: Path) -> None:
    kept_out = [None, ["connect-src", "img-src", "script-src-elem", "style-src-attr"]]
    assert intruded(chromium, file.as_uri()) == kept_out


# The file


def test_the_page_is_one_small_file_that_points_nowhere(file: Path) -> None:
    assert sorted(path.name for path in file.parent.iterdir()) == ["index.html", "model.json"]
    content = file.read_bytes()
    assert len(content) <= 60_000
    text = content.decode()
    assert f"{len(content) / 1000:.0f} kB" in text
    assert not re.search(r"""(src|href|action)=["'](?!data:)|@import|url\(|\bimport\b *[({"']""", text)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_the_page_tells_the_network_by_name_and_figures(page: Page) -> None:
    facts = page.locator("footer").inner_text()
    for words in ("best", "7,662", "works offline"):
        assert words in facts
    assert re.search(r"Test accuracy\s+99\.[45]\d %", facts)
    assert "7,662 parameters" in page.locator("header").inner_text()
    assert "best" in page.title()


def test_an_unknown_accuracy_is_not_claimed(best: IntegerNetwork) -> None:
    assert (
        "accuracy"
        not in page_html(best, load_model("best").section, PageFacts("mine", 7662))
        .split("<footer>")[1]
        .split("</footer>")[0]
    )


def test_a_name_is_text_and_nothing_else(chromium: Browser, best: IntegerNetwork, tmp_path: Path) -> None:
    name = """</title><script>alert(1)</script>"'$policy ${x} <b>"""
    path = tmp_path / PAGE_FILE
    path.write_text(page_html(best, load_model("best").section, PageFacts(name, 7662)), encoding="utf-8")
    with watched(chromium, path.as_uri()) as page:
        assert name in page.title()
        assert name in page.locator("footer").inner_text()


def test_hidden_characters_of_names_are_shown_escaped(best: IntegerNetwork) -> None:
    names = tuple(f"{hidden}class {number}" for number, hidden in enumerate(("\u202e", *["\x1b"] * 9)))
    page = page_html(best, load_model("best").section, PageFacts("best", 7662), metadata=Metadata(names=names))
    assert not {"\u202e", "\x1b"} & set(page)
    assert r"\u202eclass 0, \x1bclass 1" in page.split("<footer>")[1]


def test_parts_can_stand_in_a_page(best: IntegerNetwork) -> None:
    for name in (*page_module.DRAWING_SCRIPTS, *page_module.PICTURE_SCRIPTS):
        assert "</script" not in page_source(name).lower()
        assert "<!--" not in page_source(name)
    assert "<" not in page_source("page.css")
    assert page_html(best, load_model("best").section, PageFacts("best", 7662)) == page_html(
        best, load_model("best").section, PageFacts("best", 7662)
    )


def test_bad_input_to_the_exporter_is_refused_in_one_line(
    tmp_path: Path, folder: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(model: str | Path, out: Path, *options: str) -> Answer:
        return command(capsys, "export", model, "--to", "html", "--out", out, "--data", small_folder, *options)

    small = initial_network(section := ModelSection(input=(1, 8, 8), layers=("conv 4", "gap", "pointwise 3")), 0)
    Model(section, small.state()).save(tmp_path / "small.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    export(tmp_path / "small.safetensors", tmp_path / "out").refused("3 classes")
    export(tmp_path / "broken.safetensors", tmp_path / "out").refused("broken.safetensors")
    export("no such model", tmp_path / "out").refused("no such model")
    export("best", tmp_path / "out", "--max-ram", "4096").refused("--max-ram")
    export("best", tmp_path / "taken").refused("taken")
    export("best", tmp_path / "taken" / "below").refused("taken")
    export("best", tmp_path).refused("model.json")
    export("baseline", folder).refused("another model")
    assert not (tmp_path / "out").exists()


def test_a_page_calls_its_model_what_the_user_calls_it() -> None:
    names = {"best": "best", "runs/mine": "mine", "runs/mine/model.safetensors": "mine", "a/tiny.safetensors": "tiny"}
    assert {source: model_name(source) for source in names} == names
