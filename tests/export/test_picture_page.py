"""The exported page of a network that reads no digits: it takes pictures, and shows the classes by name."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from browser import DESKTOP, PHONE, intruded, watched
from helpers import in_ci, refusal
from kilonet.data.datasets import Images
from kilonet.data.decode import decode
from kilonet.data.preprocessing import Preprocessing, Resize
from kilonet.export.html.browser import CHROMIUM_FLAGS, browser_path
from kilonet.export.html.page import PAGE_FILE, PageFacts, page_html
from kilonet.export.integer import IntegerNetwork, integer_logits
from kilonet.export.quantisation import choose_scales
from kilonet.export.unrounded_steps import to_integer_network
from kilonet.models.calibration import Calibration
from kilonet.models.metadata import Metadata
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError
from photos import exif, photo, photo_files, written
from strategies import images_for, model_of

COLOURED = ModelSection(
    input=(3, 12, 16),
    layers=("conv 6 same", "maxpool 2", "conv 8", "gap", "pointwise 7"),
    mean=(0.2, 0.7, 0.4),
    std=(0.1, 0.2, 0.4),
)
GREY = ModelSection(input=(1, 28, 28), layers=("conv 6", "maxpool 2", "conv 8", "gap", "pointwise 10"))
NAMES = ("cat", "dog", "<b>hen</b>", "</script><script>alert(1)</script>", '"$x', "été", "x" * 100)
CALIBRATION = Calibration(temperature=2.0, sure_from=0.5, energy_from=None)


def integers(section: ModelSection) -> IntegerNetwork:
    model = model_of(section, 3)
    pixels = images_for(section, 1, 50)
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return to_integer_network(section, choose_scales(model, Images(pixels, labels)))


@pytest.fixture(scope="module")
def coloured() -> IntegerNetwork:
    return integers(COLOURED)


@pytest.fixture(scope="module")
def grey() -> IntegerNetwork:
    return integers(GREY)


def written_page(network: IntegerNetwork, section: ModelSection, metadata: Metadata, folder: Path) -> str:
    """Write a page and return its address."""
    path = folder / PAGE_FILE
    path.write_text(page_html(network, section, PageFacts("mine", 1234, 0.875), metadata), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def address(coloured: IntegerNetwork, tmp_path: Path) -> str:
    return written_page(coloured, COLOURED, Metadata(names=NAMES, calibration=CALIBRATION), tmp_path)


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def choose(page: Page, content: bytes) -> None:
    page.set_input_files("#file", {"name": "picture.png", "mimeType": "image/png", "buffer": content})


def show(page: Page, pixels: NDArray[np.uint8]) -> None:
    # Otherwise the answer to the picture before would pass for this one's.
    page.evaluate("document.getElementById('class').textContent = '\\u2013'")
    choose(page, png(pixels))
    expect(page.locator("#class")).not_to_have_text("\N{EN DASH}")


def seen(page: Page, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the pixels of the small canvas, uint8 (channels, rows, columns)."""
    channels, rows, columns = shape
    data = page.evaluate(
        "([width, height]) => "
        "Array.from(document.getElementById('seen').getContext('2d').getImageData(0, 0, width, height).data)",
        [columns, rows],
    )
    levels = np.array(data, np.uint8).reshape(rows, columns, 4)[:, :, :channels]
    return levels.transpose(2, 0, 1)


def test_a_picture_of_the_networks_size_is_classified_as_by_the_reference(
    chromium: Browser, address: str, coloured: IntegerNetwork
) -> None:
    pixels = images_for(COLOURED, 2, 4).numpy()
    with watched(chromium, address, **DESKTOP) as page:
        for image in pixels:
            show(page, image.transpose(1, 2, 0))
            logits = integer_logits(coloured, image[None])[0] / 2**coloured.fraction_bits
            expect(page.locator("#class")).to_have_text(NAMES[int(logits.argmax())])
            np.testing.assert_array_equal(seen(page, (3, 12, 16)), image)
            found = page.evaluate(
                "(pixels) => kilonet.answer(kilonet.logits(Uint8Array.from(pixels)))", image.flatten().tolist()
            )
            shares = np.exp((logits - logits.max()) / 2)
            np.testing.assert_allclose(found["shares"], shares / shares.sum(), atol=1e-12)
            assert found["uncertain"] == (max(found["shares"]) < 0.5)


