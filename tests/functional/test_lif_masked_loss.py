"""The masked membrane-potential error and its loss (eqs 5-8), fused with the recursion and its reverse scan."""

from __future__ import annotations

import pytest
import torch
from comparison import (
    DTYPES,
    LAYOUTS,
    MARGIN,
    RESETS,
    Dynamics,
    assert_spikes_close,
    assert_within,
    currents,
    gradient_bounds,
    lay_out,
    roundoff,
    spike_train,
    uniform,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spikefuse import PackedSpikes, functional, ops, reference

SIZES = [(5, 3, 1), (4, 2, 31), (4, 2, 32), (4, 2, 33), (5, 1, 7), (3, 2, 300), (0, 2, 3), (3, 0, 4), (3, 2, 0)]


def dynamics_of(dtype: torch.dtype, neurons: int, device: str, **options: object) -> Dynamics:
    acc = ops.accumulate_dtype(dtype)
    threshold = uniform(neurons, low=0.75, high=1.25, dtype=acc, seed=7).to(device)
    return Dynamics(torch.tensor(0.9, dtype=acc, device=device), threshold, **options)  # type: ignore[arg-type]


def reference_loss(
    z: Tensor, target: Tensor, state: Tensor, decay: Tensor, dynamics: Dynamics, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, spikes, v, new state by the reference's readable pieces."""
    settings = {**dynamics.settings(), "threshold": threshold}
    spikes, v, new_state = reference.lif(z, state, decay=decay, **settings)
    return reference.masked_loss(v, spikes, target, threshold), spikes, v, new_state


def assert_masked_loss_equals_reference(
    z: Tensor, target: Tensor, state: Tensor, dynamics: Dynamics, packed: bool = True
) -> None:
    acc, u = ops.accumulate_dtype(z.dtype), roundoff(ops.accumulate_dtype(z.dtype))
    given = [t.detach().clone().requires_grad_() for t in (state, dynamics.decay, dynamics.threshold)]
    given.insert(0, z.detach().requires_grad_())
    out = functional.lif_masked_loss(
        given[0],
        PackedSpikes.pack(target) if packed else target,
        given[1],
        beta=given[2],
        **{**dynamics.settings(), "threshold": given[3]},
    )
    exact = [t.detach().double().requires_grad_() for t in given]
    loss, spikes, v, _ = reference_loss(exact[0], target.double(), exact[1], exact[2], dynamics, exact[3])
    assert torch.equal(out.spikes.double(), spikes)
    assert not out.spikes.requires_grad
    assert out.loss.dtype == acc
    assert int(out.mismatches) == int((spikes != target).sum())
    flips, v_error = assert_spikes_close(
        out.spikes, z, dynamics, state=state, v=None, new_state=out.state.detach(), max_ulps=64
    )
    assert flips == 0

    # E is off by v's error and one rounding; the sum of E^2 runs over T in the accumulation type, then in float64.
    error = reference.masked_error(v, spikes, target.double(), exact[3]).detach()
    error_bound = (error != 0) * (v_error + u * error.abs())
    loss_bound = (
        (error.abs() * error_bound).sum() + 0.5 * error_bound.square().sum() + (z.shape[0] + 2) * u * loss.detach()
    )
    assert_within(out.loss, loss, loss_bound * 1.01, "loss")

    grad_loss = torch.tensor(0.75, dtype=acc, device=z.device)
    grad_state = uniform(*state.shape, low=-1, high=1, dtype=acc, seed=9).to(z.device)
    actual = torch.autograd.grad((out.loss, out.state), given, (grad_loss, grad_state))
    wanted = torch.autograd.grad(
        (
            (0.75 * loss).sum()
            + (reference_loss(exact[0], target, *exact[1:3], dynamics, exact[3])[3] * grad_state).sum()
        ),
        exact,
        materialize_grads=True,
    )
    bounds = gradient_bounds(
        dynamics,
        v.detach(),
        v_error,
        state,
        grad_spikes=torch.zeros_like(v),
        grad_v=0.75 * error,
        grad_v_error=0.75 * (error_bound + u * error.abs()),
        grad_state=grad_state,
        acc=acc,
    )
    assert_within(actual[0], wanted[0], bounds.z, "grad z")
    assert_within(actual[1], wanted[1], bounds.state, "grad state")
    assert_within(actual[2], wanted[2], bounds.decay.sum(), "grad decay")
    assert_within(actual[3], wanted[3], bounds.threshold.sum(0), "grad threshold")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if not name.startswith("stride_0")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masked_loss_equals_the_reference(
    device: str, dtype: torch.dtype, layout: str, size: tuple[int, int, int]
) -> None:
    steps, samples, neurons = size
    dynamics = dynamics_of(dtype, neurons, device)
    state = uniform(samples, neurons, low=-0.5, high=0.7, dtype=ops.accumulate_dtype(dtype), seed=3).to(device)
    z = lay_out(currents(dynamics, steps, state, dtype), layout)
    target = lay_out(spike_train(steps, samples, neurons, density=0.4, seed=4).to(device), layout)
    assert_masked_loss_equals_reference(z, target, state, dynamics)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_every_option_equals_the_reference(device: str, reset: str, detach_reset: bool, dtype: torch.dtype) -> None:
    dynamics = dynamics_of(dtype, 37, device, reset=reset, detach_reset=detach_reset, surrogate="atan", slope=1.5)
    state = uniform(3, 37, low=-0.5, high=0.7, dtype=ops.accumulate_dtype(dtype), seed=3).to(device)
    z = currents(dynamics, 7, state, dtype)
    assert_masked_loss_equals_reference(z, spike_train(7, 3, 37, seed=4).to(device), state, dynamics, packed=False)


@given(
    steps=st.integers(0, 10),
    samples=st.integers(0, 3),
    neurons=st.integers(0, 70),
    decay=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_reset_gated_gradient_of_one_layer(
    device: str, steps: int, samples: int, neurons: int, decay: float, seed: int
) -> None:
    # g[t] = -E[t] + decay * (1 - s[t]) * g[t+1], written out: what the paper's gated traces sum to with weights held.
    z = uniform(steps, samples, neurons, low=-0.5, high=1.5, seed=seed).to(device).requires_grad_()
    target = spike_train(steps, samples, neurons, dtype=torch.float64, seed=seed).to(device)
    out = functional.lif_masked_loss(z, target, beta=decay)
    (actual,), loss = torch.autograd.grad(out.loss, z), out.loss.detach()
    v = functional.lif(z.detach(), beta=decay).v
    error = (target != out.spikes) * (target - v)
    assert_within(loss, 0.5 * error.square().sum(), 1e-12 * (1 + float(loss)), "loss")
    g = torch.zeros(samples, neurons, dtype=torch.float64, device=device)
    for t in reversed(range(steps)):
        g = -error[t] + decay * (1 - out.spikes[t]) * g
        assert_within(actual[t], g, 1e-12, f"g[{t}]")


def test_gradcheck_with_the_mask_held(device: str) -> None:
    # Where no v is near the threshold the mask does not change, and -E is the derivative of 1/2 E^2 itself.
    dynamics = dynamics_of(torch.float64, 3, device, detach_reset=False, surrogate="triangle", slope=2 / MARGIN)
    state = uniform(2, 3, low=-0.5, high=0.7, seed=3).to(device)
    z, target = currents(dynamics, 5, state, torch.float64), spike_train(5, 2, 3, density=0.5, seed=5).to(device)

    def loss(z: Tensor, state: Tensor, decay: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        settings = {**dynamics.settings(), "threshold": threshold}
        out = functional.lif_masked_loss(z, target, state, beta=decay, **settings)
        return out.loss, out.state

    assert 0 < int(functional.lif_masked_loss(z, target, state, beta=0.9, threshold=dynamics.threshold).mismatches) < 30
    given = [t.clone().requires_grad_() for t in (z, state, dynamics.decay, dynamics.threshold)]
    assert torch.autograd.gradcheck(loss, given)


@pytest.mark.parametrize(
    ("target", "z", "error", "grad"),
    [(1, 0.4, 0.6, -0.6), (0, 0.4, 0, 0), (1, 1.2, 0, 0), (0, 1.25, -1.25, 1.25), (1, -2, 3, -3), (0, -2, 0, 0)],
)
def test_equations_5_to_8_by_hand(device: str, target: float, z: float, error: float, grad: float) -> None:
    current = torch.full((1, 1, 1), z, dtype=torch.float64, device=device, requires_grad=True)
    out = functional.lif_masked_loss(current, torch.full((1, 1, 1), target, device=device), leak=0.1)
    assert out.loss.item() == pytest.approx(0.5 * error**2, abs=1e-15)
    assert int(out.mismatches) == int(error != 0)
    out.loss.backward()
    assert current.grad is not None
    assert current.grad.item() == pytest.approx(grad, abs=1e-15)


def test_packed_and_dense_targets_are_one(device: str) -> None:
    z, target = uniform(5, 3, 70, high=1.2, dtype=torch.float32).to(device), spike_train(5, 3, 70).to(device)
    dense = functional.lif_masked_loss(z, target.bool(), leak=0.1)
    strided = PackedSpikes.pack(target.transpose(0, 1).contiguous()).transpose(0, 1)
    assert not strided.words.is_contiguous()
    for packed in (PackedSpikes.pack(target), strided):
        out = functional.lif_masked_loss(z, packed, leak=0.1)
        assert all(torch.equal(a, b) for a, b in zip(out, dense, strict=True))


def test_infinity_outside_the_mask_is_no_error(device: str) -> None:
    # v = -inf where no spike is wanted: the error there is 0 and not 0 * inf.
    z = torch.tensor([[[-float("inf"), 0.5]]], device=device, requires_grad=True)
    out = functional.lif_masked_loss(z, torch.tensor([[[0.0, 1.0]]], device=device), leak=0.1)
    out.loss.backward()
    assert out.loss.item() == 0.125
    assert z.grad is not None
    assert z.grad.flatten().tolist() == [0, -0.5]


def test_bad_targets_are_named() -> None:
    z = torch.rand(2, 3, 4)
    for target, error, message in (
        (torch.zeros(2, 3, 5), ValueError, r"lif_masked_loss: expected target of shape \[2, 3, 4\], got \[2, 3, 5\]"),
        (torch.zeros(3, 4), ValueError, r"lif_masked_loss: expected target of shape \[2, 3, 4\], got \[3, 4\]"),
        (torch.full((2, 3, 4), 0.5), ValueError, "expected spikes of zeros and ones, got 24 other elements"),
        (PackedSpikes.pack(torch.zeros(2, 3, 33)), ValueError, r"target of shape \[2, 3, 4\], got \[2, 3, 33\]"),
        (PackedSpikes.pack(torch.zeros(2, 3, 4)).to("meta"), ValueError, "target on cpu, got it on meta"),
        ([[0]], TypeError, "expected a tensor, got list"),
        (torch.zeros(2, 3, 4, dtype=torch.complex64), TypeError, "got torch.complex64"),
    ):
        with pytest.raises(error, match=message):
            functional.lif_masked_loss(z, target, leak=0.1)


BAD = [
    ({"z": torch.rand(2, 3)}, ValueError, r"z of shape \[T, B, N\], got \[2, 3\]"),
    ({"z": torch.ones(2, 3, 4, dtype=torch.int32)}, TypeError, "z of dtype float32, .*, got torch.int32"),
    ({"z": [0.0]}, TypeError, "z as a tensor, got list"),
    ({"state": torch.zeros(3, 5)}, ValueError, r"state of shape \[3, 4\], got \[3, 5\]"),
    ({"state": torch.zeros(3, 4, device="meta")}, ValueError, "state on cpu, got it on meta"),
    ({"leak": None}, TypeError, "exactly one of leak, beta and tau, got none"),
    ({"beta": 0.5}, TypeError, "exactly one of leak, beta and tau, got leak, beta"),
    ({"tau": 2.0}, TypeError, "got leak, tau"),
    ({"leak": 1.5}, ValueError, "leak: expected 0 <= leak <= 1, got 1.5"),
    ({"leak": -0.1}, ValueError, "leak: expected 0 <= leak <= 1, got -0.1"),
    ({"leak": float("nan")}, ValueError, "leak: expected .* got nan"),
    ({"leak": None, "beta": 1.01}, ValueError, "beta: expected 0 <= beta <= 1, got 1.01"),
    ({"leak": None, "tau": 0.5}, ValueError, "tau: expected 1 <= tau <= inf, got 0.5"),
    ({"leak": torch.full((3,), 0.1)}, ValueError, r"decay as a scalar or of shape \[4\], got \[3\]"),
    ({"leak": torch.full((1, 4), 0.1)}, ValueError, r"decay as a scalar or of shape \[4\], got \[1, 4\]"),
    ({"leak": torch.tensor(0.1, device="meta")}, ValueError, "decay on cpu, got it on meta"),
    ({"threshold": torch.ones(5)}, ValueError, r"threshold as a scalar or of shape \[4\], got \[5\]"),
    ({"threshold": torch.ones(4, device="meta")}, ValueError, "threshold on cpu, got it on meta"),
    ({"threshold": float("nan")}, ValueError, "finite threshold, got nan"),
    ({"threshold": float("inf")}, ValueError, "finite threshold, got inf"),
    ({"reset": "hard"}, ValueError, "reset as one of zero, subtract, none, got 'hard'"),
    ({"surrogate": "relu"}, ValueError, "surrogate: expected one of sigmoid, atan, fast_sigmoid, triangle, got 'relu'"),
    ({"slope": 0.0}, ValueError, "finite slope > 0, got 0.0"),
    ({"slope": float("inf")}, ValueError, "finite slope > 0, got inf"),
    ({"slope": float("nan")}, ValueError, "finite slope > 0, got nan"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[m for _, _, m in BAD])
@pytest.mark.parametrize("function", ["lif", "lif_masked_loss"])
def test_bad_arguments_are_named(
    function: str, change: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments: dict[str, object] = {"z": torch.rand(2, 3, 4), "leak": 0.1, **change}
    z = arguments.pop("z")
    target = () if function == "lif" else (spike_train(2, 3, 4),)
    with pytest.raises(error, match=message) as raised:
        getattr(functional, function)(z, *target, **arguments)
    if not {"leak", "beta", "tau", "surrogate"} & set(message.replace(",", "").replace(":", "").split()):
        assert str(raised.value).startswith(f"{function}: expected ")
