"""`python -m tests.cuda_without_gpu.lowering VARIANT ROWS`: a UNet call's kernels, as JSON.

Inductor lowers it for an H100 that isn't there. It is stopped when it has fused and before it
writes Triton, which torch for CPUs comes without.
"""

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import compile_fx, scheduler
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes import fuse_attention
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from serve.catalogue import SD_V1
from serve.pipelines.compile import use_channels_last
from serve.weights.layout import architecture_dir
from serve.weights.random_values import build_model
from tests.cuda_without_gpu.device import without_gpu

# What inductor reads of it.
H100 = SimpleNamespace(
    name="H100",
    gcnArchName="",
    major=9,
    multi_processor_count=132,
    warp_size=32,
    regs_per_multiprocessor=2**16,
    max_threads_per_multi_processor=2048,
)


def flash_attention(query: Any, key: Any, value: Any, *, attn_mask: None, **_: Any) -> Any:
    """What torch chooses for these shapes on an H100."""
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]


def cudnn_layout(latents: Any, weight: Any, _: object) -> torch.memory_format:
    """As cuDNN does: channels last if either of the two is."""
    formats = suggest_memory_format(latents), suggest_memory_format(weight)
    return torch.channels_last if torch.channels_last in formats else torch.contiguous_format


def pretend(patch: pytest.MonkeyPatch) -> None:
    """Let inductor find an H100 with Triton."""
    without_gpu(patch)

    def constant(value: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: value

    for place in (torch.cuda, CudaInterface, CudaInterface.Worker):
        for name, value in {"get_device_properties": H100, "current_device": 0}.items():
            patch.setattr(place, name, staticmethod(constant(value)))
    patch.setattr(torch.cuda, "get_device_capability", constant((9, 0)))
    patch.setattr(scheduler, "has_triton", constant(True))
    patch.setattr(F, "scaled_dot_product_attention", flash_attention)
    patch.setattr(torch._C, "_conv_determine_backend_memory_format", cudnn_layout)
    # They'd run attention on the device to learn its patterns; the UNets have it fused already.
    patch.setattr(fuse_attention, "_sfdp_init", constant(None))


def lowered(variant: str, rows: int) -> GraphLowering:
    """The UNet of a variant at 512x512 in fp16, scheduled."""
    component = SD_V1.variants[variant].unet
    mode = FakeTensorMode()
    with torch.device("meta"):
        unet = build_model(component, architecture_dir("sd-v1") / component.folder).eval()

    use_channels_last([unet])

    def fake(*shape: int, stride: Any = None, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        with mode:
            made = torch.empty(shape, dtype=dtype, device="cuda:0")
            return made if stride is None else made.as_strided(shape, stride)

    with torch.no_grad(), mode, enable_python_dispatcher():
        weights = {
            name: fake(*each.shape, stride=each.stride()) for name, each in unet.named_parameters()
        }
        inputs = [
            fake(rows, 4, 64, 64),
            fake(rows, dtype=torch.float32),
            fake(rows, 77, unet.config.cross_attention_dim),
            *weights.values(),
        ]

        def call(latents: Any, timesteps: Any, embeds: Any, *values: Any) -> Any:
            return torch.func.functional_call(
                unet,
                dict(zip(weights, values, strict=True)),
                (latents, timesteps),
                {"encoder_hidden_states": embeds, "return_dict": False},
            )[0]

        traced = make_fx(call, decomposition_table=select_decomp_table())(*inputs)
    with torch.no_grad(), V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
        compile_fx._recursive_joint_graph_passes(traced)
        compile_fx._recursive_post_grad_passes(traced, is_inference=True)
        graph = GraphLowering(traced, example_inputs=inputs, is_inference=True)
        with V.set_graph_handler(graph), V.set_extern_kernel_nodes([]):
            graph.run(*inputs)
            graph.init_wrapper_code()
            graph._update_scheduler()
    return graph


def launches(graph: GraphLowering) -> dict[str, int]:
    """Kernels by kind; a layout copy is one of inductor's that computes nothing."""
    found = {"library": 0, "fused": 0, "layout copies": 0}
    for node in graph.scheduler.nodes:
        if isinstance(node, scheduler.NopKernelSchedulerNode):
            continue
        if isinstance(node, scheduler.ExternKernelSchedulerNode):
            # The others only name one output of a kernel with several.
            found["library"] += hasattr(node.node, "python_kernel_name")
            continue
        found["fused"] += 1
        operations = {name for each in node.get_nodes() for name in each._body.op_counts}
        found["layout copies"] += operations <= {"load", "store", "output"}
    return found


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        print(json.dumps(launches(lowered(sys.argv[1], int(sys.argv[2])))))
