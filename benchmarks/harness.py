"""Shared by all benchmarks: interleaved timing, peak memory, the machine and its peaks, tables and result files."""

from __future__ import annotations

import argparse
import concurrent.futures
import ctypes
import dataclasses
import datetime
import gc
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plots
import torch
from torch import Tensor

from spikefuse import ops
from spikefuse._io.atomic_write import write_atomically
from spikefuse._io.provenance import versions

RESULTS = Path(__file__).parent / "results"
# A run that writes its results does not change what it measures.
OTHER_THAN_RESULTS = ("--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results")

COMPILED_LOOP = "torch.compile of the loop"
MAX_UNROLLED = 16
"""Time steps up to which torch.compile is given a whole loop: it unrolls it, and 60 steps take minutes to compile."""

TIMING_HEADER = ["", "median", "min-max", "times ours", "peak MB"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one case, over its rounds."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __truediv__(self, repetitions: int) -> Timing:
        return Timing([s / repetitions for s in self.seconds])

    def to_dict(self) -> dict[str, Any]:
        return {"median_s": self.median, "min_s": min(self.seconds), "max_s": max(self.seconds), "rounds": self.seconds}


def synchronize(device: str) -> None:
    """Waits until a GPU has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def interleave(
    cases: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, device: str = "cpu"
) -> dict[str, Timing]:
    """Times the cases in turn, round by round, so that a machine that slows down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(warmup + rounds):
        for name, case in cases.items():
            synchronize(device)
            start = time.perf_counter()
            case()
            synchronize(device)
            if round_number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(values) for name, values in seconds.items()}


def peak_memory(case: Callable[[], object], device: str = "cpu") -> int | None:
    """Runs a case once: bytes by which its peak lies above the memory in use before it; None for a CPU not on Linux.

    On a GPU what torch allocates, exactly. On a CPU resident memory, good to some megabytes: how malloc fits the case's
    smaller blocks into its heap differs from run to run.
    """
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        in_use = torch.cuda.memory_allocated(device)
        case()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - in_use
    # Freed memory that malloc keeps is resident already, and a case that takes it again would seem to need none.
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
        before = _status("VmRSS")
    except OSError:
        case()
        return None
    # An op keeps memory for the next batch of its thread; a new thread has none.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(case).result()
    return max(0, _status("VmHWM") - before)


def joules(case: Callable[[], object], device: str, seconds: float = 1.0) -> float | None:
    """Energy that a GPU takes for a case, repeated for some time; None on a CPU, and without nvidia-ml-py."""
    if device == "cpu":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
        synchronize(device)
        start, before, repetitions = time.perf_counter(), pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), 0
    except Exception as error:  # not installed, or a GPU that does not count
        print(f"energy not measured: {error}")
        return None
    while time.perf_counter() - start < seconds:
        case()
        synchronize(device)
        repetitions += 1
    return (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1e3 / repetitions


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def machine_peaks(quick: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures this machine's peaks (a CPU with these threads): a dense fp32 product, a copy larger than its caches."""
    side, megabytes = (128, 1) if quick else (3072, 512) if device == "cpu" else (8192, 4096)
    a, b, c = (torch.rand(side, side, device=device) for _ in range(3))
    source = torch.rand(megabytes * 250_000, device=device)
    target = torch.empty_like(source)
    cases = {"product": lambda: torch.mm(a, b, out=c), "copy": lambda: target.copy_(source)}
    best = {name: min(timing.seconds) for name, timing in interleave(cases, rounds=5, device=device).items()}
    peaks = {
        "product_gflop_per_s": 2 * side**3 / best["product"] / 1e9,
        "product_side": side,
        "copy_gb_per_s": 2 * megabytes / 1e3 / best["copy"],
        "copy_mb": megabytes,
    }
    print(
        f"this machine: {peaks['product_gflop_per_s']:.1f} GFLOP/s in a dense fp32 product of side {side}, "
        f"{peaks['copy_gb_per_s']:.1f} GB/s read and written by a copy of {megabytes} MB"
    )
    return peaks


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
        "driver": _driver(),
        **versions(),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,power.draw", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def argument_parser(doc: str | None, result: str, devices: Sequence[str] = ("cpu",)) -> argparse.ArgumentParser:
    """The options that every benchmark has; `result` is the name of its JSON file."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS / result, help="result file; the plot lies beside it")
    parser.add_argument("--device", default="cpu", choices=devices)
    parser.add_argument("--quick-peaks", action="store_true", help="the machine's peaks from small arrays, for tests")
    return parser


def compiled_loops(
    whole: Callable[[], Tensor],
    of_step: Callable[[Callable[..., Any]], Callable[[], Tensor]],
    step: Callable[..., Any],
    steps: int,
    **options: str,
) -> tuple[dict[str, Callable[[], Tensor]], dict[str, str]]:
    """Cases of torch.compile of a loop over time, and the reasons for those left out.

    `whole` runs the loop; `of_step` returns the same loop over another function in place of `step`.
    """
    # A step that is compiled again for each shape would reach torch's limit; fullgraph raises where it is reached.
    torch.compiler.reset()
    one = torch.compile(step, fullgraph=True, dynamic=False, **options)
    cases, not_run = {"torch.compile of a step": of_step(one)}, {}
    if steps <= MAX_UNROLLED:
        cases[COMPILED_LOOP] = torch.compile(whole, fullgraph=True, dynamic=False, **options)
    else:
        not_run[COMPILED_LOOP] = f"{steps} unrolled steps take minutes to compile; at most {MAX_UNROLLED} are"
    return cases, not_run


def rows_not_run(reasons: Mapping[str, str]) -> list[list[str]]:
    """A row for each case that was left out."""
    return [[name, f"not run: {reason}"] for name, reason in reasons.items()]


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain text table, columns as wide as they need; the last cell of a shorter row runs over the others."""
    whole = [header, *(row for row in rows if len(row) == len(header))]
    widths = [max(len(row[i]) for row in whole) for i in range(len(header))]
    widths[0] = max(widths[0], *(len(row[0]) for row in rows))
    print(f"\n{title}")
    for row in [header, ["-" * w for w in widths], *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip())


def timing_rows(timings: Mapping[str, Timing], ours: str, memory: Mapping[str, int | None]) -> list[list[str]]:
    """The columns of TIMING_HEADER: name, median and spread in ms, times as long as `ours`, MB."""
    return [
        [name, ms(t.median), spread(t), f"{t.median / timings[ours].median:.2f}", mb(memory[name])]
        for name, t in timings.items()
    ]


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def spread(timing: Timing) -> str:
    return f"{ms(min(timing.seconds))}-{ms(max(timing.seconds))}"


def rounded(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def mb(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f}"


def write_results(
    arguments: argparse.Namespace,
    benchmark: str,
    machine: Mapping[str, Any],
    results: object,
    panels: Sequence[plots.Panel],
) -> None:
    """The JSON file, whole or not at all, and the plot beside it."""
    path: Path = arguments.json
    settings = {name: str(value) for name, value in vars(arguments).items() if name != "json"}
    content = {
        "benchmark": benchmark,
        "environment": environment(),
        "machine": machine,
        "settings": settings,
        "results": results,
    }
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    print(f"\nwritten: {path}")
    plots.save(path.with_suffix(".png"), panels)
