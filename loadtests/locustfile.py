"""Locust users, a class per built-in variant: `locust -f loadtests/locustfile.py --host http://...`.

A closed loop: each user waits for its picture and asks for the next at once. For latency under a
given rate use `loadtests.openloop`. Each reply is checked against its request; a wrong picture, and
with `--slo` a late one, is a failure. A 429 is no failure but a row of its own.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from locust import FastHttpUser, constant, events, tag, task

from loadtests.bodies import GENERATIONS, content_of, path_of
from loadtests.keys import KEY_HELP, KEY_VARIABLE
from loadtests.replies import AUTO, Verdict, judge, judge_stream
from loadtests.workload import Workload
from serve.catalogue import MINIATURE, SD_V1
from serve.variants import Variant

# Workers of a distributed run ask for different requests.
_REQUESTS_OF_A_WORKER = 1_000_000


@events.init_command_line_parser.add_listener
def _add_arguments(parser: Any) -> None:
    parser.add_argument("--steps", type=int, default=0, help="the variant's own when 0")
    parser.add_argument("--size", default="", help="WIDTHxHEIGHT; the variant's own when empty")
    parser.add_argument("--images", type=int, default=1, help="images a request")
    parser.add_argument(
        "--guidance", type=float, default=-1, help="the variant's own when negative"
    )
    parser.add_argument("--prompts", choices=("miniature", "sd-v1"), default="miniature")
    parser.add_argument("--workload-seed", type=int, default=0, help="of prompts and seeds")
    parser.add_argument(
        "--variant",
        "--mixed-variant",
        default="distilled",
        help="of AnyVariantUser, MixedStepsUser, EditUser, StreamingUser, and of a trace",
    )
    parser.add_argument("--previews", type=int, default=3, help="of StreamingUser, 1 to 3")
    parser.add_argument("--slo", type=float, default=0, help="seconds; later replies are failures")
    parser.add_argument("--key", default="", env_var=KEY_VARIABLE, help=KEY_HELP, is_secret=True)
    parser.add_argument(
        "--honour-retry-after", action="store_true", help="after a 429 wait as long as it says"
    )


@events.init.add_listener
def _drop_classes_without_tasks(environment: Any, **_: Any) -> None:
    """Let `--tags distilled` and `--exclude-tags original` leave out whole classes.

    A variant that is served on request is asked only where its class or its tag is named.
    """
    options = environment.parsed_options
    wanted, excluded = set(options.tags or ()), set(options.exclude_tags or ())
    environment.user_classes = [
        user_class
        for user_class in environment.user_classes
        if any(
            (not wanted or wanted & tags) and not excluded & tags
            for tags in (task.locust_tag_set for task in user_class.tasks)
        )
        and (wanted or not user_class.on_request or user_class.__name__ in options.user_classes)
    ]


class VariantUser(FastHttpUser):
    """Asks one variant for one picture after another."""

    abstract = True
    # `--variant` and `--steps` where a class names none.
    variant = ""
    on_request = False
    step_counts: tuple[int, ...] = ()
    edits = 0.0
    wait_time = constant(0)
    network_timeout = 300.0
    connection_timeout = 10.0
    # Shared by the users of a class, so that none repeats another's request.
    _indices: Iterator[int] | None = None

    def __init__(self, environment: Any) -> None:
        self.host = self.host.rstrip("/") if self.host else self.host
        super().__init__(environment)

    def on_start(self) -> None:
        """Read the command line's arguments."""
        options = self.environment.parsed_options
        self.options = options
        self.variant = self.variant or options.variant
        self.workload = Workload.shipped(
            options.prompts,
            seed=options.workload_seed,
            num_inference_steps=self.step_counts or ((options.steps,) if options.steps else ()),
            n=options.images,
            size=options.size or None,
            guidance_scale=options.guidance if options.guidance >= 0 else None,
            edits=self.edits,
        )
        if type(self)._indices is None:
            worker = getattr(self.environment.runner, "worker_index", 0)
            type(self)._indices = itertools.count(max(0, worker) * _REQUESTS_OF_A_WORKER)

    def name(self, asked: dict[str, Any]) -> str:
        """The request's row in the statistics."""
        return f"{path_of(asked)} [{asked['model']}]"

    def answered_name(self, asked: dict[str, Any], verdict: Verdict) -> str:
        """The row, given the reply."""
        return self.name(asked)

    def draw(self, late_s: float = 0.0) -> None:
        """Ask once, and judge the reply; a request that is fired late has waited so much longer."""
        asked = self.next_body()
        with self.post(asked) as response:
            response.request_meta["response_time"] += 1000 * late_s
            # No status at all: Locust has its own words for a connection that failed.
            if response.status_code == 0:
                return
            verdict = judge(response.status_code, response.headers, response.content, asked)
            self.settle(response, asked, verdict)
        self.honour_retry_after(verdict)

    def next_body(self) -> dict[str, Any]:
        """The next request of this class."""
        indices = type(self)._indices
        assert indices is not None  # Set in `on_start`.
        return self.workload.body(next(indices), self.variant)

    def post(self, asked: dict[str, Any], **options: Any) -> Any:
        """Send a request; a context manager of its response."""
        # Locust's types know no bytes.
        content: Any
        content, content_type = content_of(asked)
        headers = {"Content-Type": content_type}
        if self.options.key:
            headers["Authorization"] = f"Bearer {self.options.key}"
        return self.client.post(
            path_of(asked),
            data=content,
            headers=headers,
            name=self.name(asked),
            catch_response=True,
            **options,
        )

    def settle(self, response: Any, asked: dict[str, Any], verdict: Verdict) -> None:
        """Make a row of a judged response, and a failure of a wrong or a late one."""
        response.request_meta["name"] = self.answered_name(asked, verdict)
        if verdict.outcome == "rejected":
            response.request_meta["name"] += " 429"
            response.success()
        elif verdict.outcome == "failed":
            response.failure(verdict.reason)
        elif 0 < self.options.slo < response.request_meta["response_time"] / 1000:
            response.failure(f"slower than the SLO of {self.options.slo:g} s")

    def honour_retry_after(self, verdict: Verdict) -> None:
        """Wait as long as a 429 says, with `--honour-retry-after`."""
        if verdict.outcome == "rejected" and self.options.honour_retry_after:
            time.sleep(verdict.retry_after_s or 1)  # Locust has made it yield.


