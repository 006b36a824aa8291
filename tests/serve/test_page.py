"""The served page in headless Chromium: drawing, photos, and no request to any other host."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Response, Route, expect

from browser import DESKTOP, PHONE, Point, draw, intruded, pixels_of, touch, watched
from drawing_page import DIGITS, NOTHING, said, seen, shows
from helpers import in_ci
from kilonet.data.datasets import DataSet
from kilonet.data.preprocessing import preprocessing_facts
from kilonet.export.html.page import page_source
from kilonet.network.section import ModelSection
from kilonet.serve import pages
from kilonet.serve.schema import ModelFacts
from service import Process, running

FLAT: list[Point] = [(0.2, 0.5), (0.8, 0.5)]


@pytest.fixture(scope="module")
def service(chromium: Browser) -> Iterator[Process]:
    assert chromium, "without a browser there is nothing to serve"
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def page(chromium: Browser, service: Process) -> Iterator[Page]:
    """The page in a desktop browser. Every test leaves it cleared."""
    with watched(chromium, service.url, **DESKTOP) as opened:
        yield opened


@pytest.fixture
def clean(page: Page) -> Iterator[Page]:
    page.keyboard.press("Escape")
    yield page
    page.keyboard.press("Escape")
    shows(page, None)


def photo_of(digit: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], path: Path) -> Path:
    """Write a photo of a digit in blue ink on unevenly lit paper, lying on its side as its EXIF says."""
    ink = np.asarray(Image.fromarray(digit).resize((280, 280)), np.float32)[:, :, None] / 255
    light = np.linspace(250, 180, 400, dtype=np.float32)[None, :, None] * np.ones((500, 1, 3), np.float32)
    light[110:390, 60:340] += ink * (np.array([30, 40, 120], np.float32) - light[110:390, 60:340])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(light.astype(np.uint8))).save(path, "JPEG", quality=85, exif=exif)
    return path


@pytest.mark.parametrize("digit", [0, 3, 8, *in_ci(1, 2, 4, 5, 6, 7, 9)])
def test_a_digit_drawn_with_the_mouse_is_read_by_the_service(clean: Page, digit: int) -> None:
    draw(clean, "#paper", *DIGITS[digit])
    shows(clean, digit)
    expect(clean.locator("#said")).to_contain_text(f"{digit}, ")
    expect(clean.locator("#bars .best")).to_have_count(1)


def test_digits_drawn_with_a_finger_on_a_phone_are_read(chromium: Browser, service: Process) -> None:
    with watched(chromium, service.url, **PHONE) as page:
        for digit in (2, 4, 7):
            touch(page, "#paper", *DIGITS[digit])
            shows(page, digit)
            page.locator("#clear").tap()
            shows(page, None)
        assert page.evaluate("() => [scrollX, scrollY]") == [0, 0]
        assert page.evaluate("() => document.documentElement.scrollWidth") == 360


# The text for screen readers changes once the last drawing is answered, when no request is on its way any more.


def test_the_page_shows_the_service_s_answer(clean: Page) -> None:
    answers: list[Response] = []
    clean.on("response", lambda answer: answers.append(answer))  # noqa: PLW0108 - Playwright marks it
    draw(clean, "#paper", *DIGITS[3])
    expect(clean.locator("#said")).to_contain_text("3, ")
    answer = answers[-1].json()
    assert answer["class"] == 3
    assert answers[-1].request.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(seen(clean), answer["seen"])
    heights = clean.evaluate(
        "() => [...document.querySelectorAll('#bars li')].map((bar) => Number(bar.style.getPropertyValue('--share')))"
    )
    np.testing.assert_allclose(heights, answer["probabilities"], atol=1e-3)


def test_a_drawing_without_a_digit_is_reported(clean: Page) -> None:
    draw(clean, "#paper", FLAT)
    expect(clean.locator("#sure")).to_have_text("No digit: much wider than high")
    shows(clean, None)
    expect(clean.locator("#said")).to_have_text("No digit: much wider than high")
    assert seen(clean).any(), "what the network saw is shown all the same"
    assert clean.locator("#bars .best").count() == 0


def test_an_uncertain_answer_is_marked(clean: Page) -> None:
    """The service's answer is changed on its way, because which drawings are uncertain depends on the model."""

    def doubted(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"uncertain": True})

    clean.route("**/predict", doubted)
    draw(clean, "#paper", *DIGITS[3])
    expect(clean.locator("#said")).to_contain_text("Uncertain: ")
    assert clean.locator("body.uncertain").count() == 1
    clean.unroute_all(behavior="wait")


def test_a_photo_is_read_and_shown_until_it_is_replaced(clean: Page, mnist: DataSet, tmp_path: Path) -> None:
    photo = photo_of(mnist.test.pixels[0, 0].numpy(), tmp_path / "seven.jpg")
    clean.locator("#photo").set_input_files(photo)
    shows(clean, 7)
    expect(clean.locator("#said")).to_contain_text("7, ")
    colour = clean.evaluate(
        "() => Array.from(document.getElementById('paper').getContext('2d').getImageData(200, 30, 1, 1).data)"
    )
    assert colour[3] == 255
    assert 150 < colour[0] < 255, "the photo lies on the paper"
    draw(clean, "#paper", *DIGITS[2])
    shows(clean, 2)
    clean.keyboard.press("Control+z")
    shows(clean, 7)
    clean.locator("#clear").click()
    shows(clean, None)
    clean.keyboard.press("Control+z")
    shows(clean, 7)


