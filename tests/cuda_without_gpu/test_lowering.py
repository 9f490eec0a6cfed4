"""What inductor makes of the published UNets for an H100 that isn't there.

Can't show: whether the kernels compile, what they compute, how fast, what a search on the device
would choose, and code for a dynamic number of rows.
"""

import json
import subprocess
import sys

import pytest

from tests.machine import ROOT

# Most fused kernels of a call, by variant and rows; measured were 337, 197 and 145. Two rows are
# one image with guidance; with many, inductor needn't split reductions to fill the device.
BOUNDS = {"original 2": 345, "distilled 2": 205, "distilled 16": 150}


@pytest.mark.thorough
@pytest.mark.parametrize("call", BOUNDS)
def test_a_unet_call_is_few_kernels_and_copies_hardly_a_layout(call: str) -> None:
    # Another process: inductor keeps what it has found out about the device.
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.cuda_without_gpu.lowering",
        *call.split(),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Measured were 1 and 2; without channels_last 34, the weights'.
    assert found["layout copies"] <= 2
    assert BOUNDS[call] * 0.9 < found["fused"] <= BOUNDS[call]
