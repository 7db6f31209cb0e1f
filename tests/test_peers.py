"""The same spikes, potentials and gradients as SpikingJelly and snnTorch, once their conventions are accounted for.

Both compute in float64 here. SpikingJelly fires where v >= threshold, as we do; snnTorch where v > threshold: inputs
are chosen so that no v comes near the threshold. snnTorch's spikes are float32, so gradients through them are rounded.
"""

from __future__ import annotations

import types
import warnings

import pytest
import torch
from comparison import spike_train, uniform
from torch import Tensor, nn

from spikefuse import LIF, LIFLinear, PackedSpikes, functional

T, B, N = 12, 4, 30
LEAK = 0.2


def peer(module: str) -> types.ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module, exc_type=ImportError)


@pytest.fixture(scope="module")
def neuron() -> types.ModuleType:
    return peer("spikingjelly.activation_based.neuron")


@pytest.fixture(scope="module")
def jelly_surrogate() -> types.ModuleType:
    return peer("spikingjelly.activation_based.surrogate")


@pytest.fixture(scope="module")
def snntorch() -> types.ModuleType:
    return peer("snntorch")


def currents(low: float = -0.6, high: float = 0.95) -> Tensor:
    """Below 0.95, v stays below 1.8: under twice the threshold, so one subtraction always ends a spike."""
    return uniform(T, B, N, low=low, high=high, seed=3).requires_grad_()


def assert_far_from_threshold(v: Tensor, spikes: Tensor) -> None:
    assert float((v.detach() - 1).abs().min()) > 1e-6
    assert 0.1 < float(spikes.detach().double().mean()) < 0.6


JELLY_SURROGATES = {"sigmoid": "Sigmoid", "atan": "ATan", "triangle": "PiecewiseQuadratic"}


@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("surrogate", list(JELLY_SURROGATES))
def test_spikingjelly_lif_node(
    neuron: types.ModuleType, jelly_surrogate: types.ModuleType, surrogate: str, reset: str, detach_reset: bool
) -> None:
    node = neuron.LIFNode(
        tau=1 / LEAK,
        decay_input=False,
        v_threshold=1.0,
        v_reset=0.0 if reset == "zero" else None,
        surrogate_function=getattr(jelly_surrogate, JELLY_SURROGATES[surrogate])(alpha=2.0),
        detach_reset=detach_reset,
        step_mode="m",
        store_v_seq=True,
    )
    z = currents()
    spikes, state, v = LIF(tau=1 / LEAK, reset=reset, detach_reset=detach_reset, surrogate=surrogate, slope=2.0)(
        z, return_vmem=True
    )
    assert_far_from_threshold(v, spikes)
    theirs = node(z)
    assert torch.equal(spikes, theirs)
    torch.testing.assert_close(state, node.v, rtol=1e-12, atol=1e-12)
    # its v_seq is v after the reset, ours before it
    after = torch.where(spikes > 0, 0 * v if reset == "zero" else v - 1, v)
    torch.testing.assert_close(after, node.v_seq, rtol=1e-12, atol=1e-12)
    grads = (uniform(T, B, N, low=-1, high=1, seed=4), uniform(B, N, low=-1, high=1, seed=5))
    (ours,) = torch.autograd.grad((spikes, state), z, grads)
    (wanted,) = torch.autograd.grad((theirs, node.v), z, grads)
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)


SNN_SURROGATES = {"sigmoid": ("sigmoid", "slope"), "atan": ("atan", "alpha"), "fast_sigmoid": ("fast_sigmoid", "slope")}


