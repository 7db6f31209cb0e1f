"""Output of a run: progress, tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from spikefuse.paper.training.autoencoder import Evaluation
from spikefuse.paper.training.loop import BatchRun

_LINES: Final = 10
"""Progress lines of a run whose output is no terminal."""

_RECENT: Final = 20
"""Batches that the shown error is the mean of."""

_WIDE: Final = 76
_MEDIUM: Final = 50

_ERRORS: Final = {"spike_mse": "Spike-MSE", "mse": "MSE", "loss": "loss"}

_MEASURES: Final[tuple[tuple[str, str, str], ...]] = (
    ("samples", "images", "{:,}"),
    ("mse", "MSE (output - image)", "{:.3f}"),
    ("spike_mse", "Spike-MSE (output - input spikes)", "{:.3f}"),
    ("input_mse", "MSE of the input spikes", "{:.3f}"),
    ("error_zeros", "zeros in E", "{:.1%}"),
    ("input_rate", "firing rate, input", "{:.1%}"),
    ("hidden_rate", "firing rate, hidden", "{:.1%}"),
    ("output_rate", "firing rate, output", "{:.1%}"),
)


@contextmanager
def training_progress(
    console: Console, trainer: BatchRun, samples: str = "images"
) -> Iterator[Callable[[BatchRun], None]]:
    """Shows how a training goes on: a bar on a terminal, a line every tenth of the run elsewhere.

    Args:
        console: where.
        trainer: its first column is the error shown.
        samples: what the run learns from, in the plural.

    Yields:
        The function to call after every batch.
    """
    name = _ERRORS[trainer.columns[0]]
    form = ".1f" if name == "loss" else ".3f"
    started, first = time.monotonic(), trainer.batch

    def error() -> float:
        recent = trainer.history[trainer.columns[0]][-_RECENT:]
        return sum(recent) / max(len(recent), 1)

    def speed() -> float:
        images = (trainer.batch - first) * trainer.settings.batch_size
        return images / max(time.monotonic() - started, 1e-9)

    def epoch() -> str:
        done = max(trainer.batch - 1, 0) // trainer.batches_per_epoch + 1
        return f"epoch {done}/{trainer.settings.epochs}"

    if not console.is_terminal:
        step = max(-(-trainer.total_batches // _LINES), 1)

        def line(_: BatchRun) -> None:
            if trainer.batch % step == 0 or trainer.done:
                console.print(
                    f"{epoch()}  batch {trainer.batch}/{trainer.total_batches}  {name} {error():{form}}  "
                    f"{speed():,.0f} {samples}/s",
                    soft_wrap=True,
                )

        yield line
        return

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=None)]
    columns.append(TextColumn("{task.fields[error]}", style="bold"))
    # A narrow terminal shows fewer columns, none of them cut.
    if console.width >= _WIDE:
        columns += [MofNCompleteColumn(), TextColumn("{task.fields[speed]}", style="dim")]
    if console.width >= _MEDIUM:
        columns.append(TimeRemainingColumn(compact=True))
    progress = Progress(*columns, console=console, expand=True)
    with progress:
        task = progress.add_task(epoch(), total=trainer.total_batches, completed=trainer.batch, error="", speed="")

        def update(_: BatchRun) -> None:
            progress.update(
                task,
                completed=trainer.batch,
                description=epoch(),
                error=f"{name} {error():{form}}",
                speed=f"{speed():,.0f} {samples}/s",
            )

        yield update


def results_table(results: Mapping[str, Evaluation]) -> Table:
    """Measures down, splits across: narrow enough for any terminal."""
    table = Table()
    table.add_column("")
    for split in results:
        table.add_column(split, justify="right")
    for attribute, label, form in _MEASURES:
        values = [getattr(evaluation, attribute) for evaluation in results.values()]
        if any(value is not None for value in values):
            table.add_row(label, *("" if value is None else form.format(value) for value in values))
    return table
