"""Shared by parity tests: inputs in every memory layout, and comparisons whose tolerances follow from error analysis.

``u`` is the unit roundoff of the accumulation type: each rounding changes a number by at most u times its size. The
oracle is evaluated in float64, whose own rounding is far below every bound made here.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from spikefuse import ops, reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
RESETS = ("zero", "subtract", "none")
SURROGATES = ("sigmoid", "atan", "fast_sigmoid", "triangle")
LAYOUTS = ("contiguous", "batch_first", "offset", "padded", "stride_0_samples", "stride_0", "every_second_neuron")

MARGIN = 2**-6
"""How far `currents` keeps every v from its threshold: more than any rounding of z in any dtype can move it."""


def roundoff(dtype: torch.dtype) -> float:
    """u, half of the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def uniform(
    *shape: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Tensor:
    """Uniform numbers; the same for every dtype but for their rounding."""
    generator = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=generator)).to(dtype)


def spike_train(*shape: int, density: float = 0.3, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Zeros and ones."""
    return (uniform(*shape, seed=seed) < density).to(dtype)


def lay_out(x: Tensor, layout: str) -> Tensor:
    """A tensor of x's shape whose memory lies as `layout` says. The stride-0 layouts repeat a part of x."""
    if layout == "batch_first":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "offset":
        memory = x.new_empty(x.numel() + 1)
        return memory[1:].view(x.shape).copy_(x)
    if layout == "padded":
        return x.new_empty(*x.shape[:-1], x.shape[-1] + 3)[..., : x.shape[-1]].copy_(x)
    if layout == "stride_0_samples":
        return x[:, :1].expand_as(x)
    if layout == "stride_0":
        return x.flatten()[:1].expand(x.shape) if x.numel() else x
    if layout == "every_second_neuron":
        return x.new_empty(*x.shape[:-1], 2 * x.shape[-1])[..., ::2].copy_(x)
    assert layout == "contiguous"
    return x.contiguous()


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """A LIF layer's constants; tensors are 0-dimensional or [N]."""

    decay: Tensor
    threshold: Tensor
    reset: str = "zero"
    detach_reset: bool = True
    surrogate: str = "sigmoid"
    slope: float = 1.0

    def double(self) -> Dynamics:
        """The same numbers in float64: rounded to the layer's precision first, so no rounding is left to compare."""
        return dataclasses.replace(self, decay=self.decay.double(), threshold=self.threshold.double())

    def settings(self) -> dict[str, object]:
        """The arguments that functional.lif and reference.lif share, decay apart."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "decay"}


def after_reset(reset: str, v: Tensor, spikes: Tensor, threshold: Tensor) -> Tensor:
    """v' for given spikes, by selection."""
    on_spike = {"zero": torch.zeros_like(v), "subtract": v - threshold, "none": v}[reset]
    return torch.where(spikes > 0, on_spike, v)


def currents(dynamics: Dynamics, steps: int, state: Tensor, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """z [T, B, N] of `dtype` that makes about a third of the neurons spike, no v within MARGIN of its threshold.

    So every right implementation emits the same spikes, and gradients can be compared everywhere.
    """
    exact = dynamics.double()
    z = uniform(steps, *state.shape, low=-0.5, high=1.5, dtype=dtype, seed=seed).to(state.device)
    held = state.double()
    for t in range(steps):
        distance = exact.decay * held + z[t].double() - exact.threshold
        away = torch.where(distance >= 0, 4 * MARGIN, -4 * MARGIN)
        z[t] = torch.where(distance.abs() < 2 * MARGIN, z[t].double() + away, z[t].double()).to(dtype)
        v = exact.decay * held + z[t].double()
        assert bool(((v - exact.threshold).abs() >= MARGIN).all())
        held = after_reset(exact.reset, v, v >= exact.threshold, exact.threshold)
    return z


def assert_spikes_close(
    spikes: Tensor,
    z: Tensor,
    dynamics: Dynamics,
    *,
    state: Tensor | None = None,
    v: Tensor | None = None,
    new_state: Tensor | None = None,
    z_error: Tensor | float = 0.0,
    max_ulps: float = 32,
    max_flip_share: float = 1e-3,
) -> tuple[int, Tensor]:
    """Asserts that spikes [T, B, N] are those of currents z but for rounding, flips replayed.

    Walks through time in float64 beside a bound of the rounding error: v gains u * |v| by each step's one rounding, and
    z_error where z itself was computed; a reset to zero ends all of it, a subtraction adds u * |v'|. Where v is farther
    from the threshold than the bound, spikes must be equal. Within it a spike may flip, and that neuron goes on from
    flipped spike. Flips must be few, and where they are many they must go both ways. v and new_state, where given, must
    lie within the bound too, and the spikes must be exactly those of the given v.

    Args:
        max_ulps: the widest that the band around a threshold may be at a flip, in units in the last place of it.
        max_flip_share: most flips, as a share of neuron-steps.

    Returns:
        Number of flips, and the error bound of v [T, B, N].
    """
    acc = ops.accumulate_dtype(z.dtype)
    u, exact = roundoff(acc), dynamics.double()
    threshold = exact.threshold.expand(z.shape[1:])
    # second-order terms, which the walk leaves out
    u *= 1.01
    if v is not None:
        assert v.dtype == acc and v.shape == z.shape
        assert torch.equal(spikes.double(), (v.double() >= threshold).double()), "spikes are not those of v"
    held = torch.zeros_like(z[:1].sum(0), dtype=torch.float64) if state is None else state.double()
    error = torch.zeros_like(held)
    up = down = 0
    errors = []
    for t in range(z.shape[0]):
        potential = exact.decay * held + z[t].double()
        # the layer's rounding, and the oracle's own two
        oracle = roundoff(torch.float64) * ((exact.decay * held).abs() + potential.abs())
        error = exact.decay * error + z_error + u * potential.abs() + oracle
        # Rounding to nearest takes v up to a threshold more often than down past it, in every right implementation: the
        # oracle's v is rounded once before it is compared, so that the flips left are of accumulated errors only.
        fired, expected = spikes[t].double() > 0, potential.to(acc) >= threshold
        flips = fired != expected
        assert bool((potential - threshold).abs()[flips].le(error[flips]).all()), (
            f"step {t}: spikes differ outside the band"
        )
        band = error[flips] / (2 * roundoff(acc) * threshold[flips].abs())
        assert bool(band.le(max_ulps).all()), f"step {t}: a flip in a band of {float(band.max()):.3g} ulp"
        if v is not None:
            assert bool((v[t].double() - potential).abs().le(error).all()), f"step {t}: v is outside its error bound"
        up, down = up + int((flips & fired).sum()), down + int((flips & expected).sum())
        errors.append(error)
        held = after_reset(exact.reset, potential, fired, threshold)
        rounded = u * held.abs() if exact.reset == "subtract" else 0
        error = torch.where(fired, (0 if exact.reset == "zero" else error + rounded), error)
    flipped = up + down
    assert flipped <= max(1, max_flip_share * spikes.numel()), f"{flipped} flips among {spikes.numel()} neuron-steps"
    # Of 20 fair flips, fewer than 2 go one way in 4 of 100,000 draws.
    assert flipped < 20 or min(up, down) >= flipped / 10, f"{up} flips up and {down} down: a bias, not rounding"
    if new_state is not None:
        assert new_state.dtype == acc and bool((new_state.double() - held).abs().le(error).all()), "state"
    return flipped, torch.stack(errors) if errors else torch.zeros_like(z, dtype=torch.float64)


@dataclasses.dataclass
class GradientBounds:
    """How far rounding can take each gradient of a LIF layer from its float64 value."""

    z: Tensor
    state: Tensor
    decay: Tensor
    threshold: Tensor


def gradient_bounds(
    dynamics: Dynamics,
    v: Tensor,
    v_error: Tensor,
    state: Tensor,
    *,
    grad_spikes: Tensor,
    grad_v: Tensor,
    grad_state: Tensor,
    grad_v_error: Tensor | float = 0.0,
    acc: torch.dtype = torch.float32,
) -> GradientBounds:
    """The reverse scan over sizes instead of values, with the error that each of its roundings adds.

    The surrogate takes at most 12 roundings, exp's two units in the last place included, and carries v's error on with
    at most its steepest slope, max(k^2, 2 k). Decay's and threshold's bounds are per sample, [B, N].
    """
    exact, u = dynamics.double(), roundoff(acc) * (2 if acc == torch.float64 else 1.05)
    zero_reset, subtract = exact.reset == "zero", exact.reset == "subtract"
    steepest = max(exact.slope**2, 2 * exact.slope)
    size, error = grad_state.double().abs(), torch.zeros_like(state, dtype=torch.float64)
    decay_size = torch.zeros_like(error)
    decay_error, threshold_size, threshold_error = decay_size.clone(), decay_size.clone(), decay_size.clone()
    bounds = []
    for t in reversed(range(v.shape[0])):
        x = v[t].double() - exact.threshold
        fired = x >= 0
        h = reference.surrogate_derivative(exact.surrogate, x, exact.slope)
        h_error = 12 * u * h + steepest * (v_error[t] + u * x.abs())
        # what the spike's gradient takes from v' when the reset is not detached
        through = torch.zeros_like(h)
        if not exact.detach_reset and exact.reset != "none":
            through = v[t].double().abs() if zero_reset else exact.threshold.abs().expand_as(h)
        spike = grad_spikes[t].double().abs() + through * size
        spike_error = through * error + (v_error[t] * size if zero_reset else 0) + 2 * u * spike
        kept = 1 - fired.double() if zero_reset else torch.ones_like(h)
        total = kept * size + spike * h + grad_v[t].double().abs()
        error_v = grad_v_error[t] if isinstance(grad_v_error, Tensor) else grad_v_error
        total_error = kept * error + spike_error * h + spike * h_error + error_v + 4 * u * total
        if t > 0:
            previous = after_reset(
                exact.reset, v[t - 1].double(), v[t - 1].double() >= exact.threshold, exact.threshold
            )
            previous_error = v_error[t - 1] + u * previous.abs()
        else:
            previous, previous_error = state.double(), torch.zeros_like(error)
        decay_size += total * previous.abs()
        decay_error += total_error * previous.abs() + total * previous_error
        threshold_size += spike * h + grad_v[t].double().abs() + (size * fired if subtract else 0)
        threshold_error += spike_error * h + spike * h_error + error_v + (error * fired if subtract else 0)
        bounds.append(total_error)
        size, error = exact.decay * total, exact.decay * total_error + u * exact.decay * total
    # sums over time, then over samples, in the accumulation type
    additions = u * (2 * v.shape[0] + v.shape[1] + 2)
    return GradientBounds(
        torch.stack(bounds[::-1]) if bounds else torch.zeros_like(v, dtype=torch.float64),
        error,
        decay_error + additions * decay_size,
        threshold_error + additions * threshold_size,
    )


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor | float, what: str) -> None:
    """|actual - expected| <= bound, elementwise, plus the one rounding to the dtype of `actual`."""
    assert actual.shape == expected.shape, f"{what}: shape {list(actual.shape)}, expected {list(expected.shape)}"
    stored = roundoff(actual.dtype) * expected.detach().double().abs() * 1.01
    # below the smallest normal number the spacing is constant
    stored = stored + torch.finfo(actual.dtype).smallest_normal * torch.finfo(actual.dtype).eps
    excess = (actual.detach().double() - expected.detach().double()).abs() - bound - stored
    assert not bool(excess.isnan().any()), f"{what}: NaN"
    assert actual.numel() == 0 or float(excess.max()) <= 0, f"{what}: {float(excess.max()):.3g} above the bound"