def test_a_coloured_picture_becomes_grey_as_for_predict(
    chromium: Browser, grey: IntegerNetwork, tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    wanted = np.asarray(Image.fromarray(picture).convert("L"))
    with watched(chromium, written_page(grey, GREY, Metadata(digits=False), tmp_path)) as page:
        show(page, picture)
        np.testing.assert_array_equal(seen(page, (1, 28, 28))[0], wanted)
        label = int(integer_logits(grey, wanted[None, None])[0].argmax())
        expect(page.locator("#class")).to_have_text(str(label))


def test_a_larger_picture_is_cropped_in_its_middle_and_scaled(chromium: Browser, address: str) -> None:
    # A square of which the network's 4 : 3 leaves the middle rows: green above and below, halves of red and blue.
    picture = np.zeros((160, 160, 3), np.uint8)
    picture[:, :80, 0] = picture[:, 80:, 2] = 255
    picture[:20] = picture[140:] = (0, 255, 0)
    with watched(chromium, address) as page:
        show(page, picture)
        found = seen(page, (3, 12, 16))
    assert not found[1].any()
    assert (found[0, :, :7] == 255).all()
    assert (found[2, :, 9:] == 255).all()


def test_transparent_parts_are_white_below_dark_ink(chromium: Browser, grey: IntegerNetwork, tmp_path: Path) -> None:
    picture = np.zeros((28, 28, 4), np.uint8)
    picture[10:18, 10:18, 3] = 255
    with watched(chromium, written_page(grey, GREY, Metadata(digits=False), tmp_path)) as page:
        show(page, picture)
        found = seen(page, (1, 28, 28))[0]
    assert (found[10:18, 10:18] == 0).all()
    assert (found[0] == 255).all()


PIXELS_OF = """async (content) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const pixels = kilonet.pixelsOf(await createImageBitmap(new Blob([bytes]), options));
  return btoa(String.fromCharCode(...pixels));
}"""


def difference(page: Page, section: ModelSection, content: bytes) -> int:
    """Return by how many levels the page's input for a file differs from that of `kilonet predict`, at most."""
    found = np.frombuffer(base64.b64decode(page.evaluate(PIXELS_OF, base64.b64encode(content).decode())), np.uint8)
    wanted = Preprocessing.of(section).apply(decode(content, "picture", evenly=True).values)
    return int(np.abs(found.astype(int) - wanted.flatten()).max())


def other(channels: int, rows: int, columns: int, resize: Resize) -> ModelSection:
    mean = (0.2, 0.4, 0.6) if channels == 3 else 0.3
    return ModelSection(input=(channels, rows, columns), layers=("gap", "pointwise 3"), resize=resize, mean=mean)


@pytest.mark.parametrize("resize", ["crop", *in_ci("pad", "squash")])
@pytest.mark.parametrize("shape", [(3, 32, 20), (1, 128, 128)], ids=str)
def test_files_of_every_kind_become_the_input_that_predict_sees(
    shape: tuple[int, int, int], resize: Resize, chromium: Browser, tmp_path: Path
) -> None:
    section = other(*shape, resize)
    with watched(chromium, written_page(integers(section), section, Metadata(digits=False), tmp_path)) as page:
        for columns, rows in ((150, 100), (9, 140)):
            for name, content in photo_files(columns, rows):
                # Chromium does not turn a WebP file upright.
                if name != "turned.webp":
                    assert difference(page, section, content) <= 1, name


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_a_photo_of_twelve_megapixels_becomes_the_input_that_predict_sees(
    resize: Resize, chromium: Browser, tmp_path: Path
) -> None:
    section = other(3, 32, 20, resize)
    with watched(chromium, written_page(integers(section), section, Metadata(digits=False), tmp_path)) as page:
        for form, options in (("JPEG", {"exif": exif(6)}), ("PNG", {"compress_level": 1})):
            assert difference(page, section, written(photo(4000, 3000), form, **options)) <= 1


def test_what_the_classes_are_not_is_none_of_these(chromium: Browser, coloured: IntegerNetwork, tmp_path: Path) -> None:
    image = images_for(COLOURED, 2, 1).numpy()[0].transpose(1, 2, 0)
    logits = integer_logits(coloured, image.transpose(2, 0, 1)[None])[0] / 2**coloured.fraction_bits
    energy = float(np.log(np.exp(logits).sum()))
    nearest = NAMES[int(logits.argmax())]
    for calibration, word in (
        (Calibration(sure_from=0.0, energy_from=energy + 0.1, rejects=True), "None of these"),
        (Calibration(sure_from=1.0, energy_from=energy - 0.1, rejects=True), "None of these"),
        (Calibration(sure_from=0.0, energy_from=energy - 0.1, rejects=True), nearest),
        (Calibration(sure_from=1.0, energy_from=energy + 0.1), nearest),
    ):
        address = written_page(coloured, COLOURED, Metadata(names=NAMES, calibration=calibration), tmp_path)
        with watched(chromium, address) as page:
            show(page, image)
            expect(page.locator("#class")).to_have_text(word)
            is_none = word == "None of these"
            expect(page.locator("#sure")).to_contain_text("The nearest is" if is_none else "sure, then")
            expect(page.locator("#said")).to_contain_text(word)
            assert page.locator("body.uncertain").count() == (is_none or calibration.sure_from == 1.0)
            assert seen(page, (3, 12, 16)).any()


@pytest.fixture(scope="module")
def filming(chromium: Browser) -> Iterator[Browser]:
    """A browser with a camera that shows a moving picture."""
    flags = [*CHROMIUM_FLAGS, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with chromium.browser_type.launch(executable_path=browser_path(), args=flags) as browser:
        yield browser


def test_the_camera_gives_a_picture_and_is_switched_off(filming: Browser, address: str) -> None:
    with watched(filming, address, **DESKTOP) as page:
        page.get_by_role("button", name="Use the camera").click()
        expect(page.get_by_role("button")).to_have_text(["Take the picture", "Cancel"])
        assert page.evaluate("document.getElementById('live').videoWidth") > 0
        page.evaluate("window.track = document.getElementById('live').srcObject.getVideoTracks()[0]")
        page.keyboard.press("Escape")
        assert page.evaluate("track.readyState") == "ended"
        expect(page.get_by_role("button")).to_have_text(["Choose a picture", "Use the camera"])
        expect(page.locator("#class")).to_have_text("\N{EN DASH}")
        page.get_by_role("button", name="Use the camera").click()
        expect(page.get_by_role("button", name="Take the picture")).to_be_focused()
        page.evaluate("window.track = document.getElementById('live').srcObject.getVideoTracks()[0]")
        page.get_by_role("button", name="Take the picture").click()
        expect(page.locator("#class")).not_to_have_text("\N{EN DASH}")
        assert page.evaluate("track.readyState") == "ended"
        assert seen(page, (3, 12, 16)).any()
        assert page.locator("#live").is_hidden()
        # A picture that is dropped while the camera runs switches it off, too.
        page.get_by_role("button", name="Use the camera").click()
        expect(page.get_by_role("button", name="Take the picture")).to_be_focused()
        show(page, images_for(COLOURED, 2, 1).numpy()[0].transpose(1, 2, 0))
        expect(page.get_by_role("button", name="Use the camera")).to_be_visible()


def test_a_camera_that_is_not_allowed_is_said(filming: Browser, address: str) -> None:
    with watched(filming, address, **DESKTOP) as page:
        page.evaluate(
            """() => {
              navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "NotAllowedError"));
            }"""
        )
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#said")).to_have_text("The camera is not allowed here; choose a picture")


def test_the_camera_s_button_is_there_only_with_a_camera(chromium: Browser, address: str) -> None:
    with watched(chromium, address, **DESKTOP) as page:
        assert page.evaluate("navigator.mediaDevices.enumerateDevices().then((all) => all.length)") == 0
        expect(page.get_by_role("button")).to_have_text(["Choose a picture"])
    with watched(chromium, address, **PHONE) as page:
        # A phone's own camera needs no permission.
        assert page.locator("#shot").get_attribute("capture") == "environment"
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Use the camera").tap()
        image = images_for(COLOURED, 2, 1).numpy()[0].transpose(1, 2, 0)
        chooser.value.set_files({"name": "shot.png", "mimeType": "image/png", "buffer": png(image)})
        expect(page.locator("#class")).not_to_have_text("\N{EN DASH}")


def test_a_picture_can_be_pasted(chromium: Browser, address: str) -> None:
    content = list(png(images_for(COLOURED, 2, 1).numpy()[0].transpose(1, 2, 0)))
    with watched(chromium, address) as page:
        page.evaluate(
            """(content) => {
              const clipboardData = new DataTransfer();
              clipboardData.items.add(new File([Uint8Array.from(content)], "x.png", { type: "image/png" }));
              document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
            }""",
            content,
        )
        expect(page.locator("#class")).not_to_have_text("\N{EN DASH}")


def test_what_is_no_picture_is_said_to_be_none(chromium: Browser, address: str) -> None:
    with watched(chromium, address) as page:
        choose(page, b"no picture")
        expect(page.locator("#said")).to_have_text("Not a picture that this browser can read")
        show(page, images_for(COLOURED, 2, 1).numpy()[0].transpose(1, 2, 0))


def test_a_picture_can_be_dropped(chromium: Browser, address: str) -> None:
    content = list(png(images_for(COLOURED, 2, 1).numpy()[0].transpose(1, 2, 0)))
    with watched(chromium, address) as page:
        page.evaluate(
            """(content) => {
              const transfer = new DataTransfer();
              transfer.items.add(new File([Uint8Array.from(content)], "x.png", { type: "image/png" }));
              document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
            }""",
            content,
        )
        expect(page.locator("#class")).not_to_have_text("\N{EN DASH}")


def test_names_are_text_and_nothing_else(chromium: Browser, address: str) -> None:
    with watched(chromium, address, **PHONE) as page:
        show(page, images_for(COLOURED, 2, 1).numpy()[0].transpose(1, 2, 0))
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs over the side"
        facts = page.locator("footer").inner_text()
        assert all(name in facts for name in NAMES)
        shown = page.locator("#likely .name").all_inner_texts()
        assert len(shown) == 5
        assert set(shown) <= set(NAMES)
        text = page.locator("body").inner_text()
    for words in ("Classify a picture", "tells 7 classes apart", "87.50 %"):
        assert words in text
    assert "digit" not in text


def test_the_policy_keeps_out_what_the_exporter_did_not_write(chromium: Browser, address: str) -> None:
    kept_out = [None, ["connect-src", "img-src", "script-src-elem", "style-src-attr"]]
    assert intruded(chromium, address) == kept_out


def test_a_screen_reader_finds_names_for_everything(chromium: Browser, address: str) -> None:
    with watched(chromium, address) as page:
        show(page, images_for(COLOURED, 2, 1).numpy()[0].transpose(1, 2, 0))
        tree = page.locator("body").aria_snapshot()
    for line in ('heading "Classify a picture"', 'button "Choose a picture"', 'list "The most likely classes"'):
        assert line in tree


def test_a_network_of_digits_with_names_is_drawn_on(chromium: Browser, grey: IntegerNetwork, tmp_path: Path) -> None:
    names = tuple(f"digit {number}" for number in range(10))
    with watched(chromium, written_page(grey, GREY, Metadata(names=names, digits=True), tmp_path)) as page:
        assert page.locator("h1").inner_text() == "Draw a digit"
        assert page.locator("#bars .name").all_inner_texts() == list(names)


def test_networks_of_other_channels_are_refused_in_one_line() -> None:
    section = ModelSection(input=(2, 9, 9), layers=("gap", "pointwise 3"))
    with pytest.raises(KilonetError) as error:
        page_html(integers(section), section, PageFacts("other", 1))
    refusal(error, "1 or 3 channels", "2")


def test_the_data_end_no_element(coloured: IntegerNetwork) -> None:
    text = page_html(coloured, COLOURED, PageFacts("mine", 1), Metadata(names=NAMES))
    data = text.split('<script id="network" type="application/json">')[1].split("</script>")[0]
    assert json.loads(data)["names"] == list(NAMES)
