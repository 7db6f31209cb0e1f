"""How the time of each op grows with T, B, layer width and density, one of them at a time by factors of 2.

    python benchmarks/scaling.py             about three minutes

Nothing should grow faster than in proportion. With the width all layers of a net grow, so that its weights, and with
them the time that is in proportion to them, grow with the square.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable

import harness
import plots
import torch

from spikefuse import LIFLinear, OnlineRule, PackedSpikes, functional, online


@dataclasses.dataclass(frozen=True)
class Point:
    steps: int = 16
    samples: int = 64
    width: int = 512
    density: float = 0.1


QUANTITIES = {
    "T": [Point(steps=n) for n in (4, 8, 16, 32, 64, 128)],
    "B": [Point(samples=n) for n in (16, 32, 64, 128, 256)],
    "width": [Point(width=n) for n in (128, 256, 512, 1024, 2048)],
    "density": [Point(density=d) for d in (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)],
}
FIELDS = {"T": "steps", "B": "samples", "width": "width", "density": "density"}


def spikes(point: Point, seed: int) -> PackedSpikes:
    rates = torch.full((point.samples, point.width), point.density)
    return functional.poisson_encode(rates, point.steps, seed=seed)


def lif_case(point: Point) -> Callable[[], object]:
    z = torch.rand(point.steps, point.samples, point.width, requires_grad=True)

    def run() -> None:
        functional.lif(z, leak=0.1).spikes.sum().backward()
        z.grad = None

    return run


def layer_case(point: Point) -> Callable[[], object]:
    layer = LIFLinear(point.width, point.width, leak=0.1)
    x = spikes(point, 0)

    def run() -> None:
        layer(x)[0].sum().backward()
        layer.weight.grad = None

    return run


def online_case(trace: str, point: Point) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    sizes = (point.width, point.width)
    bound = point.width**-0.5
    weights = [((torch.rand(sizes, generator=generator) * 2 - 1) * bound).t() for _ in range(2)]
    x, y = spikes(point, 0), spikes(point, 1)
    rule = OnlineRule(trace=trace, lr=1e-6)  # small: the firing rates, and so the work, stay the same
    return lambda: online.online_batch_(weights, x, y, rule)


CASES: dict[str, Callable[[Point], Callable[[], object]]] = {
    "LIF": lif_case,
    "LIFLinear": layer_case,
    "online, shared": lambda point: online_case("shared", point),
    "online, gated": lambda point: online_case("gated", point),
}


def exponents(x: list[float], seconds: list[float]) -> list[float]:
    """log(t2 / t1) / log(x2 / x1) of neighbours: 1 is in proportion."""
    pairs = zip(x, x[1:], seconds, seconds[1:], strict=False)
    return [math.log(t2 / t1) / math.log(x2 / x1) for x1, x2, t1, t2 in pairs]


def measure(quantity: str, points: list[Point], rounds: int) -> dict:
    x = [float(getattr(point, FIELDS[quantity])) for point in points]
    results = {}
    for name, make in CASES.items():
        timings = harness.interleave({str(i): make(point) for i, point in enumerate(points)}, rounds)
        seconds = [t.median for t in timings.values()]
        results[name] = {"timings": [t.to_dict() for t in timings.values()], "exponents": exponents(x, seconds)}
    harness.print_table(
        f"ms over {quantity} (and how steeply each grows from the point before it: 1 is in proportion)",
        ["", *(f"{value:g}" for value in x)],
        [
            [
                name,
                *(
                    harness.ms(t["median_s"]) + (f" ({e:.2f})" if e is not None else "")
                    for t, e in zip(r["timings"], [None, *r["exponents"]], strict=True)
                ),
            ]
            for name, r in results.items()
        ],
    )
    held = dataclasses.asdict(Point())
    del held[FIELDS[quantity]]
    return {"quantity": quantity, "values": x, "held": held, "cases": results}


def panel(result: dict) -> plots.Lines:
    held = ", ".join(f"{name} {result['held'][field]:g}" for name, field in FIELDS.items() if field in result["held"])
    series = {
        name: (result["values"], [t["median_s"] * 1e3 for t in case["timings"]])
        for name, case in result["cases"].items()
    }
    return plots.Lines(f"held: {held}", result["quantity"], "ms", series, slope_guide=True)


def main() -> None:
    parser = harness.argument_parser(__doc__, "scaling-cpu.json")
    parser.add_argument("--quantities", nargs="+", default=list(QUANTITIES), choices=list(QUANTITIES))
    parser.add_argument("--points", type=int, help="only so many of the smallest values")
    parser.add_argument("--rounds", type=int, default=7)
    arguments: argparse.Namespace = parser.parse_args()
    machine = harness.machine_peaks(arguments.quick_peaks)
    results = [measure(q, QUANTITIES[q][: arguments.points], arguments.rounds) for q in arguments.quantities]
    harness.write_results(arguments, "scaling", machine, results, [panel(result) for result in results])


if __name__ == "__main__":
    main()
