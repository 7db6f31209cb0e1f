"""Charts: means and spreads are where they should be, and what cannot be drawn is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("matplotlib")

import matplotlib.figure

from spikefuse.paper.plots import charts
from spikefuse.paper.plots.charts import Bar, Line


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """The axes of the chart that was drawn last."""
    figures: list[Any] = []
    made = matplotlib.figure.Figure.__init__

    def note(self: Any, *arguments: Any, **options: Any) -> None:
        figures.append(self)
        made(self, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "__init__", note)
    return lambda: figures[-1].axes[0]


def test_lines_are_means_and_bands_are_extremes(drawn: Callable[[], Any]) -> None:
    series = [Line("net", [1, 2, 3], [[1.0, 0.5, 0.25], [2.0, 1.5, 0.75]]), Line("floor", [1, 3], [[0.2, 0.2]], True)]
    assert charts.lines(series, x="epoch", y="MSE", heading="h").startswith(b"\x89PNG")
    axis = drawn()
    net, floor = axis.lines
    assert list(net.get_ydata()) == [1.5, 1.0, 0.5]
    assert floor.get_linestyle() != "-"
    (band,) = axis.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.25, 2.0)
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.figure.get_suptitle()) == ("epoch", "MSE", "h")
    assert all(tick == int(tick) for tick in axis.get_xticks())


def test_bars_are_means_with_their_extremes(drawn: Callable[[], Any]) -> None:
    charts.bars([Bar("a", [1.0, 3.0]), Bar("b", [0.5])], x="MSE", heading="h", references=[("silent", 1.0)])
    axis = drawn()
    assert [patch.get_width() for patch in axis.patches] == [2.0, 0.5]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    ends = axis.collections[0].get_segments()
    assert [list(segment[:, 0]) for segment in ends] == [[1.0, 3.0], [0.5, 0.5]]
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "the first on top"
    assert axis.get_xlim()[1] > 3.0


@pytest.mark.parametrize("label", ["a", "a case of a name as long as cases of experiments have"])
def test_a_heading_fits_beside_labels_of_any_length(label: str, drawn: Callable[[], Any]) -> None:
    charts.bars([Bar(label, [1.0])], x="MSE", heading="Images read as the digit that was said (quick: smaller than it)")
    figure = drawn().figure
    (heading,) = [text for text in figure.texts if text.get_text().startswith("Images")]
    place = heading.get_window_extent()
    assert place.x0 >= 0
    assert place.x1 <= figure.bbox.width
    assert place.y1 <= figure.bbox.height


def test_bars_of_equal_values_whose_mean_is_rounded() -> None:
    runs = [0.1] * 3
    assert sum(runs) / 3 > max(runs)
    assert charts.bars([Bar("a", runs)], x="MSE", heading="h").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([], "at least one series, got none"),
        ([Line("a", [1, 2], [[1.0]])], "as long as x in 'a'"),
        ([Line("a", [], [[]])], "as long as x in 'a'"),
        ([Line("a", [1], [])], "as long as x in 'a'"),
        ([Line("a", [1], [[float("nan")]])], "finite runs"),
    ],
)
def test_lines_that_cannot_be_drawn(series: list[Line], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        charts.lines(series, x="", y="", heading="")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "at least one entry, got none"),
        ([Bar("a", [])], "finite value in 'a'"),
        ([Bar("a", [float("inf")])], "finite value in 'a'"),
    ],
)
def test_bars_that_cannot_be_drawn(entries: list[Bar], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        charts.bars(entries, x="", heading="")
