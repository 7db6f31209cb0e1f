"""LIF dynamics of all time steps, and their masked membrane-potential loss, with their gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from spikefuse import ops
from spikefuse.functional.checks import check_device, check_dtype, check_shape
from spikefuse.functional.differentiation import first_derivative_only
from spikefuse.packed import PackedSpikes
from spikefuse.surrogate import surrogate_id

RESETS: Final[dict[str, int]] = {"zero": 0, "subtract": 1, "none": 2}
"""Resets of v after a spike: to zero, minus the threshold, or none. The numbers are ``enum class Reset``'s."""


class LIFOutput(NamedTuple):
    """Outputs of a LIF recursion."""

    spikes: Tensor
    """0/1 in the dtype of the input, ``[T, B, N]``."""
    v: Tensor
    """Membrane potential before the reset, fp32 (fp64 for fp64 input), ``[T, B, N]``."""
    state: Tensor
    """Membrane potential after the last step's reset, same dtype as v, ``[B, N]``."""


class MaskedLossOutput(NamedTuple):
    """Outputs of the masked membrane-potential loss."""

    loss: Tensor
    """1/2 sum E^2 over time, samples and neurons; a scalar of v's dtype."""
    spikes: Tensor
    """0/1, ``[T, B, N]``; carries no gradient."""
    state: Tensor
    """Membrane potential after the last step's reset, ``[B, N]``."""
    mismatches: Tensor
    """Number of neuron-steps whose spike differs from the target's; a scalar int64."""

    @property
    def open_errors(self) -> Tensor:
        """The old name of ``mismatches``."""
        warnings.warn(
            "MaskedLossOutput.open_errors is now MaskedLossOutput.mismatches", DeprecationWarning, stacklevel=2
        )
        return self.mismatches


def decay_factor(
    leak: float | Tensor | None = None, beta: float | Tensor | None = None, tau: float | Tensor | None = None
) -> float | Tensor:
    """The factor by which v decays in a step: ``1 - leak``, or ``beta`` (snnTorch), or ``1 - 1 / tau`` (SpikingJelly).

    Raises:
        TypeError: not exactly one of the three was given.
        ValueError: the one given is a number outside its range.

    >>> decay_factor(leak=0.25), decay_factor(beta=0.75), decay_factor(tau=4.0)
    (0.75, 0.75, 0.75)
    """
    given = {name: value for name, value in (("leak", leak), ("beta", beta), ("tau", tau)) if value is not None}
    if len(given) != 1:
        raise TypeError(f"expected exactly one of leak, beta and tau, got {', '.join(given) or 'none'}")
    ((name, value),) = given.items()
    if not isinstance(value, Tensor):
        lowest, highest = (1.0, math.inf) if name == "tau" else (0.0, 1.0)
        if not lowest <= value <= highest:
            raise ValueError(f"{name}: expected {lowest:g} <= {name} <= {highest:g}, got {value}")
    if name == "leak":
        return 1 - value
    return value if name == "beta" else 1 - 1 / value


