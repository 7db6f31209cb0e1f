"""Pictures of nets at work and of what they hear, as PNG files; matplotlib is imported when the first one is made."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from spikefuse._io.atomic_write import write_atomically
from spikefuse._io.optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK: Final = "#0b4f8a"
_FAINT: Final = "#9cc3e6"
_SMOOTHING: Final = 25


def near_square(size: int) -> tuple[int, int]:
    """Rows and columns of the most nearly square rectangle of ``size`` cells, rows <= columns.

    >>> near_square(196), near_square(32), near_square(7)
    ((14, 14), (4, 8), (1, 7))
    """
    rows = next(r for r in range(math.isqrt(size), 0, -1) if size % r == 0)
    return rows, size // rows


def save_maps(
    path: str | Path,
    rows: Sequence[tuple[str, Tensor, tuple[int, int]]],
    *,
    titles: Sequence[str] | None = None,
    heading: str | None = None,
) -> Path:
    """Writes a PNG with one row of small grey pictures for each set of maps, one column per sample.

    Every picture is scaled from its own lowest value (black) to its own highest (white); a constant one is black.

    Args:
        path: of the PNG, written atomically.
        rows: for each row its label, maps ``[B, H * W]``, and (H, W).
        titles: one for each column, or None.
        heading: above everything, or None.

    Returns:
        ``path``.

    Raises:
        ValueError: no row, maps that are not ``[B, H * W]`` with one B >= 1 for all rows, or titles that do not fit.
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_maps(Path(folder) / "noise.png", [("noise", torch.rand(4, 64), (8, 8))]).name
        'noise.png'
    """
    if not rows:
        raise ValueError("save_maps: expected at least one row, got none")
    columns = rows[0][1].shape[0]
    for label, maps, (height, width) in rows:
        if columns == 0 or list(maps.shape) != [columns, height * width]:
            raise ValueError(
                f"save_maps: expected {label} of shape [{max(columns, 1)}, {height * width}], got {list(maps.shape)}"
            )
    if titles is not None and len(titles) != columns:
        raise ValueError(f"save_maps: expected {columns} titles, got {len(titles)}")

    inches = max(1.0 * columns + 1.7, 0.09 * len(heading or ""))  # across; a heading is not to be cut
    figure = _figure(inches, 1.05 * len(rows) + (0.45 if heading else 0.1) + (0.3 if titles else 0.0))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for r, (label, maps, shape) in enumerate(rows):
        values = maps.detach().to("cpu", torch.float32)
        for c in range(columns):
            axis = axes[r][c]
            picture = values[c].reshape(shape).numpy()
            # A constant picture has no range: matplotlib would show it in mid-grey.
            low, high = float(picture.min()), float(picture.max())
            axis.imshow(picture, cmap="gray", vmin=low, vmax=high if high > low else low + 1, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if r == 0 and titles is not None:
                axis.set_title(titles[c], fontsize=10)
        axes[r][0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8, fontsize=10)
    if heading:
        figure.suptitle(heading, fontsize=11)
    return _write(figure, path)


def save_loss_curve(
    path: str | Path,
    errors: Sequence[float],
    *,
    name: str = "Spike-MSE",
    batches_per_epoch: int | None = None,
    heading: str | None = None,
) -> Path:
    """Writes a PNG of the error of every training batch, with a running mean, over the number of the batch.

    Args:
        path: of the PNG, written atomically.
        errors: one for each batch, in order; at least one.
        name: of the error, for the axis; both Spike-MSE and MSE are of maps of unit variance and have no unit.
        batches_per_epoch: where to mark the ends of epochs; None marks none.
        heading: above everything, or None.

    Returns:
        ``path``.

    Raises:
        ValueError: no errors, or one that is not finite.
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_loss_curve(Path(folder) / "loss.png", [1.5, 0.7, 0.4]).name
        'loss.png'
    """
    if len(errors) == 0 or not all(math.isfinite(error) for error in errors):
        raise ValueError(f"save_loss_curve: expected at least one error, all finite, got {len(errors)}")
    figure = _figure(7.0, 3.6)
    axis = figure.subplots()
    batches = range(1, len(errors) + 1)
    axis.plot(batches, errors, color=_FAINT, linewidth=1, label="batch", marker="." if len(errors) < 20 else "")
    window = min(_SMOOTHING, len(errors))
    if window > 1:
        sums = torch.tensor([0.0, *errors], dtype=torch.float64).cumsum(0)
        means = ((sums[window:] - sums[:-window]) / window).tolist()
        centres = [(window + 1) / 2 + i for i in range(len(means))]
        axis.plot(centres, means, color=_INK, linewidth=1.8, label=f"mean of {window} batches")
    if batches_per_epoch:
        ends = list(range(batches_per_epoch, len(errors), batches_per_epoch))
        for end in ends:
            axis.axvline(
                end, color="0.85", linewidth=0.8, zorder=0, label="end of an epoch" if end == ends[0] else None
            )
    axis.set_xlabel("training batch")
    axis.set_ylabel(f"{name} (1 = silent net)")
    axis.set_ylim(bottom=0)
    axis.set_xlim(1, max(len(errors), 2))
    axis.grid(axis="y", color="0.92")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    if heading:
        axis.set_title(heading, fontsize=11)
    return _write(figure, path)


def save_filters(path: str | Path, weight: Tensor, image_shape: tuple[int, int], *, limit: int = 100) -> Path:
    """Writes a PNG of the input weights of the first neurons of a layer, one small picture each.

    Red is positive, blue negative, white zero; one scale for all.

    Args:
        path: of the PNG, written atomically.
        weight: ``[out, H * W]``.
        image_shape: (H, W).
        limit: show at most this many neurons.

    Returns:
        ``path``.

    Raises:
        ValueError: a weight of another shape, or no neuron to show.
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_filters(Path(folder) / "filters.png", torch.randn(6, 64), (8, 8)).name
        'filters.png'
    """
    height, width = image_shape
    if weight.dim() != 2 or weight.shape[1] != height * width or min(len(weight), limit) < 1:
        raise ValueError(
            f"save_filters: expected weight of shape [out, {height * width}] and limit >= 1, got {list(weight.shape)} "
            f"and {limit}"
        )
    filters = weight.detach().to("cpu", torch.float32)[:limit]
    columns = math.ceil(math.sqrt(len(filters)))
    rows = -(-len(filters) // columns)
    largest = float(filters.abs().max()) or 1.0
    figure = _figure(0.6 * columns + 1.4, 0.6 * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False)
    picture = None
    for i, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if i < len(filters):
            values = filters[i].reshape(height, width).numpy()
            picture = axis.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    assert picture is not None
    figure.colorbar(picture, ax=axes, label="weight", shrink=0.8)
    figure.suptitle(f"input weights of neurons 0 to {len(filters) - 1}", fontsize=11)
    return _write(figure, path)


def save_cochleagrams(
    path: str | Path,
    cochleagrams: Tensor,
    *,
    frame_rate: float,
    centre_frequencies: Sequence[float],
    titles: Sequence[str] | None = None,
    heading: str | None = None,
) -> Path:
    """Writes a PNG of cochleagrams side by side: seconds across, the channels' centre frequencies in Hz upwards.

    Dark is no activity, pale the highest rate of each picture; a silent one is dark.

    Args:
        path: of the PNG, written atomically.
        cochleagrams: ``[frames * channels]`` or ``[B, frames * channels]``, the channel fastest.
        frame_rate: frames a second, in Hz.
        centre_frequencies: of the channels in Hz, in their order: either ascending or descending.
        titles: one for each cochleagram, or None.
        heading: above everything, or None.

    Returns:
        ``path``.

    Raises:
        ValueError: cochleagrams of another shape, of no frame or with NaN or infinity, centre frequencies that are
            fewer than two, not positive or not in order, a frame rate that is not positive, or titles that do not fit.
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "noise.png"
        ...     save_cochleagrams(path, torch.rand(2, 50 * 3), frame_rate=1250, centre_frequencies=[900, 400, 100]).name
        'noise.png'
    """
    centres = [float(centre) for centre in centre_frequencies]
    steps = [after - before for before, after in itertools.pairwise(centres)]
    if not steps or min(centres) <= 0 or not (min(steps) > 0 or max(steps) < 0):
        raise ValueError(
            "save_cochleagrams: expected at least two centre_frequencies, positive and in order, got "
            f"{len(centres)} from {centres[:1]} to {centres[-1:]}"
        )
    if not 0 < frame_rate < math.inf:
        raise ValueError(f"save_cochleagrams: expected a positive frame_rate in Hz, got {frame_rate}")
    channels, shape = len(centres), list(cochleagrams.shape)
    if cochleagrams.dim() not in (1, 2) or 0 in shape or shape[-1] % channels:
        raise ValueError(f"save_cochleagrams: expected cochleagrams of shape [B, frames * {channels}], got {shape}")
    values = cochleagrams.detach().to("cpu", torch.float32).reshape(-1, shape[-1] // channels, channels)
    if not bool(values.isfinite().all()):
        raise ValueError("save_cochleagrams: expected finite cochleagrams, got NaN or infinity")
    if titles is not None and len(titles) != len(values):
        raise ValueError(f"save_cochleagrams: expected {len(values)} titles, got {len(titles)}")

    # Rows of equal height: the channels are evenly spaced on the ear's own scale, not in Hz.
    rows = values.flip(2) if steps[0] < 0 else values
    ascending = sorted(centres)
    marks = sorted({round(i * (channels - 1) / min(6, channels - 1)) for i in range(min(6, channels - 1) + 1)})
    columns = min(4, len(values))
    lines = -(-len(values) // columns)
    figure = _figure(3.0 * columns + 0.8, 2.0 * lines + (0.5 if heading else 0.2))
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for i, axis in enumerate(axes.flat):
        if i >= len(values):
            axis.set_axis_off()
            continue
        axis.imshow(
            rows[i].t().numpy(),
            cmap="magma",
            vmin=0,
            vmax=float(rows[i].max()) or 1.0,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(0, len(rows[i]) / frame_rate, -0.5, channels - 0.5),
        )
        axis.set_yticks(marks, [f"{ascending[mark]:,.0f}" for mark in marks])
        if titles is not None:
            axis.set_title(titles[i], fontsize=10)
        if i % columns == 0:
            axis.set_ylabel("centre frequency (Hz)")
        if i + columns >= len(values):
            axis.set_xlabel("time (s)")
            axis.tick_params(labelbottom=True)
    if heading:
        figure.suptitle(heading, fontsize=11)
    return _write(figure, path)


def _figure(width: float, height: float) -> Figure:
    """A figure in inches, without pyplot: no global state, no display."""
    figure_class = require("matplotlib.figure", "matplotlib", "a picture").Figure
    figure: Figure = figure_class(figsize=(width, height), layout="constrained")
    return figure


def _write(figure: Figure, path: str | Path) -> Path:
    buffer = io.BytesIO()
    require("matplotlib.backends.backend_agg", "matplotlib", "a picture").FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=130)
    return write_atomically(path, buffer.getvalue())
