"""The baselines: what a careful user writes in plain PyTorch for the same mathematics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spikefuse.online import OnlineRule


def _reset_adam(weights: list[Tensor], rule: OnlineRule) -> torch.optim.Adam:
    return torch.optim.Adam(weights, lr=rule.lr, betas=rule.betas, eps=rule.eps, fused=True)


def online_shared(weights: list[Tensor], inputs: Tensor, targets: Tensor, rule: OnlineRule) -> None:
    """The online rule with the shared trace: dense products and fused Adam; weights [out, in] changed in place."""
    samples, decay = inputs.shape[1], 1 - rule.leak
    adam = _reset_adam(weights, rule)
    state = [w.new_zeros(samples, w.shape[0]) for w in weights]
    trace = [w.new_zeros(samples, w.shape[1]) for w in weights]
    for x, y in zip(inputs, targets, strict=True):
        potentials, spikes = [], []
        for i, w in enumerate(weights):
            trace[i].mul_(decay).add_(x)
            v = torch.addmm(state[i], x, w.t(), beta=decay).clamp_(max=rule.threshold)
            x = (v >= rule.threshold).float()
            state[i] = v * (1 - x)
            potentials.append(v)
            spikes.append(x)
        delta = (y != x).float() * (potentials[-1] - rule.threshold * y)
        for i in reversed(range(len(weights))):
            weights[i].grad = torch.mm(delta.t(), trace[i]).div_(samples)
            if i:
                sigma = torch.sigmoid(potentials[i - 1] - rule.threshold)
                delta = torch.mm(delta, weights[i]) * (sigma * (1 - sigma))
            divisor = weights[i].shape[1] if rule.trace_divisor is None else rule.trace_divisor
            trace[i].mul_(1 - spikes[i].sum(1, keepdim=True) / divisor)
        adam.step()


def online_gated_window(weights: list[Tensor], inputs: Tensor, targets: Tensor, rule: OnlineRule) -> None:
    """The online rule with the gated trace, each gradient one product over (past step, sample) pairs."""
    steps, samples, decay = *inputs.shape[:2], 1 - rule.leak
    adam = _reset_adam(weights, rule)
    state = [w.new_zeros(samples, w.shape[0]) for w in weights]
    last_spike = [w.new_full((samples, w.shape[0]), -1) for w in weights]
    history = [w.new_zeros(steps, samples, w.shape[1]) for w in weights]
    for t, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        potentials, spikes = [], []
        for i, w in enumerate(weights):
            history[i][t] = x
            v = torch.addmm(state[i], x, w.t(), beta=decay)
            x = (v >= rule.threshold).float()
            state[i] = v * (1 - x)
            potentials.append(v)
            spikes.append(x)
        past = torch.arange(t + 1, dtype=torch.float32, device=inputs.device)[:, None, None]
        weighting = decay ** (t - past)
        delta = (y != x).float() * (potentials[-1] - rule.threshold * y)
        for i in reversed(range(len(weights))):
            left = delta * weighting * (past > last_spike[i])
            weights[i].grad = torch.mm(left.flatten(0, 1).t(), history[i][: t + 1].flatten(0, 1)).div_(samples)
            if i:
                sigma = torch.sigmoid(potentials[i - 1] - rule.threshold)
                delta = torch.mm(delta, weights[i]) * (sigma * (1 - sigma))
            last_spike[i] = torch.where(spikes[i] > 0, float(t), last_spike[i])
        adam.step()


def online_gated_materialised(
    weights: list[Tensor], inputs: Tensor, targets: Tensor, rule: OnlineRule, in_place: bool
) -> None:
    """The online rule with one gated trace per sample and synapse, [B, out, in].

    The traces are changed in place, or made anew twice a step, as the paper's equations read.
    """
    samples, decay = inputs.shape[1], 1 - rule.leak
    adam = _reset_adam(weights, rule)
    state = [w.new_zeros(samples, w.shape[0]) for w in weights]
    trace = [w.new_zeros(samples, *w.shape) for w in weights]
    for x, y in zip(inputs, targets, strict=True):
        potentials, spikes = [], []
        for i, w in enumerate(weights):
            trace[i] = trace[i].mul_(decay).add_(x[:, None, :]) if in_place else decay * trace[i] + x[:, None, :]
            v = torch.addmm(state[i], x, w.t(), beta=decay)
            x = (v >= rule.threshold).float()
            state[i] = v * (1 - x)
            potentials.append(v)
            spikes.append(x)
        delta = (y != x).float() * (potentials[-1] - rule.threshold * y)
        for i in reversed(range(len(weights))):
            weights[i].grad = torch.einsum("bm,bmn->mn", delta, trace[i]).div_(samples)
            if i:
                sigma = torch.sigmoid(potentials[i - 1] - rule.threshold)
                delta = torch.mm(delta, weights[i]) * (sigma * (1 - sigma))
            open_gates = (1 - spikes[i])[:, :, None]
            trace[i] = trace[i].mul_(open_gates) if in_place else trace[i] * open_gates
        adam.step()


class SigmoidSpike(torch.autograd.Function):
    """Heaviside with the derivative of a sigmoid, as plain PyTorch users write it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).float()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        sigma = torch.sigmoid(x)
        return grad * sigma * (1 - sigma)


def masked_autoencoder_step(
    weight: Tensor, z: Tensor, y: Tensor, v_hidden: Tensor, v_output: Tensor, decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One time step: both potentials after the reset, and the masked loss of the second layer."""
    v_hidden = decay * v_hidden + z
    s = SigmoidSpike.apply(v_hidden - 1)
    v_hidden = v_hidden * (1 - s.detach())
    v_output = decay * v_output + torch.nn.functional.linear(s, weight)
    s_output = (v_output >= 1).float()
    error = (y != s_output).float() * (y - v_output)
    return v_hidden, v_output * (1 - s_output), 0.5 * error.square().sum()


def masked_autoencoder_loss(
    weights: list[Tensor],
    x: Tensor,
    target: Tensor,
    leak: float,
    step: Callable[..., tuple[Tensor, Tensor, Tensor]] = masked_autoencoder_step,
) -> Tensor:
    """Two LIF layers over all steps and the masked loss of the second, as a plain loop under autograd."""
    v_hidden = x.new_zeros(x.shape[1], weights[0].shape[0])
    v_output = x.new_zeros(x.shape[1], weights[1].shape[0])
    loss = x.new_zeros(())
    currents = torch.nn.functional.linear(x, weights[0])
    for z, y in zip(currents, target, strict=True):
        v_hidden, v_output, step_loss = step(weights[1], z, y, v_hidden, v_output, 1 - leak)
        loss = loss + step_loss
    return loss
