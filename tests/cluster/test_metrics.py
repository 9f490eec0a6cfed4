"""The metrics that alerts and dashboard name, looked for where Prometheus would scrape them."""

import re
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import ray
from ray import serve
from ray.autoscaler._private.prom_metrics import AutoscalerPrometheusMetrics
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from tests.cluster.conftest import Fake, Start, StartFake
from tests.machine import HANG_S, ROOT, wait_for
from tests.manifests.monitoring import metrics, own_metrics

# A machine without a GPU reports none of these; they are held to Ray's own list instead.
OF_GPUS = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available"}
# Ray's autoscaler runs in a container of its own under KubeRay; its list is Ray's, too.
OF_THE_AUTOSCALER = {name for name in metrics() if name.startswith("autoscaler_")}
# The operator isn't here. From its source, v1.7.0: ray-operator/controllers/ray/metrics/.
OF_THE_OPERATOR = {
    "kuberay_service_condition_ready",
    "kuberay_service_condition_upgrade_in_progress",
}

_DOCUMENT = (ROOT / "docs" / "metrics.md").read_text()
TABLE = dict(re.findall(r"^\| `(ray_dsd_\w+)` \| (\w+) \|", _DOCUMENT, re.MULTILINE))
# Series that begin when something goes wrong, or when a second variant is drawn to compare.
OF_TROUBLE = {
    "ray_dsd_flagged_images_total",
    "ray_dsd_out_of_memory_total",
    "ray_dsd_overload_refused_total",
    "ray_dsd_previews_skipped_total",
}


@serve.deployment(
    autoscaling_config={"min_replicas": 1, "max_replicas": 2}, ray_actor_options={"num_cpus": 0}
)
class Scaled:
    def __call__(self) -> str:
        return "here"


def scrape() -> dict[str, list[dict[str, str]]]:
    """The labels of every series of this cluster's node, by metric."""
    (node,) = ray.nodes()
    text = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=30).text
    found = defaultdict(list)
    for line in text.splitlines():
        if not line.startswith("#"):
            found[line.split("{")[0]].append(dict(re.findall(r'(\w+)="([^"]*)"', line)))
    return found


def missing(wanted: set[str]) -> set[str]:
    return wanted - set(scrape())


def wait_until_scraped(wanted: set[str]) -> set[str]:
    """Poll until nothing is missing; returns what still is when that has taken too long."""
    end = time.monotonic() + HANG_S
    while (absent := missing(wanted)) and time.monotonic() < end:
        time.sleep(0.5)
    return absent


@pytest.fixture(scope="module")
def busy(start: Start, start_fake: StartFake) -> Fake:
    """Some series begin with the first request, error or scaling of their kind."""
    fake = start_fake("metrics", 0.01)
    fake.ask()
    fake.ask(model="nope")
    fake.ask(model="auto")
    # Behind a long request a deadline is out of reach that it would keep alone.
    with ThreadPoolExecutor() as pool:
        steps = fake.steps()
        long = pool.submit(fake.ask, prompt="hold after 5: busy", num_inference_steps=150)
        wait_for(lambda: fake.steps() > steps)
        assert fake.ask(deadline_s=1).status_code == 429
        fake.let_go("busy")
        assert long.result().status_code == 200
    assert httpx.get(start(Scaled.bind(), "scaled"), timeout=HANG_S).text == "here"
    return fake


@pytest.mark.usefixtures("busy")
def test_every_metric_of_alerts_and_dashboard_is_in_a_live_scrape() -> None:
    wanted = metrics() - OF_GPUS - OF_THE_AUTOSCALER - OF_THE_OPERATOR - OF_TROUBLE
    assert len(wanted) > 10
    assert wait_until_scraped(wanted) == set()


@pytest.mark.usefixtures("busy")
def test_every_metric_of_the_table_is_in_a_live_scrape() -> None:
    wanted = {name + ("_bucket" if kind == "histogram" else "") for name, kind in TABLE.items()}
    wanted -= OF_TROUBLE
    assert wait_until_scraped(wanted) == set()


def test_the_table_of_metrics_lists_what_a_replica_has() -> None:
    own = {re.sub("_(bucket|sum|count)$", "", name) for name in own_metrics()}
    assert own == set(TABLE)


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        pytest.param(
            "ray_serve_num_http_requests_total",
            {"application": "metrics", "method": "POST", "status_code": "404"},
            id="requests",
        ),
        pytest.param(
            "ray_serve_http_request_latency_ms_bucket",
            {"application": "metrics", "method": "POST"},
            id="latency",
        ),
        pytest.param(
            "ray_serve_deployment_status",
            {"application": "metrics", "deployment": "original"},
            id="status",
        ),
        pytest.param(
            "ray_serve_deployment_replica_healthy",
            {"application": "metrics", "deployment": "original"},
            id="replicas",
        ),
        pytest.param(
            "ray_actors",
            {"Name": "ServeReplica:metrics:original", "State": "PENDING_CREATION"},
            id="actors",
        ),
        pytest.param(
            "ray_dsd_optimisation",
            {"application": "metrics", "name": "unet: CUDA graphs", "state": "left_off"},
            id="optimisations",
        ),
        pytest.param("ray_serve_proxy_status", {"node_ip_address": "127.0.0.1"}, id="proxy"),
    ],
)
def test_the_labels_that_alerts_select_by_are_on_the_series(
    metric: str, labels: dict[str, str]
) -> None:
    wait_for(lambda: any(labels.items() <= one.items() for one in scrape().get(metric, [])))


@pytest.mark.usefixtures("busy")
def test_what_a_replica_switched_on_and_left_off_is_in_a_live_scrape_without_the_reasons() -> None:
    """A label per text of an error would be a series each."""
    assert wait_until_scraped({"ray_dsd_optimisation", "ray_dsd_preparation_seconds"}) == set()
    found = scrape()
    said = {(one["name"], one["state"]) for one in found["ray_dsd_optimisation"]}
    assert said == {("unet: compile", "on"), ("unet: CUDA graphs", "left_off")}
    parts = {one["part"] for one in found["ray_dsd_preparation_seconds"]}
    assert parts == {"load", "unet: compile"}


def test_models_have_what_a_replica_left_off_with_the_reasons(busy: Fake) -> None:
    given = {
        "switched_on": ["unet: compile"],
        "left_off": {"unet: CUDA graphs": "RuntimeError: not permitted"},
        "preparation_s": {"load": 0.5, "unet: compile": 1.5},
    }

    def replica() -> dict[str, object]:  # Null where it doesn't answer at once.
        url = f"{busy.url}/v1/models/original"
        return httpx.get(url, timeout=HANG_S).json()["replica"] or {}

    wait_for(lambda: given.items() <= replica().items())


@pytest.mark.usefixtures("cluster")
def test_a_metric_that_nobody_exports_is_found_missing() -> None:
    assert missing({"ray_serve_num_http_requests"}) == {"ray_serve_num_http_requests"}


def test_metrics_of_gpus_and_autoscaler_are_in_rays_own_lists() -> None:
    assert {name.removeprefix("ray_") for name in OF_GPUS} <= set(METRICS_GAUGES)
    own = vars(AutoscalerPrometheusMetrics(session_name="s"))
    assert {name.removeprefix("autoscaler_") for name in OF_THE_AUTOSCALER} <= set(own)


def test_the_list_of_what_is_scraped_elsewhere_holds_nothing_more() -> None:
    assert metrics() >= OF_GPUS | OF_THE_OPERATOR
