"""From an empty namespace to pictures, through every fault, and to an empty namespace: in order.

Not collected by `make test`: `python -m tests.e2e` names this file.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtests.client import Answer, connected
from loadtests.samples import latencies_s
from serve.keys import new_key
from tests.faults.load import Load, checked, mixed
from tests.faults.outcome import is_lost
from tests.machine import until
from tests.manifests.rendering import NAMES, OVERLAYS

from .cluster import SERVICE, Cluster, seconds_until
from .report import Row

VARIANTS = ("original", "distilled", "distilled-tiny-vae")
REQUESTS = mixed(VARIANTS, [{"num_inference_steps": 10}])
PRODUCTION = Path(__file__).parent / "overlay"
HEAD = "headgroup"
# So many requests end before a fault and after it, so that no row is of an idle service.
SETTLED = 10
KEY, LINE = new_key("e2e")


def miniature(**args: Any) -> str:
    """`production`'s serve configuration for the tests' overlay, with more arguments."""
    content = yaml.safe_load((OVERLAYS / "production" / "serve-config.yaml").read_text())
    (application,) = content["applications"]
    for name in ("weights_dir", "safety_checker", "stuck_after_s"):
        application["args"].pop(name)
    application["args"] |= {"family": "miniature", "device": "cpu", **args}
    router, *variants = application["deployments"]
    router |= {"num_replicas": 2, "ray_actor_options": {"num_cpus": 0.1}}
    for one in variants:
        replicas = 2 if one["name"] == "original" else 1
        one["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
        one["ray_actor_options"]["num_cpus"] = 0.25
    return yaml.safe_dump(content, sort_keys=False)


def drawn(url: str) -> dict[str, Answer]:
    """One picture of each variant; right after Ready the Service may refuse for a second."""

    async def draw() -> dict[str, Answer]:
        async with connected(url, 125, KEY) as client:
            answers = {}
            for body in REQUESTS.bodies:
                for _ in range(5):
                    answer = answers[body["model"]] = await client.draw(body)
                    if answer.status:
                        break
                    await asyncio.sleep(1)
            return answers

    return asyncio.run(draw())


def install(cluster: Cluster, manifests: list[Any]) -> float:
    """Apply; seconds until the RayService is Ready."""
    cluster.apply(*manifests)
    return seconds_until(lambda: cluster.ray_service().ready)


def delete(cluster: Cluster, manifests: list[Any]) -> float:
    """In the order that deploy/README.md gives; seconds until nothing is left."""

    def remove() -> bool:
        cluster.kubectl("delete", "rayservice", SERVICE, "--ignore-not-found", "--wait=false")
        return not cluster.get("rayclusters")["items"]

    def remove_rest() -> bool:
        text = yaml.safe_dump_all(manifests)
        cluster.kubectl("delete", "--ignore-not-found", "--filename=-", stdin=text)
        return True

    return seconds_until(remove) + seconds_until(remove_rest)


def configure(cluster: Cluster, serve_config: str, status: str) -> str:
    """Send a serve configuration and wait for what becomes of it; Serve's message."""
    patch = json.dumps({"spec": {"serveConfigV2": serve_config}})
    cluster.kubectl("patch", "rayservice", SERVICE, "--type=merge", f"-p={patch}")
    seconds_until(lambda: cluster.ray_service().status != "RUNNING")
    seconds_until(lambda: cluster.ray_service().status == status)
    return cluster.ray_service().message


def back(cluster: Cluster, group: str, gone: str) -> float:
    """Seconds until the group's pods are ready again, and one is not among them."""

    def ready() -> bool:
        pods = cluster.pods(group)
        return bool(pods) and gone not in pods and all(pods.values())

    return seconds_until(ready)


def test_the_api_server_takes_every_overlay(cluster: Cluster) -> None:
    kinds = cluster.kinds()
    for name in NAMES:
        manifests = cluster.rendered(OVERLAYS / name)
        cluster.apply(*(one for one in manifests if one["kind"] == "Namespace"))
        text = yaml.safe_dump_all(one for one in manifests if one["kind"] in kinds)
        cluster.kubectl("apply", "--dry-run=server", "--filename=-", stdin=text)
        if unknown := {one["kind"] for one in manifests} - kinds:
            print(f"{name}: this API server doesn't know {', '.join(sorted(unknown))}")


def test_the_laptops_overlay_draws_with_every_variant(cluster: Cluster, rows: list[Row]) -> None:
    manifests = cluster.rendered(OVERLAYS / "laptop")
    rows.append(Row("laptop ready", install(cluster, manifests)))
    with cluster.forwarded() as url:
        verdicts = {variant: answer.verdict for variant, answer in drawn(url).items()}
    delete(cluster, manifests)
    assert {variant: one.outcome for variant, one in verdicts.items()} == dict.fromkeys(
        VARIANTS, "ok"
    ), verdicts


