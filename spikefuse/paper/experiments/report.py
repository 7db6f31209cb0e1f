"""The report: every figure, every claim and whether it holds, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from spikefuse._io import folders
from spikefuse._io.atomic_write import write_atomically
from spikefuse._io.optional import require
from spikefuse.paper.experiments import claims, energy, execute
from spikefuse.paper.experiments.cases import Case, Chart, Entry, Sizes
from spikefuse.paper.experiments.jobs import with_seed
from spikefuse.paper.experiments.runner import JOBS, Results, load_results, seeds_of
from spikefuse.paper.plots import charts

FILE: Final = "report.html"
CHARTS: Final = "charts"

_MEASURES: Final = (
    ("test.mse", "test MSE"),
    ("test.spike_mse", "test Spike-MSE"),
    ("train.mse", "training MSE"),
    ("train.spike_mse", "training Spike-MSE"),
    ("training.error_zeros", "zeros in E"),
    ("test.hidden_rate", "hidden rate"),
    ("test.recognised", "read rightly"),
    ("test.nearest", "nearest to its own digit"),
)
_ENERGY: Final = (
    ("energy.operations", "synaptic operations or MACs"),
    ("energy.microjoules", "energy, \N{MICRO SIGN}J"),
)
"""Of entries that draw one of them."""

_TEMPLATE: Final = """{% macro judged(part) %}<p>{{ part.summary }}</p>
<table><tr><th>entry<th class="text">claim<th>reading<th>verdict<th class="text">by how much</tr>
{% for row in part.rows %}<tr><td>{{ row.entry }}<td class="text">{{ row.text }}<td>{{ row.reading }}
<td class="{{ row.style }}">{{ row.outcome }}
<td class="text">{% for line in row.details %}{{ line }}<br>{% endfor %}</tr>
{% endfor %}</table>{% endmacro -%}
<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>spikefuse: the experiments of Roy, Panda &amp; Roy (2019)</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .7rem 0; font-size: 13px }
td, th { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: right; vertical-align: top }
td:first-child, th:first-child, td.text { text-align: left }
img { max-width: 100% } .size { background: #fff3cd; padding: .5rem .8rem }
.confirmed { color: #0a6b2d } .not { color: #a11 } .some { color: #946200 } small { color: #666 }
</style>
<h1>The experiments of Roy, Panda &amp; Roy (2019)</h1>
<p class="size">{{ sizes.name }}: {{ counted }}</p>
<p>MSE and Spike-MSE are of maps of zero mean and unit variance: 0 perfect, 1 silent, 2 unrelated. Each value is the
mean over its seeds, with the lowest and highest. <em>shared</em> is the reading of the authors' released code,
<em>gated</em> that of the paper's text. The paper's own values are in no text that was at hand: only what it says in
words is judged.</p>
{% if paper.rows %}<h2>Claims of the paper</h2>
{{ judged(paper) }}
{% endif %}{% if beyond.rows %}<h2>Our own claims, beyond the paper</h2>
<p>Entries whose names begin with B are ours: the paper has nothing of them.</p>
{{ judged(beyond) }}
{% endif %}{% for entry in entries %}<h2>{{ entry.id }}: {{ entry.title }}
{% if entry.beyond %}<small>ours, beyond the paper</small>{% endif %}</h2>
<p>{{ entry.notes }} <small>{{ sizes.name }}.</small></p>
{% for picture in entry.pictures %}
<p>{{ picture.heading }}<br><img alt="{{ picture.alt }}" src="data:image/png;base64,{{ picture.data }}"></p>
{% endfor %}<table><tr><th>case{% for name in entry.columns %}<th>{{ name }}{% endfor %}<th>seeds</tr>
{% for row in entry.rows %}<tr>{% for cell in row %}<td>{{ cell }}{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}<h2>Where it was run</h2>
<table>{% for line in provenance %}<tr><td>{{ line }}</tr>{% endfor %}</table>
</html>
"""


def write(entries: Sequence[Entry], sizes: Sizes, out: Path) -> Path:
    """Writes report.html and its charts as PNG files from the results in a folder.

    Args:
        entries: all of whose jobs are done.
        sizes: of them.
        out: the folder.

    Returns:
        The report.

    Raises:
        ValueError: a result is damaged.
        OSError: a result is not there, or the report cannot be written.
        ImportError: matplotlib or jinja2 is not installed.
    """
    results = load_results(entries, sizes, out)
    sections = []
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for entry in entries:
        lookup = _Lookup(entry, sizes, results)
        pictures = []
        for number, chart in enumerate(entry.charts, 1):
            if chart.kind == "pictures":
                pictures += _kept_pictures(chart, lookup, sizes, out)
                continue
            png = _draw(chart, lookup, sizes)
            if png is None:
                continue
            write_atomically(out / CHARTS / f"{entry.id}-{number}.png", png)
            pictures.append({"heading": "", "alt": chart.heading, "data": base64.b64encode(png).decode()})
        for claim in entry.claims:
            verdict = _judged(claim, lookup)
            style = {"confirmed": "confirmed", "not confirmed": "not"}.get(verdict.outcome, "some")
            rows[entry.beyond].append(
                {
                    "entry": entry.id,
                    "text": claim.text,
                    "reading": claim.reading,
                    "outcome": verdict.outcome,
                    "details": verdict.details,
                    "style": style,
                }
            )
        sections.append({**_table(entry, lookup), "pictures": pictures})
    jinja2 = require("jinja2", "jinja2", "the report")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_TEMPLATE)
    page = template.render(
        sizes=sizes,
        counted=_counted(sizes),
        paper=_part(rows[False]),
        beyond=_part(rows[True]),
        entries=sections,
        provenance=sorted({_origin(result) for result in results.values()}),
    )
    return write_atomically(out / FILE, page.encode())


def _part(rows: list[dict[str, Any]]) -> dict[str, Any]:
    counts = collections.Counter(row["outcome"] for row in rows)
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return {"rows": rows, "summary": f"{told}, of {len(rows)} claims"}


class _DivergedError(Exception):
    """A case that a claim is about diverged."""


def _judged(claim: claims.Claim, lookup: _Lookup) -> claims.Verdict:
    try:
        return claims.judge(claim, lookup.values)
    except _DivergedError as error:
        return claims.Verdict("not measured", (f"{error} diverged",))


class _Lookup:
    """Values of an entry's cases, one for each seed."""

    def __init__(self, entry: Entry, sizes: Sizes, results: Results) -> None:
        self.cases = {case.name: case for case in entry.cases}
        self._sizes = sizes
        self._results = results

    def results(self, case: Case) -> list[dict[str, Any]]:
        """One for each seed."""
        return [self._results[with_seed(case.job, seed).key] for seed in seeds_of(case.job, self._sizes)]

    def find(self, name: str, measure: str) -> list[float] | None:
        """Values, or None where the case has no such measure."""
        part, _, key = measure.partition(".")
        case = self.cases[name]
        if self.diverged(name):
            return None
        values: list[float] = []
        for result in self.results(case):
            measured = result["results"]
            found = energy.measures(case.job, measured) if part == "energy" else measured.get(part)
            value = (found or {}).get(key)
            if value is None:
                return None
            values.append(value)
        return values

    def diverged(self, name: str) -> bool:
        """True if the case diverged in any seed."""
        return any("diverged" in result for result in self.results(self.cases[name]))

    def values(self, name: str, measure: str) -> list[float]:
        values = self.find(name, measure)
        if values is None:
            if self.diverged(name):
                raise _DivergedError(name)
            raise ValueError(f"expected a measure of {name!r}, got {measure!r}, which it has not")
        return values


def _draw(chart: Chart, lookup: _Lookup, sizes: Sizes) -> bytes | None:
    """A PNG of the cases that did not diverge; None where there is none."""
    heading = f"{chart.heading} ({sizes.name})"
    names = [name for name in chart.cases if not lookup.diverged(name)]
    if chart.kind == "bars":
        entries = [charts.Bar(name, lookup.values(name, chart.measure)) for name in names]
        return charts.bars(entries, x=chart.x, heading=heading) if entries else None
    series = []
    if chart.kind == "curve":
        for name in names:
            results = lookup.results(lookup.cases[name])
            column = "epoch" if "epoch" in results[0]["curves"] else "batch"
            runs = [result["curves"][column] for result in results]
            series.append(charts.Line(name, range(1, len(runs[0]) + 1), runs))
    else:
        for label, group in chart.groups:
            cases = [lookup.cases[name] for name in group if not lookup.diverged(name)]
            if not cases:
                continue
            columns = [lookup.values(case.name, chart.measure) for case in cases]
            runs = [list(run) for run in zip(*columns, strict=True)]
            series.append(charts.Line(label, [float(case.x or 0) for case in cases], runs))
    return charts.lines(series, x=chart.x, y=chart.y, heading=heading) if series else None


def _kept_pictures(chart: Chart, lookup: _Lookup, sizes: Sizes, out: Path) -> list[dict[str, str]]:
    """Pictures that jobs drew when they ran; a job that diverged drew none."""
    found = []
    for name in chart.cases:
        path = execute.picture_path(out / JOBS, with_seed(lookup.cases[name].job, 0))
        if folders.exists(path):
            with folders.open_file(path) as file:
                content = base64.b64encode(file.read()).decode()
            heading = f"{chart.heading}: {name} ({sizes.name})"
            found.append({"heading": heading, "alt": heading, "data": content})
    return found


def _table(entry: Entry, lookup: _Lookup) -> dict[str, Any]:
    drawn = {chart.measure for chart in entry.charts}
    measures = _MEASURES + (_ENERGY if drawn & {name for name, _ in _ENERGY} else ())
    found = {case.name: [lookup.find(case.name, measure) for measure, _ in measures] for case in entry.cases}
    used = [i for i in range(len(measures)) if any(values[i] is not None for values in found.values())]
    rows = []
    for name, values in found.items():
        cells = ["diverged" if lookup.diverged(name) else _cell(values[i]) for i in used]
        rows.append([name, *cells, str(len(seeds_of(lookup.cases[name].job, lookup._sizes)))])
    return {
        "id": entry.id,
        "title": entry.title,
        "notes": entry.notes,
        "beyond": entry.beyond,
        "columns": [measures[i][1] for i in used],
        "rows": rows,
    }


def _cell(values: list[float] | None) -> str:
    if values is None:
        return ""
    mean = _number(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def _counted(sizes: Sizes) -> str:
    def count(number: int | None, everything: str) -> str:
        return everything if number is None else f"the first {number:,}"

    return (
        f"{count(sizes.images, 'all 60,000')} training images of MNIST, "
        f"{count(sizes.fashion_images, 'all 60,000')} of Fashion-MNIST, measured on "
        f"{count(sizes.test_images, '10,000')} images of each split; "
        f"{count(sizes.recordings, 'all')} training recordings of {sizes.corpus} (the paper: 3,500 of ti46), "
        "with autoencoders of all 60,000 images, "
        f"{sizes.sound_hidden:,} hidden neurons in audiocoders, {sizes.sound_epochs} epochs, learning rate "
        f"{sizes.sound_lr:g}; {sizes.seeds} seeds of images, {sizes.sound_seeds} of sounds."
    )


def _origin(result: dict[str, Any]) -> str:
    origin = result["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    device = ", ".join(f"{name} {value}" for name, value in origin["device"].items())
    return f"commit {origin['commit'] or 'unknown'}; {versions}; {device}"
