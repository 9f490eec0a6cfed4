"""The arguments of `build_app`, from a config file or the command line."""

from typing import Any

import pytest

from serve.app import AppArgs


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param({"familly": "miniature"}, "familly", id="misspelt"),
        pytest.param({"family": "sd-v9"}, "family", id="family"),
        pytest.param({"variants": "original,nope"}, "'nope' was given", id="variant"),
        pytest.param({"num_gpus": -1}, "num_gpus", id="negative-gpus"),
        pytest.param({"num_gpus": "nan"}, "num_gpus", id="nan-gpus"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AppArgs.model_validate(arguments)


def test_the_command_lines_strings_are_understood() -> None:
    args = AppArgs.model_validate({"variants": "original,distilled", "num_gpus": "0.5"})
    assert args.variants == ("original", "distilled")
    assert args.num_gpus == 0.5
