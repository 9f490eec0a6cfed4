"""The documents' commands, tables and links say what the code does."""

import inspect
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serve import errors
from serve.errors import RetryLater, ServingError
from serve.http.schemas import GenerationRequest
from tests.configuration_document import DOCUMENT, render
from tests.fuzz.test_openapi import app
from tests.machine import ROOT
from tests.manifests.checks import ray_service_schema

API = (ROOT / "docs" / "api.md").read_text()
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "deploy/*.md", "docs/*.md", "loadtests/*.md", "serve/*/*.md")
    for path in ROOT.glob(pattern)
)

# Commands that tests or CI run, beside `make`'s and the `curl` lines of test_launcher.py.
RUN_BY_TESTS = {
    ".venv/bin/serve run serve.app:build_app variants=distilled",
    ".venv/bin/serve run deploy/overlays/laptop/serve-config.yaml",
    ".venv/bin/python -m serve.weights verify weights/sd-v1",
    ".venv/bin/python -m serve.weights adopt weights/sd-v1",
    ".venv/bin/python -m serve.weights random random/sd-v1",
    # Run by test_converting.py and test_download.py, with the miniature and a stand-in of the hub.
    ".venv/bin/python -m serve.weights convert cartoon.safetensors weights/sd-v1 --name cartoon "
    '--licence "CreativeML OpenRAIL-M" >> catalogue.yaml',
    ".venv/bin/python -m serve.weights adopt weights/sd-v1 --catalogue catalogue.yaml",
    # Run by tests/manifests/test_own_variants.py.
    "cp -r deploy/components/own-variant my-cluster/own-variant",
    "sed -i s/my-style/cartoon/g my-cluster/own-variant/*.yaml",
    "cat my-cluster/own-variant/deployment.yaml >> my-cluster/serve-config.yaml",
    # Run by test_keys.py.
    ".venv/bin/python -m serve.keys new alice",
    # For machines with another Python; the benchmark itself is run by test_bench.py.
    "pip download --no-deps -d wheels diffusers==0.42.1 importlib_metadata zipp",
    "python3 -m pip install --no-index --no-deps wheels/*.whl",
    "python3 -m loadtests.bench.engine --out reports",
    # Rehearsed on a CPU by test_bench_gpu.py.
    "python3 -m loadtests.bench.gpu --out first-run --budget 480",
    # Tried by hand: a program of its own, too large for a development dependency.
    "aiperf profile --endpoint-type image_generation --url http://127.0.0.1:8000 --model distilled "
    "--tokenizer serve/weights/architectures/sd-v1/tokenizer --ui none "
    "--input-file prompts.jsonl --custom-dataset-type single_turn "
    "--concurrency 1 --warmup-request-count 2 --request-count 30 "
    '--extra-inputs \'{"num_inference_steps": 25, "seed": 7}\'',
    # Run by test_locust.py and test_openloop.py, against a service of their own.
    ".venv/bin/pip install -c constraints.txt -e '.[loadtest]'",
    ".venv/bin/locust -f loadtests/locustfile.py --host http://127.0.0.1:8000",
    ".venv/bin/locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --headless -u 4 "
    "-t 1m DistilledUser",
    ".venv/bin/locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --headless -u 4 "
    "-t 1m EditUser --variant original",
    ".venv/bin/locust -f loadtests/locustfile.py,loadtests/shapes.py --host http://127.0.0.1:8000 "
    "--headless --load-shape saturation",
    ".venv/bin/python -m loadtests.openloop --host http://127.0.0.1:8000 --variant distilled "
    "--rate 2 --slo 4",
    ".venv/bin/locust -f loadtests/trace_replay.py --host http://127.0.0.1:8000 --headless "
    "--trace arrivals.csv",
    # Run by test_compare.py, test_join.py and test_plan.py.
    ".venv/bin/python -m loadtests.compare join l4/report.json a100/report.json --out joined",
    ".venv/bin/python -m loadtests.compare --host http://127.0.0.1:8000 --price-per-hour 0.8 "
    "--device 'NVIDIA L4'",
    ".venv/bin/python -m loadtests.compare --host http://127.0.0.1:8000 --plan plan.json",
    ".venv/bin/python -m loadtests.plan comparison/report.json --rate 20 --slo-p95 4 "
    "--out plan.json",
    # These need a cluster: tests/e2e. What they apply is rendered and checked by tests/manifests.
    "kind create cluster",
    "kind load docker-image distilled-sd-serve:0.1.0-cpu",
    "helm install kuberay-operator kuberay-operator --repo "
    "https://ray-project.github.io/kuberay-helm --version 1.7.0",
    "helm uninstall kuberay-operator",
    "kubectl apply -k deploy/overlays/laptop",
    "kubectl apply -k deploy/examples/my-cluster",
    "podman push --digestfile digest.txt distilled-sd-serve:0.1.0-cuda "
    "docker://registry.example.com/images/distilled-sd-serve:0.1.0-cuda",
    "kubectl delete -k deploy/overlays/laptop --ignore-not-found",
    "kubectl apply -f deploy/base/namespace.yaml",
    "kubectl -n distilled-sd-serve create secret generic distilled-sd-serve-keys "
    "--from-file=keys.txt",
    "kubectl -n distilled-sd-serve create secret generic distilled-sd-serve-keys "
    "--from-file=keys.txt --dry-run=client -o yaml | kubectl apply -f -",
    "kubectl -n distilled-sd-serve get rayservice distilled-sd-serve "
    "-o jsonpath='{.status.activeServiceStatus.applicationStatuses}'",
    "active=$(kubectl -n distilled-sd-serve get rayservice distilled-sd-serve "
    "-o jsonpath='{.status.activeServiceStatus.rayClusterName}')",
    'kubectl -n distilled-sd-serve patch raycluster "$active" --type=json '
    '-p \'[{"op": "replace", "path": "/spec/workerGroupSpecs/0/maxReplicas", "value": 8}]\'',
    "kubectl apply -k deploy/overlays/production",
    "kubectl -n distilled-sd-serve patch rayservice distilled-sd-serve --subresource=status "
    '--type=merge -p \'{"status": {"pendingServiceStatus": null}}\'',
    "kubectl -n distilled-sd-serve get rayclusters",
    "kubectl -n distilled-sd-serve delete raycluster NAME",
    "kubectl -n distilled-sd-serve delete raycluster "
    "-l ray.io/originated-from-cr-name=distilled-sd-serve",
    "kubectl -n distilled-sd-serve patch rayservice distilled-sd-serve --type=merge "
    '-p \'{"spec": {"suspend": true}}\'',
    "kubectl -n distilled-sd-serve delete rayservice distilled-sd-serve",
    "kubectl -n distilled-sd-serve wait --for=delete raycluster --all --timeout=5m",
    "kubectl delete -k deploy/overlays/production --ignore-not-found",
    "kubectl -n distilled-sd-serve port-forward svc/distilled-sd-serve-serve-svc 8000 &",
    "kubectl -n distilled-sd-serve wait --for=condition=complete "
    "job/distilled-sd-serve-weights --timeout=60m",
    "kubectl -n distilled-sd-serve wait --for=condition=Ready rayservice/distilled-sd-serve "
    "--timeout=30m",
    "kubectl -n distilled-sd-serve wait --for=condition=Ready rayservice/distilled-sd-serve "
    "--timeout=15m",
}


