"""The real compiler on a CPU: the same noise, one compilation for all batch sizes, kept on disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
from serve.settings import keep_compiled_code
keep_compiled_code(Path(sys.argv[1]))
import torch
from torch._dynamo.utils import counters
from serve.pipelines.attention import plain_call
from serve.pipelines.compile import prepare_unet
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.readiness import Readiness
from tests.unit.pipelines.test_compile import noise, small_unet
torch.set_num_threads(1)
model, report = small_unet(), Readiness()
call = prepare_unet("unet", model, (8, 8), 7, Optimisations(compile=True), report)
assert report.switched_on == ["unet: compile"], report
graphs = counters["stats"]["unique_graphs"]
for rows in (1, 2, 3, 6, 7, 16, 31, 32):
    assert torch.allclose(noise(call, rows), noise(plain_call(model, "default"), rows), atol=1e-4)
# None of these had to be compiled while a request would have waited.
assert counters["stats"]["unique_graphs"] == graphs, counters["stats"]
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")
def test_compiled_calls_agree_for_every_batch_and_the_next_start_finds_them(tmp_path: Path) -> None:
    # Whatever compiled in this process has named torch's folder of the whole machine here.
    env = {name: value for name, value in os.environ.items() if not name.endswith("_CACHE_DIR")}
    counts = []
    for _ in ("first", "next"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "compiled")],
            cwd=Path(__file__).parents[2],
            env={**env, "TORCHINDUCTOR_COMPILE_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, done.stderr
        counts.append(tuple(map(int, done.stdout.split())))
    (hits, compiled), (found, missed) = counts
    assert hits == 0 < compiled
    assert (found, missed) == (compiled, 0)
