"""The setting of the Open Neuromorphic benchmark: Linear(N, N) and LIF, B 16, T 500, one training step in fp32.

    python benchmarks/open_neuromorphic.py --device cuda        N = 512 ... 16,384
    python benchmarks/open_neuromorphic.py --sizes 128 --steps 50

Forward, a loss that is the sum of the spikes, and backward. Inputs are real spikes at the stated density, packed for
spikefuse and dense for the others. Gradients differ where a library's reset is part of them: see peers.py.

torch.compile is given one time step, called in a loop. It is given the whole loop only up to 16 steps, so not at the
default of 500: it unrolls the loop, and compiling 500 steps does not end in minutes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import harness
import plots
import torch
from lif import lif_step, loop
from torch import Tensor
from torch.nn.functional import linear

from spikefuse import LIFLinear, PackedSpikes, functional

LEAK = 0.1
Forward = Callable[[], Tensor]


def snntorch(weight: Tensor, x: Tensor) -> Forward:
    import snntorch

    neuron = snntorch.Leaky(beta=1 - LEAK, reset_mechanism="zero", spike_grad=snntorch.surrogate.sigmoid(slope=1))

    def forward() -> Tensor:
        state, spikes = x.new_zeros(x.shape[1], weight.shape[0]), []
        for z in linear(x, weight):
            fired, state = neuron(z, state)
            spikes.append(fired)
        return torch.stack(spikes)

    return forward


def spikingjelly(weight: Tensor, x: Tensor) -> Forward:
    """Picks its native, Triton or plain kernels itself. Its lif_linear is a LIF layer before a product, not after."""
    from spikingjelly.activation_based import functional as sj
    from spikingjelly.activation_based import neuron, surrogate

    layer = neuron.LIFNode(
        tau=1 / LEAK,
        decay_input=False,
        v_reset=0.0,
        detach_reset=True,
        surrogate_function=surrogate.Sigmoid(alpha=1.0),
        step_mode="m",
    ).to(x.device)

    def forward() -> Tensor:
        sj.reset_net(layer)
        return layer(linear(x, weight))

    return forward


def norse(weight: Tensor, x: Tensor) -> Forward:
    from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step

    dt = 0.001
    neuron = LIFBoxParameters(tau_mem_inv=torch.tensor(LEAK / dt, device=x.device), method="tanh", alpha=0.5)

    def forward() -> Tensor:
        state, spikes = LIFBoxFeedForwardState(v=x.new_zeros(x.shape[1], weight.shape[0])), []
        for z in linear(x, weight / LEAK):  # its current enters with the weight dt / tau, here the leak
            fired, state = lif_box_feed_forward_step(z, state, neuron, dt)
            spikes.append(fired)
        return torch.stack(spikes)

    return forward


def sinabs_or_exodus(package: str) -> Callable[[Tensor, Tensor], Forward]:
    def make(weight: Tensor, x: Tensor) -> Forward:
        from importlib import import_module

        from sinabs.activation import MembraneReset, SingleSpike

        layers = import_module(f"{package}.layers")
        settings = {"tau_mem": -1 / math.log(1 - LEAK), "norm_input": False}
        if package == "sinabs":  # EXODUS has kernels of its own for these
            settings |= {"spike_fn": SingleSpike, "reset_fn": MembraneReset()}
        layer, inputs = layers.LIF(**settings).to(x.device), x.transpose(0, 1).contiguous()

        def forward() -> Tensor:
            layer.reset_states()
            return layer(linear(inputs, weight))

        return forward

    return make


PEERS = {
    "snnTorch": snntorch,
    "Norse": norse,
    "sinabs": sinabs_or_exodus("sinabs"),
    "EXODUS": sinabs_or_exodus("sinabs.exodus"),
    "SpikingJelly": spikingjelly,
}


def step_of(forward: Forward) -> Callable[[], None]:
    return lambda: forward().sum().backward()


def measure(size: int, arguments: argparse.Namespace) -> dict:
    device, shape = arguments.device, (arguments.steps, arguments.samples, size)
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(shape, generator=generator) < arguments.density).float().to(device)
    weight = ((torch.rand(size, size, generator=generator) - 0.4) * (0.5 / size**0.5)).to(device)
    layer = LIFLinear(size, size, leak=LEAK, device=device)
    with torch.no_grad():
        layer.weight.copy_(weight)
    packed, theirs = PackedSpikes.pack(x), weight.clone().requires_grad_()
    cases: dict[str, Forward] = {
        "spikefuse": lambda: layer(packed)[0],
        "spikefuse, one kernel": lambda: functional.lif_linear(packed, layer.weight, leak=LEAK).spikes,
        "plain PyTorch loop": lambda: loop(linear(x, theirs)),
    }
    not_run: dict[str, str] = {}
    if device != "cpu":
        compiled, not_run = harness.compiled_loops(
            lambda: loop(linear(x, theirs)), lambda step: lambda: loop(linear(x, theirs), step), lif_step, len(x)
        )
        cases |= compiled
    missing = []
    for name, make in PEERS.items():
        try:
            cases[name] = make(theirs, x)
            step_of(cases[name])()
        except Exception as error:  # a backend that is not there fails in ways of its own
            cases.pop(name, None)
            missing.append(f"{name} ({str(error).splitlines()[0][:100] if str(error) else type(error).__name__})")
    steps = {name: step_of(forward) for name, forward in cases.items()}
    memory = {name: harness.peak_memory(step, device) for name, step in steps.items()}
    timings = harness.interleave(steps, arguments.rounds, warmup=1, device=device)
    energy = {name: harness.joules(step, device) for name, step in steps.items()}
    harness.print_table(
        f"N {size}, B {shape[1]}, T {shape[0]}, density {arguments.density:g}: forward and backward, ms",
        [*harness.TIMING_HEADER, "J"],
        [
            *([*row, harness.rounded(energy[row[0]])] for row in harness.timing_rows(timings, "spikefuse", memory)),
            *harness.rows_not_run(not_run),
        ],
    )
    if missing:
        print("not measured:", "; ".join(missing))
    return {
        "size": size,
        "timings": {name: t.to_dict() for name, t in timings.items()},
        "ratio": {name: t.median / timings["spikefuse"].median for name, t in timings.items()},
        "peak_memory_bytes": memory,
        "joules": energy,
        "not_measured": missing,
        "not_run": not_run,
    }


def main() -> None:
    parser = harness.argument_parser(__doc__, "open-neuromorphic-cpu.json", devices=("cpu", "cuda"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16_384])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    machine = harness.machine_peaks(arguments.quick_peaks, arguments.device)
    results = [measure(size, arguments) for size in arguments.sizes]
    panels = [
        plots.Bars(f"Linear + LIF, N {r['size']}", "times as long as spikefuse", r["ratio"], "spikefuse")
        for r in results
    ]
    harness.write_results(arguments, "open_neuromorphic", machine, results, panels)


if __name__ == "__main__":
    main()
