"""Charts of results as PNG files; without matplotlib there are none, and a line that says so."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spikefuse._io.atomic_write import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, OTHERS = "#0b4f8a", "#9cc3e6"


@dataclass(frozen=True)
class Bars:
    """One bar for each name, ours in another colour; of ratios, where a line marks 1."""

    title: str
    xlabel: str
    values: Mapping[str, float]
    ours: str
    notes: Mapping[str, str] = field(default_factory=dict)
    """The text behind a bar, beside its number."""

    def draw(self, axes: Axes) -> None:
        colors = [OURS if name == self.ours else OTHERS for name in self.values]
        bars = axes.barh(list(self.values), list(self.values.values()), color=colors)
        labels = [f"{value:.2f}{self.notes.get(name, '')}" for name, value in self.values.items()]
        axes.bar_label(bars, labels, padding=3)
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.set(title=self.title, xlabel=self.xlabel)
        axes.margins(x=0.55)  # room for the labels of the longest bar
        axes.invert_yaxis()


@dataclass(frozen=True)
class Lines:
    """Lines over a quantity, both axes logarithmic."""

    title: str
    xlabel: str
    ylabel: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    levels: Mapping[str, float] = field(default_factory=dict)
    """Horizontal lines."""
    slope_guide: bool = False
    """True draws a dotted line in proportion to x."""

    def draw(self, axes: Axes) -> None:
        for name, (x, y) in self.series.items():
            axes.plot(x, y, marker="o", label=name)
        for i, (name, y) in enumerate(self.levels.items()):
            axes.axhline(y, color="black", linestyle=("--", "-.", ":")[i % 3], label=name)
        if self.slope_guide:
            x, y = next(iter(self.series.values()))
            axes.plot(x, [y[0] * 0.5 * value / x[0] for value in x], color="grey", linestyle=":", label="slope 1")
        axes.set(title=self.title, xlabel=self.xlabel, ylabel=self.ylabel, xscale="log", yscale="log")
        ticks = sorted({value for x, _ in self.series.values() for value in x})
        axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")


Panel = Bars | Lines


def save(path: Path, panels: Sequence[Panel]) -> None:
    """Draws the panels in two columns, or in one where there is one."""
    try:
        from matplotlib.figure import Figure  # a figure without pyplot draws with Agg, on machines without a screen
    except ImportError as error:
        print(f"no plot: {error}")
        return
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(7 * columns, 4.2 * rows), layout="constrained")
    for position, panel in enumerate(panels, start=1):
        panel.draw(figure.add_subplot(rows, columns, position))
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    write_atomically(path, png.getvalue())
    print(f"written: {path}")
