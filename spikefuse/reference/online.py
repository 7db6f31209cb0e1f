"""One batch of the online rule (eqs 1-17)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spikefuse.reference.lif import masked_error
from spikefuse.reference.surrogate import surrogate_derivative

if TYPE_CHECKING:
    from spikefuse.online import OnlineRule


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
    loss, mismatches = 0.0, 0

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
        mismatches += int(((target != spikes[-1]) if masked else (error != 0)).sum())

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
    return weights, loss / max(samples, 1), counts, 1 - mismatches / elements if elements else 1.0


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
