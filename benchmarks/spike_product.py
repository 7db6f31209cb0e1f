"""Products with packed spikes against torch's dense products, interleaved in one run.

    python benchmarks/spike_product.py               3000 x 58,500 times 58,500 x 2048, about four minutes and 4 GB
    python benchmarks/spike_product.py --shape 1500 784 196 --shape 6000 784 1024

X is R x N spikes: Z = X W with W of N x M, and dW = X^T g with g of R x M. The dense products know X as fp32; all write
into a new tensor, as layers do. The dense ones' time does not depend on the density, so they are timed at few. Rates
count what a dense product computes, 2 R N M, and the bytes that must move at least.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import harness
import plots
import torch
from torch import Tensor

from spikefuse import PackedSpikes, ops

DENSITIES = [0.001, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9]
FORWARD, TRANSPOSED = "X W", "X^T g"
CHECKED_COLUMNS = 64


class Problem:
    """One shape: spikes at every density, and what they are multiplied with."""

    def __init__(self, shape: tuple[int, int, int], densities: list[float], device: str) -> None:
        self.shape = rows, inputs, outputs = shape
        self.device = device
        self.generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(inputs, outputs, generator=self.generator).to(device)
        self.grad = torch.randn(rows, outputs, generator=self.generator).to(device)
        self.spikes = {density: self._spikes(density) for density in densities}

    def _spikes(self, density: float) -> PackedSpikes:
        rows, inputs, _ = self.shape
        # a slice of rows at a time: random numbers for all of them would be the run's peak of memory
        slices = [torch.rand(len(r), inputs, generator=self.generator) < density for r in torch.arange(rows).split(256)]
        return PackedSpikes.pack(torch.cat(slices)).to(self.device)

    def ours(self, density: float) -> dict[str, Callable[[], Tensor]]:
        words = self.spikes[density].words
        return {
            FORWARD: lambda: ops.spike_matmul(words, self.weight),
            TRANSPOSED: lambda: ops.spike_matmul_transposed(words, self.grad, self.shape[1]),
        }

    def dense(self, density: float) -> dict[str, Callable[[], Tensor]]:
        x = self.spikes[density].unpack()
        return {FORWARD: lambda: torch.mm(x, self.weight), TRANSPOSED: lambda: torch.mm(x.t(), self.grad)}

    def largest_differences(self, density: float) -> dict[str, float]:
        """To the dense result, in columns spread over all of them: all columns would take as long as a round."""
        x = self.spikes[density].unpack()
        some = slice(None, None, max(1, self.shape[2] // CHECKED_COLUMNS))
        wanted = {FORWARD: x @ self.weight[:, some], TRANSPOSED: x.t() @ self.grad[:, some]}
        return {name: float((case()[:, some] - wanted[name]).abs().max()) for name, case in self.ours(density).items()}

    def least_bytes(self, density: float | None) -> int:
        """Operands and result, W and g in size for both products; dense spikes where density is None."""
        rows, inputs, _ = self.shape
        spikes = 4 * rows * inputs if density is None else self.spikes[density].words.nbytes
        return spikes + self.weight.nbytes + self.grad.nbytes


def measure(shape: tuple[int, int, int], arguments: argparse.Namespace, machine: dict) -> list[dict]:
    rows, inputs, outputs = shape
    problem = Problem(shape, arguments.densities, arguments.device)
    differences = {density: problem.largest_differences(density) for density in arguments.densities}
    cases = {}
    for density in arguments.densities:
        cases |= {(product, density, False): case for product, case in problem.ours(density).items()}
    for density in arguments.dense_at:
        cases |= {(product, density, True): case for product, case in problem.dense(density).items()}
    memory = {key: harness.peak_memory(case, arguments.device) for key, case in cases.items()}
    operations = 2 * rows * inputs * outputs
    rounds = arguments.rounds or (3 if operations > 1e11 else 15)
    # the pass that memory was measured in was the warm-up
    timings = harness.interleave(cases, rounds, warmup=0, device=arguments.device)
    dense = {
        product: min(t.median for (p, _, is_dense), t in timings.items() if is_dense and p == product)
        for product in (FORWARD, TRANSPOSED)
    }
    results = []
    for (product, density, is_dense), timing in timings.items():
        gflops = operations / timing.median / 1e9
        bandwidth = problem.least_bytes(None if is_dense else density) / timing.median / 1e9
        results.append(
            {
                "shape": list(shape),
                "product": product,
                "density": density,
                "dense": is_dense,
                "timing": timing.to_dict(),
                "ratio_to_dense": timing.median / dense[product],
                "dense_equivalent_gflop_per_s": gflops,
                "share_of_product_peak": gflops / machine["product_gflop_per_s"],
                "gb_per_s": bandwidth,
                "share_of_copy_peak": bandwidth / machine["copy_gb_per_s"],
                "peak_memory_bytes": memory[product, density, is_dense],
                "largest_difference_to_dense": None if is_dense else differences[density][product],
            }
        )
    return results


def print_results(shape: tuple[int, int, int], results: list[dict]) -> None:
    header = ["", "density", "ms", "min-max", "of dense", "GFLOP/s", "of peak", "GB/s", "of peak", "peak MB", "off by"]
    rows = [
        [
            r["product"] + (" dense" if r["dense"] else ""),
            f"{r['density']:g}",
            harness.ms(r["timing"]["median_s"]),
            f"{harness.ms(r['timing']['min_s'])}-{harness.ms(r['timing']['max_s'])}",
            f"{r['ratio_to_dense']:.3f}",
            f"{r['dense_equivalent_gflop_per_s']:.1f}",
            f"{r['share_of_product_peak']:.0%}",
            f"{r['gb_per_s']:.1f}",
            f"{r['share_of_copy_peak']:.0%}",
            harness.mb(r["peak_memory_bytes"]),
            "-" if r["dense"] else f"{r['largest_difference_to_dense']:.1e}",
        ]
        for r in sorted(results, key=lambda r: r["product"] == TRANSPOSED)
    ]
    harness.print_table("R {} N {} M {}: GFLOP/s as of a dense product".format(*shape), header, rows)


def panel(shape: tuple[int, int, int], product: str, results: list[dict]) -> plots.Lines:
    chosen = [r for r in results if r["product"] == product]
    ours = sorted((r["density"], r["timing"]["median_s"] * 1e3) for r in chosen if not r["dense"])
    dense = {f"torch, dense, at {r['density']:g}": r["timing"]["median_s"] * 1e3 for r in chosen if r["dense"]}
    return plots.Lines(
        "{}, R {} N {} M {}".format(product, *shape),
        "share of ones in X",
        "ms",
        {"spikefuse": tuple(zip(*ours, strict=True))},
        dense,
    )


def main() -> None:
    parser = harness.argument_parser(__doc__, "spike-product-cpu.json", devices=("cpu", "cuda"))
    parser.add_argument("--shape", type=int, nargs=3, action="append", metavar=("R", "N", "M"), help="may be repeated")
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES)
    parser.add_argument("--dense-at", type=float, nargs="+", help="densities of the dense products; default the middle")
    parser.add_argument("--rounds", type=int, help="default 3 for large shapes, 15 for small ones")
    arguments = parser.parse_args()
    arguments.dense_at = arguments.dense_at or [sorted(arguments.densities)[len(arguments.densities) // 2]]
    if not set(arguments.dense_at) <= set(arguments.densities):
        parser.error("--dense-at: expected some of --densities")
    machine = harness.machine_peaks(arguments.quick_peaks, arguments.device)
    results, panels = [], []
    for shape in map(tuple, arguments.shape or [(3000, 58_500, 2048)]):
        measured = measure(shape, arguments, machine)
        print_results(shape, measured)
        results += measured
        panels += [panel(shape, product, measured) for product in (FORWARD, TRANSPOSED)]
    harness.write_results(arguments, "spike_product", machine, results, panels)


if __name__ == "__main__":
    main()