def outlined(page: Page) -> tuple[float, float, float, float]:
    """Return the edges of what is in the accent colour on the paper, as shares of it: left, top, right, bottom."""
    pixels = pixels_of(page.evaluate("document.getElementById('paper').toDataURL()"))[:, :, :3].astype(np.int32)
    side = len(pixels)
    rows, columns = np.nonzero(np.abs(pixels - [194, 64, 26]).max(2) < 8)
    if not len(rows):
        return (0, 0, 0, 0)
    return columns.min() / side, rows.min() / side, (columns.max() + 1) / side, (rows.max() + 1) / side


def test_the_box_that_was_found_is_shown_on_the_photo(clean: Page, mnist: DataSet, tmp_path: Path) -> None:
    large = Image.fromarray(255 - np.asarray(Image.fromarray(mnist.test.pixels[0, 0].numpy()).resize((560, 560))))
    sheet = Image.new("L", (3000, 2000), 255)
    # Strokes of 80 pixels in a picture three times as large as the service looks at.
    sheet.paste(large, (2000, 400))
    sheet.save(tmp_path / "seven.png")
    clean.locator("#photo").set_input_files(tmp_path / "seven.png")
    shows(clean, 7)
    ink = np.asarray(sheet) < 128
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    # The photo is as wide as the paper and lies in its middle.
    wanted = (columns[0] / 3000, (500 + rows[0]) / 3000, (columns[-1] + 1) / 3000, (500 + rows[-1] + 1) / 3000)
    assert outlined(clean) == pytest.approx(wanted, abs=0.03)
    clean.locator("#clear").click()
    shows(clean, None)
    assert outlined(clean) == (0, 0, 0, 0)


def test_a_photo_can_be_dropped_on_the_page(clean: Page, mnist: DataSet, tmp_path: Path) -> None:
    content = photo_of(mnist.test.pixels[1, 0].numpy(), tmp_path / "two.jpg").read_bytes()
    clean.evaluate(
        """(bytes) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([Uint8Array.from(bytes)], "two.jpg", { type: "image/jpeg" }));
          for (const kind of ["dragover", "drop"]) {
            document.getElementById("paper").dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true }));
          }
        }""",
        list(content),
    )
    shows(clean, 2)


def test_the_page_shows_the_service_s_error(chromium: Browser, service: Process, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    context = chromium.new_context()
    page = context.new_page()
    page.goto(service.url)
    page.locator("#photo").set_input_files(tmp_path / "broken.png")
    expect(page.locator("#sure")).to_have_text("the image: not a PNG, JPEG, BMP, GIF, WebP or TIFF image")
    context.set_offline(offline=True)
    draw(page, "#paper", *DIGITS[1])
    expect(page.locator("#sure")).to_have_text("The service does not answer")
    context.set_offline(offline=False)
    draw(page, "#paper", *DIGITS[1])
    expect(page.locator("#digit")).not_to_have_text(NOTHING)
    context.close()


def test_every_control_has_a_name_and_works_by_keyboard(clean: Page) -> None:
    names = {button.inner_text().split()[0] for button in clean.get_by_role("button").all()}
    assert names == {"Undo", "Clear", "Photo"}
    assert clean.get_by_label("Photo of a digit").count() == 1
    with clean.expect_file_chooser() as chooser:
        # Playwright does not wait until it controls file choosers; this call is answered after it does.
        clean.locator("#choose").focus()
        clean.keyboard.press("Enter")
    assert not chooser.value.is_multiple()
    assert said(clean) == "The paper is empty"


def test_the_policy_blocks_everything_that_the_service_did_not_send(service: Process, chromium: Browser) -> None:
    blocked = [None, ["connect-src", "img-src", "script-src-elem", "style-src-attr"]]
    assert intruded(chromium, service.url) == blocked
    policy = urllib.request.urlopen(service.url).headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_the_api_page_asks_no_other_host(chromium: Browser, service: Process) -> None:
    with watched(chromium, f"{service.url}/docs", service.url, **DESKTOP) as page:
        expect(page.locator(".opblock-summary-path").first).to_have_text("/predict")
        assert page.locator(".opblock").count() == 6


def test_the_page_shows_the_network_s_name_and_figures(page: Page) -> None:
    facts = page.locator("footer").inner_text()
    for words in ("best", "7,662", "99.56 %", "OpenAPI"):
        assert words in facts


def test_names_are_text_and_scripts_are_shared() -> None:
    name = """</title><script>alert(1)</script>"'$policy"""
    facts = ModelFacts(
        name=name,
        parameters=7,
        layers=["gap"],
        input=(1, 28, 28),
        classes=["0"],
        reads_digits=True,
        preprocessing=preprocessing_facts(ModelSection(layers=("gap",)), reads_digits=True),
        sha256="",
        accuracy=None,
        calibration=None,
        kilonet="0",
    )
    page = pages.front_page(facts)
    assert page
    html = page.html
    assert "<script>alert" not in html
    assert "Test accuracy" not in html
    for script in ("drawing.js", "app.js"):
        assert page_source(script) in html
    assert "integerNetwork(" not in html
