"""A service whose model reads no digits: pictures of any size as `kilonet predict` takes them, and a page for them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect
from starlette.testclient import TestClient

from browser import DESKTOP, PHONE, intruded, watched
from kilonet.export.html.browser import CHROMIUM_FLAGS, browser_path
from kilonet.export.html.page import page_source
from kilonet.models.calibration import Calibration
from kilonet.models.metadata import Metadata
from kilonet.models.model import Model, load_model
from kilonet.models.prediction import predict_files
from kilonet.network.module import initial_network
from kilonet.network.section import ModelSection
from kilonet.serve.limits import RequestLimits
from photos import exif, photo, photo_files, written
from service import PNG, Process, running, service_of

SECTION = ModelSection(
    input=(3, 32, 20),
    layers=("conv 6", "maxpool 2", "conv 8", "gap", "pointwise 3"),
    resize="pad",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
)
METADATA = Metadata(names=("cat", "dog", "<b>hen</b>"), calibration=Calibration(temperature=1.5, sure_from=0.2))
DEFAULTS = RequestLimits(bytes=8 << 20, pixels=16_000_000, images=32, requests=128, seconds=60.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "pets"
    folder.mkdir()
    Model(SECTION, initial_network(SECTION, 0).state(), METADATA).save(folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def client(source: Path) -> Iterator[TestClient]:
    with TestClient(service_of(str(source), DEFAULTS)) as opened:
        yield opened


def check_as_predicted(client: TestClient, source: Path, file: Path) -> None:
    (predicted,) = predict_files(load_model(str(source)), [file]).files
    (wanted,) = predicted.predictions
    response = client.post("/predict", content=file.read_bytes(), headers={"content-type": "image/x"})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["class"], answer["name"], answer["uncertain"]) == (wanted.label, wanted.name, wanted.uncertain)
    np.testing.assert_array_equal(answer["seen"], wanted.pixels)
    np.testing.assert_allclose(answer["probabilities"], wanted.probabilities, atol=1e-5)


def test_files_of_every_kind_are_answered_as_by_predict(client: TestClient, source: Path, tmp_path: Path) -> None:
    for name, content in photo_files(90, 60):
        (tmp_path / name).write_bytes(content)
        check_as_predicted(client, source, tmp_path / name)


@pytest.mark.parametrize("form", ["JPEG", pytest.param("PNG", marks=pytest.mark.slow)])
def test_a_photo_of_twelve_megapixels_is_answered_as_by_predict(
    form: str, client: TestClient, source: Path, tmp_path: Path
) -> None:
    image = photo(1000, 750).resize((4000, 3000), Image.Resampling.NEAREST)
    content = written(image.quantize(8) if form == "PNG" else image, form, exif=exif(6))
    assert len(content) < DEFAULTS.bytes
    (tmp_path / "photo").write_bytes(content)
    check_as_predicted(client, source, tmp_path / "photo")


def test_colours_are_taken_as_rows_of_colours_and_as_channels(client: TestClient) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 20, 3), np.uint8)
    answer = client.post("/predict", content=written(Image.fromarray(pixels), "PNG"), headers=PNG).json()
    for body in (pixels, pixels.transpose(2, 0, 1)):
        assert client.post("/predict", json={"pixels": body.tolist()}).json() == answer
    both = client.post("/predict/batch", json={"images": [pixels.tolist(), answer["seen"]]}).json()["answers"]
    assert [one["seen"] for one in both] == [answer["seen"]] * 2
    grey = pixels[:, :, 0]
    assert client.post("/predict", json={"pixels": grey.tolist()}).json()["seen"] == [grey.tolist()] * 3


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((31, 20, 3)), "32 items"),
        (np.zeros((32, 20, 2)), "3 items"),
        (np.zeros((2, 32, 20)), "3 items"),
        (np.zeros((32, 20, 3, 1)), "pixels"),
        (np.full((32, 20, 3), 0.5), "multiply those from 0 to 1"),
        (np.full((32, 20, 3), 256), "255"),
    ],
    ids=lambda value: str(np.shape(value)) if isinstance(value, np.ndarray) else "",
)
def test_other_colours_are_refused_in_one_line(client: TestClient, pixels: NDArray[np.float64], words: str) -> None:
    response = client.post("/predict", json={"pixels": pixels.tolist()})
    assert response.status_code == 422
    assert words in response.json()["error"]


def test_the_model_s_facts_say_how_a_picture_becomes_the_input(client: TestClient) -> None:
    assert client.get("/model").json()["preprocessing"] == {
        "resize": "pad",
        "resampling": "triangle",
        "channels": "RGB",
        "grey_weights": [19595, 38470, 7471],
        "padding": [128, 102, 76],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
    }


def test_a_network_that_takes_no_pictures_has_no_page(tmp_path: Path) -> None:
    section = ModelSection(input=(2, 6, 5), layers=("gap", "pointwise 3"))
    Model(section, initial_network(section, 0).state()).save(tmp_path / "model.safetensors")
    with TestClient(service_of(str(tmp_path))) as opened:
        assert opened.get("/", follow_redirects=False).headers["location"] == "docs"
        assert opened.get("/model").json()["preprocessing"] is None


def test_the_drawing_page_is_for_digits_alone(tmp_path: Path) -> None:
    section = ModelSection(layers=("gap", "pointwise 10"))
    names = tuple(f"kind {number}" for number in range(10))
    Model(section, initial_network(section, 0).state(), Metadata(names=names)).save(tmp_path / "model.safetensors")
    with TestClient(service_of(str(tmp_path))) as opened:
        html = opened.get("/").text
    assert "Classify a picture" in html
    assert page_source("picture.js") in html
    assert "Draw a digit" not in html


@pytest.fixture(scope="module")
def service(chromium: Browser, source: Path) -> Iterator[Process]:
    assert chromium, "without a browser there is nothing to serve"
    with running(source=str(source)) as started:
        yield started


def seen(page: Page) -> NDArray[np.uint8]:
    """Return the pixels of the small canvas, uint8 (channels, rows, columns)."""
    data = page.evaluate(
        "Array.from(document.getElementById('seen').getContext('2d').getImageData(0, 0, 20, 32).data)",
    )
    return np.array(data, np.uint8).reshape(32, 20, 4)[:, :, :3].transpose(2, 0, 1)


def choose(page: Page, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/x", "buffer": content})


def test_the_page_shows_what_the_service_answers(chromium: Browser, service: Process, client: TestClient) -> None:
    content = written(photo(120, 80), "JPEG", exif=exif(6))
    answer = client.post("/predict", content=content, headers={"content-type": "image/jpeg"}).json()
    with watched(chromium, service.url, **PHONE) as page:
        choose(page, "photo.jpg", content)
        expect(page.locator("#class")).to_have_text(answer["name"])
        np.testing.assert_array_equal(seen(page), answer["seen"])
        assert page.locator("#likely .name").first.inner_text() == answer["name"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs over the side"
        text = page.locator("body").inner_text()
    for words in ("Classify a picture", "tells 3 classes apart, in this service", "cat, dog, <b>hen</b>", "OpenAPI"):
        assert words in text


def test_the_page_shows_the_service_s_refusal(chromium: Browser, service: Process) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(service.url)
    choose(page, "notes.txt", b"no picture")
    expect(page.locator("#said")).to_have_text("the image: not a PNG, JPEG, BMP, GIF, WebP or TIFF image")
    context.set_offline(offline=True)
    choose(page, "photo.png", written(photo(30, 30), "PNG"))
    expect(page.locator("#said")).to_have_text("The service does not answer")
    context.close()


def test_an_answer_that_is_none_of_the_classes_is_shown_as_such(chromium: Browser, service: Process) -> None:
    """The service's answer is changed on its way, because which pictures are none depends on the model."""

    def rejected(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"class": None, "name": None})

    with watched(chromium, service.url) as page:
        page.route("**/predict", rejected)
        choose(page, "photo.png", written(photo(30, 30), "PNG"))
        expect(page.locator("#class")).to_have_text("None of these")
        expect(page.locator("#sure")).to_contain_text("The nearest is ")
        page.unroute_all(behavior="wait")


def test_the_camera_s_picture_is_sent_to_the_service(chromium: Browser, service: Process) -> None:
    flags = [*CHROMIUM_FLAGS, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with (
        chromium.browser_type.launch(executable_path=browser_path(), args=flags) as browser,
        watched(browser, service.url, **DESKTOP) as page,
    ):
        page.get_by_role("button", name="Use the camera").click()
        with page.expect_request("**/predict") as request:
            page.get_by_role("button", name="Take the picture").click()
        expect(page.locator("#class")).not_to_have_text("\N{EN DASH}")
        assert request.value.headers["content-type"] == "image/png"
        assert seen(page).any()


def test_the_policy_blocks_everything_that_the_service_did_not_send(service: Process, chromium: Browser) -> None:
    blocked = [None, ["connect-src", "img-src", "script-src-elem", "style-src-attr"]]
    assert intruded(chromium, service.url) == blocked
