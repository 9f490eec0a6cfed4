"""The application over steps of a fixed time, as a config file names it."""

import pytest

from loadtests.fixed_step import FixedStepArgs, build_app


def test_a_config_file_sets_the_step_beside_the_applications_own_arguments() -> None:
    args = FixedStepArgs.model_validate({"variants": "distilled", "step_s": "0.5"})
    assert (args.variants, args.step_s) == (("distilled",), 0.5)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"step_s": 0}, id="no-time"),
        pytest.param({"steps_s": 1}, id="misspelt"),
        pytest.param({"variants": "nope"}, id="variant"),
    ],
)
def test_wrong_arguments_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"step|nope"):
        FixedStepArgs.model_validate(fields)


def test_it_has_the_deployments_of_the_real_application() -> None:
    app = build_app(FixedStepArgs(step_s=0.5))
    assert app._bound_deployment.name == "router"