@pytest.fixture(scope="module")
def production(cluster: Cluster, rows: list[Row]) -> Iterator[str]:
    """The address of `production`, scaled down."""
    address = cluster.add_gpus()
    manifests = cluster.rendered(PRODUCTION, miniature())
    cluster.apply(*(one for one in manifests if one["kind"] == "Namespace"))
    cluster.make_secret(f"{SERVICE}-keys", **{"keys.txt": LINE})
    cluster.make_secret(f"{SERVICE}-ray-token", auth_token=secrets.token_hex(32))
    cluster.make_secret(f"{SERVICE}-redis", password=secrets.token_hex(32))
    rows.append(Row("production ready", install(cluster, manifests)))
    url = cluster.options.url or f"http://{address}:30800"
    assert {one.verdict.outcome for one in drawn(url).values()} == {"ok"}
    yield url
    rows.append(Row("deleted", delete(cluster, manifests)))


@pytest.fixture
def play(production: str, cluster: Cluster, rows: list[Row]) -> Callable[..., None]:
    def play(scenario: str, act: Callable[[], float | None], but: str = "") -> None:
        """Act under the open loop; no picture may be lost.

        `but` is a variant without replicas: its pictures don't count, and no other is refused.
        """

        async def under_load() -> None:
            async with (
                checked(production, REQUESTS, KEY, keep_alive=False) as client,
                Load(client, REQUESTS, cluster.options.rate_per_s) as load,
            ):
                await until(lambda: len(load.samples) >= SETTLED)
                seconds = await asyncio.to_thread(act)
                acted = len(load.samples)
                await until(lambda: len(load.samples) >= acted + SETTLED)
            samples = [one for one in load.samples if load.asked(one)["model"] != but]
            rejected = [one for one in samples if one.outcome == "rejected"]
            missed = [one for one in samples if is_lost(one)] + (rejected if but else [])
            lost = [one.reason or one.outcome for one in missed]
            worst_s = max(latencies_s(samples), default=None)
            row = Row(scenario, seconds, len(samples), len(lost), len(rejected), worst_s)
            rows.append(row)
            assert not lost, set(lost)

        asyncio.run(under_load())

    return play


def test_a_configuration_is_rolled(cluster: Cluster, play: Callable[..., None]) -> None:
    def rolling() -> None:
        configure(cluster, miniature(max_request_s=104), "RUNNING")

    play("configuration rolled", rolling)


def test_a_broken_configuration_leaves_the_old_one(
    cluster: Cluster, play: Callable[..., None]
) -> None:
    def breaking() -> None:
        message = configure(cluster, miniature(family="none"), "DEPLOY_FAILED")
        assert "family" in message
        configure(cluster, miniature(), "RUNNING")

    play("broken configuration", breaking)


@pytest.mark.parametrize(
    ("scenario", "group", "container", "process"),
    [
        ("worker killed", "distilled", "ray-worker", "raylet/raylet"),
        ("head killed", HEAD, "ray-head", "gcs/gcs_server"),
    ],
    ids=["worker", "head"],
)
def test_a_pod_whose_ray_is_killed_comes_back(
    cluster: Cluster,
    play: Callable[..., None],
    scenario: str,
    group: str,
    container: str,
    process: str,
) -> None:
    def killing() -> float:
        (pod,) = cluster.pods(group)
        cluster.kill(pod, container, process)
        return back(cluster, group, pod)

    play(scenario, killing)


def test_an_evicted_head_comes_back(cluster: Cluster, play: Callable[..., None]) -> None:
    def evicting() -> float:
        (pod,) = cluster.pods(HEAD)
        cluster.evict(pod)
        return back(cluster, HEAD, pod)

    play("head evicted", evicting)


def test_an_autoscaler_that_ends_is_started_again(
    cluster: Cluster, play: Callable[..., None]
) -> None:
    def ending() -> float:
        (pod,) = cluster.pods(HEAD)
        cluster.kill(pod, "autoscaler", "kuberay-autoscaler")
        running = "grep -qa '[k]uberay-autoscaler' $(ls -d /proc/[0-9]*/cmdline | grep -v /proc/1/)"

        def again() -> bool:
            arguments = ("exec", pod, "--container=autoscaler", "--", "bash", "-c", running)
            return cluster.kubectl(*arguments) == "" and cluster.pods(HEAD)[pod]

        return seconds_until(again)

    play("sidecar ended", ending)


def test_a_drained_variant_takes_no_other_along(
    cluster: Cluster, play: Callable[..., None]
) -> None:
    def draining() -> float:
        nodes = [one["metadata"]["name"] for one in cluster.get("nodes")["items"]]
        (pod,) = cluster.pods("distilled")
        cluster.kubectl("cordon", *nodes)
        try:
            cluster.evict(pod)
            seconds_until(lambda: pod not in cluster.pods("distilled"))
            # As long as the wait of a request that no replica takes may last.
            with pytest.raises(TimeoutError):
                seconds_until(lambda: any(cluster.pods("distilled").values()), limit_s=120)
        finally:
            cluster.kubectl("uncordon", *nodes)
        return back(cluster, "distilled", pod)

    play("variant drained", draining, but="distilled")


def test_blue_green_loses_nothing(cluster: Cluster, play: Callable[..., None]) -> None:
    def upgrading() -> float:
        before = cluster.ray_service().active
        path = "/spec/rayClusterConfig/headGroupSpec/template/metadata/annotations"
        patch = [{"op": "add", "path": path, "value": {"e2e": before}}]
        arguments = ("patch", "rayservice", SERVICE, "--type=json", f"-p={json.dumps(patch)}")
        cluster.kubectl(*arguments)
        return seconds_until(lambda: cluster.ray_service().active != before)

    play("blue/green", upgrading)
