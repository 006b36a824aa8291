"""The application in this process: it answers as `kilonet predict` does, and refuses bad input in one line."""

import base64
import errno
import json
import math
import os
import re
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import hypothesis
import numpy as np
import pytest
import torch
from httpx2 import Response
from hypothesis import strategies
from PIL import Image
from python_multipart.multipart import FormParser
from starlette.testclient import TestClient
from torch import Tensor

from found_digits import draw_change, found_digit
from helpers import BASELINE_LAYERS, command, refusal, save_overflowing_model
from kilonet.data.datasets import DataSet
from kilonet.export.exported_model import ExportedModel
from kilonet.export.exporter import export_c
from kilonet.export.onnx.session import OnnxSession
from kilonet.export.quantisation import QuantisationResult
from kilonet.models.calibration import Calibration
from kilonet.models.metadata import Metadata
from kilonet.models.model import Classifier, Model, load_model
from kilonet.models.prediction import predict_files
from kilonet.network.memory import image_bytes
from kilonet.network.module import initial_network
from kilonet.network.section import ModelSection
from kilonet.serve.answering import Answering, Answers, _Job
from kilonet.serve.app import application
from kilonet.serve.bodies import Body, from_pixels
from kilonet.serve.classifiers import thread_safe
from kilonet.serve.decoding import ImageFile
from kilonet.serve.limits import RequestLimits
from kilonet.serve.metrics import Metrics
from kilonet.serve.model_facts import describe_model
from kilonet.serve.refusal import Refusal
from kilonet.serve.schema import ModelFacts
from kilonet.training.run_folder import Run
from kilonet.utils.errors import KilonetError
from service import LIMITS, PNG, in_loop, png, served_once, service_of

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(service_of("best")) as opened:
        yield opened


@pytest.fixture(scope="module")
def seven(mnist: DataSet) -> bytes:
    return png(mnist.test.pixels[0, 0].numpy())


