"""schemathesis over the service's OpenAPI document: no server errors, no response that it does not describe."""

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, strategies
from hypothesis.extra import numpy as arrays

from service import png, service_of

pytestmark = pytest.mark.ci
_IMAGES = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))


@pytest.fixture(scope="module")
def described() -> Any:
    # Not above: only the process that runs these tests need wait for it.
    import schemathesis

    for kind, form in (("image/png", "PNG"), ("image/jpeg", "JPEG"), ("application/octet-stream", "PNG")):
        schemathesis.openapi.media_type(kind, strategies.builds(png, _IMAGES, strategies.just(form)))
    return schemathesis.openapi.from_asgi("/openapi.json", service_of("best"))


_PREDICTING = [("POST", "/predict"), ("POST", "/predict/batch"), ("POST", "/predict/page")]
_INFORMING = [("GET", "/model"), ("GET", "/health"), ("GET", "/metrics")]


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    # A route without input cannot be given bad input.
    [*((*one, "positive") for one in _PREDICTING + _INFORMING), *((*one, "negative") for one in _PREDICTING)],
)
def test_every_answer_is_as_described(described: Any, method: str, path: str, mode: str) -> None:
    from schemathesis import Case, GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    operation = described[path][method]

    @hypothesis.settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @hypothesis.given(operation.as_strategy(generation_mode=GenerationMode(mode)))
    def check(case: Case[Any]) -> None:
        is_free = mode == "positive" and is_beyond_schema(case.media_type, case.body)
        case.call_and_validate(excluded_checks=[positive_data_acceptance] if is_free else [])

    check()


def is_beyond_schema(media_type: str | None, body: Any) -> bool:
    """Return whether a body that fits the schema may be refused: a schema cannot say what an image file is.

    Nor can it say that levels from 0 to 1 are none.
    """
    if media_type != "application/json":
        return media_type == "multipart/form-data"
    (given,) = body.values()
    return isinstance(given, str) or any(np.max(image) == 1 for image in (given if np.ndim(given) == 3 else [given]))


def test_all_operations_are_tried(described: Any) -> None:
    operations = {(one.ok().method.upper(), one.ok().path) for one in described.get_all_operations()}
    assert operations == {*_PREDICTING, *_INFORMING}
