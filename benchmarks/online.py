"""Online learning on the CPU: this library against the same rule in eager PyTorch, interleaved in one run.

python benchmarks/online.py                      784-196-784, T 15, B 100, both traces
python benchmarks/online.py --hidden 1024 --steps 60 --dataset fashion-mnist
python benchmarks/online.py --materialised       adds the trace per synapse as the paper writes it (slow)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import eager
import harness
import torch
from torch import Tensor

from spikefuse import PackedSpikes, functional, online
from spikefuse.data import load

RATES = {"shared": 0.3, "gated": 1.0}
"""Maximum Poisson rates of the reference runs."""


def make_weights(features: int, hidden: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(features, hidden), (hidden, features)]
    return [((torch.rand(i, o, generator=generator) * 2 - 1) * 0.1).t() for i, o in sizes]


def check_same_rule(rule: online.OnlineRule, weights: list[Tensor], batch: PackedSpikes, baseline) -> float:
    """Largest difference of the weights after one step of one batch: both sides compute the same thing."""
    ours, theirs = [w.clone() for w in weights], [w.clone().requires_grad_() for w in weights]
    one_step = batch[:1]
    online.online_step_(ours, one_step, one_step, rule)
    dense = one_step.unpack()
    with torch.no_grad():
        baseline(theirs, dense, dense, rule)
    return max(float((a - b.detach()).abs().max()) for a, b in zip(ours, theirs, strict=True))


def measure(trace: str, arguments: argparse.Namespace, images: Tensor) -> dict:
    rule = online.OnlineRule(trace=trace, trace_divisor=images.shape[1])
    rate = RATES[trace] if arguments.rate is None else arguments.rate
    batches = [
        functional.poisson_encode(images[i : i + arguments.batch_size] * rate, arguments.steps, seed=0, offset=i)
        for i in range(0, arguments.batches * arguments.batch_size, arguments.batch_size)
    ]
    dense = [batch.unpack() for batch in batches]
    weights = make_weights(images.shape[1], arguments.hidden)
    baselines = {"eager dense products": eager.online_shared}
    if trace == "gated":
        baselines = {"eager window products": eager.online_gated_window}
        if arguments.materialised:
            baselines["eager materialised traces"] = eager.online_gated_materialised

    def run_ours() -> None:
        for batch in batches:
            online.online_step_(weights, batch, batch, rule)

    def runner(baseline):
        parameters = [w.clone().contiguous().requires_grad_() for w in make_weights(images.shape[1], arguments.hidden)]

        def run() -> None:
            with torch.no_grad():
                for batch in dense:
                    baseline(parameters, batch, batch, rule)

        return run

    cases = {"spikefuse": run_ours, **{name: runner(baseline) for name, baseline in baselines.items()}}
    difference = {name: check_same_rule(rule, weights, batches[0], baseline) for name, baseline in baselines.items()}
    timings = harness.interleave(cases, arguments.rounds)
    per_batch = {name: harness.Timing([s / len(batches) for s in t.seconds]) for name, t in timings.items()}
    epoch = len(images) / arguments.batch_size
    harness.print_table(
        f"{trace} trace, {images.shape[1]}-{arguments.hidden}-{images.shape[1]}, T {arguments.steps}, "
        f"B {arguments.batch_size}, rate {rate}: Adam at every time step, ms per batch",
        ["", "median", "min-max", "times ours", "epoch of 60,000, s"],
        [[*row, f"{per_batch[row[0]].median * epoch:.1f}"] for row in harness.timing_rows(per_batch, "spikefuse")],
    )
    return {
        "trace": trace,
        "rate": rate,
        "per_batch": {name: t.to_dict() for name, t in per_batch.items()},
        "ratio": {name: t.median / per_batch["spikefuse"].median for name, t in per_batch.items()},
        "largest_weight_difference_after_one_step": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist", choices=("mnist", "fashion-mnist"))
    parser.add_argument("--trace", default="both", choices=("both", "shared", "gated"))
    parser.add_argument("--hidden", type=int, default=196)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--rate", type=float, help="maximum Poisson rate; default 0.3 shared, 1.0 gated")
    parser.add_argument("--batches", type=int, default=10, help="batches that one round times")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--materialised", action="store_true")
    parser.add_argument("--json", type=Path, default=harness.RESULTS / "online-cpu.json")
    arguments = parser.parse_args()
    try:
        images = load(arguments.dataset, "train").images
    except OSError as error:  # no data here: one line, and no traceback of every mirror
        parser.error(str(error))
    traces = list(RATES) if arguments.trace == "both" else [arguments.trace]
    results = [measure(trace, arguments, images) for trace in traces]
    settings = {name: str(value) for name, value in vars(arguments).items() if name != "json"}
    harness.write_json(
        arguments.json,
        {"benchmark": "online", "environment": harness.environment(), "settings": settings, "results": results},
    )


if __name__ == "__main__":
    main()
