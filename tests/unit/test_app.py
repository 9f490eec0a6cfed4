"""The composition root: which deployments and routes the arguments make, without Ray running."""

import time
from pathlib import Path
from typing import Any

import httpx
from ray.serve import Deployment

from serve.app import PACKED, Ingress, compose
from serve.config import AppArgs
from serve.keys import new_key
from serve.miniature import WEIGHTS_DIR
from serve.routing.least_work import LeastWork
from serve.weights.manifest import read_manifest
from tests.asgi import call
from tests.unit.routing.test_router import DRAWING, Handle


def deployments(**args: Any) -> dict[str, Deployment]:
    """The router's, and each variant's."""

    def load(variants: object) -> Any:
        raise AssertionError("nothing is loaded here")

    app = compose(AppArgs.model_validate(args), read_manifest(WEIGHTS_DIR), load)
    router = app._bound_deployment
    _, _, handles = router.init_args
    return {"router": router, **{name: one._bound_deployment for name, one in handles.items()}}


def test_every_variant_has_a_deployment_with_the_bounds_that_are_configured() -> None:
    made = deployments(
        num_replicas=2, num_gpus=0.5, num_cpus=1, max_ongoing_requests=7, max_queued_requests=3,
        max_queue_s=13, retry_after_s=9, graceful_shutdown_timeout_s=11,
    )  # fmt: skip
    assert set(made) == {"router", "original", "distilled", "distilled-tiny-vae"}
    for name in set(made) - {"router"}:
        one = made[name]
        assert one.name == name
        assert one.num_replicas == 2
        assert (one.max_ongoing_requests, one.max_queued_requests) == (7, 3)
        config = one._deployment_config
        assert config.graceful_shutdown_timeout_s == 11
        assert config.backpressure_config.retry_after_s == 9
        assert config.request_router_config.request_router_kwargs == {"max_wait_s": 13}
        router_class = config.request_router_config.request_router_class
        assert router_class == f"{LeastWork.__module__}.{LeastWork.__qualname__}"
        assert one.ray_actor_options == {"num_gpus": 0.5, "num_cpus": 1}
    # Every request that the variants can hold, and some more.
    assert made["router"].max_ongoing_requests > 3 * (7 + 3)


def test_packed_one_deployment_hosts_every_variant() -> None:
    made = deployments(packed=True)
    hosts = {made[name].name for name in ("original", "distilled", "distilled-tiny-vae")}
    assert hosts == {PACKED}
    variants, *_ = made["original"].init_args
    assert [variant.name for variant in variants] == ["original", "distilled", "distilled-tiny-vae"]


def asked_of(handle: Handle, body: dict[str, Any], **args: Any) -> tuple[httpx.Response, ...]:
    """The answers to a request and to the page, from the routes as the arguments make them."""
    served = AppArgs.model_validate({"variants": "distilled", **args})
    ingress = Ingress(served, read_manifest(WEIGHTS_DIR), {"distilled": handle})  # type: ignore[dict-item]
    app = ingress.__serve_build_asgi_app__()
    return (
        call(app, "POST", "/v1/images/generations", json={"prompt": "x", **body}),
        call(app, "GET", "/"),
        call(app, "GET", "/sdapi/v1/samplers"),
    )


def test_the_routes_are_held_to_what_is_configured(tmp_path: Path) -> None:
    handle = Handle([DRAWING])
    before = time.time()
    statuses = [one.status_code for one in asked_of(handle, {}, max_request_s=5)]
    assert statuses == [200, 200, 404]
    ((generation, _),) = handle.draw.asked
    assert generation.variant == "distilled"  # The request names no model.
    assert before + 5 <= generation.deadline_at <= time.time() + 5
    refused, *pages = asked_of(
        Handle(), {"num_inference_steps": 11}, max_image_steps=10, playground=False, a1111=True
    )
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
    assert [one.status_code for one in pages] == [404, 200]
    (tmp_path / "keys").write_text(new_key("alice")[1])
    locked, *_ = asked_of(Handle(), {}, api_keys_file=tmp_path / "keys")
    assert locked.status_code == 401
