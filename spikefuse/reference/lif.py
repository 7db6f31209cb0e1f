"""The LIF recursion and the masked membrane-potential loss (eqs 1-8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spikefuse.reference.surrogate import surrogate_derivative


class _Spike(torch.autograd.Function):
    """Heaviside forward, surrogate backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, surrogate: str, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate, ctx.slope = surrogate, slope  # type: ignore[attr-defined]
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * surrogate_derivative(ctx.surrogate, x, ctx.slope), None, None  # type: ignore[attr-defined]


_spike: Callable[[Tensor, str, float], Tensor] = _Spike.apply  # Function.apply has no types


def lif(
    z: Tensor,
    state: Tensor | None = None,
    *,
    decay: Tensor | float,
    threshold: Tensor | float = 1.0,
    reset: str = "zero",
    detach_reset: bool = True,
    surrogate: str = "sigmoid",
    slope: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """T steps of eqs 1-2, differentiable by plain autograd.

    Args:
        z: input current ``[T, B, N]``.
        state: v' of the step before, ``[B, N]``; zeros where None.
        decay: 1 - leak, a scalar or ``[N]``.
        threshold: a scalar or ``[N]``.

    Returns:
        Spikes ``[T, B, N]``, v before the reset ``[T, B, N]``, state ``[B, N]``.

    >>> s, v, state = lif(torch.full((3, 1, 1), 0.6), decay=0.5)
    >>> s.flatten().tolist(), [round(x, 2) for x in v.flatten().tolist()]
    ([0.0, 0.0, 1.0], [0.6, 0.9, 1.05])
    """
    after_reset = z.new_zeros(z.shape[1:]) if state is None else state
    spikes, potentials = [], []
    for z_t in z:
        v = decay * after_reset + z_t
        s = _spike(v - threshold, surrogate, slope)
        s_reset = s.detach() if detach_reset else s
        if reset == "zero":
            # A select where nothing flows through s, so that a neuron at +inf resets to 0 and not to NaN.
            after_reset = torch.where(s > 0, torch.zeros_like(v), v) if detach_reset else v * (1 - s)
        elif reset == "subtract":
            after_reset = v - threshold * s_reset
        else:
            after_reset = v
        spikes.append(s)
        potentials.append(v)
    if not spikes:
        return torch.empty_like(z), torch.empty_like(z), after_reset
    return torch.stack(spikes), torch.stack(potentials), after_reset


def masked_error(v: Tensor, spikes: Tensor, target: Tensor, threshold: Tensor | float = 1.0) -> Tensor:
    """E = (y XOR s) * (threshold * y - v) (eqs 5-7), all ``[..., N]``.

    >>> masked_error(torch.tensor([0.4, 0.4, 1.2]), torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0]))
    tensor([0.6000, 0.0000, 0.0000])
    """
    return torch.where(target != spikes, threshold * target - v, torch.zeros_like(v))


def masked_loss(v: Tensor, spikes: Tensor, target: Tensor, threshold: Tensor | float = 1.0) -> Tensor:
    """L = 1/2 sum E^2 (eq 8), summed over all dimensions; the mask is a constant of the derivative.

    >>> round(float(masked_loss(torch.tensor([0.4]), torch.tensor([0.0]), torch.tensor([1.0]))), 2)
    0.18
    """
    return 0.5 * masked_error(v, spikes.detach(), target, threshold).square().sum()
