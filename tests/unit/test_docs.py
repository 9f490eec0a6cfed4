"""The documents' commands and tables say what the code does."""

import re
import subprocess
from pathlib import Path

import pytest

from serve.http.schemas import GenerationRequest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    "README.md",
    "deploy/README.md",
    "deploy/SECURITY.md",
    "CONTRIBUTING.md",
    "docs/TRUST.md",
    "loadtests/README.md",
    "serve/miniature/README.md",
]

# Commands that tests or CI run, beside `make`'s and the `curl` lines of test_launcher.py.
RUN_BY_TESTS = {
    ".venv/bin/serve run serve.app:build_app variants=distilled",
    ".venv/bin/serve run deploy/overlays/laptop/serve-config.yaml",
    ".venv/bin/python -m serve.weights verify weights/sd-v1",
    ".venv/bin/python -m serve.weights adopt weights/sd-v1",
    ".venv/bin/python -m serve.weights random random/sd-v1",
    # Run by test_keys.py.
    ".venv/bin/python -m serve.keys new alice",
    # For machines with another Python; the benchmark itself is run by test_bench.py.
    "pip download --no-deps -d wheels diffusers==0.42.1 importlib_metadata zipp",
    "python3 -m pip install --no-index --no-deps wheels/*.whl",
    "python3 -m loadtests.bench --out reports",
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
    ".venv/bin/locust -f loadtests/locustfile.py,loadtests/shapes.py --host http://127.0.0.1:8000 "
    "--headless --load-shape saturation",
    ".venv/bin/python -m loadtests.openloop --host http://127.0.0.1:8000 --variant distilled "
    "--rate 2 --slo 4",
    ".venv/bin/locust -f loadtests/trace_replay.py --host http://127.0.0.1:8000 --headless "
    "--trace arrivals.csv",
    # Run by test_compare.py, test_plan.py and test_replicas.py.
    ".venv/bin/python -m loadtests.compare --host http://127.0.0.1:8000 --price-per-hour 0.8 "
    "--device 'NVIDIA L4'",
    ".venv/bin/python -m loadtests.compare --host http://127.0.0.1:8000 --plan plan.json",
    ".venv/bin/python -m loadtests.plan comparison/report.json --rate 20 --slo-p95 4 "
    "--out plan.json",
    ".venv/bin/python -m loadtests.replicas",
    # These need a cluster; what they apply is rendered and checked by tests/manifests.
    "kind create cluster",
    "kind load docker-image distilled-sd-serve:0.1.0-cpu",
    "helm install kuberay-operator kuberay-operator --repo "
    "https://ray-project.github.io/kuberay-helm --version 1.7.0",
    "kubectl apply -k deploy/overlays/laptop",
    "kubectl apply -k deploy/overlays/gpu",
    "kubectl apply -f deploy/base/namespace.yaml",
    "kubectl -n distilled-sd-serve create secret generic distilled-sd-serve-keys "
    "--from-file=keys.txt",
    "kubectl -n distilled-sd-serve create secret generic distilled-sd-serve-keys "
    "--from-file=keys.txt --dry-run=client -o yaml | kubectl apply -f -",
    "kubectl -n distilled-sd-serve port-forward svc/distilled-sd-serve-serve-svc 8000",
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


def test_the_readme_lists_every_field_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", README, re.MULTILINE))
    assert set(rows) == set(GenerationRequest.model_fields)
    for name in ("n", "num_inference_steps", "response_format"):
        default = GenerationRequest.model_fields[name].default
        assert rows[name].strip("`") == str(default)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_pictures_in_the_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if not target.startswith("http"):
            assert ((ROOT / document).parent / target.split("#")[0]).exists(), target


def test_every_test_that_the_threat_model_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", (ROOT / "deploy/SECURITY.md").read_text())
    assert len(named) > 20
    for file, function in named:
        texts = [path.read_text() for path in (ROOT / "tests").rglob(Path(file).name)]
        assert any(f"def {function}" in text for text in texts), (file, function)
