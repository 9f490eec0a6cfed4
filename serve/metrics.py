"""Every metric of this project, named in one place; Ray prefixes `ray_` and adds `_total`.

Serve tags them with application, deployment and replica. docs/metrics.md says what each means; a
test compares it with this module.
"""

from dataclasses import asdict

from ray.serve.metrics import Counter, Gauge, Histogram

from .engine.observer import Observer, Outcome
from .generation import Generation
from .replica_info import ReplicaInfo

# A picture takes from a tenth of a second on a large GPU to a minute on a CPU.
_REQUEST_BUCKETS_S = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60, 120]
_STEP_BUCKETS_S = [0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 10]
_IMAGES_BUCKETS = [1, 2, 3, 4, 6, 8, 12, 16]
_RATIO_BUCKETS = [0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4]
_RETRY_BUCKETS_S = [1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300, 600]
_VARIANT = ("variant",)


class ReplicaMetrics(Observer):
    """What a replica counts: the engine's measurements, and what happens around the engine."""

    def __init__(self) -> None:
        self._requests = Counter(
            "dsd_requests", "Requests that ended in a replica", ("variant", "outcome")
        )
        self._refused = Counter(
            "dsd_deadlines_refused", "Requests whose deadline was out of reach on arrival", _VARIANT
        )
        self._overloaded = Counter(
            "dsd_overload_refused", "Requests refused on arrival for a long queue", _VARIANT
        )
        self._retry_after_s = Histogram(
            "dsd_retry_after_seconds",
            "Retry-After of refused requests",
            _RETRY_BUCKETS_S,
            ("variant", "code"),
        )
        self._forecast = Histogram(
            "dsd_forecast_ratio", "Time taken over time forecast", _RATIO_BUCKETS, _VARIANT
        )
        self._request_s = Histogram(
            "dsd_request_seconds", "From arrival to the last picture", _REQUEST_BUCKETS_S, _VARIANT
        )
        self._queue_s = Histogram(
            "dsd_queue_wait_seconds", "From arrival to a slot", _REQUEST_BUCKETS_S, _VARIANT
        )
        self._first_preview_s = Histogram(
            "dsd_first_preview_seconds", "From arrival to a preview", _REQUEST_BUCKETS_S, _VARIANT
        )
        self._slots = Gauge("dsd_slots", "Images that may be under way at once")
        self._slots_used = Gauge("dsd_slots_used", "Images under way")
        self._images_waiting = Gauge("dsd_images_waiting", "Images that wait for a slot")
        self._flagged = Counter(
            "dsd_flagged_images", "Pictures that the safety checker flagged", _VARIANT
        )
        self._call_images = Histogram("dsd_call_images", "Images in a UNet call", _IMAGES_BUCKETS)
        self._step_s = Histogram("dsd_step_seconds", "One UNet call", _STEP_BUCKETS_S)
        self._decode_s = Histogram("dsd_decode_seconds", "Decoding, per image", _STEP_BUCKETS_S)
        self._source_s = Histogram(
            "dsd_source_encode_seconds", "Encoding the picture of an edit", _STEP_BUCKETS_S
        )
        self._encode_s = Histogram(
            "dsd_encode_seconds", "PNG, JPEG or WebP, per image", _STEP_BUCKETS_S
        )
        self._preview_s = Histogram("dsd_preview_seconds", "Making a preview", _STEP_BUCKETS_S)
        self._previews_skipped = Counter(
            "dsd_previews_skipped", "Previews that would have cost other requests too much"
        )
        self._out_of_memory = Counter("dsd_out_of_memory", "Calls that found no device memory")
        self._embeddings = Counter(
            "dsd_prompt_embeddings", "Prompts looked up in the embedding cache", ("result",)
        )
        self._memory_bytes = Gauge(
            "dsd_memory_bytes", "Memory that a replica takes, or that is free", ("kind",)
        )
        self._preparation_s = Gauge(
            "dsd_preparation_seconds", "Loading and optimising, by part", ("part",)
        )
        # The reasons of what is left off are in /v1/models: as labels they would have no bounds.
        self._optimisation = Gauge(
            "dsd_optimisation", "1 for each optimisation that was tried", ("name", "state")
        )
        self._ready_s = Gauge("dsd_ready_seconds", "From the replica's start to ready")
        self._ready_after_s = 0.0

    def called(self, images: int, seconds: float | None) -> None:
        """A call of the UNet stepped so many images."""
        self._call_images.observe(images)
        if seconds is not None:
            self._step_s.observe(seconds)

    def admitted(self, job: Generation, queue_s: float) -> None:
        """A job's first image got a slot."""
        self._queue_s.observe(queue_s, {"variant": job.variant})

    def prepared(self, seconds: float) -> None:
        """An edit's picture became latents."""
        self._source_s.observe(seconds)

    def decoded(self, images: int, seconds: float) -> None:
        """So many images became pixels."""
        for _ in range(images):
            self._decode_s.observe(seconds / images)

    def previewed(self, job: Generation, seconds: float, first_after_s: float | None) -> None:
        """A preview took that long."""
        self._preview_s.observe(seconds)
        if first_after_s is not None:
            self._first_preview_s.observe(first_after_s, {"variant": job.variant})

    def preview_skipped(self) -> None:
        """A preview would have cost other requests too much, failed, or was flagged."""
        self._previews_skipped.inc()

    def out_of_memory(self) -> None:
        """A call found no memory."""
        self._out_of_memory.inc()

    def refused(self, job: Generation) -> None:
        """A job's deadline couldn't be met with the work ahead of it."""
        self._refused.inc(1, {"variant": job.variant})

    def ended(self, job: Generation, outcome: Outcome, seconds: float) -> None:
        """A job ended."""
        self._requests.inc(1, {"variant": job.variant, "outcome": outcome})
        if outcome == "done":
            self._request_s.observe(seconds, {"variant": job.variant})

    def overloaded(self, job: Generation) -> None:
        """A job wasn't taken on."""
        self._overloaded.inc(1, {"variant": job.variant})

    def refused_with_retry(self, job: Generation, code: str, after_s: float) -> None:
        """A job was refused, with the error's code, and when to come back."""
        self._retry_after_s.observe(after_s, {"variant": job.variant, "code": code})

    def forecast(self, job: Generation, expected_s: float, took_s: float) -> None:
        """A job took so long, and had been expected to take so long."""
        if expected_s > 0:
            self._forecast.observe(took_s / expected_s, {"variant": job.variant})

    def flagged(self, job: Generation) -> None:
        """A picture was flagged, and kept back."""
        self._flagged.inc(1, {"variant": job.variant})

    def encoded(self, seconds: float) -> None:
        """A picture became PNG, JPEG or WebP."""
        self._encode_s.observe(seconds)

    def looked_up(self, hits: int, misses: int) -> None:
        """Prompts were looked up in the embedding cache."""
        for result, count in (("hit", hits), ("miss", misses)):
            if count:
                self._embeddings.inc(count, {"result": result})

    def ready(self, seconds: float) -> None:
        """The replica is warm."""
        self._ready_after_s = seconds

    def report_gauges(self, under_way: int, waiting: int, slots: int, info: ReplicaInfo) -> None:
        """Images in slots, images that wait for one, slots, info; call it every few seconds.

        Ray drops a gauge that hasn't been set for two of its export intervals.
        """
        self._slots_used.set(under_way)
        self._images_waiting.set(waiting)
        self._slots.set(slots)
        self._ready_s.set(self._ready_after_s)
        for name, count in asdict(info.memory).items():
            if count is not None:
                self._memory_bytes.set(count, {"kind": name.removesuffix("_bytes")})
        for part, seconds in info.preparation_s.items():
            self._preparation_s.set(seconds, {"part": part})
        for state, names in (("on", info.switched_on), ("left_off", info.left_off)):
            for name in names:
                self._optimisation.set(1, {"name": name, "state": state})


class RouterMetrics:
    """What a router counts."""

    def __init__(self) -> None:
        self._decisions = Counter(
            "dsd_auto_decisions", "Variants chosen for `auto`", ("variant", "reason")
        )

    def decided(self, variant: str, reason: str) -> None:
        """Count a request for `auto` by the variant that draws it, and why."""
        self._decisions.inc(1, {"variant": variant, "reason": reason})
