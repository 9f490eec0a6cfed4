"""A replica starts, and draws, whatever fails of what should make it faster."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from serve.app import _load_pipeline
from serve.catalogue import MINIATURE
from serve.config import AppArgs
from serve.metrics import ReplicaMetrics
from serve.miniature import WEIGHTS_DIR
from serve.pipelines import compile
from serve.pipelines.cuda_graphs import Recording
from serve.pipelines.optimisations import Optimisations
from serve.replica.encoding import Encoder
from serve.replica.startup import start
from tests.emulated_cuda import prepare_as_on_cuda, record_again

FAULTS = {
    "memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB"),
    "strides": AssertionError("expected size 320==320, stride 1==4096 at dim=1"),
    "compiler": TorchDynamoException("no C compiler in /opt/gcc/bin\nand a long trace"),
    "capture": RuntimeError("CUDA error: operation not permitted when stream is capturing"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_what_fails_is_left_off_with_its_reason_and_the_replica_draws(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault = FAULTS[name]

    def record(call: Callable[[], tuple[torch.Tensor, ...]]) -> Recording:
        if name == "capture":
            raise fault
        return record_again(call)

    def compiler(module: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # Memory is enough for fewer rows.
            most = max(len(given) for given in args if isinstance(given, torch.Tensor))
            if name in ("strides", "compiler") or (name == "memory" and most == 4):
                raise fault
            return module(*args, **kwargs)

        return call

    variant = MINIATURE.variants["distilled"]
    prepare_as_on_cuda(monkeypatch, record, compiler)
    monkeypatch.setattr(compile, "MOST_ROWS", 4)
    args = AppArgs(optimisations=Optimisations(recorded_images=(1, 2)))
    caplog.set_level(logging.INFO, "ray.serve")
    encoder = Encoder()
    denoiser, engine = await start(
        [variant], partial(_load_pipeline, args, WEIGHTS_DIR), 1, encoder, ReplicaMetrics()
    )
    try:
        await engine.submit(variant.generation("a star", [1], 2)).result()
    finally:
        engine.close()
        await engine.wait_closed()
        encoder.close()
    part = "CUDA graphs" if name == "capture" else "compile"
    why = f"{type(fault).__name__}: {str(fault).splitlines()[0]}"
    # The decoder's memory is enough.
    models = ["unet_distilled", "vae"] if name != "memory" else ["unet_distilled"]
    if name == "capture":
        models.append("text_encoder")  # It isn't compiled.
    info = denoiser.info()
    # Clients needn't know the image's folders; the log has them.
    public = why.replace("/opt/gcc/bin", "[path]")
    assert info.left_off == {f"{model}: {part}": public for model in models}
    assert f"left off: unet_distilled: {part} ({why})" in caplog.text
    assert len(info.switched_on) == 6 - len(models)
    assert {"load", f"unet_distilled: {part}"} < set(info.preparation_s)
