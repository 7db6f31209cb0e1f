"""Training-step throughput of LIFLinear against a plain PyTorch loop and the libraries that are installed.

    python benchmarks/throughput.py                  784-196-784 and 784-1024-784 on the CPU
    python benchmarks/throughput.py --shapes 784-196-784 --rounds 30

One step is forward and backward of a two-layer spiking autoencoder with the masked membrane-potential loss; weights,
inputs and targets are equal for all, inputs are real spikes of the stated density. Peers come with the extra "peers".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import eager
import harness
import torch
from torch import Tensor

from spikefuse import LIFLinear, PackedSpikes

SHAPES = {"784-196-784": (784, 196, 15, 100, 0.13), "784-1024-784": (784, 1024, 60, 100, 0.29)}
"""inputs, hidden, T, B, input density"""

LEAK = 0.1


def _masked_loss(v: Tensor, spikes: Tensor, target: Tensor) -> Tensor:
    error = (target != spikes.detach()).float() * (target - v)
    return 0.5 * error.square().sum()


def spikefuse_step(weights: list[Tensor], x: Tensor | PackedSpikes, target: PackedSpikes) -> Callable[[], Tensor]:
    layers = [LIFLinear(w.shape[1], w.shape[0], leak=LEAK) for w in weights]
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight)

    def step() -> Tensor:
        hidden, _ = layers[0](x)
        loss = layers[1].masked_loss(hidden, target).loss
        loss.backward()
        return loss

    return step


def plain_step(weights: list[Tensor], x: Tensor) -> Callable[[], Tensor]:
    parameters = [w.clone().contiguous().requires_grad_() for w in weights]

    def step() -> Tensor:
        loss = eager.masked_autoencoder_loss(parameters, x, x, LEAK)
        loss.backward()
        return loss

    return step


def snntorch_step(weights: list[Tensor], x: Tensor) -> Callable[[], Tensor]:
    import snntorch

    parameters = [w.clone().contiguous().requires_grad_() for w in weights]
    spike_grad = snntorch.surrogate.sigmoid(slope=1)
    neurons = [
        snntorch.Leaky(beta=1 - LEAK, reset_mechanism="zero", reset_delay=False, spike_grad=spike_grad) for _ in weights
    ]

    def step() -> Tensor:
        states = [x.new_zeros(x.shape[1], w.shape[0]) for w in parameters]
        currents = torch.nn.functional.linear(x, parameters[0])
        loss = x.new_zeros(())
        for z, y in zip(currents, x, strict=True):
            hidden, states[0] = neurons[0](z, states[0])
            # the potential before the reset, which the loss needs and Leaky does not return
            current = torch.nn.functional.linear(hidden, parameters[1])
            v = (1 - LEAK) * states[1] + current
            spikes, states[1] = neurons[1](current, states[1])
            loss = loss + _masked_loss(v, spikes, y)
        loss.backward()
        return loss

    return step


def spikingjelly_step(weights: list[Tensor], x: Tensor) -> Callable[[], Tensor]:
    from spikingjelly.activation_based import functional, neuron, surrogate

    parameters = [w.clone().contiguous().requires_grad_() for w in weights]
    layers = [
        neuron.LIFNode(
            tau=1 / LEAK,
            decay_input=False,
            v_reset=0.0,
            detach_reset=True,
            surrogate_function=surrogate.Sigmoid(alpha=1.0),
            step_mode="m",
            store_v_seq=i == 1,
        )
        for i, _ in enumerate(weights)
    ]

    def step() -> Tensor:
        for layer in layers:
            functional.reset_net(layer)
        hidden = layers[0](torch.nn.functional.linear(x, parameters[0]))
        current = torch.nn.functional.linear(hidden, parameters[1])
        spikes = layers[1](current)
        after_reset = layers[1].v_seq
        before = torch.cat((torch.zeros_like(after_reset[:1]), after_reset[:-1]))
        loss = _masked_loss((1 - LEAK) * before + current, spikes, x)
        loss.backward()
        return loss

    return step


def measure(name: str, rounds: int) -> dict:
    features, hidden, steps, samples, density = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(steps, samples, features, generator=generator) < density).float()
    packed = PackedSpikes.pack(x)
    weights = [
        (torch.rand(o, i, generator=generator) * 2 - 1) * i**-0.5 for o, i in ((hidden, features), (features, hidden))
    ]
    cases: dict[str, Callable[[], Tensor]] = {
        "spikefuse": spikefuse_step(weights, x, packed),
        "spikefuse, packed input": spikefuse_step(weights, packed, packed),
        "plain PyTorch loop": plain_step(weights, x),
    }
    missing = []
    for peer, make in (("snnTorch", snntorch_step), ("SpikingJelly", spikingjelly_step)):
        try:
            cases[peer] = make(weights, x)
        except ImportError as error:
            missing.append(f"{peer} ({error})")
    losses = {case: float(step().detach()) for case, step in cases.items()}
    timings = harness.interleave(cases, rounds, warmup=2)
    harness.print_table(
        f"{name}, T {steps}, B {samples}, density {density:.0%}: one training step, ms",
        ["", "median", "min-max", "times ours"],
        harness.timing_rows(timings, "spikefuse"),
    )
    if missing:
        print("not measured:", "; ".join(missing))
    return {
        "shape": name,
        "losses": losses,
        "not_measured": missing,
        "timings": {case: t.to_dict() for case, t in timings.items()},
        "ratio": {case: t.median / timings["spikefuse"].median for case, t in timings.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, default=harness.RESULTS / "throughput-cpu.json")
    arguments = parser.parse_args()
    results = [measure(name, arguments.rounds) for name in arguments.shapes]
    harness.write_json(
        arguments.json, {"benchmark": "throughput", "environment": harness.environment(), "results": results}
    )


if __name__ == "__main__":
    main()