def predicted(client: TestClient, content: bytes, kind: str = "image/png") -> dict[str, Any]:
    response = client.post("/predict", content=content, headers={"content-type": kind})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(response: Any, status: int, *words: str) -> None:
    """Check that a response is one line of JSON with the status and the words of a refusal."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    refusal(KilonetError(response.json()["error"]), *words)
    assert len(response.json()["error"]) < 400


# Answers


def test_answers_are_those_of_predict(client: TestClient, mnist: DataSet, tmp_path: Path) -> None:
    """MNIST images as they are, photos in which the digit must be found, and images without a digit."""
    files = {}
    for number, image in enumerate(mnist.test.pixels[:40, 0].numpy()):
        files[f"plain-{number:03}.png"] = png(image)
    for number, image in enumerate(mnist.test.pixels[:40, 0].numpy()):
        change = draw_change(number)
        kind = "png" if change.quality is None else "jpeg"
        files[f"found-{number:03}.{kind}"] = found_digit(image, change)
    files["blank.png"] = png(np.full((60, 60), 255, np.uint8))
    files["two.png"] = png(np.concatenate(list(mnist.test.pixels[:2, 0].numpy()), axis=1))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    said = predict_files(load_model("best"), [tmp_path / name for name in files])
    for row, one, (name, content) in zip(said.as_json()["predictions"], said.files, files.items(), strict=True):
        answer = predicted(client, content, "image/jpeg" if name.endswith("jpeg") else "image/png")
        assert {key: answer[key] for key in ("class", "name", "uncertain", "no_digit")} == {
            key: row[key] for key in ("class", "name", "uncertain", "no_digit")
        }, name
        np.testing.assert_allclose(answer["probabilities"], row["probabilities"], atol=1e-5)
        np.testing.assert_array_equal(answer["seen"], one.predictions[0].pixels)
    assert {row["no_digit"] is None for row in said.as_json()["predictions"]} == {True, False}


def test_a_page_is_answered_digit_by_digit_as_by_predict(
    client: TestClient, mnist: DataSet, seven: bytes, tmp_path: Path
) -> None:
    # Larger than a picture of one digit is looked at.
    pixels = np.full((300, 1500), 235, np.uint8)
    for number, image in enumerate(mnist.test.pixels[:3, 0].numpy()):
        pixels[100:156, 200 + 400 * number :][:, :56] -= np.asarray(Image.fromarray(image).resize((56, 56))) // 5 * 4
    content = png(pixels)
    (tmp_path / "page.png").write_bytes(content)
    said = predict_files(load_model("best"), [tmp_path / "page.png"], page=True).as_json()["predictions"]
    assert [row["class"] for row in said] == [7, 2, 1]
    encoded = {"image": base64.b64encode(content).decode()}
    for response in (
        client.post("/predict/page", content=content),
        client.post("/predict/page", files={"f": content}),
        client.post("/predict/page", json=encoded),
    ):
        assert response.status_code == 200, response.text
        answers = response.json()["answers"]
        keys = ("class", "uncertain", "box", "row")
        assert [[answer[key] for key in keys] for answer in answers] == [[row[key] for key in keys] for row in said]
    refused(client.post("/predict/page", json={"pixels": mnist.test.pixels[0, 0].tolist()}), 422, "pixels", "image")
    assert "row" not in client.post("/predict", content=seven).json()


def test_pixels_are_answered_as_the_file_that_holds_them(client: TestClient, mnist: DataSet) -> None:
    for image in (*mnist.test.pixels[:5, 0].numpy(), 255 - mnist.test.pixels[5, 0].numpy()):
        response = client.post("/predict", json={"pixels": image.tolist()})
        assert response.json() == predicted(client, png(image))


def test_a_batch_is_answered_in_its_order_as_its_images_alone(client: TestClient, mnist: DataSet) -> None:
    images = mnist.test.pixels[:4, 0].numpy()
    alone = [predicted(client, png(image)) for image in images]
    files = [("files", (f"{number}.png", png(image))) for number, image in enumerate(images)]
    for response in (
        client.post("/predict/batch", files=files),
        client.post("/predict/batch", json={"images": images.tolist()}),
    ):
        answers = response.json()["answers"]
        assert [answer["class"] for answer in answers] == [7, 2, 1, 0]
        for one, other in zip(answers, alone, strict=True):
            np.testing.assert_allclose(one.pop("probabilities"), other["probabilities"], atol=1e-6)
            assert one.pop("probability") == pytest.approx(other["probability"])
            assert one.items() <= other.items()


def test_a_trained_model_is_answered_by_its_float_graph(mnist: DataSet) -> None:
    model = load_model("baseline")
    pixels = mnist.test.pixels[:120]
    np.testing.assert_allclose(thread_safe(model).logits(pixels), model.logits(pixels), atol=1e-4)


def test_an_exported_folder_is_served_by_the_reference(
    small: DataSet, tmp_path: Path, quantised_mcu: QuantisationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilonet.export.exporter.quantise", lambda *_: quantised_mcu)
    export_c(load_model("mcu"), small, tmp_path)
    exported = ExportedModel(tmp_path)
    classifier = thread_safe(exported)
    facts = describe_model(exported, classifier, str(tmp_path))
    assert (facts.sha256, facts.accuracy) == (load_model("mcu").sha256, None)
    image = small.test.pixels[0, 0].numpy()
    with TestClient(application(classifier, facts, LIMITS, Metrics(facts.classes))) as opened:
        answer = predicted(opened, png(image))
    np.testing.assert_allclose(answer["probabilities"], exported.predict(image[None]).probabilities[0], atol=1e-6)


def test_a_network_of_other_classes_takes_pictures(tmp_path: Path) -> None:
    section = ModelSection(input=(3, 6, 5), layers=("conv 4", "gap", "pointwise 3"))
    model = Model(section, initial_network(section, 0).state(), Metadata(names=("cat", "dog", "hen")))
    model.save(tmp_path / "model.safetensors")
    with TestClient(service_of(str(tmp_path))) as opened:
        assert opened.get("/model").json()["classes"] == ["cat", "dog", "hen"]
        answer = predicted(opened, png(np.zeros((6, 5, 3), np.uint8)))
        assert answer["name"] in ("cat", "dog", "hen")
        assert np.shape(answer["seen"]) == (3, 6, 5)
        assert opened.post("/predict", json={"pixels": 6 * [5 * [0]]}).json() == answer
        assert np.shape(predicted(opened, png(np.zeros((9, 20), np.uint8)))["seen"]) == (3, 6, 5)


def test_a_failing_model_is_answered_in_one_line_and_raised_to_the_server(seven: bytes) -> None:
    class Broken(Classifier):
        def __init__(self, classifier: Classifier) -> None:
            self.section, self.metadata = classifier.section, classifier.metadata

        def logits(self, pixels: Tensor) -> Tensor:
            raise ZeroDivisionError(pixels.shape)

    classifier, facts = served_once("best")
    metrics = Metrics(facts.classes)
    service = application(Broken(classifier), facts, LIMITS, metrics)
    with TestClient(service, raise_server_exceptions=False) as opened:
        refused(opened.post("/predict", content=seven, headers=PNG), 500, "ZeroDivisionError")
        refused(opened.post("/predict/batch", files={"f": ("7.png", seven)}), 500, "ZeroDivisionError")
    assert metrics.registry.get_sample_value("kilonet_refusals_total", {"reason": "fault"}) == 2
    with TestClient(service) as opened, pytest.raises(ZeroDivisionError):
        opened.post("/predict", content=seven, headers=PNG)


# Information about the service


def test_a_request_that_fails_leaves_the_others_of_its_batch_their_answers(seven: bytes) -> None:
    def fail() -> list[ImageFile]:
        raise RuntimeError("a fault")

    answering = Answering(load_model("best"), LIMITS, Metrics("0123456789"))
    bodies = (Body(lambda: [ImageFile(seven)], is_quick=True), Body(fail, is_quick=True))
    answer, fault = answering._answer([_Job(body, Answers.ONE, math.inf) for body in bodies])
    assert isinstance(answer, bytes)
    assert json.loads(answer)["class"] == 7
    assert str(fault) == "a fault"


def test_a_class_called_none_is_counted_apart_from_none_of_the_classes() -> None:
    metrics = Metrics(["none", "cat"])
    for name in ("none", "none", "cat", None):
        metrics.prediction(name)
    counts = {
        answer: metrics.registry.get_sample_value("kilonet_predictions_total", {"answer": answer})
        for answer in ("none", "cat", "(none)")
    }
    assert counts == {"none": 2, "cat": 1, "(none)": 1}
    escaping = Metrics(["\x1b[31mred"])
    escaping.prediction("\x1b[31mred")
    assert b"\x1b" not in escaping.render("")[0]


def test_the_model_is_described(client: TestClient, finished: Run) -> None:
    facts = client.get("/model").json()
    model = load_model("best")
    assert facts["name"] == "best"
    assert facts["parameters"] == 7662
    assert facts["sha256"] == model.sha256
    assert facts["calibration"]["sure_from"] == pytest.approx(0.8650, abs=1e-4)
    assert facts["accuracy"] == {"share": 0.9956, "images": 10000, "of": "MNIST's test images, as served"}
    assert finished.folder
    own = describe_model(finished.model, thread_safe(finished.model), str(finished.folder))
    assert own.accuracy
    assert own.accuracy.share == finished.result.final.test_accuracy
    assert own.accuracy.images == 500


def test_health_and_a_path_that_is_not_there(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    refused(client.get("/nothing"), 404, "/nothing", "/docs")
    response = client.get("/predict")
    refused(response, 405, "/predict", "GET", "POST")
    assert response.headers["allow"] == "POST"


def test_heads_are_those_of_the_contents(client: TestClient) -> None:
    for path in ("/", "/health", "/docs"):
        assert client.head(path).headers == client.get(path).headers


def test_metrics_count_what_was_asked_and_answered(mnist: DataSet) -> None:
    images = [mnist.test.pixels[0, 0].numpy()] * 3 + [np.zeros((28, 28), np.uint8)]
    with TestClient(service_of("best")) as opened:
        for image in images:
            predicted(opened, png(image))
        opened.post("/predict", content=b"no image", headers=PNG)
        opened.get("/invented")
        text = opened.get("/metrics").text
    for line in (
        'kilonet_predictions_total{answer="7"} 3.0',
        'kilonet_predictions_total{answer="none"} 1.0',
        'kilonet_requests_total{method="POST",route="/predict",status="200"} 4.0',
        'kilonet_refusals_total{reason="unreadable"} 1.0',
        'kilonet_refusals_total{reason="no such path"} 1.0',
        'kilonet_request_seconds_count{route="/predict"} 5.0',
        "kilonet_requests_in_flight 1.0",
    ):
        assert line in text.splitlines()
    assert "process_resident_memory_bytes" in text
    assert "invented" not in text


@pytest.mark.parametrize("prefix", ["/", "/behind/a/path/"])
def test_the_api_page_needs_no_other_host_and_no_path_of_its_own(client: TestClient, prefix: str) -> None:
    """A proxy may serve it below a path, which it strips."""
    home = f"http://proxy.example{prefix}"

    def through_proxy(address: str, base: str) -> Response:
        moved = urljoin(base, address)
        assert moved.startswith(home), address
        return client.get("/" + moved.removeprefix(home))

    html = client.get("/docs").text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert sorted(addresses) == ["data:,", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css"]
    (document,) = re.findall(r"url: '([^']*)'", html)
    for address in (*addresses[:2], document):
        if address != "data:,":
            assert through_proxy(address, f"{home}docs").status_code == 200
    ((server,),) = (entry.values() for entry in through_proxy(document, f"{home}docs").json()["servers"])
    assert urljoin(f"{home}{document}", server) == home
    assert "://" not in html


@pytest.mark.parametrize(
    "accept", ["text/plain; version=x", "application/openmetrics-text; version=1..2", "a/b;;=,", ""]
)
def test_metrics_are_answered_whatever_is_accepted(client: TestClient, accept: str) -> None:
    response = client.get("/metrics", headers={"accept": accept})
    assert response.status_code == 200
    assert "kilonet_requests" in response.text


def test_the_accuracy_of_another_model_is_not_stated(finished: Run, tmp_path: Path) -> None:
    assert finished.folder
    for file in finished.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert described(tmp_path).accuracy
    calibrated = finished.model.metadata.model_copy(update={"calibration": Calibration(temperature=2.0)})
    finished.model.with_metadata(calibrated).save(tmp_path / "model.safetensors")
    assert described(tmp_path).accuracy, "a calibration changes no class"
    state = {name: 1.01 * tensor for name, tensor in finished.model.network.state().items()}
    Model(finished.model.section, state).save(tmp_path / "model.safetensors")
    assert described(tmp_path).accuracy is None


def described(folder: Path) -> ModelFacts:
    model = load_model(folder)
    return describe_model(model, thread_safe(model), str(folder))


def test_a_model_that_computes_nan_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_overflowing_model(tmp_path)
    with pytest.raises(KilonetError) as error:
        thread_safe(load_model(model))
    refusal(error, "NaN or infinity")
    command(capsys, "serve", model, "--port", "0").refused("NaN or infinity")


# Bad input


@pytest.mark.parametrize("kind", ["text/plain", "text/html", "application/pdf", "application/xml", "video/mp4"])
def test_other_media_types_are_refused(client: TestClient, kind: str, seven: bytes) -> None:
    for path in ("/predict", "/predict/batch"):
        response = client.post(path, content=seven, headers={"content-type": kind})
        refused(response, 415, kind, "GIF, WebP or TIFF file as image/png", "multipart/form-data", "application/json")
    refused(client.post("/predict/batch", content=seven, headers=PNG), 415, "/predict;", "multipart/form-data")


@pytest.mark.parametrize(
    "kind",
    [
        *("image/jpg", "image/jpeg", "IMAGE/PNG; q=1", "image/*", "application/octet-stream", "", None),
        "application/x-www-form-urlencoded",
    ],
)
def test_the_content_decides_where_the_content_type_says_little(
    client: TestClient, kind: str | None, seven: bytes, mnist: DataSet
) -> None:
    """As curl --data-binary, requests.post(url, data=...) and many others send files and JSON."""
    headers = {} if kind is None else {"content-type": kind}
    answer = predicted(client, seven)
    assert client.post("/predict", content=seven, headers=headers).json() == answer
    rows = json.dumps({"pixels": mnist.test.pixels[0, 0].tolist()}).encode()
    response = client.post("/predict", content=b" \n" + rows, headers=headers)
    if kind and kind.lower().startswith("image/"):
        refused(response, 422, "looks like JSON", "application/json")
    else:
        assert response.json() == answer


def test_a_file_is_taken_in_a_form_and_as_a_data_url(client: TestClient, seven: bytes, mnist: DataSet) -> None:
    answer = predicted(client, seven)
    assert client.post("/predict", files={"any": ("seven", seven, "application/pdf")}).json() == answer
    text = base64.b64encode(seven).decode()
    jpeg = base64.b64encode(png(mnist.test.pixels[0, 0].numpy(), "JPEG")).decode()
    for image in (f"data:image/png;base64,{text}", text, f"data:;base64,{text[:50]}\n {text[50:]}"):
        assert client.post("/predict", json={"image": image}).json() == answer
    assert client.post("/predict", json={"image": f"data:image/jpeg;base64,{jpeg}"}).json()["class"] == 7


def test_what_is_no_image_is_refused_with_what_would_work(client: TestClient, seven: bytes) -> None:
    form = client.build_request("POST", "/predict", files={"f": ("7.png", seven)}).read()
    text = base64.b64encode(seven)
    for content, *words in (
        (b"", "empty", "--data-binary"),
        (seven.replace(b"\r\n", b""), "--data-binary"),
        (b'[{"pixels": [[1]]}]', "application/json"),
        (form, "multipart/form-data"),
        (text, '{"image":'),
        (b"data:image/png;base64," + text, '{"image":'),
        (b"photo", "PNG, JPEG, BMP, GIF, WebP or TIFF"),
    ):
        refused(client.post("/predict", content=content, headers=PNG), 422, *words)
    two = [("f", ("a.png", seven)), ("f", ("b.png", seven))]
    refused(client.post("/predict", files=two), 400, "/predict/batch")
    for body, *words in (
        ({"pixels": [[0] * 28] * 28, "image": "x"}, "image", "pixels"),
        ({"picture": "x"}, "picture", "pixels"),
        ({"image": "data:image/png,%89PNG"}, "data:image/png;base64"),
        ({"image": "héé"}, "data:image/png;base64"),
        ({"image": 7}, "image"),
        ({"image": text[:-32].decode()}, "the image"),
    ):
        refused(client.post("/predict", json=body), 422, *words)
    refused(client.post("/predict/batch", json={"images": [[[0] * 28] * 28, "x"]}), 422, "images.1", "list")


@pytest.mark.parametrize("level", [0.5, 1, 1.0, 0.003])
def test_levels_from_0_to_1_are_refused(client: TestClient, level: float) -> None:
    rows = [[0] * 28] * 27 + [[level] * 28]
    refused(client.post("/predict", json={"pixels": rows}), 422, "0 to 255", "multiply")
    refused(client.post("/predict/batch", json={"images": [rows]}), 422, "0 to 255", "multiply")


@pytest.mark.parametrize(
    ("charset", "boundary"),
    [
        *((name, b"x") for name in ("utf-7", "unicode_escape", "punycode", "idna", "hex", "undefined", "\xff", "")),
        ("", b""),
    ],
)
def test_a_form_of_any_charset_is_answered_or_refused(
    client: TestClient, charset: str, boundary: bytes, seven: bytes
) -> None:
    for name in (b"7.png", b"+ADw-\\N{x}\xff", 5000 * b"x", b'"'):
        head = b'--%b\r\nContent-Disposition: form-data; name="f"; filename="%b"\r\n\r\n' % (boundary, name)
        content = head + seven + b"\r\n--%b--\r\n" % boundary
        kind = f"multipart/form-data; boundary={boundary.decode()}; charset={charset}".encode("latin-1")
        for path in ("/predict/batch", "/predict"):
            response = client.post(path, content=content, headers={b"content-type": kind})
            if response.status_code != 200:
                refused(response, 400)


@pytest.mark.parametrize("fault", [LookupError("unknown encoding"), UnicodeError(), AssertionError(), OverflowError()])
def test_a_form_that_its_parser_breaks_over_is_refused(
    client: TestClient, seven: bytes, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr(FormParser, "write", broken)
    refused(client.post("/predict", files={"f": ("7.png", seven)}), 400, "malformed", str(fault))


def test_a_form_is_kept_in_memory(seven: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk has no room for temporary files."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    monkeypatch.setattr(tempfile, "_TemporaryFileWrapper", full)
    with TestClient(service_of("best", replace(LIMITS, bytes=4 << 20))) as opened:
        response = opened.post("/predict/batch", files={"f": ("7.png", seven + bytes(2 << 20))})
        assert response.json()["answers"][0]["class"] == 7


def test_a_form_that_ends_early_is_refused(client: TestClient, seven: bytes) -> None:
    asked = client.build_request("POST", "/predict", files=[("f", ("a.png", seven)), ("f", ("b.png", seven))])
    content = asked.read()
    for cut in (len(content) - 6, len(content) - 200, 50):
        response = client.post("/predict/batch", content=content[:cut], headers=asked.headers)
        refused(response, 400, "form")


def test_json_of_many_keys_or_values_is_refused_before_it_takes_memory(client: TestClient) -> None:
    """A million of them in a body took hundreds of megabytes to complain of each."""
    many = ",".join(f'"k{number}":0' for number in range(40_000))
    bodies = [f"{{{many}}}", '{"pixels":[' + 200_000 * "[]," + "[]]}", '{"pixels":[[' + 300_000 * "-1," + "0]]}"]
    for body in bodies:
        tracemalloc.start()
        for path in ("/predict", "/predict/batch"):
            refused(client.post(path, content=body, headers=JSON), 422, "more values or keys than", "send")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * len(body)
    refused(client.post("/predict", json={"key": 0, "other": 1}), 422, "key: unknown key")
    refused(client.post("/predict", json={str(key): 0 for key in range(100)}), 422, "more values or keys than")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"pixels": 7}',
        '{"pixels": []}',
        '{"pixels": [[0]]}',
        json.dumps({"pixels": [[0] * 28] * 27}),
        json.dumps({"pixels": [[0] * 28] * 27 + [[0] * 27]}),
        json.dumps({"pixels": [[0] * 28] * 27 + [[256] + [0] * 27]}),
        json.dumps({"pixels": [[0] * 28] * 27 + [[-1] + [0] * 27]}),
        json.dumps({"pixels": [[0] * 28] * 27 + [[0.5] + [0] * 27]}),
        json.dumps({"pixels": [[0] * 28] * 27 + [[float("nan")] + [0] * 27]}),
        json.dumps({"pixels": [[0] * 28] * 27 + [["0"] + [0] * 27]}),
        json.dumps({"pixels": [[0] * 28] * 27 + [[True] + [0] * 27]}),
        json.dumps({"pixels": [[0] * 28] * 28, "url": "http://localhost/"}),
        "[" * 100_000,
        '{"pixels": ' + "[" * 100_000,
        '{"pixels": 1e999}',
        '{"pixels": ' + "9" * 10_000 + "}",
        b"\xff\xfe{}",
    ],
)
def test_other_json_than_pixels_is_refused(client: TestClient, body: str | bytes) -> None:
    refused(client.post("/predict", content=body, headers=JSON), 422)
    refused(client.post("/predict/batch", content=body, headers=JSON), 422)


def test_a_batch_of_too_many_or_none_is_refused(client: TestClient, seven: bytes) -> None:
    image = [[0] * 28] * 28
    assert client.post("/predict/batch", json={"images": 4 * [image]}).status_code == 200
    refused(client.post("/predict/batch", json={"images": 5 * [image]}), 422, "at most 4")
    refused(client.post("/predict/batch", json={"images": []}), 422, "at least 1")
    refused(client.post("/predict/batch", files=[("f", ("a.png", seven))] * 5), 400, "4")
    refused(client.post("/predict/batch", files={"f": ("a.png", seven)}, data={"more": "text"}), 400)
    form = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post("/predict/batch", content=b"--x--\r\n", headers=form), 422, "no file")
    refused(client.post("/predict/batch", content=b"", headers=form), 422, "no file")
    refused(client.post("/predict/batch", content=seven, headers=form), 400)
    refused(client.post("/predict/batch", content=seven, headers={"content-type": "multipart/form-data"}), 400)


def test_one_bad_file_of_a_batch_is_named(client: TestClient, seven: bytes) -> None:
    files = [("f", ("good.png", seven)), ("f", ("bad.png", seven[:-20])), ("f", ("x" * 300, seven))]
    refused(client.post("/predict/batch", files=files), 422, "bad.png")


def test_too_long_a_body_is_refused(client: TestClient) -> None:
    for path in ("/predict", "/predict/batch", "/nothing"):
        refused(client.post(path, content=bytes(LIMITS.bytes + 1), headers=PNG), 413, "1,048,576 bytes")


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (1_000_001, 1), (0, 0)])
def test_gigantic_dimensions_are_refused_before_anything_is_decoded(client: TestClient, size: tuple[int, int]) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    refused(client.post("/predict", content=content, headers=PNG), 422)


def test_a_palette_image_without_its_palette_is_refused_or_answered(client: TestClient) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (28, 600):
        pixels = zlib.compress(side * (b"\0" + side * b"\1"))
        parts = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 3, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b""))
        response = client.post("/predict", content=b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
        if response.status_code != 200:
            refused(response, 422)


def test_a_decompression_bomb_is_refused(client: TestClient) -> None:
    """Ten megabytes of pixels in ten kilobytes: within the limit of bytes, over that of pixels."""
    content = png(np.zeros((3200, 3200), np.uint8))
    assert len(content) < 20_000
    refused(client.post("/predict", content=content, headers=PNG), 422, "3200x3200", "1,000,000")


def test_a_file_of_two_formats_is_read_as_an_image_only(client: TestClient, seven: bytes, mnist: DataSet) -> None:
    answer = predicted(client, seven)
    assert predicted(client, seven + b"PK\x03\x04" + 100 * b"zip") == answer
    jpeg = png(mnist.test.pixels[0, 0].numpy(), "JPEG")
    assert predicted(client, jpeg + b"<html><script>alert(1)</script>", "image/jpeg")["class"] == 7
    for content in (b"<html>" + jpeg, b"PK\x03\x04" + seven, b"GIF89a" + seven, b"%PDF-1.4 " + seven, b"<svg/>"):
        refused(client.post("/predict", content=content, headers=PNG), 422)


@hypothesis.settings(max_examples=60)
@hypothesis.given(strategies.data())
def test_a_truncated_or_damaged_file_is_answered_or_refused_in_one_line(
    client: TestClient, mnist: DataSet, data: strategies.DataObject
) -> None:
    kind = data.draw(strategies.sampled_from(("PNG", "JPEG")))
    content = bytearray(png(mnist.test.pixels[data.draw(strategies.integers(0, 20)), 0].numpy(), kind))
    for _ in range(data.draw(strategies.integers(0, 3))):
        content[data.draw(strategies.integers(0, len(content) - 1))] = data.draw(strategies.integers(0, 255))
    cut = data.draw(strategies.integers(0, len(content)))
    response = client.post("/predict", content=bytes(content[:cut]), headers=PNG)
    if response.status_code != 200:
        refused(response, 422)


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    strategies.integers(1, 60), strategies.integers(1, 60), strategies.sampled_from((1, 3)), strategies.integers(0, 99)
)
def test_any_image_is_answered(client: TestClient, rows: int, columns: int, channels: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns, channels), np.uint8)
    answer = predicted(client, png(pixels[:, :, 0] if channels == 1 else pixels))
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert (answer["class"] is None) == (answer["no_digit"] is not None)
    assert np.shape(answer["seen"]) == (28, 28)


def test_a_late_batch_is_given_up_between_two_images(mnist: DataSet) -> None:
    limits = RequestLimits(bytes=1 << 20, pixels=1_000_000, images=4, requests=16, seconds=1e-9)
    answering = Answering(thread_safe(load_model("best")), limits, Metrics("0123456789"))
    images = [from_pixels(image) for image in mnist.test.pixels[:2, 0].tolist()]
    with pytest.raises(Refusal, match="no answer within"):
        in_loop(answering.json(Body(lambda: images, is_quick=True), Answers.BATCH))


def test_limits_are_positive() -> None:
    with pytest.raises(KilonetError) as error:
        RequestLimits(bytes=1, pixels=1, images=0, requests=1, seconds=1)
    refusal(error, "--max-images", "0")
    with pytest.raises(KilonetError) as error:
        RequestLimits(bytes=1, pixels=1, images=1, requests=1, seconds=float("nan"))
    refusal(error, "--max-seconds")


def test_a_model_that_was_never_scored_is_served_too() -> None:
    section = ModelSection(layers=BASELINE_LAYERS)
    model = Model(section, initial_network(section, 0).state())
    facts = describe_model(model, thread_safe(model), "runs/mine/model.safetensors")
    assert (facts.name, facts.accuracy, facts.calibration) == ("mine", None, None)


def wide(channels: int, side: int) -> Model:
    section = ModelSection(input=(1, side, side), layers=(f"conv {channels} same", "gap", "pointwise 3"))
    return Model(section, initial_network(section, 0).state())


def test_a_batch_takes_no_more_memory_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many images of a network whose activations take much memory are computed a few at once."""
    counts: list[int] = []
    model, whole = wide(64, 256), OnnxSession.logits

    def logits(session: OnnxSession, pixels: Any) -> Any:
        counts.append(len(pixels))
        return whole(session, pixels)

    monkeypatch.setattr(OnnxSession, "logits", logits)
    thread_safe(model).logits(torch.zeros(12, 1, 256, 256, dtype=torch.uint8))
    assert sum(counts) == 2 + 12
    assert max(counts) * image_bytes(model.section.placed) <= 128 << 20


def test_a_network_that_takes_too_much_memory_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilonet.serve.classifiers.cores", lambda: 2)
    with pytest.raises(KilonetError) as error:
        thread_safe(wide(340, 512))
    refusal(error, "2 images at once", "1,024 MiB")
