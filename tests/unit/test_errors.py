import inspect
import pickle
from typing import Any

import pytest

from serve import errors
from serve.errors import InvalidRequest, RetryLater, ServingError, shown

CLASSES = [
    one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, ServingError)
]


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda one: one.__name__)
def test_an_error_survives_pickling_with_its_type_and_fields(
    error_class: type[ServingError],
) -> None:
    if issubclass(error_class, InvalidRequest):
        error: ServingError = error_class("n: 9 was given", "n")
    elif issubclass(error_class, RetryLater):
        error = error_class("later", 2.5)
    else:
        error = error_class("what happened")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert (copy.args, vars(copy), str(copy)) == (error.args, vars(error), error.message)


def test_codes_tell_the_errors_apart() -> None:
    leaves = [one for one in CLASSES if not one.__subclasses__()]
    assert len({one.code for one in leaves}) == len(leaves)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(None, "null", id="null"),
        pytest.param({"a": [True, 1.5]}, '{"a": [true, 1.5]}', id="nested"),
        pytest.param("a\u202eb", r'"a\u202eb"', id="bidirectional"),
        pytest.param("\ud800", r'"\ud800"', id="half-a-surrogate-pair"),
        pytest.param("\x1b\x7f", r'"\u001b\u007f"', id="control-characters"),
        pytest.param(float("inf"), "Infinity", id="infinity"),
        pytest.param({1j}, '"{1j}"', id="no-json"),
        pytest.param("x" * 78, f'"{"x" * 78}"', id="just-short-enough"),
        pytest.param("x" * 79, f'"{"x" * 76}...', id="cut"),
    ],
)
def test_a_value_is_shown_as_json_in_80_printable_ascii_characters(value: Any, text: str) -> None:
    assert shown(value) == text
    assert len(text) <= 80
