"""What every benchmark shares: interleaved timing, the machine's description, a table, and a JSON file."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from spikefuse import ops
from spikefuse.checkpoint import versions
from spikefuse.files import write_atomically

RESULTS = Path(__file__).parent / "results"
# A run that writes its results does not change what it measures.
OTHER_THAN_RESULTS = ("--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one case, over its rounds."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        return {"median_s": self.median, "min_s": min(self.seconds), "max_s": max(self.seconds), "rounds": self.seconds}


def interleave(cases: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Times the cases in turn, round by round, so that a machine that slows down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(warmup + rounds):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if round_number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(values) for name, values in seconds.items()}


def environment() -> dict[str, Any]:
    """Machine, versions and commit, as a result file records them."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", *OTHER_THAN_RESULTS) else ""),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": ops.cpu_instruction_set(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        **versions(),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A plain text table, columns as wide as they need."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, ["-" * w for w in widths], *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def timing_rows(timings: Mapping[str, Timing], ours: str) -> list[list[str]]:
    """name, median, spread, and how many times as long as `ours` a case takes."""
    return [
        [
            name,
            f"{t.median * 1e3:.2f}",
            f"{min(t.seconds) * 1e3:.2f}-{max(t.seconds) * 1e3:.2f}",
            f"{t.median / timings[ours].median:.2f}",
        ]
        for name, t in timings.items()
    ]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    print(f"\nwritten: {path}")