def _one_picture(name: str) -> Callable[[VariantUser], None]:
    """A task under a tag."""

    @tag(name)
    @task
    def generate(user: VariantUser) -> None:
        user.draw()

    return generate


def _user_class(variant: Variant) -> type[VariantUser]:
    """`DistilledTinyVaeUser`, say, which asks `distilled-tiny-vae`."""
    name = "".join(part.capitalize() for part in variant.name.split("-"))
    fields = {
        "__doc__": f"Asks `{variant.name}`.",
        "variant": variant.name,
        "on_request": variant.on_request,
        "generate": _one_picture(variant.name),
    }
    return type(f"{name}User", (VariantUser,), fields)


# Locust finds user classes among the names of this module.
globals().update(
    (user_class.__name__, user_class)
    for user_class in map(_user_class, {**MINIATURE.variants, **SD_V1.variants}.values())
)


class AnyVariantUser(VariantUser):
    """Asks `--variant`, such as one of your own."""

    on_request = True
    generate = _one_picture("variant")


class AutoUser(VariantUser):
    """Leaves the variant to the service; a row for each variant that answered, and each reason."""

    variant = AUTO
    generate = _one_picture(variant)

    def answered_name(self, asked: dict[str, Any], verdict: Verdict) -> str:
        """The row of the variant that answered; its requests are that variant's share."""
        if not verdict.model:
            return self.name(asked)
        return f"{GENERATIONS} [{AUTO}: {verdict.model}, {verdict.model_reason}]"


class MixedStepsUser(VariantUser):
    """Asks one variant for 10, 25 or 50 steps in turn; a row of the statistics for each."""

    step_counts = 10, 25, 50
    generate = _one_picture("mixed")

    def name(self, asked: dict[str, Any]) -> str:
        """The row of the step count."""
        return f"{GENERATIONS} [{asked['model']}, {asked['num_inference_steps']} steps]"


class EditUser(VariantUser):
    """Asks one variant for edits of the bundled pictures."""

    edits = 1.0
    on_request = True
    generate = _one_picture("edit")


class StreamingUser(VariantUser):
    """Asks one variant for pictures with previews on the way.

    Beside the row of the whole, one for the time to the first preview and one for the time between
    any two events.
    """

    def name(self, asked: dict[str, Any]) -> str:
        """The row of whole streams."""
        return f"{GENERATIONS} [{self.variant}, stream]"

    @tag("streaming")
    @task
    def generate(self) -> None:
        """One picture, and its previews."""
        asked = self.next_body() | {"stream": True, "partial_images": self.options.previews}
        started_s = time.perf_counter()
        with self.post(asked, stream=True) as response:
            if response.status_code == 0:
                return
            if response.status_code != 200:
                content = response.content or b""
                verdict = judge(response.status_code, response.headers, content, asked)
                arrived_s: list[float] = []
            else:
                # Locust's own iterator waits until its buffer is full.
                lines = iter(partial(response._response.readline, b"\n"), b"")
                verdict, arrived_s = judge_stream(
                    lines, asked, lambda: time.perf_counter() - started_s
                )
            response.request_meta["response_time"] = 1000 * (time.perf_counter() - started_s)
            self.settle(response, asked, verdict)
        self.honour_retry_after(verdict)
        if verdict.outcome == "ok":
            self._tell("first preview", arrived_s[:1])
            self._tell("between events", [b - a for a, b in itertools.pairwise(arrived_s)])

    def _tell(self, what: str, seconds: list[float]) -> None:
        for gap_s in seconds:
            self.environment.events.request.fire(
                request_type="SSE",
                name=f"{what} [{self.variant}]",
                response_time=1000 * gap_s,
                response_length=0,
                exception=None,
                context={},
            )
