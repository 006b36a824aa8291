"""schemathesis over the service's OpenAPI document: no server errors, no response that it does not describe."""

from typing import Any

import hypothesis
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, strategies
from hypothesis.extra import numpy as arrays
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service import png, service_of

_IMAGES = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))
for _kind in ("PNG", "JPEG"):
    schemathesis.openapi.media_type(f"image/{_kind.lower()}", strategies.builds(png, _IMAGES, strategies.just(_kind)))


@pytest.fixture(scope="module")
def described() -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", service_of("best"))


_PREDICTING = [("POST", "/predict"), ("POST", "/predict/batch")]
_INFORMING = [("GET", "/model"), ("GET", "/health"), ("GET", "/metrics")]
_POSITIVE, _NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    # A route without input cannot be given bad input.
    [*((*one, _POSITIVE) for one in _PREDICTING + _INFORMING), *((*one, _NEGATIVE) for one in _PREDICTING)],
)
def test_every_answer_is_as_described(described: Any, method: str, path: str, mode: Any) -> None:
    operation = described[path][method]

    @hypothesis.settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case[Any]) -> None:
        # A schema cannot say that a form's binary files are images.
        is_form = case.media_type == "multipart/form-data"
        case.call_and_validate(excluded_checks=[positive_data_acceptance] if is_form else [])

    check()


def test_all_operations_are_tried(described: Any) -> None:
    operations = {(one.ok().method.upper(), one.ok().path) for one in described.get_all_operations()}
    assert operations == {*_PREDICTING, *_INFORMING}