def lif(
    z: Tensor,
    state: Tensor | None = None,
    *,
    leak: float | Tensor | None = None,
    beta: float | Tensor | None = None,
    tau: float | Tensor | None = None,
    threshold: float | Tensor = 1.0,
    reset: str = "zero",
    detach_reset: bool = True,
    surrogate: str = "sigmoid",
    slope: float = 1.0,
) -> LIFOutput:
    """T steps of leaky integrate-and-fire neurons: ``v[t] = decay * v'[t-1] + z[t]``, a spike where v >= threshold.

    v' is v after the reset. Differentiable with respect to z, state, and the decay and the threshold where they are
    tensors; the spike's derivative is the surrogate's (eqs 1-4 of Roy, Panda & Roy 2019).

    Args:
        z: input current ``[T, B, N]``, fp32, bf16, fp16 or fp64, any strides.
        state: v' of the step before the first, ``[B, N]``; zeros where None.
        leak, beta, tau: exactly one; see :func:`decay_factor`. A number, a scalar tensor or a tensor ``[N]``.
        threshold: a number, a scalar tensor or a tensor ``[N]``.
        reset: "zero", "subtract" (the threshold) or "none".
        detach_reset: True leaves the reset out of the gradient.
        surrogate: see :mod:`spikefuse.surrogate`.
        slope: of the surrogate, > 0.

    Raises:
        TypeError: not exactly one of leak, beta and tau; an unsupported dtype.
        ValueError: a shape, device, name or number that does not fit; the message says which.

    Example:
        >>> import torch, spikefuse
        >>> out = spikefuse.functional.lif(torch.full((3, 1, 1), 0.6), beta=0.5)
        >>> out.spikes.flatten().tolist(), out.state.item()
        ([0.0, 0.0, 1.0], 0.0)
    """
    settings = lif_settings("lif", z, state, decay_factor(leak, beta, tau), threshold, reset, surrogate, slope)
    spikes, v, new_state, _, _ = _apply_lif(
        z, *settings.tensors, None, settings.reset, detach_reset, *settings.surrogate
    )
    return LIFOutput(spikes, v, new_state)


def lif_masked_loss(
    z: Tensor,
    target: PackedSpikes | Tensor,
    state: Tensor | None = None,
    *,
    leak: float | Tensor | None = None,
    beta: float | Tensor | None = None,
    tau: float | Tensor | None = None,
    threshold: float | Tensor = 1.0,
    reset: str = "zero",
    detach_reset: bool = True,
    surrogate: str = "sigmoid",
    slope: float = 1.0,
) -> MaskedLossOutput:
    """:func:`lif` and the masked membrane-potential loss of its output (eqs 5-8), the error never stored.

    ``E = (y XOR s) * (threshold * y - v)``, ``loss = 1/2 sum E^2``. The forward scan sums the loss, the reverse scan
    makes E again from v. The mask is a constant of the derivative, so ``d loss / d v = -E``.

    Args:
        z: as in :func:`lif`.
        target: target spikes y, ``[T, B, N]``, packed or dense zeros and ones.
        state: as in :func:`lif`, like every argument that follows.

    Raises:
        TypeError, ValueError: as in :func:`lif`; also a target of another shape or device.

    Example:
        >>> import torch, spikefuse
        >>> z = torch.tensor([[[0.4, 1.2]]], requires_grad=True)
        >>> out = spikefuse.functional.lif_masked_loss(z, torch.ones(1, 1, 2), leak=0.1)
        >>> out.loss.backward()
        >>> round(out.loss.item(), 2), z.grad.tolist()
        (0.18, [[[-0.6000000238418579, 0.0]]])
    """
    settings = lif_settings(
        "lif_masked_loss", z, state, decay_factor(leak, beta, tau), threshold, reset, surrogate, slope
    )
    packed = target if isinstance(target, PackedSpikes) else PackedSpikes.pack(target)
    check_shape("lif_masked_loss", "target", packed.shape, list(z.shape))
    check_device("lif_masked_loss", "target", packed.device, z)
    spikes, _, new_state, loss, mismatches = _apply_lif(
        z, *settings.tensors, packed.words, settings.reset, detach_reset, *settings.surrogate
    )
    return MaskedLossOutput(loss, spikes.detach(), new_state, mismatches)


class _LIFSettings(NamedTuple):
    tensors: tuple[Tensor | None, Tensor, Tensor]
    reset: int
    surrogate: tuple[int, float]


