"""The LIF recursion alone, forward and backward, against a copy of the bytes that it must move.

    python benchmarks/lif.py                  on a CPU, 2^22 neuron-steps
    python benchmarks/lif.py --device cuda    2^26 neuron-steps

Forward reads z and writes spikes and v; backward reads v and the gradient of the spikes and writes that of z. A share
of 100 % is the rate of torch's own copy, measured in the same run; a state in registers leaves no other traffic.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import eager
import harness
import plots
import torch
from torch import Tensor

from spikefuse import functional

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def lif_step(v: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes, and the potential after the reset."""
    v = 0.9 * v + current
    spikes = eager.SigmoidSpike.apply(v - 1)
    return spikes, v * (1 - spikes.detach())


def loop(z: Tensor, step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lif_step) -> Tensor:
    """The recursion in plain PyTorch."""
    v, spikes = z.new_zeros(z.shape[1:]), []
    for current in z:
        fired, v = step(v, current)
        spikes.append(fired)
    return torch.stack(spikes)


def measure(name: str, steps: int, neuron_steps: int, peaks: dict, arguments: argparse.Namespace) -> dict:
    dtype, samples = DTYPES[name], 64
    neurons = neuron_steps // steps // samples
    z = (torch.rand(steps, samples, neurons, device=arguments.device) * 0.6).to(dtype).requires_grad_()
    grad = torch.rand_like(z)
    out = functional.lif(z, leak=0.1).spikes
    looped = loop(z)
    cases = {
        "forward": lambda: functional.lif(z.detach(), leak=0.1),
        "backward": lambda: torch.autograd.grad(out, z, grad, retain_graph=True),
        "loop forward": lambda: loop(z.detach()),
        "loop backward": lambda: torch.autograd.grad(looped, z, grad, retain_graph=True),
    }
    memory = {case: harness.peak_memory(run, arguments.device) for case, run in cases.items()}
    timings = harness.interleave(cases, arguments.rounds, device=arguments.device)
    size = z.element_size()
    # v is fp32
    moved = {"forward": (2 * size + 4) * z.numel(), "backward": (2 * size + 4) * z.numel()}
    rates = {case: moved[case] / timings[case].median / 1e9 for case in moved}
    rows = harness.timing_rows(timings, "forward", memory)
    for row in rows:
        rate = rates.get(row[0])
        row += ["-", "-"] if rate is None else [f"{rate:.1f}", f"{rate / peaks['copy_gb_per_s']:.0%}"]
    harness.print_table(
        f"LIF, {name}, T {steps}, B {samples}, N {neurons}: ms",
        [*harness.TIMING_HEADER, "GB/s", "of a copy"],
        rows,
    )
    return {
        "dtype": name,
        "steps": steps,
        "samples": samples,
        "neurons": neurons,
        "timings": {case: timing.to_dict() for case, timing in timings.items()},
        "gb_per_s": rates,
        "share_of_copy": {case: rate / peaks["copy_gb_per_s"] for case, rate in rates.items()},
        "peak_memory_bytes": memory,
    }


def main() -> None:
    parser = harness.argument_parser(__doc__, "lif-cpu.json", devices=("cpu", "cuda"))
    parser.add_argument("--neuron-steps", type=int, help="default 2^22, on CUDA 2^26")
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    peaks = harness.machine_peaks(arguments.quick_peaks, arguments.device)
    size = arguments.neuron_steps or (2**22 if arguments.device == "cpu" else 2**26)
    results = [measure(name, steps, size, peaks, arguments) for name in DTYPES for steps in arguments.steps]
    bars = {f"{r['dtype']} T {r['steps']} {case}": share for r in results for case, share in r["share_of_copy"].items()}
    panel = plots.Bars("LIF: rate of the bytes it must move", "share of a copy's rate", bars, ours="")
    harness.write_results(arguments, "lif", peaks, results, [panel])


if __name__ == "__main__":
    main()
