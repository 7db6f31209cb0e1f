"""The autoencoder of throughput.py, two LIF layers and the masked loss of the second, in other libraries.

Each function takes weights [out, in], x and target [T, B, N] and the leak, and returns a function that computes the
loss. The libraries return no potential before the reset, which the loss needs: it is made again from the one after the
reset of the step before. All decay by 1 - leak and reset to zero; how else a library differs stands with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

Loss = Callable[[], Tensor]


def _masked_loss(v: Tensor, spikes: Tensor, target: Tensor) -> Tensor:
    error = (target != spikes.detach()).float() * (target - v)
    return 0.5 * error.square().sum()


def _step_before(after_reset: Tensor, dim: int) -> Tensor:
    """The potentials with which each step starts, from those with which it ends."""
    all_but_last = after_reset.narrow(dim, 0, after_reset.shape[dim] - 1)
    return torch.cat((torch.zeros_like(after_reset.narrow(dim, 0, 1)), all_but_last), dim)


def snntorch(weights: list[Tensor], x: Tensor, target: Tensor, leak: float) -> Loss:
    """Fires where v > threshold, and its immediate reset is part of the gradient."""
    import snntorch

    spike_grad = snntorch.surrogate.sigmoid(slope=1)
    # not moved to a GPU: all of its buffers are single numbers, and it would wait for the GPU to read one at each step
    neurons = [
        snntorch.Leaky(beta=1 - leak, reset_mechanism="zero", reset_delay=False, spike_grad=spike_grad) for _ in weights
    ]

    def loss() -> Tensor:
        states = [x.new_zeros(x.shape[1], w.shape[0]) for w in weights]
        total = x.new_zeros(())
        for z, y in zip(linear(x, weights[0]), target, strict=True):
            hidden, states[0] = neurons[0](z, states[0])
            current = linear(hidden, weights[1])
            v = (1 - leak) * states[1] + current
            spikes, states[1] = neurons[1](current, states[1])
            total = total + _masked_loss(v, spikes, y)
        return total

    return loss


def spikingjelly(weights: list[Tensor], x: Tensor, target: Tensor, leak: float) -> Loss:
    """Differs in nothing."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    layers = [
        neuron.LIFNode(
            tau=1 / leak,
            decay_input=False,
            v_reset=0.0,
            detach_reset=True,
            surrogate_function=surrogate.Sigmoid(alpha=1.0),
            step_mode="m",
            store_v_seq=i == 1,
        ).to(x.device)
        for i, _ in enumerate(weights)
    ]

    def loss() -> Tensor:
        for layer in layers:
            functional.reset_net(layer)
        current = linear(layers[0](linear(x, weights[0])), weights[1])
        spikes = layers[1](current)
        return _masked_loss((1 - leak) * _step_before(layers[1].v_seq, 0) + current, spikes, target)

    return loss


def norse(weights: list[Tensor], x: Tensor, target: Tensor, leak: float) -> Loss:
    """Fires where v > threshold, its reset is part of the gradient, its nearest surrogate is 4 times the sigmoid's.

    Its current enters with the weight dt / tau, here the leak, so the synapses are divided by it.
    """
    from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step

    dt = 0.001
    # 1 - tanh^2(x / 2) = 4 sigmoid(x) (1 - sigmoid(x))
    neuron = LIFBoxParameters(tau_mem_inv=torch.tensor(leak / dt, device=x.device), method="tanh", alpha=0.5)

    def loss() -> Tensor:
        scaled = [w / leak for w in weights]
        states = [LIFBoxFeedForwardState(v=x.new_zeros(x.shape[1], w.shape[0])) for w in weights]
        total = x.new_zeros(())
        for z, y in zip(linear(x, scaled[0]), target, strict=True):
            hidden, states[0] = lif_box_feed_forward_step(z, states[0], neuron, dt)
            current = linear(hidden, scaled[1])
            v = (1 - leak) * states[1].v + leak * current
            spikes, states[1] = lif_box_feed_forward_step(current, states[1], neuron, dt)
            total = total + _masked_loss(v, spikes, y)
        return total

    return loss


def sinabs(weights: list[Tensor], x: Tensor, target: Tensor, leak: float) -> Loss:
    """Differs in nothing with the sigmoid's derivative, of which it has none, as surrogate; samples come first."""
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.layers import LIF

    def sigmoid_derivative(v: Tensor, threshold: Tensor) -> Tensor:
        sigma = torch.sigmoid(v - threshold)
        return sigma * (1 - sigma)

    # without requires_grad_ it would learn its time constants as well
    layers = [
        LIF(
            tau_mem=-1 / math.log(1 - leak),
            norm_input=False,
            spike_fn=SingleSpike,
            reset_fn=MembraneReset(),
            surrogate_grad_fn=sigmoid_derivative,
            record_states=i == 1,
        )
        .requires_grad_(False)
        .to(x.device)
        for i, _ in enumerate(weights)
    ]
    inputs, targets = (spikes.transpose(0, 1).contiguous() for spikes in (x, target))

    def loss() -> Tensor:
        for layer in layers:
            layer.reset_states()
        current = linear(layers[0](linear(inputs, weights[0])), weights[1])
        spikes = layers[1](current)
        after_reset = layers[1].recordings["v_mem"]
        return _masked_loss((1 - leak) * _step_before(after_reset, 1) + current, spikes, targets)

    return loss


PEERS = {"snnTorch": snntorch, "SpikingJelly": spikingjelly, "Norse": norse, "sinabs": sinabs}
PACKAGES = ("snntorch", "spikingjelly", "norse", "sinabs")