# Not its delayed subtraction: v = beta * v - threshold, taken after the decay, is another neuron.
@pytest.mark.parametrize(("reset", "reset_delay"), [("zero", True), ("zero", False), ("subtract", False)])
@pytest.mark.parametrize("surrogate", list(SNN_SURROGATES))
def test_snntorch_leaky(snntorch: types.ModuleType, surrogate: str, reset: str, reset_delay: bool) -> None:
    name, parameter = SNN_SURROGATES[surrogate]
    leaky = snntorch.Leaky(
        beta=1 - LEAK,
        reset_mechanism=reset,
        reset_delay=reset_delay,
        spike_grad=getattr(peer("snntorch.surrogate"), name)(**{parameter: 2.0}),
    )
    leaky.beta = leaky.beta.double() if isinstance(leaky.beta, Tensor) else leaky.beta
    beta = float(leaky.beta)  # held as float32
    z = currents()
    # Its delayed reset takes effect, detached, at the next step; its immediate one is part of the graph.
    spikes, state, v = LIF(beta=beta, reset=reset, detach_reset=reset_delay, surrogate=surrogate, slope=2.0)(
        z, return_vmem=True
    )
    assert_far_from_threshold(v, spikes)
    mem, theirs, potentials = torch.zeros(B, N, dtype=torch.float64), [], []
    for z_t in z:
        fired, mem = leaky(z_t, mem)
        theirs.append(fired)
        potentials.append(mem)
    assert torch.equal(spikes, torch.stack(theirs).double())
    ours = v if reset_delay else torch.where(spikes > 0, 0 * v if reset == "zero" else v - 1, v)
    torch.testing.assert_close(ours, torch.stack(potentials), rtol=1e-12, atol=1e-12)
    if not reset_delay:
        torch.testing.assert_close(state, mem, rtol=1e-12, atol=1e-12)
    grad = uniform(T, B, N, low=-1, high=1, seed=4)
    (actual,) = torch.autograd.grad(spikes, z, grad)
    (wanted,) = torch.autograd.grad(torch.stack(theirs), z, grad.float())
    # the gradients that pass through its float32 spikes: one rounding a step, of a size of 2 * 12 at most
    torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=T * 24 * 2**-24)


@pytest.mark.parametrize("packed", [False, True])
def test_layers_with_the_same_weights(
    neuron: types.ModuleType, snntorch: types.ModuleType, jelly_surrogate: types.ModuleType, packed: bool
) -> None:
    layer = LIFLinear(40, N, leak=LEAK, dtype=torch.float64)
    linear = nn.Linear(40, N, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(uniform(N, 40, low=-0.3, high=0.4, seed=6))
        linear.weight.copy_(layer.weight)
    x = spike_train(T, B, 40, dtype=torch.float64)
    spikes, _, v = layer(PackedSpikes.pack(x) if packed else x, return_vmem=True)
    assert_far_from_threshold(v, spikes)
    node = neuron.LIFNode(
        tau=1 / LEAK,
        decay_input=False,
        v_reset=0.0,
        surrogate_function=jelly_surrogate.Sigmoid(alpha=1.0),
        detach_reset=True,
        step_mode="m",
    )
    theirs = node(linear(x))
    assert torch.equal(spikes, theirs)
    (ours,) = torch.autograd.grad(spikes.sum(), layer.weight)
    (wanted,) = torch.autograd.grad(theirs.sum(), linear.weight)
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)

    leaky, mem, fired = (
        snntorch.Leaky(beta=1 - LEAK, reset_mechanism="zero"),
        torch.zeros(B, N, dtype=torch.float64),
        [],
    )
    for x_t in x:
        spike, mem = leaky(linear(x_t), mem)
        fired.append(spike)
    assert torch.equal(spikes, torch.stack(fired).double())


def test_only_the_comparison_at_the_threshold_differs(
    neuron: types.ModuleType, jelly_surrogate: types.ModuleType, snntorch: types.ModuleType
) -> None:
    z = torch.ones(1, 1, 1, dtype=torch.float64)
    node = neuron.LIFNode(
        tau=2.0, decay_input=False, v_reset=0.0, step_mode="m", surrogate_function=jelly_surrogate.ATan()
    )
    assert functional.lif(z, tau=2.0).spikes.item() == 1
    assert node(z).item() == 1
    assert snntorch.Leaky(beta=0.5)(z[0], torch.zeros(1, 1))[0].item() == 0
