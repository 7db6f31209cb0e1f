"""The fully connected LIF layer as one op, against its product and its recursion."""

from __future__ import annotations

import pytest
import torch
from comparison import RESETS, Dynamics, assert_spikes_close, roundoff, spike_train, uniform

from spikefuse import PackedSpikes, functional, ops, reference

# T, B, N, M: around tiles of 64 and 128 rows and columns, T longer than a tile, a single step, and nothing
SIZES = [
    (5, 3, 40, 7),
    (15, 9, 70, 65),
    (1, 130, 33, 20),
    (64, 2, 31, 64),
    (65, 2, 32, 3),
    (150, 1, 64, 66),
    (0, 3, 40, 7),
    (4, 0, 40, 7),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("options", [False, True], ids=["plain", "bias and state"])
def test_equals_the_product_and_the_recursion(device: str, size: tuple[int, int, int, int], options: bool) -> None:
    steps, samples, inputs, outputs = size
    x = spike_train(steps, samples, inputs, density=0.3).to(device)
    weight = uniform(inputs, outputs, low=-0.2, high=0.3, dtype=torch.float32, seed=1).to(device).t()
    bias = uniform(outputs, low=-0.1, high=0.1, dtype=torch.float32, seed=2).to(device) if options else None
    state = uniform(samples, outputs, low=-0.5, high=0.7, dtype=torch.float32, seed=3).to(device) if options else None
    decay = uniform(outputs, low=0.7, high=0.95, dtype=torch.float32, seed=4).to(device)
    threshold = uniform(outputs, low=0.75, high=1.25, dtype=torch.float32, seed=5).to(device)
    out = functional.lif_linear(PackedSpikes.pack(x), weight, bias, state, beta=decay, threshold=threshold)
    # z of exact sums, and how far three rounded parts of every weight, summed in fp32, can be from it
    z = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    terms = 3 * x.sum(2, keepdim=True).double() + 2
    z_error = 1.01 * roundoff(torch.float32) * terms * (x.double() @ weight.double().abs().t() + 1)
    dynamics = Dynamics(decay, threshold)
    # the comparison takes one bound for all of z, in fp32's own z
    flips, _ = assert_spikes_close(
        out.spikes,
        z.float(),
        dynamics,
        state=state,
        v=out.v,
        new_state=out.state,
        z_error=float(z_error.max()) * 2 if z.numel() else 0.0,
        max_ulps=1e4,
    )
    assert flips <= 2


@pytest.mark.parametrize("reset", RESETS)
def test_gradients_equal_those_of_two_ops(device: str, reset: str) -> None:
    x = PackedSpikes.pack(spike_train(9, 5, 70).to(device))
    leaves = [
        uniform(*s, low=low, high=0.3, dtype=torch.float32, seed=i).to(device).requires_grad_()
        for i, (s, low) in enumerate((((37, 70), -0.2), ((37,), -0.1), ((5, 37), -0.3)))
    ]
    decay, threshold = (torch.full((37,), value, device=device, requires_grad=True) for value in (0.9, 1.0))
    settings = {"beta": decay, "threshold": threshold, "reset": reset, "detach_reset": False, "surrogate": "atan"}
    weight, bias, state = leaves
    fused = functional.lif_linear(x, weight, bias, state, **settings)
    separate = functional.lif(functional.spike_linear(x, weight, bias), state, **settings)
    assert torch.equal(fused.spikes, separate.spikes)
    grads = [uniform(*t.shape, low=-1, high=1, dtype=torch.float32, seed=7).to(device) for t in fused]
    inputs = [*leaves, decay, threshold]
    for a, b in zip(
        torch.autograd.grad(fused, inputs, grads), torch.autograd.grad(separate, inputs, grads), strict=True
    ):
        # v differs by the order of sums of some 20 weights; each gradient is a sum over at most 45 neuron-steps
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_more_samples_than_a_grid_dimension_holds(device: str) -> None:
    x = spike_train(1, 66_001, 3, density=0.5).to(device)
    weight = torch.tensor([[0.5, 0.5, 0.25]], device=device)
    out = functional.lif_linear(PackedSpikes.pack(x), weight, leak=0.0)
    assert torch.equal(out.v, x @ weight.t())  # sums of quarters are exact


def test_every_setting_reaches_the_kernel(device: str) -> None:
    words = reference.pack(spike_train(6, 3, 40)).to(device)
    weight = uniform(40, 7, low=-0.1, high=0.2, dtype=torch.float32).to(device)
    one = torch.ones(1, device=device)
    base = ops.lif_linear_forward(words, weight, None, None, 0.9 * one, one, 0)
    for change in (
        (weight, torch.full((7,), 0.1, device=device), None, 0.9 * one, one, 0),
        (weight, None, torch.full((3, 7), 0.5, device=device), 0.9 * one, one, 0),
        (weight, None, None, 0.5 * one, one, 0),
        (weight, None, None, 0.9 * one, 0.5 * one, 0),
        (weight, None, None, 0.9 * one, one, 1),
    ):
        assert not torch.equal(ops.lif_linear_forward(words, *change)[1], base[1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 3, 4)}, TypeError, "x as PackedSpikes, got Tensor"),
        ({"x": PackedSpikes.pack(torch.zeros(2, 3, 5))}, ValueError, r"x of shape \[T, B, 4\], got \[2, 3, 5\]"),
        (
            {"weight": torch.zeros(6, 4).double()},
            TypeError,
            r"weight \[out, in\] of float32, got \[6, 4\], torch.float64",
        ),
        ({"bias": torch.zeros(5)}, ValueError, r"bias of shape \[6\], got \[5\]"),
        ({"bias": torch.zeros(6).half()}, TypeError, "bias of float32, got torch.float16"),
        ({"state": torch.zeros(3, 5)}, ValueError, r"state of shape \[3, 6\], got \[3, 5\]"),
        ({"reset": "hard"}, ValueError, "reset as one of"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"x": PackedSpikes.pack(torch.zeros(2, 3, 4)), "weight": torch.zeros(6, 4), "leak": 0.1, **change}
    with pytest.raises(error, match=f"lif_linear: expected {message}"):
        functional.lif_linear(**arguments)  # type: ignore[arg-type]
