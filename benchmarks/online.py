"""Online learning: this library against the same rule in eager PyTorch, interleaved in one run.

    python benchmarks/online.py                        MNIST, 784-196-784, T 15, B 100, both traces
    python benchmarks/online.py --shape fashion        Fashion-MNIST, 784-1024-784, T 60, B 100
    python benchmarks/online.py --shape audiocoder     58500-2048-196, T 60, B 50, cochleagrams of spoken digits
    python benchmarks/online.py --device cuda          on a GPU
    python benchmarks/online.py --materialised         adds the trace per synapse as the paper writes it (slow)

Weights go on learning over the rounds, the same batches for all. Slow baselines are timed on the first of a round's
batches only.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable

import eager
import harness
import plots
import torch
from torch import Tensor

from spikefuse import PackedSpikes, functional, online
from spikefuse.audio import corpora
from spikefuse.data import load


@dataclasses.dataclass(frozen=True)
class Shape:
    dataset: str | None
    """Of images or sounds; None for random inputs."""
    hidden: int
    outputs: int
    steps: int
    samples: int
    rates: dict[str, float]
    """Maximum Poisson rate for each trace, or the density of random inputs. Of sounds it is the paper's 0.02."""
    batches: int
    rounds: int
    spread: float = 0.1
    """Initial weights are uniform in +- this."""


SHAPES = {
    "mnist": Shape("mnist", 196, 784, 15, 100, {"shared": 0.3, "gated": 1.0}, 10, 9),
    "fashion": Shape("fashion-mnist", 1024, 784, 60, 100, {"shared": 0.5, "gated": 0.5}, 2, 3),
    "audiocoder": Shape("fsdd", 2048, 196, 60, 50, {"shared": 0.02, "gated": 0.02}, 1, 3, 0.01),
    "smoke": Shape(None, 20, 10, 4, 3, {"shared": 0.1, "gated": 0.1}, 2, 1),
}
RANDOM_INPUTS = 40
LARGE = 1e7
"""Weights of a first layer that no cache holds."""

Baseline = Callable[[list[Tensor], Tensor, Tensor, online.OnlineRule], None]


def make_batches(name: str, rate: float) -> tuple[list[PackedSpikes], list[PackedSpikes]]:
    """Inputs, and the targets of each."""
    shape = SHAPES[name]
    count = shape.samples * shape.batches
    if shape.dataset == "fsdd":
        # of all digits and speakers, which the corpus has in order
        recordings = corpora.divided("fsdd", None)[0].shuffled(seed=0)[:count]
        rates = corpora.cochleagram().encode(recordings) * rate
    elif shape.dataset is not None:
        rates = load(shape.dataset, "train").images[:count] * rate
    else:
        rates = torch.rand(RANDOM_INPUTS, generator=torch.Generator().manual_seed(0)).mul(2 * rate).expand(count, -1)
    inputs = [
        functional.poisson_encode(x, shape.steps, seed=0, offset=i) for i, x in enumerate(rates.split(shape.samples))
    ]
    if rates.shape[1] == shape.outputs:
        return inputs, inputs
    busy = torch.full((shape.samples, shape.outputs), 0.2)
    return inputs, [functional.poisson_encode(busy, shape.steps, seed=1, offset=i) for i in range(shape.batches)]


