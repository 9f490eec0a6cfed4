"""The router without Ray: whom it asks, what it tries again, and what it makes of errors."""

import asyncio
import math
from collections.abc import AsyncIterator, Generator, Sequence
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve.catalogue import MINIATURE
from serve.errors import (
    InvalidRequest,
    NotFinite,
    Overloaded,
    ServingError,
    UnsuitableVariant,
    VariantNotFound,
    VariantUnavailable,
)
from serve.generation import Drawing, Generation, PictureFormat, Timings
from serve.miniature import WEIGHTS_DIR
from serve.replica_info import Memory, ReplicaInfo
from serve.routing.auto import QualityFirstPolicy, WeightedPolicy
from serve.routing.replicas import RayReplicas
from serve.routing.router import Router
from serve.variants import Variant
from serve.weights.manifest import read_manifest
from tests.fakes import generation
from tests.machine import until

PNG = PictureFormat("png", 100)
DRAWING = Drawing((b"a picture",), Timings(0.0, 0.1, 0.1, 0.0), ())


HANGS = "no answer"
MISSING = DeploymentUnavailableError(DeploymentID("distilled"))
FULL = BackPressureError(num_queued_requests=2, max_queued_requests=2)


class Response:
    """A replica's answer on its way: raised if it is an exception, never there if it hangs."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        if self.answer is HANGS:
            yield from asyncio.Event().wait().__await__()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def cancel(self) -> None:
        self.cancelled = True
        if isinstance(self.answer, Exception):
            raise self.answer  # As Serve's does for a call that no replica took.


class Remote:
    """A deployment's method: answers in turn."""

    def __init__(self, answers: Sequence[Any], kind: type[Response] = Response) -> None:
        self.answers = list(answers)
        self.kind = kind
        self.asked: list[tuple[Any, ...]] = []
        self.responses: list[Response] = []

    def remote(self, *arguments: Any) -> Response:
        self.asked.append(arguments)
        self.responses.append(self.kind(self.answers.pop(0)))
        return self.responses[-1]


class Events(Response):
    """A replica's stream: events in turn; an exception is raised, and ends it."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        for event in self.answer:
            if isinstance(event, Exception):
                raise event
            yield event


class Handle:
    """A deployment's handle, as far as the router uses it."""

    def __init__(
        self,
        draws: Sequence[Any] = (),
        forecasts: Sequence[Any] = (),
        streams: Sequence[Any] = (),
        infos: Sequence[Any] = (),
        deployment: str = "a deployment",
    ) -> None:
        self.draw, self.forecast, self.info = Remote(draws), Remote(forecasts), Remote(infos)
        self.deployment_name = deployment
        self.stream = Remote(streams, Events)

    def options(self, *, stream: bool) -> "Handle":
        assert stream
        return self


def router(policy: Any = None, **handles: Handle) -> Router:
    manifest = read_manifest(WEIGHTS_DIR)
    replicas = {name: RayReplicas(handle, 7) for name, handle in handles.items()}
    return Router(MINIATURE, manifest, replicas, 7, "original", policy)


def resolve(variant: Variant) -> Generation:
    return generation(variant=variant.name)


def chosen(made: Router, model: str) -> tuple[str, str | None]:
    choice = asyncio.run(made.choose(model, resolve))
    return choice.generation.variant, choice.reason


def test_a_pinned_variant_is_nobodys_choice_but_the_clients() -> None:
    policy = QualityFirstPolicy(kind="quality-first", slo_s=1)
    made = router(policy, original=Handle(), distilled=Handle())
    assert chosen(made, "original") == ("original", None)


@pytest.mark.parametrize("model", ["huge", "auto"])
def test_what_is_not_served_is_refused_with_what_is(model: str) -> None:
    with pytest.raises(VariantNotFound) as caught:
        chosen(router(None, original=Handle(), distilled=Handle()), model)
    assert caught.value.message == f'model: "{model}" was given; allowed: "original", "distilled"'


