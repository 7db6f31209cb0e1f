"""torch.compile: compiled layers equal eager ones, in outputs, gradients, strides and carried state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from comparison import Dynamics, assert_spikes_close, assert_within, roundoff, spike_train, uniform
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from spikefuse import LIF, LIFLinear, PackedSpikes, functional

pytestmark = [
    pytest.mark.torch_device,
    # torch's own: Dynamo looks at .grad of whatever it is given
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


@pytest.fixture(autouse=True)
def fresh_cache() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Callable[..., Any], backend: str = "aot_eager", **options: Any) -> Callable[..., Any]:
    # fullgraph: a graph break is an error
    return torch.compile(function, backend=backend, fullgraph=True, **options)


def assert_same(actual: Any, expected: Any) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
        assert a.dtype == b.dtype


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lif(device: str, dtype: torch.dtype, reset: str) -> None:
    settings = {"leak": 0.1, "reset": reset, "detach_reset": False, "surrogate": "atan"}
    function = compiled(lambda z, state: functional.lif(z, state, **settings))
    z = uniform(6, 3, 37, high=1.2, dtype=dtype).to(device).requires_grad_()
    state = uniform(3, 37, dtype=torch.float32).to(device).requires_grad_()
    for current in (z, z.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()):
        actual, expected = function(current, state), functional.lif(current, state, **settings)
        assert_same(actual, expected)
        grads = [uniform(*t.shape, dtype=t.dtype).to(device) for t in expected]
        given = (current, state)
        assert_same(torch.autograd.grad(actual, given, grads), torch.autograd.grad(expected, given, grads))


@pytest.mark.parametrize("dynamic", [None, True])
def test_shapes_that_change(device: str, dynamic: bool | None) -> None:
    function = compiled(lambda z: functional.lif(z, leak=0.1), dynamic=dynamic)
    for shape in ((4, 2, 33), (7, 3, 40), (2, 5, 300), (9, 2, 64)):
        z = uniform(*shape, dtype=torch.float32).to(device)
        assert_same(function(z), functional.lif(z, leak=0.1))


@pytest.mark.parametrize("learn", [False, True])
def test_packed_input(device: str, learn: bool) -> None:
    layer = LIFLinear(40, 33, bias=True, leak=0.1, learn_beta=learn, learn_threshold=learn, device=device)
    x = PackedSpikes.pack(spike_train(6, 3, 40).to(device))
    actual, expected = compiled(layer)(x, return_vmem=True), layer(x, return_vmem=True)
    assert_same(actual, expected)
    given, outputs = list(layer.parameters()), (lambda out: out[0].sum() + out[2].square().sum())
    one, other = (torch.autograd.grad(outputs(out), given) for out in (actual, expected))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_dense_input(device: str) -> None:
    # Compiled, spikes take the dense product: its sums are ordered otherwise, so z may differ by its rounding.
    layer = LIFLinear(40, 33, leak=0.1, threshold=0.3, device=device)
    x = spike_train(6, 3, 40, density=0.3).to(device)
    spikes, state, v = compiled(layer)(x, return_vmem=True)
    u = roundoff(torch.float32)
    z_error = 40 * u * (x.double() @ layer.weight.detach().double().abs().t())
    z = (x.double() @ layer.weight.detach().double().t()).to(device)
    dynamics = Dynamics(torch.tensor(0.9), torch.tensor(0.3))
    _, error = assert_spikes_close(
        spikes.detach().float().cpu(),
        z.float().cpu(),
        dynamics,
        z_error=float(z_error.max()) + u * float(z.abs().max()),
    )
    assert_within(v.cpu(), layer(x, return_vmem=True)[2].cpu(), 2 * error, "v")
    assert state.shape == (3, 33)


def test_masked_loss(device: str) -> None:
    layer = LIFLinear(40, 33, leak=0.1, device=device)
    x, target = (PackedSpikes.pack(spike_train(6, 3, n).to(device)) for n in (40, 33))
    actual, expected = compiled(layer.masked_loss)(x, target), layer.masked_loss(x, target)
    assert_same(actual, expected)
    one, other = (torch.autograd.grad(out.loss, layer.weight)[0] for out in (actual, expected))
    assert torch.equal(one, other)


def test_settings_that_change(device: str) -> None:
    # Dynamo makes a float symbolic once it has seen two values of it.
    function = compiled(
        lambda z, leak, threshold, slope: functional.lif(z, leak=leak, threshold=threshold, slope=slope)
    )
    z = uniform(6, 3, 37, high=1.2, dtype=torch.float32).to(device)
    for settings in ((0.1, 1.0, 1.0), (0.2, 0.9, 2.0), (0.3, 0.8, 3.0)):
        leak, threshold, slope = settings
        assert_same(function(z, *settings), functional.lif(z, leak=leak, threshold=threshold, slope=slope))


def test_state_carried_between_compiled_calls(device: str) -> None:
    layer = LIF(leak=0.1, learn_beta=True, device=device)
    step = compiled(layer)
    z = uniform(9, 3, 37, high=1.2, dtype=torch.float32).to(device)
    state: Tensor | None = None
    outputs = []
    for chunk in z.split(3):
        spikes, state = step(chunk, state)
        outputs.append(spikes)
    expected, final = layer(z)
    assert type(state) is Tensor
    assert torch.equal(torch.cat(outputs), expected)
    assert torch.equal(state, final)
    for a, b in zip(
        torch.autograd.grad(state.sum(), layer.parameters()),
        torch.autograd.grad(final.sum(), layer.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


# torch's own: it suggests a faster product, whose error is larger
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32 matrix multiplication available:UserWarning")
def test_two_layers_trained_with_inductor(device: str) -> None:
    # The generated code around the ops: views, casts, the clamp, bias and gradients.
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = LIFLinear(40, 33, bias=True, leak=0.1, threshold=0.5, learn_beta=True, device=device)
            self.second = LIFLinear(33, 5, leak=0.1, threshold=0.5, device=device)

        def forward(self, x: PackedSpikes) -> tuple[Tensor, Tensor]:
            spikes, _, v = self.second(self.first(x)[0], return_vmem=True)
            return spikes.mean(0), v

    torch.manual_seed(0)
    eager = Net()
    fast = copy.deepcopy(eager)
    function = compiled(fast, "inductor")
    for seed in range(3):
        x = PackedSpikes.pack(spike_train(6, 3, 40, seed=seed).to(device))
        results = []
        for net, call in ((eager, eager), (fast, function)):
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            rates, v = call(x)
            (rates.square().sum() + v.mean()).backward()
            optimizer.step()
            results.append((rates.detach(), v.detach(), *(p.detach() for p in net.parameters())))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert fast.first.weight.stride() == (1, 33)


def test_the_compiled_graph_copies_no_sequence(device: str) -> None:
    # A layout copy of z, v or the spikes would make the compiled layer slower than the eager one.
    graphs: list[torch.fx.GraphModule] = []

    def record(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    layer = LIFLinear(40, 33, leak=0.1, device=device)
    function = torch.compile(layer, backend=aot_autograd(fw_compiler=record, bw_compiler=record), fullgraph=True)
    function(PackedSpikes.pack(spike_train(6, 3, 40).to(device)))[0].square().sum().backward()
    assert len(graphs) == 2
    for graph in graphs:
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        assert sum(name.startswith("spikefuse.") for name in targets) == 2, targets
        copies = {"aten.clone.default", "aten._to_copy.default", "aten.copy.default", "aten.contiguous.default"}
        assert not copies & set(targets)


def test_poisson_encoding_inside_a_compiled_function(device: str) -> None:
    # Its check of the rates reads data, so it breaks the graph; the bits are the same.
    rates = uniform(3, 40, dtype=torch.float32).to(device)
    function = torch.compile(lambda r: functional.poisson_encode(r, 4, seed=1, offset=2).words, backend="aot_eager")
    assert torch.equal(function(rates), functional.poisson_encode(rates, 4, seed=1, offset=2).words)


def test_exported_programs_keep_the_op(device: str) -> None:
    layer = LIFLinear(40, 33, leak=0.1, device=device)
    x = uniform(6, 3, 40, dtype=torch.float32).to(device)
    program = torch.export.export(layer, (x,))
    assert "spikefuse.lif_forward" in str(program.graph)
    assert_same(program.module()(x), layer(x))
