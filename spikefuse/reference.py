"""Every op in plain PyTorch, written to be read: the parity tests' oracle, and the paper's equations in one place.

Nothing here is fast. Equation numbers are those of Roy, Panda & Roy (2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from spikefuse.online import OnlineRule


def surrogate_derivative(name: str, x: Tensor, slope: float) -> Tensor:
    """ds/dv at ``x = v - threshold`` (eqs 3-4), any shape; formulas in :mod:`spikefuse.surrogate`.

    >>> surrogate_derivative("sigmoid", torch.zeros(1), 1.0)
    tensor([0.2500])
    """
    if name == "sigmoid":
        e = torch.exp(-(slope * x).abs())
        return slope * e / (1 + e) ** 2
    if name == "atan":
        return slope / 2 / (1 + (math.pi / 2 * slope * x) ** 2)
    if name == "fast_sigmoid":
        return 1 / (1 + slope * x.abs()) ** 2
    y = 1 - slope * x.abs()
    return torch.where(y <= 0, torch.zeros_like(y), slope * y)


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


def pack(spikes: Tensor) -> Tensor:
    """int32 words ``[..., ceil(N / 32)]`` of spikes ``[..., N]``.

    >>> pack(torch.ones(1, 33)).tolist()
    [[-1, 1]]
    """
    padded = torch.nn.functional.pad(spikes.to(torch.int64), (0, -spikes.shape[-1] % 32))
    bits = padded.unflatten(-1, (padded.shape[-1] // 32, 32)) << torch.arange(32, device=spikes.device)
    word = bits.sum(-1)
    return torch.where(word >= 2**31, word - 2**32, word).to(torch.int32)


def unpack(words: Tensor, num_neurons: int) -> Tensor:
    """fp32 spikes ``[..., N]`` of int32 words.

    >>> unpack(torch.tensor([[5]], dtype=torch.int32), 3)
    tensor([[1., 0., 1.]])
    """
    bits = words.to(torch.int64).unsqueeze(-1) >> torch.arange(32, device=words.device) & 1
    return bits.flatten(-2)[..., :num_neurons].to(torch.float32)


def philox4x32(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10 (Salmon et al., SC 2011): counters ``[..., 4]`` to uniform 32-bit numbers, int64 throughout.

    >>> [hex(x) for x in philox4x32(torch.zeros(4, dtype=torch.int64), (0, 0)).tolist()]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    mask = 0xFFFFFFFF
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(10):
        # 32 x 32 -> 64 bit products by 16-bit halves, so that int64 never overflows into its sign
        hi0, lo0 = _multiply_high_low(0xD2511F53, c0)
        hi1, lo1 = _multiply_high_low(0xCD9E8D57, c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return torch.stack((c0, c1, c2, c3), -1)


def _multiply_high_low(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    low = (a & 0xFFFF) * b
    high = (a >> 16) * b
    total = (low >> 16) + high
    return total >> 16, ((total & 0xFFFF) << 16) | (low & 0xFFFF)


def poisson_encode(rates: Tensor, steps: int, *, seed: int, offset: int = 0) -> Tensor:
    """Dense fp32 spikes ``[T, B, N]``: input n of sample b spikes at step t with probability ``rates[b, n]``.

    >>> poisson_encode(torch.tensor([[0.0, 1.0]]), 2, seed=0).tolist()
    [[[0.0, 1.0]], [[0.0, 1.0]]]
    """
    samples, num_neurons = rates.shape
    quads = -(-num_neurons // 4)
    coordinates = torch.cartesian_prod(torch.arange(steps), torch.arange(samples), torch.arange(quads)).reshape(-1, 3)
    t, b, quad = coordinates.unbind(-1)
    draws = philox4x32(torch.stack((quad, b, t, torch.full_like(t, offset)), -1), (seed & 0xFFFFFFFF, seed >> 32))
    draws = draws.reshape(steps, samples, quads * 4)[..., :num_neurons]
    limit = (rates.double() * 2.0**32).clamp(0, 2.0**32).to(torch.int64)
    return (draws.to(rates.device) < limit).to(torch.float32)


def online_step(
    weights: Sequence[Tensor],
    inputs: Tensor,
    targets: Tensor,
    rule: OnlineRule,
    gradients: str = "window",
    on_step: Callable[[int, list[Tensor], list[Tensor]], None] | None = None,
    fire: Callable[[int, int, Tensor], Tensor] | None = None,
    masked: bool = True,
) -> tuple[list[Tensor], float, list[Tensor], float]:
    """One batch of the online rule (PAPER eqs 1-17), in the dtype of the weights.

    Args:
        weights: ``[out, in]`` for each layer; not changed.
        inputs: spikes ``[T, B, in]``.
        targets: spikes ``[T, B, out]`` of the last layer.
        rule: the settings.
        gradients: how a gated gradient is made: "materialised" keeps the trace ``[B, out, in]`` of eqs 10 and 16,
            "window" is the equal product over (sample, past step) pairs. Without meaning for the shared trace.
        on_step: called with t, gradients and spikes of every layer before each update.
        fire: makes the spikes ``[B, out]`` of step t >= 1 and a layer from its v, in place of ``v >= threshold``: to go
            on from another implementation's spikes where a v is within rounding of the threshold.
        masked: False leaves out the mask of eq 6, so that every output neuron is corrected: the paper's comparison.

    Returns:
        New weights, loss (summed over time and outputs, mean over the batch), spike counts ``[B, out]`` of each layer,
        share of zeros in E.
    """
    weights = [w.clone() for w in weights]
    steps, samples = inputs.shape[:2]
    decay, threshold = 1 - rule.leak, rule.threshold
    layers = range(len(weights))
    state = [w.new_zeros(samples, w.shape[0]) for w in weights]
    counts = [torch.zeros(samples, w.shape[0], dtype=torch.int32) for w in weights]
    trace = [w.new_zeros(samples, w.shape[1]) for w in weights]
    gated = [w.new_zeros(samples, *w.shape) if gradients == "materialised" else None for w in weights]
    last_spike = [torch.zeros(samples, w.shape[0], dtype=torch.int64) for w in weights]
    layer_inputs: list[list[Tensor]] = [[] for _ in weights]
    m, v_moment = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    loss, open_errors = 0.0, 0

    for t in range(1, steps + 1):
        x = inputs[t - 1].to(weights[0].dtype)
        potentials, spikes = [], []
        for i in layers:
            layer_inputs[i].append(x)
            potential = decay * state[i] + x @ weights[i].T
            s = (potential >= threshold if fire is None else fire(t, i, potential)).to(potential.dtype)
            if rule.clamps:
                potential = potential.clamp(max=threshold)
            state[i] = torch.where(s > 0, torch.zeros_like(potential), potential)
            counts[i] += s.to(torch.int32)
            potentials.append(potential)
            spikes.append(s)
            x = s
        target = targets[t - 1].to(x.dtype)
        error = threshold * target - potentials[-1]
        if masked:
            error = masked_error(potentials[-1], spikes[-1], target, threshold)
        loss += float(0.5 * error.double().square().sum())
        open_errors += int(((target != spikes[-1]) if masked else (error != 0)).sum())

        # errors of this time step only, with the weights from before its update (eqs 13-15)
        deltas = [-error]
        for i in reversed(layers[1:]):
            below = surrogate_derivative(rule.surrogate, potentials[i - 1] - threshold, rule.slope)
            deltas.insert(0, (deltas[0] @ weights[i]) * below)

        grads = []
        for i in layers:
            if rule.trace == "shared":
                trace[i] = decay * trace[i] + layer_inputs[i][-1]
                grad = deltas[i].T @ trace[i]
                divisor = weights[i].shape[1] if rule.trace_divisor is None else rule.trace_divisor
                trace[i] = trace[i] * (1 - spikes[i].sum(1, keepdim=True) / divisor)
            elif gradients == "materialised":
                e = gated[i]
                assert e is not None
                e = decay * e + layer_inputs[i][-1].unsqueeze(1)
                grad = torch.einsum("bm,bmn->mn", deltas[i], e)
                gated[i] = e * (1 - spikes[i]).unsqueeze(2)
            else:
                # dL/dW = sum over b and s in (r, t] of delta * decay^(t-s) * x[s]: one product with K = (s, b)
                past = torch.arange(1, t + 1)
                weighting = decay ** (t - past).to(weights[i].dtype)
                inside = past[:, None, None] > last_spike[i]
                left = deltas[i] * weighting[:, None, None] * inside
                grad = left.flatten(0, 1).T @ torch.stack(layer_inputs[i]).flatten(0, 1)
                last_spike[i] = torch.where(spikes[i] > 0, t, last_spike[i])
            grads.append(grad / samples)
        if on_step is not None:
            on_step(t, grads, spikes)

        for i in layers:
            weights[i] = _update(weights[i], grads[i], m[i], v_moment[i], t, rule)
    elements = targets.numel()
    return weights, loss / max(samples, 1), counts, 1 - open_errors / elements if elements else 1.0


def _update(w: Tensor, grad: Tensor, m: Tensor, v: Tensor, k: int, rule: OnlineRule) -> Tensor:
    """Adam with moments of this batch only, or SGD; m and v are changed in place."""
    decoupled = rule.weight_decay_mode == "decoupled"
    if not decoupled:
        grad = grad + rule.weight_decay * w
    shrink = 1 - rule.lr * rule.weight_decay if decoupled else 1.0
    if rule.optimizer == "sgd":
        return shrink * w - rule.lr * grad
    beta1, beta2 = rule.betas
    m.mul_(beta1).add_(grad, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    return shrink * w - rule.lr / (1 - beta1**k) * m / (v.sqrt() / math.sqrt(1 - beta2**k) + rule.eps)
