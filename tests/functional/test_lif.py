"""The LIF recursion and its reverse scan against the reference, and what they promise about numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from comparison import (
    DTYPES,
    LAYOUTS,
    RESETS,
    SURROGATES,
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

from spikefuse import LIFLinear, PackedSpikes, functional, ops, reference

SIZES = [  # T, B, N: around a word, around a kernel tile of 256 neurons, and every kind of nothing
    (5, 3, 1),
    (5, 3, 31),
    (5, 2, 32),
    (5, 2, 33),
    (6, 1, 7),
    (1, 3, 5),
    (4, 2, 255),
    (4, 2, 256),
    (4, 2, 777),
    (0, 2, 3),
    (3, 0, 4),
    (3, 2, 0),
    (0, 0, 0),
]


def constants(dtype: torch.dtype, neurons: int | None, device: str, **options: object) -> Dynamics:
    """Decay 0.9 and threshold 1 for all neurons, or, around them, one for each."""
    acc = ops.accumulate_dtype(dtype)
    shape = () if neurons is None else (neurons,)
    low, high = ((0.9, 0.9), (1.0, 1.0)) if neurons is None else ((0.7, 0.95), (0.75, 1.25))
    decay, threshold = uniform(*shape, low=low[0], high=low[1], dtype=acc), uniform(*shape, low=high[0], high=high[1])
    return Dynamics(decay.to(device), threshold.to(acc).to(device), **options)  # type: ignore[arg-type]


def assert_lif_equals_reference(
    z: Tensor, state: Tensor, dynamics: Dynamics, layout: str = "contiguous", seed: int = 1
) -> None:
    """Spikes exactly, v and all four gradients within their bounds; gradients come in with `layout`."""
    acc = ops.accumulate_dtype(z.dtype)
    parameters = (t.detach().clone().requires_grad_() for t in (state, dynamics.decay, dynamics.threshold))
    given = [z.detach().requires_grad_(), *parameters]
    out = functional.lif(given[0], given[1], beta=given[2], **{**dynamics.settings(), "threshold": given[3]})
    exact = [t.detach().double().requires_grad_() for t in given]
    expected = reference.lif(exact[0], exact[1], decay=exact[2], **{**dynamics.settings(), "threshold": exact[3]})
    assert out.spikes.dtype == z.dtype
    assert torch.equal(out.spikes.double(), expected[0])
    flips, v_error = assert_spikes_close(
        out.spikes.detach(), z, dynamics, state=state, v=out.v.detach(), new_state=out.state.detach()
    )
    assert flips == 0

    grads = [
        lay_out(uniform(*z.shape, low=-1, high=1, dtype=z.dtype, seed=seed).to(z.device), layout),
        lay_out(uniform(*z.shape, low=-1, high=1, dtype=acc, seed=seed + 1).to(z.device), layout),
        uniform(*state.shape, low=-1, high=1, dtype=acc, seed=seed + 2).to(z.device).t().contiguous().t(),
    ]
    actual = torch.autograd.grad(out, given, grads)
    # without a time step the reference's spikes and v depend on nothing
    reached = [(output, grad.double()) for output, grad in zip(expected, grads, strict=True) if output.requires_grad]
    wanted = torch.autograd.grad([o for o, _ in reached], exact, [g for _, g in reached], materialize_grads=True)
    bounds = gradient_bounds(
        dynamics,
        expected[1].detach(),
        v_error,
        exact[1].detach(),
        grad_spikes=grads[0],
        grad_v=grads[1],
        grad_state=grads[2],
        acc=acc,
    )
    assert_within(actual[0], wanted[0], bounds.z, "grad z")
    assert_within(actual[1], wanted[1], bounds.state, "grad state")
    for i, bound in ((2, bounds.decay), (3, bounds.threshold)):
        assert_within(
            actual[i], wanted[i], bound.sum(0) if given[i].dim() else bound.sum(), ("decay", "threshold")[i - 2]
        )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lif_equals_the_reference(device: str, dtype: torch.dtype, layout: str, size: tuple[int, int, int]) -> None:
    steps, samples, neurons = size
    acc = ops.accumulate_dtype(dtype)
    if layout == "stride_0":  # 0.4 everywhere: v is 0.4, 0.76, 1.084 and again, far from 1
        dynamics = constants(dtype, None, device)
        state, z = torch.zeros(samples, neurons, dtype=acc), torch.full((), 0.4, dtype=dtype).expand(size)
        assert_lif_equals_reference(z.to(device), state.to(device), dynamics, layout)
        return
    dynamics = constants(dtype, neurons, device)
    shape = (min(samples, 1), neurons) if layout == "stride_0_samples" else (samples, neurons)
    state = uniform(*shape, low=-0.5, high=0.7, dtype=acc, seed=3).to(device)
    z = currents(dynamics, steps, state, dtype)
    if layout == "stride_0_samples":
        assert_lif_equals_reference(z.expand(size), state.expand(samples, neurons), dynamics, layout)
    else:
        assert_lif_equals_reference(lay_out(z, layout), state, dynamics, layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_more_samples_than_a_grid_dimension_holds(device: str, dtype: torch.dtype) -> None:
    dynamics = constants(dtype, 1, device)
    state = uniform(66_001, 1, low=-0.5, high=0.7, dtype=ops.accumulate_dtype(dtype), seed=3).to(device)
    assert_lif_equals_reference(currents(dynamics, 2, state, dtype), state, dynamics)


@pytest.mark.parametrize("per_neuron", [False, True], ids=["one", "each"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("detach_reset", [True, False], ids=["detached", "attached"])
@pytest.mark.parametrize("reset", RESETS)
def test_every_option_equals_the_reference(
    device: str, reset: str, detach_reset: bool, surrogate: str, dtype: torch.dtype, per_neuron: bool
) -> None:
    dynamics = constants(
        dtype,
        37 if per_neuron else None,
        device,
        reset=reset,
        detach_reset=detach_reset,
        surrogate=surrogate,
        slope=1.75,
    )
    state = uniform(4, 37, low=-0.5, high=0.7, dtype=ops.accumulate_dtype(dtype), seed=3).to(device)
    assert_lif_equals_reference(currents(dynamics, 7, state, dtype), state, dynamics)


@given(
    steps=st.integers(0, 12),
    samples=st.integers(0, 4),
    neurons=st.integers(0, 70),
    decay=st.floats(0, 1),
    reset=st.sampled_from(RESETS),
    detach_reset=st.booleans(),
    surrogate=st.sampled_from(SURROGATES),
    slope=st.floats(0.25, 4),
    seed=st.integers(0, 2**31),
)
def test_float64_autograd_equals_plain_autograd_to_1e_12(
    device: str,
    steps: int,
    samples: int,
    neurons: int,
    decay: float,
    reset: str,
    detach_reset: bool,
    surrogate: str,
    slope: float,
    seed: int,
) -> None:
    z = uniform(steps, samples, neurons, low=-0.5, high=1.5, seed=seed).to(device).requires_grad_()
    settings = {"reset": reset, "detach_reset": detach_reset, "surrogate": surrogate, "slope": slope}
    out, expected = functional.lif(z, beta=decay, **settings), reference.lif(z, decay=decay, **settings)
    if not torch.equal(out.spikes, expected[0]):  # one rounding against two, at the threshold
        assert_spikes_close(
            out.spikes.detach(), z.detach(), Dynamics(torch.tensor(decay).double(), torch.ones(()), reset)
        )
        return
    grads = [uniform(*t.shape, low=-1, high=1, seed=seed).to(device) for t in out]
    actual = torch.autograd.grad(out, z, grads)[0]
    wanted = torch.zeros_like(z)
    if steps:
        (wanted,) = torch.autograd.grad(expected, z, grads)
    scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
    assert_within(actual, wanted, 1e-12 * scale, "grad z")
    assert_within(out.v, expected[1], 1e-12 * max(1, steps), "v")


def test_v_takes_one_rounding_a_step(device: str) -> None:
    # An fp32 product is exact in fp64, and so is its sum with z but for cases in 2^29: one rounding to fp32 is left.
    decay, state, z = torch.tensor(0.9), torch.zeros(64, 100), uniform(16, 64, 100, low=-0.5, dtype=torch.float32)
    out = functional.lif(z.to(device), beta=float(decay)).v.cpu()
    unfused = 0.0
    for t in range(16):
        v = (decay.double() * state.double() + z[t].double()).float()
        assert torch.equal(out[t], v)
        unfused += float((decay * state + z[t] != v).float().mean()) / 16
        state = torch.where(v >= 1, 0.0, v)
    assert unfused > 0.1  # so two roundings would have shown


@pytest.mark.parametrize("reset", RESETS)
def test_v_exactly_at_the_threshold_is_a_spike(device: str, reset: str) -> None:
    # Decay 1/2 and z in quarters: all numbers are exact for these steps, and many meet the threshold.
    z = (uniform(12, 8, 100, low=-1, high=4) * 2).floor().div(4)
    dynamics = Dynamics(torch.tensor(0.5), torch.tensor(1.0), reset)
    current, exact = z.float().to(device).requires_grad_(), z.clone().requires_grad_()
    out = functional.lif(current, beta=0.5, reset=reset)
    spikes, v, state = reference.lif(exact, decay=0.5, reset=reset)
    # the reverse scan makes the spikes again from v, and must find the same ones: these gradients are powers of 1/2
    wanted = torch.autograd.grad(v.sum() + state.sum(), exact)[0]
    assert torch.equal(torch.autograd.grad(out.v.sum() + out.state.sum(), current)[0].cpu().double(), wanted)
    assert int((v == 1).sum()) > 100
    assert torch.equal(out.spikes.cpu().double(), spikes)
    assert torch.equal(out.v.cpu().double(), v)
    assert torch.equal(out.state.cpu().double(), state)
    assert assert_spikes_close(out.spikes.cpu(), z.float(), dynamics)[0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reset", RESETS)
def test_spikes_within_rounding_of_the_threshold(device: str, reset: str, dtype: torch.dtype) -> None:
    # z is made so that v falls within an ulp or two of the threshold at every third step.
    dynamics = Dynamics(torch.tensor(0.9, dtype=dtype), torch.tensor(1.0, dtype=dtype), reset)
    z = uniform(9, 100, 500, low=-0.4, high=0.8, dtype=dtype)
    held = torch.zeros(100, 500, dtype=dtype)
    for t in range(9):
        if t % 3 == 2:
            nudge = (uniform(100, 500, low=-3, high=3, seed=t).round() * roundoff(dtype)).to(dtype)
            z[t] = 1 - dynamics.decay * held + nudge
        v = dynamics.decay * held + z[t]
        held = torch.where(v >= 1, {"zero": 0 * v, "subtract": v - 1, "none": v}[reset], v)
    out = functional.lif(z.to(device), beta=dynamics.decay.to(device), reset=reset)
    flips, _ = assert_spikes_close(
        out.spikes.cpu(), z, dynamics, v=out.v.cpu(), new_state=out.state.cpu(), max_flip_share=0.2
    )
    if dtype == torch.float32:  # float64 is compared with itself, so it needs not flip
        assert flips > 1000


@pytest.mark.parametrize("splits", [(3, 4), (1, 6), (0, 7), (7, 0), (2, 2, 3), (1,) * 7], ids=str)
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_chunks_with_carried_state_equal_one_call(
    device: str, reset: str, detach_reset: bool, splits: tuple[int, ...]
) -> None:
    settings = {"reset": reset, "detach_reset": detach_reset, "surrogate": "atan", "threshold": 0.8}
    z = uniform(7, 3, 40, low=-0.5, high=1.5, dtype=torch.float32).to(device).requires_grad_()
    state = uniform(3, 40, dtype=torch.float32, seed=1).to(device).requires_grad_()
    decay = torch.tensor(0.9, device=device, requires_grad=True)
    whole = functional.lif(z, state, beta=decay, **settings)
    spikes, v, held = [], [], state
    for chunk in z.split(splits):
        out = functional.lif(chunk, held, beta=decay, **settings)
        spikes.append(out.spikes)
        v.append(out.v)
        held = out.state
    assert torch.equal(torch.cat(spikes), whole.spikes)
    assert torch.equal(torch.cat(v), whole.v)
    assert torch.equal(held, whole.state)
    grads = [uniform(*t.shape, low=-1, high=1, dtype=torch.float32, seed=5).to(device) for t in whole]
    one = torch.autograd.grad(whole, (z, state, decay), grads)
    many = torch.autograd.grad((torch.cat(spikes), torch.cat(v), held), (z, state, decay), grads)
    assert torch.equal(one[0], many[0])
    assert torch.equal(one[1], many[1])
    # decay's sum over time is cut into the chunks' sums: 7 + 3 * 40 additions, of 840 terms of a size of 10 or so
    torch.testing.assert_close(one[2], many[2], rtol=127 * roundoff(torch.float32), atol=127 * 840 * 10 * 2**-24)


@pytest.mark.parametrize("reset", RESETS)
def test_gradcheck_away_from_the_threshold(device: str, reset: str) -> None:
    # The triangle is zero beyond 1 / slope = 0.005 of the threshold, where no v is: the analytic gradient is then the
    # derivative itself, reset and all, of everything but the spikes.
    options = {"reset": reset, "detach_reset": False, "surrogate": "triangle", "slope": 200.0}
    dynamics = constants(torch.float64, 3, device, **options)
    state = uniform(2, 3, low=-0.5, high=0.7, seed=3).to(device)
    z = currents(dynamics, 5, state, torch.float64)

    def potentials(z: Tensor, state: Tensor, decay: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        out = functional.lif(z, state, beta=decay, threshold=threshold, **options)
        return out.v, out.state

    assert functional.lif(z, state, beta=dynamics.decay, threshold=dynamics.threshold, **options).spikes.sum() > 3
    given = [t.clone().requires_grad_() for t in (z, state, dynamics.decay, dynamics.threshold)]
    assert torch.autograd.gradcheck(potentials, given)


def test_the_spike_carries_the_surrogate(device: str) -> None:
    # With the reset detached, d spikes[t] / d z[t - k] = surrogate(v[t]) * decay^k, back to the last reset.
    z = torch.tensor([0.3, 0.3, 0.9, 0.2], dtype=torch.float64, device=device).reshape(4, 1, 1).requires_grad_()
    out = functional.lif(z, beta=0.5, surrogate="atan", slope=2.0)
    assert out.spikes.flatten().tolist() == [0, 0, 1, 0]
    h = reference.surrogate_derivative("atan", out.v.detach() - 1, 2.0).flatten()
    expected = torch.stack((h[0] + h[1] / 2 + h[2] / 4, h[1] + h[2] / 2, h[2], h[3]))
    (grad,) = torch.autograd.grad(out.spikes.sum(), z)
    torch.testing.assert_close(grad.flatten(), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("outputs", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_gradients_of_some_outputs(device: str, outputs: tuple[int, ...]) -> None:
    dynamics = constants(torch.float64, 5, device, detach_reset=False)
    state = uniform(2, 5, seed=3).to(device).requires_grad_()
    z = currents(dynamics, 4, state.detach(), torch.float64).requires_grad_()
    out = functional.lif(z, state, beta=dynamics.decay, **dynamics.settings())
    expected = reference.lif(z, state, decay=dynamics.decay, **dynamics.settings())
    # square().sum() gives a gradient, sum() one of stride 0
    for reduce in (lambda t: t.square().sum(), lambda t: t.sum()):
        actual = torch.autograd.grad(sum(reduce(out[i]) for i in outputs), (z, state), retain_graph=True)
        wanted = torch.autograd.grad(sum(reduce(expected[i]) for i in outputs), (z, state), retain_graph=True)
        for a, b in zip(actual, wanted, strict=True):
            assert_within(a, b, 1e-12 * (1 + float(b.abs().max())), "gradient")


def test_gradients_strided_by_cat_and_slices(device: str) -> None:
    # 11: a gradient that arrives as a slice of a concatenation's
    z = uniform(4, 3, 10, low=-0.5, high=1.5).to(device).requires_grad_()
    weight = uniform(4, 3, 20, low=-1, high=1).to(device)
    for lif, decay in ((functional.lif, {"beta": 0.9}), (reference.lif, {"decay": 0.9})):
        spikes, v, _ = lif(z, **decay)
        (torch.cat((spikes, v), 2) * weight)[:, ::2, 1::3].sum().backward()
        if lif is functional.lif:
            actual, z.grad = z.grad, None
    assert z.grad is not None
    assert_within(actual, z.grad, 1e-13, "grad z")


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: out.v.square().sum(),
        lambda out: out.spikes.sum(),  # 43: its gradient requires no gradient
        lambda out: out.state.sum(),
    ],
    ids=["v squared", "spikes", "state"],
)
def test_a_second_derivative_is_refused(device: str, loss: Callable[[functional.LIFOutput], Tensor]) -> None:
    z = torch.rand(2, 1, 1, device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(loss(functional.lif(z, leak=0.1)), z, create_graph=True)
    with pytest.raises(RuntimeError, match="expected first derivatives only, got a second one"):
        grad.sum().backward()


def test_a_gradient_penalty_is_refused_by_every_layer(device: str) -> None:
    # 43: the penalty would be left out of the weights' gradients, without an error
    layer = LIFLinear(40, 5, leak=0.1, learn_beta=True, device=device)
    dense, spikes = uniform(6, 3, 40, dtype=torch.float32).to(device), spike_train(6, 3, 40).to(device)
    packed, target = PackedSpikes.pack(spikes), spike_train(6, 3, 5).to(device)
    calls: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "dense": lambda: (layer(dense.requires_grad_())[0].sum(), dense),
        "packed": lambda: (layer(packed)[0].sum(), layer.weight),
        "learned decay": lambda: (layer(packed)[0].sum(), layer.lif.beta),
        "loss": lambda: (layer.masked_loss(packed, target).loss, layer.weight),
        "product": lambda: (functional.spike_linear(packed, layer.weight).sum(), layer.weight),
        "product of dense spikes": lambda: (
            functional.spike_linear(spikes.requires_grad_(), layer.weight).sum(),
            spikes,
        ),
        "one op": lambda: (functional.lif_linear(packed, layer.weight, leak=0.1).spikes.sum(), layer.weight),
    }
    for name, call in calls.items():
        out, leaf = call()
        (grad,) = torch.autograd.grad(out, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="expected first derivatives only"):
            (out + grad.square().sum()).backward()
        assert grad.requires_grad, name


def test_creating_a_graph_changes_no_first_derivative(device: str) -> None:
    z = uniform(6, 3, 33, high=1.3, dtype=torch.float32).to(device).requires_grad_()
    grads = [
        torch.autograd.grad(functional.lif(z, leak=0.1).spikes.sum(), z, create_graph=create)[0]
        for create in (False, True)
    ]
    assert torch.equal(*grads)


def test_strided_parameters(device: str) -> None:
    state = uniform(3, 80, low=-0.5, high=0.7, dtype=torch.float32, seed=3).to(device)[:, ::2]
    dynamics = constants(torch.float32, 80, device)
    dynamics = dataclasses.replace(dynamics, decay=dynamics.decay[::2], threshold=dynamics.threshold[:1].expand(40))
    z = currents(dynamics, 5, state, torch.float32)
    dense = dataclasses.replace(dynamics, decay=dynamics.decay.clone(), threshold=dynamics.threshold.clone())
    results = []
    for d, held in ((dynamics, state), (dense, state.contiguous())):
        current, decay, threshold = (t.detach().requires_grad_() for t in (z, d.decay, d.threshold))
        out = functional.lif(current, held, beta=decay, threshold=threshold)
        results.append((*out, *torch.autograd.grad([t.sum() for t in out], (current, decay, threshold))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert_lif_equals_reference(z, state, dynamics)


def test_stride_0_currents(device: str) -> None:
    dynamics = Dynamics(torch.tensor(0.9), torch.tensor(1.0), "subtract")
    for z in (
        torch.full((), 0.3).expand(9, 3, 40),
        torch.rand(40).expand(9, 3, 40),
        torch.rand(9, 1, 1).expand(9, 3, 40),
    ):
        out = functional.lif(z.to(device), beta=dynamics.decay.to(device), reset="subtract")
        again = functional.lif(z.contiguous().to(device), beta=dynamics.decay.to(device), reset="subtract")
        assert_spikes_close(out.spikes.cpu(), z, dynamics, v=out.v.cpu(), new_state=out.state.cpu())
        assert torch.equal(out.v, again.v)


def test_the_comparison_rejects_what_it_should() -> None:
    dynamics = Dynamics(torch.tensor(0.9), torch.tensor(1.0))
    z = uniform(6, 20, 200, low=-0.4, high=0.8, dtype=torch.float32)
    out = functional.lif(z, beta=dynamics.decay)
    assert assert_spikes_close(out.spikes, z, dynamics, v=out.v, new_state=out.state)[0] == 0

    flipped = out.spikes.clone()
    flipped[3, 4, 5] = 1 - flipped[3, 4, 5]
    with pytest.raises(AssertionError, match="step 3: spikes differ outside the band"):
        assert_spikes_close(flipped, z, dynamics)
    with pytest.raises(AssertionError, match="spikes are not those of v"):
        assert_spikes_close(flipped, z, dynamics, v=out.v)
    with pytest.raises(AssertionError, match="outside the band"):
        assert_spikes_close(out.spikes, z, dataclasses.replace(dynamics, reset="subtract"))
    with pytest.raises(AssertionError, match="outside the band"):
        assert_spikes_close(out.spikes, z, dataclasses.replace(dynamics, decay=torch.tensor(0.91)))
    wrong_v = torch.where(out.spikes > 0, out.v, out.v - 2**-20)
    with pytest.raises(AssertionError, match="v is outside its error bound"):
        assert_spikes_close((wrong_v >= 1).float(), z, dynamics, v=wrong_v)
    with pytest.raises(AssertionError, match="state"):
        assert_spikes_close(out.spikes, z, dynamics, new_state=out.state + 1e-3)


def test_the_comparison_replays_flips_and_refuses_a_bias() -> None:
    dynamics = Dynamics(torch.tensor(0.5), torch.tensor(1.0))
    z = torch.full((2, 1, 1000), 0.4, dtype=torch.float64)
    z[0] = 1 + uniform(1000, low=-1, high=1, seed=1) * 2**-26
    honest = (uniform(1000) < 0.5).double()
    for fired, accepted in ((honest, True), (torch.ones(1000), False), (torch.zeros(1000), False)):
        second = torch.where(fired > 0, 0.4, 0.9) >= 1
        spikes = torch.stack((fired.double(), second.double())).unsqueeze(1)
        arguments = {"z_error": 2**-25, "max_ulps": 2**32, "max_flip_share": 1.0}
        if accepted:
            assert assert_spikes_close(spikes, z, dynamics, **arguments)[0] > 100
        else:
            with pytest.raises(AssertionError, match="a bias, not rounding"):
                assert_spikes_close(spikes, z, dynamics, **arguments)
    with pytest.raises(AssertionError, match="flips among"):
        assert_spikes_close(torch.stack((honest, 0 * honest)).unsqueeze(1), z, dynamics, z_error=2**-25, max_ulps=2**32)
