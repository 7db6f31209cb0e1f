"""The tables of docs/scaling.md, computed: bytes, messages and work of one batch over ranks. Nothing is measured here.

python benchmarks/scaling_model.py
"""

from __future__ import annotations

import dataclasses
import math

TRAFFIC, READ = 24, 4  # bytes to read and write fp32 weight, m and v; to read a weight
EXCHANGES_A_BATCH = 2  # what ranks agree on before a batch and after it


@dataclasses.dataclass(frozen=True)
class Layer:
    """The first, sharded layer: sizes, samples, steps, and the share of inputs that spike in a step of a sample."""

    inputs: int
    neurons: int
    samples: int = 50
    steps: int = 60
    density: float = 0.0012

    def slice(self, ranks: int) -> int:
        """Neurons of a rank."""
        return -(-self.neurons // ranks)

    def state_bytes(self, ranks: int) -> int:
        """Weights and both moments of a rank, fp32."""
        return 12 * self.inputs * self.slice(ranks)

    def sent_bytes(self, ranks: int) -> int:
        """Bytes that a rank sends in one step."""
        return 4 * -(-self.slice(ranks) // 32) * self.samples

    @property
    def read_share(self) -> float:
        """Rows that some sample reads in a step."""
        return 1 - (1 - self.density) ** self.samples

    def active_share(self, step: int) -> float:
        """Rows that have been read up to a step, counted from 1."""
        return 1 - (1 - self.read_share) ** step

    def updates(self, ranks: int) -> float:
        """Weight updates of a rank in a batch: each active row at each step."""
        return self.inputs * self.slice(ranks) * sum(map(self.active_share, range(1, self.steps + 1)))

    def depth(self, ranks: int) -> int:
        """Steps for which the CPU backend lets a row wait: errors of as many as 32 MB hold, at most 64."""
        return max(1, min(self.steps, 2**25 // (4 * self.samples * self.slice(ranks)), 64))

    def waiting_bytes(self, ranks: int) -> float:
        """Memory traffic of a rank in a batch, of rows that wait for their updates until they are read."""
        visits = self.read_share / (1 - (1 - self.read_share) ** self.depth(ranks))
        updated = visits * sum(map(self.active_share, range(1, self.steps))) + self.active_share(self.steps)
        return self.inputs * self.slice(ranks) * (TRAFFIC * updated + READ * self.steps * self.read_share)

    def eager_bytes(self, ranks: int) -> float:
        """The same, of active rows that are updated at every step."""
        return TRAFFIC * self.updates(ranks) + READ * self.inputs * self.slice(ranks) * self.steps * self.read_share


def size(number: float, unit: str = "B") -> str:
    """Three digits and a decimal prefix."""
    prefixes = ("", "k", "M", "G", "T", "P")
    power = min(int(math.log10(number) // 3), len(prefixes) - 1) if number >= 1 else 0
    return f"{number / 1000**power:.3g} {prefixes[power]}{unit}".strip()


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


AUDIOCODER = Layer(58_500, 2_048)
LAYERS = (AUDIOCODER, Layer(100_000, 10_000), Layer(1_000_000, 10_000), Layer(1_000_000, 100_000))


def exchange_table() -> str:
    """Bytes and messages between ranks."""
    rows = []
    for layer in LAYERS:
        for ranks in (2, 8, 64):
            sent = layer.sent_bytes(ranks)
            messages = (layer.steps + EXCHANGES_A_BATCH) * (ranks - 1)
            rows.append(
                [
                    f"{layer.inputs:,} x {layer.neurons:,}",
                    *(
                        str(ranks),
                        size(sent),
                        size(ranks * sent),
                        str(messages),
                        size(layer.steps * (ranks - 1) * sent),
                    ),
                    size(4 * layer.inputs * layer.neurons * 2 * (ranks - 1) / ranks),
                ]
            )
    header = [
        "layer",
        "R",
        "own bits a step",
        "gathered a step",
        "messages a batch",
        "received a batch",
        "DDP: sent a batch",
    ]
    return table(header, rows)


def work_table() -> str:
    """Memory and work of a rank."""
    rows = []
    for base in LAYERS:
        for density in (0.0012, 0.005, 0.02):
            layer = dataclasses.replace(base, density=density)
            for ranks in (1, 8, 64) if density == 0.0012 else (8,):
                rows.append(
                    [
                        f"{layer.inputs:,} x {layer.neurons:,}",
                        *(f"{density:.2%}", str(ranks), size(layer.state_bytes(ranks)), f"{layer.read_share:.1%}"),
                        *(
                            size(layer.updates(ranks), ""),
                            size(layer.waiting_bytes(ranks)),
                            size(layer.eager_bytes(ranks)),
                        ),
                    ]
                )
    header = [
        "layer",
        "density",
        "R",
        "W, m, v",
        "rows read a step",
        "updates a batch",
        "traffic, waiting",
        "traffic, eager",
    ]
    return table(header, rows)


if __name__ == "__main__":
    print(exchange_table(), work_table(), sep="\n")