def lif_settings(
    caller: str,
    z: Tensor,
    state: Tensor | None,
    decay: float | Tensor,
    threshold: float | Tensor,
    reset: str,
    surrogate: str,
    slope: float,
) -> _LIFSettings:
    """Checks a LIF call and brings its arguments into the form of the op."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{caller}: expected z as a tensor, got {type(z).__name__}")
    check_dtype(caller, "z", z.dtype)
    if z.dim() != 3:
        raise ValueError(f"{caller}: expected z of shape [T, B, N], got {list(z.shape)}")
    if reset not in RESETS:
        raise ValueError(f"{caller}: expected reset as one of {', '.join(RESETS)}, got {reset!r}")
    if not 0 < slope < math.inf:  # comparisons, which torch.compile can trace
        raise ValueError(f"{caller}: expected a finite slope > 0, got {slope}")
    if not isinstance(threshold, Tensor) and not -math.inf < threshold < math.inf:
        raise ValueError(f"{caller}: expected a finite threshold, got {threshold}")
    acc = ops.accumulate_dtype(z.dtype)
    if state is not None:
        check_shape(caller, "state", state.shape, list(z.shape[1:]))
        check_device(caller, "state", state.device, z)
        state = state.to(acc)
    ops.check_backend(z, "lif_forward")
    tensors = (
        state,
        _neuron_parameter(caller, "decay", decay, z, acc),
        _neuron_parameter(caller, "threshold", threshold, z, acc),
    )
    return _LIFSettings(tensors, RESETS[reset], (surrogate_id(surrogate), float(slope)))


def _neuron_parameter(caller: str, name: str, value: float | Tensor, z: Tensor, acc: torch.dtype) -> Tensor:
    """One value for all neurons, ``[1]``, or one for each, ``[N]``."""
    if not isinstance(value, Tensor):
        return torch.full((1,), value, dtype=acc, device=z.device)
    if value.dim() > 1 or value.numel() not in (1, z.shape[2]):
        raise ValueError(f"{caller}: expected {name} as a scalar or of shape [{z.shape[2]}], got {list(value.shape)}")
    check_device(caller, name, value.device, z)
    return value.reshape(-1).to(acc)


class _LIF(torch.autograd.Function):
    """The LIF recursion with an optional masked loss; keeps v, and the packed target where there is one."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        state: Tensor | None,
        decay: Tensor,
        threshold: Tensor,
        target: Tensor | None,
        reset: int,
        detach_reset: bool,
        surrogate: int,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        spikes, v, new_state, loss, mismatches = ops.lif_forward(z, state, decay, threshold, target, reset)
        ctx.save_for_backward(v, state, decay, threshold, target)
        ctx.settings = (z.dtype, reset, detach_reset, surrogate, slope)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mismatches)
        return spikes, v, new_state, loss, mismatches

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any,
        grad_spikes: Tensor | None,
        grad_v: Tensor | None,
        grad_state: Tensor | None,
        grad_loss: Tensor | None,
        _: None,
    ) -> tuple[Tensor | None, ...]:
        v, state, decay, threshold, target = ctx.saved_tensors
        dtype, reset, detach_reset, surrogate, slope = ctx.settings
        parameter_gradients = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        if grad_loss is None:
            target = None
        elif target is None:
            grad_loss = None
        grad_z, grad_initial, grad_decay, grad_threshold = ops.lif_backward(
            grad_spikes,
            grad_v,
            grad_state,
            grad_loss,
            v,
            state,
            decay,
            threshold,
            target,
            dtype,
            reset,
            detach_reset,
            surrogate,
            slope,
            parameter_gradients,
        )
        return (
            grad_z,
            grad_initial if ctx.needs_input_grad[1] else None,
            sum_like(grad_decay, decay) if ctx.needs_input_grad[2] else None,
            sum_like(grad_threshold, threshold) if ctx.needs_input_grad[3] else None,
            *(None,) * 5,
        )


def sum_like(per_sample: Tensor, parameter: Tensor) -> Tensor:
    """Sums ``[B, N]`` to the shape of a neuron parameter, ``[1]`` or ``[N]``."""
    total = per_sample.sum(0)
    return total if parameter.shape == total.shape else total.sum(0, keepdim=True)


# Function.apply has no types.
_apply_lif: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = _LIF.apply