def commands(document: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    text = "".join(blocks).replace("\\\n", " ")
    return [" ".join(line.split("#")[0].split()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_in_the_documents_exists(document: str) -> None:
    for command in commands(document):
        if command.startswith("make"):
            arguments = re.sub(r'ARGS="[^"]*"', "", command.removeprefix("make")).split()
            subprocess.run(
                ["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True
            )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_other_command_in_the_documents_is_run_by_a_test(document: str) -> None:
    for command in commands(document):
        assert command.startswith(("make", "curl http://127.0.0.1:8000")) or command in RUN_BY_TESTS


def test_the_fields_that_kubectl_reads_and_patches_are_in_kuberays_definition() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    paths = [one.split(".") for one in re.findall(r"jsonpath='\{\.([\w.]+)\}'", text)]
    # A RayCluster's spec is the RayService's rayClusterConfig.
    paths += [
        ["spec", "rayClusterConfig", *path.split("/")]
        for path in re.findall(r'"path": "/spec/([\w/]+)"', text)
    ]
    for patch in re.findall(r"--type=merge -p '([^']+)'", text):
        ((field, value),) = json.loads(patch).items()
        if field != "metadata":  # Every object's.
            paths.extend([field, name] for name in value)
    assert len(paths) == 5
    for path in paths:
        schema: Any = ray_service_schema()
        for name in path:
            schema = schema["items"] if name.isdecimal() else schema["properties"][name]


def test_the_table_of_options_is_the_option_classes() -> None:
    assert DOCUMENT.read_text() == render(), "run: python -m tests.configuration_document"


def test_the_api_document_lists_every_field_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", section(API, "Fields"), re.MULTILINE)
    )
    assert set(rows) == set(GenerationRequest.model_fields)
    for name in ("n", "response_format"):
        default = GenerationRequest.model_fields[name].default
        assert rows[name].strip("`") == str(default)


def test_the_api_document_lists_every_error_with_its_status() -> None:
    text = section(API, "Errors")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    replies = {(int(row[0]), *row[1:3], row[3].endswith("with `Retry-After`")) for row in rows}
    at_start = set(re.findall(r"^\| `(\w+)` \| [^|]* \|$", text, re.MULTILINE))
    known = {
        (one.status, one.code, one.type, issubclass(one, RetryLater))
        for _, one in inspect.getmembers(errors, inspect.isclass)
        if issubclass(one, ServingError)
        and one is not RetryLater  # It is only raised by subclasses.
    }
    assert replies == {row for row in known if row[1] not in at_start}
    assert at_start <= {code for _, code, _, _ in known}


def test_the_api_document_lists_every_route_and_its_statuses() -> None:
    listed = set(re.findall(r"`(GET|POST) (/[\w/.{}-]*)`", API))
    operations = {
        (method.upper(), path): operation
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    }
    assert listed - set(operations) == {("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json")}
    assert set(operations) <= listed
    statuses = {int(one) for operation in operations.values() for one in operation["responses"]}
    errors_listed = {int(one) for one in re.findall(r"^\| (\d+) \|", API, re.MULTILINE)}
    assert statuses - {200} <= errors_listed


def section(text: str, heading: str) -> str:
    return re.split(r"^## ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_pictures_in_the_documents_exist(document: str) -> None:
    path = ROOT / document
    text = path.read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = path.parent / file if file else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_every_test_that_a_document_names_is_there() -> None:
    texts = [(ROOT / document).read_text() for document in DOCUMENTS]
    named = {one for text in texts for one in re.findall(r"`([\w/]+\.py)::(\w+)`", text)}
    named |= {
        (file, "")
        for text in texts
        for file in re.findall(r"`(?:tests/)?([\w/]*test_\w+\.py)`", text)
    }
    assert len(named) > 30
    for file, function in named:
        paths = [path for path in (ROOT / "tests").rglob("*.py") if str(path).endswith(f"/{file}")]
        assert paths, file
        if function:  # Then the file's name must say which file it is.
            assert [f"def {function}" in path.read_text() for path in paths] == [True], (
                file,
                function,
            )