def test_auto_takes_the_best_variant_whose_forecast_is_in_time() -> None:
    policy = QualityFirstPolicy(kind="quality-first", slo_s=2)
    handles = {"original": Handle(forecasts=[1.0, 9.0]), "distilled": Handle(forecasts=[0.5, 1.0])}
    made = router(policy, **handles)
    assert chosen(made, "auto") == ("original", "the best, in time")
    assert chosen(made, "auto") == ("distilled", "degraded under load")
    asked = [one.variant for (one,) in handles["distilled"].forecast.asked]
    assert asked == ["distilled", "distilled"]


def test_auto_forecasts_and_draws_each_variant_as_it_resolves() -> None:
    policy = QualityFirstPolicy(kind="quality-first", slo_s=2)
    handles = {"original": Handle(forecasts=[9.0]), "distilled": Handle(forecasts=[1.0])}
    sizes_px = {"original": 96, "distilled": 64}

    def by_variant(variant: Variant) -> Generation:
        return generation(variant=variant.name, width_px=sizes_px[variant.name])

    choice = asyncio.run(router(policy, **handles).choose("auto", by_variant))
    assert choice.generation == by_variant(MINIATURE.variants["distilled"])
    for name, handle in handles.items():
        assert handle.forecast.asked == [(by_variant(MINIATURE.variants[name]),)]


def test_a_variant_without_a_forecast_is_passed_over() -> None:
    policy = QualityFirstPolicy(kind="quality-first", slo_s=2)
    gone = Handle(forecasts=[RayActorError()])
    made = router(policy, original=gone, distilled=Handle(forecasts=[1.0]))
    assert chosen(made, "auto")[0] == "distilled"


@pytest.mark.parametrize(
    ("forecasts", "variant"),
    [
        pytest.param({"distilled": 9.0}, "distilled", id="the-one-by-weight"),
        pytest.param({"distilled": HANGS}, "distilled", id="however-busy"),
        pytest.param({"distilled": MISSING, "original": 9.0}, "original", id="passed-over"),
        pytest.param({"distilled": MISSING, "original": FULL}, "distilled", id="none-takes-any"),
    ],
)
def test_auto_by_weights_passes_over_a_variant_that_takes_no_requests(
    forecasts: dict[str, Any], variant: str
) -> None:
    weights = {"original": 1e-9, "distilled": 1}
    handles = {name: Handle(forecasts=[forecasts.get(name)]) for name in weights}
    made = router(WeightedPolicy(kind="weighted", weights=weights), **handles)
    assert chosen(made, "auto") == (variant, "weight")
    assert [name for name, handle in handles.items() if handle.forecast.asked] == sorted(
        forecasts, reverse=True
    )


INFO = ReplicaInfo("a device", Memory(rss_bytes=1))


async def test_what_a_replica_says_of_itself_is_none_where_it_dies_or_does_not_answer() -> None:
    handles = {
        "original": Handle(infos=[INFO], deployment="original"),
        "distilled": Handle(infos=[RayActorError()], deployment="distilled"),
        "distilled-tiny-vae": Handle(infos=[HANGS], deployment="distilled-tiny-vae"),
    }
    made = router(None, **handles)
    # Together with others that ask meanwhile: every replica gets one question.
    first, second = await asyncio.gather(made.replica_info(), made.replica_info())
    assert first == {"original": INFO, "distilled": None, "distilled-tiny-vae": None}
    assert second == first
    assert handles["distilled-tiny-vae"].info.responses[0].cancelled
    assert all(len(handle.info.asked) == 1 for handle in handles.values())


async def test_variants_of_one_deployment_ask_it_once_and_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = Handle(infos=[INFO, RayActorError()], deployment="packed")
    made = router(None, original=packed, distilled=packed)
    assert await made.replica_info() == {"original": INFO, "distilled": INFO}
    monkeypatch.setattr("serve.routing.router._INFO_AGE_S", 0.0)
    assert await made.replica_info() == {"original": None, "distilled": None}


def drawn(handle: Handle) -> Drawing:
    job = generation(variant="original")
    return asyncio.run(router(None, original=handle).draw(job, PNG))


def test_a_request_whose_replica_dies_is_drawn_by_another_with_the_same_seeds() -> None:
    handle = Handle([RayActorError(), DRAWING])
    assert drawn(handle) == DRAWING
    first, second = handle.draw.asked
    assert first == second


