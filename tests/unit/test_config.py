"""The arguments of `build_app`, from a config file or the command line."""

from pathlib import Path
from typing import Any

import pytest

from serve.app import build_app
from serve.config import AppArgs
from serve.errors import KeysError
from serve.pipelines.optimisations import Optimisations


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param({"familly": "miniature"}, "familly", id="misspelt"),
        pytest.param({"family": "sd-v9"}, "family", id="family"),
        pytest.param({"variants": "original,nope"}, "'nope' was given", id="variant"),
        pytest.param({"optimisations": {"compil": True}}, "compil", id="misspelt-optimisation"),
        pytest.param({"optimisations": {"attention": "x"}}, "'cudnn'", id="attention"),
        pytest.param(
            {"variants": "distilled", "auto": {"kind": "weighted", "weights": {"original": 1}}},
            "auto: 'original' was given; allowed: distilled",
            id="auto-of-what-is-not-served",
        ),
        pytest.param(
            {"auto": {"kind": "weighted", "weights": {"original": 0}}}, "all are 0", id="no-weight"
        ),
        pytest.param({"auto": {"kind": "fastest"}}, "kind", id="unknown-policy"),
        pytest.param(
            {"variants": "distilled", "default_model": "original"},
            "default_model: 'original' was given; allowed: distilled, auto",
            id="default-that-is-not-served",
        ),
        pytest.param({"slots": 0}, "slots", id="no-slots"),
        pytest.param({"policy": "batch"}, "policy", id="an-engines-argument"),
        pytest.param({"num_gpus": -1}, "num_gpus", id="negative-gpus"),
        pytest.param({"num_gpus": "nan"}, "num_gpus", id="nan-gpus"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AppArgs.model_validate(arguments)


def test_the_command_lines_strings_are_understood() -> None:
    args = AppArgs.model_validate({"variants": "original, distilled", "num_gpus": "0.5"})
    assert args.variants == ("original", "distilled")
    assert args.num_gpus == 0.5


def test_optimisations_are_switched_one_by_one() -> None:
    args = AppArgs.model_validate({"optimisations": {"cuda_graphs": False}})
    assert args.optimisations == Optimisations(cuda_graphs=False)


def test_the_application_is_not_built_without_its_keys(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=r"api_keys_file: .*keys' can't be read: No such file"):
        build_app(AppArgs(api_keys_file=tmp_path / "keys"))


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        pytest.param({}, "original", id="original"),
        pytest.param({"variants": "distilled"}, "distilled", id="the-only-one"),
        pytest.param(
            {"variants": "distilled-tiny-vae,distilled"}, "distilled-tiny-vae", id="first"
        ),
        pytest.param({"default_model": "distilled"}, "distilled", id="as-configured"),
        pytest.param({"default_model": "auto"}, "auto", id="auto"),
    ],
)
def test_requests_without_a_model_go_to_what_is_served(
    arguments: dict[str, str], model: str
) -> None:
    assert AppArgs.model_validate(arguments).model_when_absent == model
