"""Runs all jobs of the entries, each once, in a folder that can be left and taken up again at any time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from spikefuse._io import folders
from spikefuse._io.atomic_write import write_atomically
from spikefuse.paper.experiments import execute
from spikefuse.paper.experiments.cases import Entry, Sizes
from spikefuse.paper.experiments.jobs import ImageJob, Job, SoundJob, with_seed
from spikefuse.paper.training import autoencoder_runs

JOBS: Final = "jobs"
RESULTS: Final = "results.json"

Results = Mapping[str, dict[str, Any]]
"""Result of each job that is done, by its key."""


class _Meter(Protocol):
    """Shows how far a run is."""

    def at(self, text: str, done: float) -> None:
        """Says what is being done, and how much of all is."""


def seeds_of(job: Job, sizes: Sizes) -> range:
    """The seeds that a job is run on.

    >>> from spikefuse.paper.experiments.entries import FULL
    >>> list(seeds_of(ImageJob(), FULL))
    [0, 1, 2]
    """
    return range(sizes.seeds if isinstance(job, ImageJob) else sizes.sound_seeds)


def jobs_of(entries: Iterable[Entry], sizes: Sizes) -> list[Job]:
    """Every job of the entries once, an autoencoder before what builds on it.

    >>> from spikefuse.paper.experiments.entries import QUICK, entries
    >>> jobs = jobs_of(entries(QUICK), QUICK)
    >>> len(jobs) == len({job.key for job in jobs})
    True
    """
    found: dict[str, Job] = {}
    for entry in entries:
        for case in entry.cases:
            for seed in seeds_of(case.job, sizes):
                job = with_seed(case.job, seed)
                if isinstance(job, SoundJob):
                    found.setdefault(job.autoencoder.key, job.autoencoder)
                found.setdefault(job.key, job)
    return list(found.values())


def run_all(entries: Sequence[Entry], sizes: Sizes, out: Path, console: Console) -> int | None:
    """Runs every job that is not done yet; writes results.json.

    Killed at any moment and called again it goes on: a job on images from its beginning, one on sounds from its last
    epoch, and what is done is not done again. The numbers are those of a run that was never stopped.

    Args:
        entries: what to run.
        sizes: of it.
        out: folder of everything.
        console: where progress is shown.

    Returns:
        The number of the signal that ended it (Ctrl-C or SIGTERM); None where nothing did.

    Raises:
        ValueError: a result in ``out`` cannot be read.
        OSError, ImportError: as jobs raise.
    """
    folder = out / JOBS
    jobs = jobs_of(entries, sizes)
    total = sum(job.cost for job in jobs)
    left = [job for job in jobs if not _is_done(job, folder)]
    done = total - sum(job.cost for job in left)
    if len(left) < len(jobs):
        console.print(f"{len(jobs) - len(left)} of {len(jobs)} trainings are done already.")
    with autoencoder_runs.signals() as received, _meter(console, total, done) as meter:
        for number, job in enumerate(left, len(jobs) - len(left) + 1):
            text = f"{number}/{len(jobs)} {describe(job)}"
            meter.at(text, done)

            def tick(share: float, job: Job = job, text: str = text, before: float = done) -> bool:
                meter.at(text, before + share * job.cost)
                return bool(received)

            try:
                result = execute.run(job, folder, tick)
            except execute.InterruptedJobError:
                break
            write_atomically(execute.result_path(folder, job), (json.dumps(result, indent=1) + "\n").encode())
            if isinstance(job, SoundJob):
                execute.part_path(folder, job).unlink(missing_ok=True)
            done += job.cost
            if received:
                break
    if received and any(not _is_done(job, folder) for job in jobs):
        return received[0]
    results = load_results(entries, sizes, out)
    document = {"schema": execute.SCHEMA, "sizes": sizes.name, "results": [results[job.key] for job in jobs]}
    write_atomically(out / RESULTS, (json.dumps(document, indent=1) + "\n").encode())
    return None


def load_results(entries: Iterable[Entry], sizes: Sizes, out: Path) -> dict[str, dict[str, Any]]:
    """The results of all jobs of the entries, by key.

    Raises:
        ValueError: one is damaged or of another schema.
        OSError: one is not there or cannot be read.
    """
    return {job.key: execute.read_result(out / JOBS, job) for job in jobs_of(entries, sizes)}


def describe(job: Job) -> str:
    """A few words.

    >>> describe(ImageJob(method="gated", seed=2))
    'mnist gated, 196 hidden, T 15, rate 0.3, leak 0.1, seed 2'
    """
    if isinstance(job, SoundJob):
        last = f"{job.duration} bits, {job.optimizer}"
        if job.method != "ann":
            last = f"Th {job.duration}, rates {job.autoencoder.max_rate:g} and {job.max_rate:g}"
        return f"sound {job.pairing} {job.method}, {job.hidden} hidden, {last}, seed {job.seed}"
    if job.method == "ann":
        epochs = "" if job.epochs == 1 else f", {job.epochs} epochs"
        return f"{job.dataset} ann, {job.hidden} hidden, {job.optimizer}, lr {job.lr:g}{epochs}, seed {job.seed}"
    mask = "" if job.masked else ", no mask"
    spikes = f"T {job.steps}, rate {job.max_rate:g}, leak {job.leak:g}{mask}"
    return f"{job.dataset} {job.method}, {job.hidden} hidden, {spikes}, seed {job.seed}"


def _is_done(job: Job, folder: Path) -> bool:
    # The result is written last: where it is, so is the model.
    return folders.exists(execute.result_path(folder, job))


class _Lines:
    """A line for each training, with the time left."""

    def __init__(self, console: Console, total: float, done: float) -> None:
        self._console, self._total, self._first = console, total, done
        self._started = time.monotonic()
        self._text = ""

    def at(self, text: str, done: float) -> None:
        if text == self._text:
            return
        self._text = text
        elapsed, gained = time.monotonic() - self._started, done - self._first
        left = f", about {elapsed / gained * (self._total - done) / 60:.0f} min left" if gained > 0 else ""
        self._console.print(f"{text}{left}", soft_wrap=True, highlight=False)


class _Bar:
    """One bar for everything."""

    def __init__(self, progress: Progress, total: float, done: float) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)
        progress.update(self._task, completed=done)

    def at(self, text: str, done: float) -> None:
        self._progress.update(self._task, description=text, completed=done)


@contextmanager
def _meter(console: Console, total: float, done: float) -> Iterator[_Meter]:
    if not console.is_terminal:
        yield _Lines(console, total, done)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress, total, done)
