"""One epoch of MNIST with the paper's settings against the reference figures of the specification, over three seeds.

    python benchmarks/reference_figures.py           784-196-784, T 15, B 100, lr 5e-4, leak 0.1; about two minutes

The reference figures are those of an independent implementation of the same rule, test Spike-MSE and MSE.
"""

from __future__ import annotations

import dataclasses
import statistics

import harness
import plots

from spikefuse.data import load
from spikefuse.paper.models import SpikingAutoencoder, preset
from spikefuse.paper.seeds import weight_generator
from spikefuse.paper.training.autoencoder import Trainer, evaluate
from spikefuse.paper.training.loop import TrainSettings

TOLERANCE = 0.03


@dataclasses.dataclass(frozen=True)
class Reference:
    trace: str
    rate: float
    samples: int
    spike_mse: float
    mse: float


REFERENCES = (
    Reference("shared", 0.3, 60000, 0.25, 0.35),
    Reference("shared", 0.5, 60000, 0.17, 0.20),
    Reference("shared", 0.7, 12000, 0.135, 0.126),
    Reference("gated", 1.0, 60000, 0.158, 0.152),
)


def run(reference: Reference, seed: int) -> dict:
    train, test = load("mnist", "train"), load("mnist", "test")
    chosen = preset(reference.trace)
    model = SpikingAutoencoder(784, 196, chosen.rule, init_bound=chosen.init_bound, generator=weight_generator(seed))
    settings = TrainSettings(max_rate=reference.rate, seed=seed)
    trainer = Trainer(model, train.images[: reference.samples], settings)
    trainer.run()
    return {"seed": seed, "seconds": trainer.seconds, **dataclasses.asdict(evaluate(model, test.images, settings))}


def main() -> None:
    parser = harness.argument_parser(__doc__, "reference-figures.json")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    machine = harness.machine_peaks(arguments.quick_peaks)
    rows, results, figures = [], [], {}
    for reference in REFERENCES:
        runs = [run(reference, seed) for seed in range(arguments.seeds)]
        means = {name: statistics.mean(r[name] for r in runs) for name in ("spike_mse", "mse", "seconds")}
        within = all(abs(means[name] - getattr(reference, name)) <= TOLERANCE for name in ("spike_mse", "mse"))
        spread = {name: max(r[name] for r in runs) - min(r[name] for r in runs) for name in ("spike_mse", "mse")}
        rows.append(
            [
                f"{reference.trace}, rate {reference.rate}, {reference.samples} images",
                f"{means['spike_mse']:.3f} ({reference.spike_mse})",
                f"{means['mse']:.3f} ({reference.mse})",
                f"{max(spread.values()):.3f}",
                f"{means['seconds']:.1f}",
                "yes" if within else "NO",
            ]
        )
        label = f"{reference.trace}, rate {reference.rate}"
        figures |= {f"{label}, measured": means["spike_mse"], f"{label}, reference": reference.spike_mse}
        results.append({"reference": dataclasses.asdict(reference), "mean": means, "within": within, "runs": runs})
    harness.print_table(
        f"Test Spike-MSE and MSE, mean of {arguments.seeds} seeds (reference)",
        ["", "Spike-MSE", "MSE", "largest spread", "s per epoch", f"within {TOLERANCE}"],
        rows,
    )
    chart = plots.Bars("Test Spike-MSE after one epoch of MNIST", "Spike-MSE; a silent network scores 1", figures, "")
    harness.write_results(arguments, "reference_figures", machine, results, [chart])


if __name__ == "__main__":
    main()
