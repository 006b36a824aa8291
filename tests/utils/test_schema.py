"""The wording of validation errors."""

import pytest
from pydantic import Field, ValidationError

from helpers import refusal
from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import Schema, first_complaint


class Inner(Schema):
    count: int = 0


class Outer(Schema):
    inner: Inner
    words: list[str] = Field(default_factory=list)


def complaint(table: object) -> str:
    with pytest.raises(ValidationError) as error:
        Outer.model_validate(table)
    return refusal(KilonetError(first_complaint(error.value)))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, "inner: missing"),
        ({"inner": {}, "other": 1}, "other: unknown key"),
        ({"inner": {"count": "7"}}, "inner.count = '7': input should be a valid integer"),
        ({"inner": {}, "words": ["a", 2]}, "words.1 = 2: input should be a valid string"),
        (3, "input should be a valid dictionary or instance of Outer"),
    ],
)
def test_the_key_the_value_and_the_reason_are_named(table: object, expected: str) -> None:
    assert complaint(table) == expected


@pytest.mark.parametrize(
    "value", ["9" * 100_000, ["9" * 10_000] * 1000, {"k" * 10_000: {"k": 10_000 * [1]}}, 9.0**300, b"9" * 100_000]
)
def test_long_values_are_cut(value: object) -> None:
    assert len(complaint({"inner": {"count": value}})) < 200


def test_a_number_too_long_to_be_written_is_named() -> None:
    assert complaint({"inner": {}, "words": [1 << 100_000]}).startswith("words.0 = a huge int: ")


def test_long_keys_are_cut() -> None:
    assert len(complaint({"inner": {}, "k" * 100_000: 1})) < 100
