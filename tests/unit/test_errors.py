import inspect
import pickle

import pytest

from serve import errors
from serve.errors import InvalidRequest, RetryLater, ServingError

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
    assert (copy.message, copy.param, copy.retry_after_s) == (
        error.message,
        error.param,
        error.retry_after_s,
    )
    assert str(copy) == error.message


def test_codes_tell_the_errors_apart() -> None:
    leaves = [one for one in CLASSES if not one.__subclasses__()]
    assert len({one.code for one in leaves}) == len(leaves)
