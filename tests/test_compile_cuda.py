"""torch.compile of CUDA layers, traced without a GPU: no graph break on any device but the CPU.

Two devices stand in for a GPU. A fake tensor of ``cuda:0`` has no memory and no gradient here, since autograd asks for
the device's runtime. A device of torch's own for backends in Python has gradients, too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from spikefuse import LIF, LIFLinear, PackedSpikes, functional, ops

DEVICES = ("cuda:0", "pretend:0")


def trace(device: str) -> None:
    """Traces every layer; runs in a process of its own, where a device of another name may be registered."""
    _setup_privateuseone_for_python_backend("pretend")
    on_cpu = {"cpu": ops._KERNELS["cpu"]}
    ops._KERNELS = {**on_cpu, device.split(":")[0]: ops._KERNELS["cpu"]}
    mode, differentiable = FakeTensorMode(), device.startswith("pretend")

    def fake(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> Tensor:
        tensor = FakeTensor(mode, torch.empty(shape, dtype=dtype, device="meta"), torch.device(device))
        return tensor.requires_grad_(grad and differentiable)

    def packed(*shape: int) -> PackedSpikes:
        return PackedSpikes._trusted(fake(*shape[:-1], (shape[-1] + 31) // 32, dtype=torch.int32), shape[-1])

    def on_device(module: nn.Module) -> nn.Module:
        for part in module.modules():
            for name, value in part.named_parameters(recurse=False):
                part._parameters[name] = nn.Parameter(fake(*value.shape, grad=True), requires_grad=differentiable)
            for name, value in part.named_buffers(recurse=False):
                part._buffers[name] = fake(*value.shape)
        return module

    seen: list[str] = []

    def record(graph: torch.fx.GraphModule, _: object) -> Callable[..., list[Tensor]]:
        graphs = [part for part in graph.modules() if isinstance(part, torch.fx.GraphModule)]
        seen.extend(str(node.target) for part in graphs for node in part.graph.nodes if node.op == "call_function")
        (outputs,) = graph.graph.output_node().args
        return lambda *_: [node.meta["example_value"] for node in outputs]

    def traced(function: Callable[..., object], *arguments: object, runs: set[str]) -> None:
        seen.clear()
        with mode:
            result = torch.compile(function, backend=record, fullgraph=True)(*arguments)
        for tensor in result:
            assert tensor.device == torch.device(device), tensor
        calls = {name.split(".")[1] for name in seen if name.startswith("spikefuse.")}
        assert calls == (runs if differentiable else {name for name in runs if "backward" not in name}), (calls, runs)

    scan = {"lif_forward", "lif_backward"}
    product = {"spike_matmul", "spike_matmul_transposed"} if differentiable else {"spike_matmul"}
    z, x = fake(6, 3, 33, grad=True), packed(6, 3, 40)
    for dtype in (torch.float32, torch.bfloat16):
        layer = on_device(LIF(leak=0.1, learn_beta=True, learn_threshold=True, device="meta"))
        traced(layer, fake(6, 3, 33, dtype=dtype, grad=True), fake(3, 33), runs=scan)
    traced(on_device(LIF(leak=0.1, device="meta")).masked_loss, z, packed(6, 3, 33), runs=scan)
    settings = {"bias": True, "leak": torch.full((33,), 0.1, device="meta"), "device": "meta"}
    layer = on_device(LIFLinear(40, 33, **settings))
    traced(layer, fake(6, 3, 40), runs=scan)
    traced(layer, x, runs=scan | product)
    traced(layer.masked_loss, x, packed(6, 3, 33), runs=scan | product)
    transposed = {name for name in product if "transposed" in name}
    weight = fake(33, 40, grad=True)
    traced(
        lambda x, w: functional.lif_linear(x, w, leak=0.1),
        x,
        weight,
        runs={"lif_linear_forward", "lif_backward"} | transposed,
    )
    traced(lambda x, w: (functional.spike_linear(x, w),), x, weight, runs=product)
    traced(lambda x: (x.unpack(),), x, runs={"unpack_spikes"})

    ops._KERNELS = on_cpu
    with pytest.raises(NotImplementedError, match="lif_forward has no kernel for"):
        functional.lif(fake(6, 3, 33), leak=0.1)


@pytest.mark.parametrize("device", DEVICES)
def test_every_layer_is_traced_whole(isolated: Callable[..., subprocess.CompletedProcess[str]], device: str) -> None:
    here = str(Path(__file__).parent)
    result = isolated(
        f"import sys; sys.path.insert(0, {here!r}); import {Path(__file__).stem} as m; m.trace({device!r})"
    )
    assert result.returncode == 0, result.stderr