async def test_a_call_that_nobody_waits_for_is_ended_on_the_replica() -> None:
    handle = Handle([HANGS], [HANGS])
    made = router(None, original=handle)
    job = generation(variant="original")
    drawing = asyncio.create_task(made.draw(job, PNG))
    await until(lambda: handle.draw.responses)
    assert not handle.draw.responses[0].cancelled
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    assert handle.draw.responses[0].cancelled
    # So is a forecast that comes too late.
    assert await made.forecast(job) == math.inf
    assert handle.forecast.responses[0].cancelled


def test_a_request_that_kills_two_replicas_is_not_tried_again() -> None:
    handle = Handle([RayActorError(), RayActorError(), DRAWING])
    with pytest.raises(VariantUnavailable) as caught:
        drawn(handle)
    assert caught.value.retry_after_s == 7
    assert len(handle.draw.asked) == 2


@pytest.mark.parametrize(
    ("fault", "error", "retry_after_s"),
    [
        pytest.param(
            BackPressureError(num_queued_requests=2, max_queued_requests=2, retry_after_s=3),
            Overloaded, 3, id="full",
        ),
        pytest.param(FULL, Overloaded, 7, id="full-and-no-word-of-when"),
        pytest.param(MISSING, VariantUnavailable, 7, id="none-took-it-or-can-start"),
        pytest.param(NotFinite("latents"), NotFinite, None, id="an-error-in-the-work"),
    ],
)  # fmt: skip
async def test_another_fault_is_told_at_once(
    fault: Exception, error: type[ServingError], retry_after_s: float | None
) -> None:
    handle, job = Handle([fault, DRAWING], streams=[fault, ["a picture"]]), generation()
    made = router(None, original=handle)
    for answer in (made.draw(job, PNG), anext(made.stream(job, PNG))):
        with pytest.raises(error) as caught:
            await answer
        assert caught.value.retry_after_s == retry_after_s
    assert len(handle.draw.asked) == len(handle.stream.asked) == 1


async def test_a_stream_is_begun_anew_only_before_its_first_event() -> None:
    job = generation(variant="original")
    handle = Handle(streams=[[RayActorError()], ["a preview", "a picture"]])
    events = [event async for event in router(None, original=handle).stream(job, PNG)]
    assert events == ["a preview", "a picture"]
    handle = Handle(streams=[["a preview", RayActorError()], ["a preview", "a picture"]])
    with pytest.raises(VariantUnavailable):
        [event async for event in router(None, original=handle).stream(job, PNG)]
    assert len(handle.stream.asked) == 1


async def test_a_stream_that_is_closed_is_ended_on_the_replica() -> None:
    handle = Handle(streams=[["a preview", "a picture"]])
    stream = router(None, original=handle).stream(generation(variant="original"), PNG)
    assert await anext(stream) == "a preview"
    await stream.aclose()
    assert handle.stream.responses[0].cancelled


def test_auto_leaves_out_the_variants_that_do_not_allow_the_request() -> None:
    policy = QualityFirstPolicy(kind="quality-first", slo_s=2)
    handles = {"original": Handle(forecasts=[1.0]), "distilled": Handle(forecasts=[1.0])}
    made = router(policy, **handles)

    def only_distilled(variant: Variant) -> Generation:
        if variant.name != "distilled":
            raise InvalidRequest(f"{variant.name}: can't", "scheduler")
        return resolve(variant)

    choice = asyncio.run(made.choose("auto", only_distilled))
    assert choice.generation.variant == "distilled"
    assert handles["original"].forecast.asked == []

    def nobody(variant: Variant) -> Generation:
        raise InvalidRequest(f"{variant.name}: can't", "scheduler")

    with pytest.raises(InvalidRequest, match="original: can't"):
        asyncio.run(made.choose("auto", nobody))

    def too_many_steps_for_the_suitable_one(variant: Variant) -> Generation:
        if variant.name == "original":
            raise UnsuitableVariant("original: another scheduler", "scheduler")
        raise InvalidRequest("distilled: too many steps", "num_inference_steps")

    with pytest.raises(InvalidRequest, match="distilled: too many steps"):
        asyncio.run(made.choose("auto", too_many_steps_for_the_suitable_one))
