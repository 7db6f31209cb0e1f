"""Charts of results with their spread over seeds, as PNG; matplotlib is imported when the first one is made."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

from spikefuse._io.optional import require


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: for the legend.
        x: where, ascending.
        runs: the values of each seed, each as long as ``x``.
        reference: drawn dashed and grey, as something to compare with.
    """

    label: str
    x: Sequence[float]
    runs: Sequence[Sequence[float]]
    reference: bool = False


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar of a chart: the mean over seeds, with a line from the lowest to the highest.

    Attributes:
        label: beside the bar.
        runs: one value for each seed.
    """

    label: str
    runs: Sequence[float]


def lines(series: Sequence[Line], *, x: str, y: str, heading: str) -> bytes:
    """A chart of lines: the mean over seeds, and a band from the lowest to the highest.

    Args:
        series: at least one, each with at least one point of finite values.
        x: label of the axis, with its unit.
        y: likewise.
        heading: above the chart.

    Returns:
        A PNG.

    Raises:
        ValueError: no series, or one whose runs do not fit its ``x`` or are not finite.
        ImportError: matplotlib is not installed.

    Example:
        >>> lines([Line("a", [1, 2], [[0.5, 0.4], [0.6, 0.5]])], x="epoch", y="MSE", heading="h")[1:4]
        b'PNG'
    """
    if not series:
        raise ValueError("lines: expected at least one series, got none")
    for line in series:
        fits = line.x and line.runs and all(len(run) == len(line.x) for run in line.runs)
        if not fits or not all(math.isfinite(value) for run in line.runs for value in run):
            raise ValueError(f"lines: expected finite runs as long as x in {line.label!r}")
    figure = require("matplotlib.figure", "matplotlib", "a chart").Figure(
        figsize=(6.6, 3.8), layout="constrained", dpi=110
    )
    axis = figure.subplots()
    dashes = itertools.cycle(("--", ":", "-."))
    for line in series:
        means = [sum(values) / len(values) for values in zip(*line.runs, strict=True)]
        marker = "o" if len(line.x) < 12 else ""
        if line.reference:
            axis.plot(line.x, means, label=line.label, color="0.45", linestyle=next(dashes), linewidth=1.4)
            continue
        (drawn,) = axis.plot(line.x, means, label=line.label, marker=marker, markersize=4, linewidth=1.6)
        if len(line.runs) > 1:
            low, high = ([pick(values) for values in zip(*line.runs, strict=True)] for pick in (min, max))
            axis.fill_between(line.x, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_ylim(bottom=0)
    if all(place == int(place) for line in series for place in line.x):
        # Half an epoch is a mark that nothing stands at.
        axis.xaxis.set_major_locator(require("matplotlib.ticker", "matplotlib", "a chart").MaxNLocator(integer=True))
    axis.grid(color="0.92")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return _png(figure, heading)


def bars(entries: Sequence[Bar], *, x: str, heading: str, references: Sequence[tuple[str, float]] = ()) -> bytes:
    """A chart of horizontal bars.

    Args:
        entries: at least one, from top to bottom, each of at least one finite value.
        x: label of the axis, with its unit.
        heading: above the chart.
        references: labels and values to compare with, drawn as dashed lines.

    Returns:
        A PNG.

    Raises:
        ValueError: no entry, or one without a finite value.
        ImportError: matplotlib is not installed.

    Example:
        >>> bars([Bar("a", [0.5, 0.6])], x="MSE", heading="h")[1:4]
        b'PNG'
    """
    if not entries:
        raise ValueError("bars: expected at least one entry, got none")
    for entry in entries:
        if not entry.runs or not all(math.isfinite(value) for value in entry.runs):
            raise ValueError(f"bars: expected at least one finite value in {entry.label!r}")
    height = 0.32 * len(entries) + 1.1
    figure = require("matplotlib.figure", "matplotlib", "a chart").Figure(
        figsize=(6.6, height), layout="constrained", dpi=110
    )
    axis = figure.subplots()
    means = [sum(entry.runs) / len(entry.runs) for entry in entries]
    places = range(len(entries))
    # The rounded mean of equal values may lie beside them, and matplotlib refuses an error below 0.
    below = [max(mean - min(entry.runs), 0.0) for mean, entry in zip(means, entries, strict=True)]
    above = [max(max(entry.runs) - mean, 0.0) for mean, entry in zip(means, entries, strict=True)]
    several = any(len(entry.runs) > 1 for entry in entries)
    spread = [below, above] if several else None
    axis.barh(places, means, xerr=spread, height=0.7, color="#5b9bd5", ecolor="0.25", capsize=2)
    for place, mean, up in zip(places, means, above, strict=True):
        axis.text(mean + up, place, f" {mean:.3f}", va="center", fontsize=8)
    for (label, value), dash in zip(references, itertools.cycle(("--", ":", "-.")), strict=False):
        axis.axvline(value, color="0.45", linestyle=dash, linewidth=1.4, label=f"{label} {value:.3f}")
    axis.set_yticks(places, [entry.label for entry in entries], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(
        0, 1.15 * max([*(m + u for m, u in zip(means, above, strict=True)), *(v for _, v in references)]) or 1
    )
    axis.set_xlabel(x)
    axis.spines[["top", "right"]].set_visible(False)
    if references:
        axis.legend(frameon=False, fontsize=8)
    return _png(figure, heading)


def _png(figure: Any, heading: str) -> bytes:
    # Of the figure, not of the axes, which long labels of bars leave too narrow for it.
    figure.suptitle(heading, fontsize=10)
    buffer = io.BytesIO()
    canvas = require("matplotlib.backends.backend_agg", "matplotlib", "a chart").FigureCanvasAgg(figure)
    canvas.print_png(buffer)
    return buffer.getvalue()