def make_weights(shape: Shape, features: int, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((features, shape.hidden), (shape.hidden, shape.outputs))
    return [(torch.rand(i, o, generator=generator).mul_(2).sub_(1).mul_(shape.spread)).to(device).t() for i, o in sizes]


def make_baselines(trace: str, materialised: bool, large: bool) -> tuple[dict[str, Baseline], set[str]]:
    """The baselines of a trace, and which of them are slow."""
    if trace == "shared":
        return {"eager dense products": eager.online_shared}, {"eager dense products"} if large else set()
    window = "eager window products"
    baselines: dict[str, Baseline] = {} if large else {window: eager.online_gated_window}
    if not materialised:
        return baselines, set()
    slow: dict[str, Baseline] = {
        "eager traces, in place": functools.partial(eager.online_gated_materialised, in_place=True),
        "eager traces, as written": functools.partial(eager.online_gated_materialised, in_place=False),
    }
    return baselines | slow, set(slow)


def largest_difference(
    rule: online.OnlineRule, weights: list[Tensor], x: PackedSpikes, y: PackedSpikes, baseline: Baseline
) -> float:
    """Of the weights after one step of one batch: both sides compute the same thing."""
    # torch's fused Adam takes weights and gradients of other strides element by element as they lie in memory
    ours, theirs = [w.clone() for w in weights], [w.contiguous().clone().requires_grad_() for w in weights]
    online.online_batch_(ours, x[:1], y[:1], rule)
    with torch.no_grad():
        baseline(theirs, x[:1].unpack(), y[:1].unpack(), rule)
    return max(float((a - b.detach()).abs().max()) for a, b in zip(ours, theirs, strict=True))


def rows_touched(x: PackedSpikes) -> tuple[int, int]:
    """Rows of the first layer, summed over the steps of a batch: those whose input has spiked so far in the batch,
    each of which has a gradient and moments, and those whose input spikes at the step, each of which must be read."""
    active = torch.zeros(x.shape[2], dtype=torch.bool, device=x.device)
    updated = read = 0
    for t in range(x.shape[0]):
        spiking = x[t].unpack(torch.bool).any(0)
        active |= spiking
        updated += int(active.sum())
        read += int(spiking.sum())
    return updated, read


def memory_floors(x: PackedSpikes, hidden: int) -> dict[str, float]:
    """GB that a batch must move: W, m and v of a row are read and written where it is updated, in fp32."""
    updated, read = rows_touched(x)
    return {
        # every update at its own step
        "one_pass_a_step": updated * hidden * 24 / 1e9,
        # updates that wait until a row is read, which is as late as they may come: what this library does
        "one_pass_a_read": read * hidden * (24 + 4) / 1e9,
    }


def measure(trace: str, arguments: argparse.Namespace, machine: dict) -> dict:
    shape = SHAPES[arguments.shape]
    rate = shape.rates[trace] if arguments.rate is None else arguments.rate
    device = arguments.device
    inputs, targets = ([x.to(device) for x in batches] for batches in make_batches(arguments.shape, rate))
    features = inputs[0].shape[2]
    rule = online.OnlineRule(trace=trace, trace_divisor=784)
    large = features * shape.hidden > LARGE
    baselines, slow = make_baselines(trace, arguments.materialised, large)
    weights = make_weights(shape, features, device)
    difference = {
        name: largest_difference(rule, weights, inputs[0], targets[0], case) for name, case in baselines.items()
    }

    def run_ours() -> None:
        for x, y in zip(inputs, targets, strict=True):
            online.online_batch_(weights, x, y, rule)

    def runner(baseline: Baseline, batches: int) -> Callable[[], None]:
        parameters = [w.contiguous().requires_grad_() for w in make_weights(shape, features, device)]

        def run() -> None:
            with torch.no_grad():
                for x, y in list(zip(inputs, targets, strict=True))[:batches]:
                    baseline(parameters, x.unpack(), y.unpack(), rule)

        return run

    timed = {"spikefuse": shape.batches, **{n: 1 if n in slow else shape.batches for n in baselines}}
    cases = {"spikefuse": run_ours, **{name: runner(case, timed[name]) for name, case in baselines.items()}}
    memory = {name: harness.peak_memory(case, device) for name, case in cases.items()}
    timings = harness.interleave(cases, arguments.rounds or shape.rounds, warmup=1, device=device)
    per_batch = {name: t / timed[name] for name, t in timings.items()}
    ours = per_batch["spikefuse"].median
    title = f"{features}-{shape.hidden}-{shape.outputs}, T {shape.steps}, B {shape.samples}"
    harness.print_table(
        f"{trace} trace, {title}, rate {rate}: Adam at every time step, ms per batch",
        harness.TIMING_HEADER,
        harness.timing_rows(per_batch, "spikefuse", memory),
    )
    result = {
        "shape": arguments.shape,
        "layers": title,
        "trace": trace,
        "rate": rate,
        "density": inputs[0].density(),
        "per_batch": {name: t.to_dict() for name, t in per_batch.items()},
        "batches_timed": timed,
        "ratio": {name: t.median / ours for name, t in per_batch.items()},
        "peak_memory_bytes": memory,
        "largest_weight_difference_after_one_step": difference,
    }
    if large:
        floors = [memory_floors(x, shape.hidden) for x in inputs]
        result["memory_floors"] = {}
        for name in floors[0]:
            moved = sum(floor[name] for floor in floors) / len(floors)
            seconds = moved / machine["copy_gb_per_s"]
            result["memory_floors"][name] = {"gb": moved, "seconds": seconds, "share": seconds / ours}
            print(
                f"{name.replace('_', ' ')}: {moved:.1f} GB, {seconds:.2f} s at this machine's copy rate, "
                f"{seconds / ours:.0%} of what it took"
            )
    return result


def panel(result: dict) -> plots.Bars:
    return plots.Bars(
        f"{result['layers']}: online batch, {result['trace']} trace",
        "times as long as spikefuse",
        result["ratio"],
        "spikefuse",
        {name: f"  ({harness.ms(t['median_s'])} ms)" for name, t in result["per_batch"].items()},
    )


def main() -> None:
    parser = harness.argument_parser(__doc__, "online-SHAPE-cpu.json", devices=("cpu", "cuda"))
    parser.add_argument("--shape", default="mnist", choices=tuple(SHAPES))
    parser.add_argument("--trace", default="both", choices=("both", "shared", "gated"))
    parser.add_argument("--rate", type=float, help="maximum Poisson rate; default the shape's")
    parser.add_argument("--rounds", type=int, help="default the shape's, 3 or 9")
    parser.add_argument("--materialised", action="store_true", help="also the traces per synapse, gated only")
    arguments = parser.parse_args()
    arguments.json = arguments.json.with_name(arguments.json.name.replace("SHAPE", arguments.shape))
    traces = ["shared", "gated"] if arguments.trace == "both" else [arguments.trace]
    machine = harness.machine_peaks(arguments.quick_peaks, arguments.device)
    try:
        results = [measure(trace, arguments, machine) for trace in traces]
    except (OSError, ImportError) as error:  # no data here: one line, and no traceback of every mirror
        parser.error(str(error))
    harness.write_results(arguments, "online", machine, results, [panel(result) for result in results])


if __name__ == "__main__":
    main()
