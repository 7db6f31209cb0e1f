"""Pictures: whole PNG files of a sensible size, and clear errors. What they look like, eyes have judged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

import matplotlib.image

from spikefuse.paper.plots import pictures as plotting


def size(path: Path) -> tuple[int, int]:
    picture = matplotlib.image.imread(path)
    assert picture.std() > 0.01, "something is drawn"
    return picture.shape[1], picture.shape[0]


def test_maps(tmp_path: Path) -> None:
    rows = [("image", torch.rand(3, 20), (4, 5)), ("a long label", torch.zeros(3, 6, dtype=torch.int32), (2, 3))]
    small = size(plotting.save_maps(tmp_path / "new" / "small.png", rows))
    large = size(plotting.save_maps(tmp_path / "large.png", rows * 2, titles=["0", "1", "2"], heading="heading"))
    assert large[1] > 1.7 * small[1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.png", "new"], "no temporary file"


def test_a_constant_map_is_black_and_a_map_spans_black_to_white(tmp_path: Path) -> None:
    for value in (0.0, 0.5, 3.0):
        maps = torch.stack([torch.full((64,), value), torch.arange(64.0)])
        picture = matplotlib.image.imread(plotting.save_maps(tmp_path / "maps.png", [("", maps, (8, 8))]))[:, :, 0]
        height, width = picture.shape
        constant = picture[height // 4 : height // 2, : width * 6 // 10]
        assert constant.min() == 0.0
        assert ((constant > 0.3) & (constant < 0.7)).mean() < 0.05, "not grey"


@pytest.mark.parametrize("count", [1, 2, 24, 300])
def test_loss_curve(count: int, tmp_path: Path) -> None:
    errors = [1.5 / (1 + i) for i in range(count)]
    path = plotting.save_loss_curve(tmp_path / "loss.png", errors, batches_per_epoch=10, heading="heading")
    assert size(path) == (910, 468)


@pytest.mark.parametrize("count", [1, 7, 100, 120])
def test_filters(count: int, tmp_path: Path) -> None:
    size(plotting.save_filters(tmp_path / "filters.png", torch.randn(count, 20), (4, 5)))
    size(plotting.save_filters(tmp_path / "strided.png", torch.randn(20, count).t(), (4, 5)))


def test_silent_filters(tmp_path: Path) -> None:
    plotting.save_filters(tmp_path / "filters.png", torch.zeros(4, 20), (4, 5))


@pytest.mark.parametrize("count", [1, 4, 5])
def test_cochleagrams(count: int, tmp_path: Path) -> None:
    titles = [f"digit {i}" for i in range(count)]
    path = plotting.save_cochleagrams(
        tmp_path / "c.png",
        torch.rand(count, 150 * 39),
        frame_rate=1250.0,
        centre_frequencies=torch.arange(5000, 1100, -100).tolist(),
        titles=titles,
        heading="heading",
    )
    assert size(path)[0] > 350


def test_low_channels_are_at_the_bottom_whatever_their_order(tmp_path: Path) -> None:
    rates = torch.zeros(100, 10)
    rates[:, 0] = 1
    pictures = [
        matplotlib.image.imread(
            plotting.save_cochleagrams(
                tmp_path / "c.png", rates.reshape(-1), frame_rate=100, centre_frequencies=centres
            )
        )[:, :, :3].min(axis=2)
        for centres in (range(100, 1100, 100), range(1000, 0, -100))
    ]
    # The lit row is dark above and below it in one picture each; text and margins are the same in both.
    rows = [(picture - pictures[1 - i] > 0.3).sum(axis=1).argmax() for i, picture in enumerate(pictures)]
    assert rows[0] > rows[1] + 100


def test_a_silent_cochleagram(tmp_path: Path) -> None:
    plotting.save_cochleagrams(tmp_path / "c.png", torch.zeros(50 * 3), frame_rate=1, centre_frequencies=[1, 2, 3])


@pytest.mark.parametrize(
    ("shape", "centres", "rate", "titles", "message"),
    [
        ((10,), [300, 200, 100], 1, None, r"shape \[B, frames \* 3\], got \[10\]"),
        ((1, 2, 6), [300, 200, 100], 1, None, r"got \[1, 2, 6\]"),
        ((0, 6), [300, 200, 100], 1, None, r"got \[0, 6\]"),
        ((6,), [300, 100, 200], 1, None, "positive and in order, got 3"),
        ((6,), [2, 1, 0], 1, None, "positive and in order, got 3"),
        ((6,), [100], 1, None, "at least two centre_frequencies"),
        ((6,), [], 1, None, "at least two centre_frequencies, .*, got 0"),
        ((6,), [1, 2], 0, None, "positive frame_rate in Hz, got 0"),
        ((2, 6), [1, 2], 1, ["one"], "2 titles, got 1"),
    ],
    ids=str,
)
def test_bad_cochleagrams(
    tmp_path: Path, shape: tuple[int, ...], centres: list[int], rate: float, titles: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plotting.save_cochleagrams(
            tmp_path / "x.png", torch.rand(shape), frame_rate=rate, centre_frequencies=centres, titles=titles
        )
    with pytest.raises(ValueError, match="finite cochleagrams"):
        plotting.save_cochleagrams(
            tmp_path / "x.png", torch.full((4,), float("nan")), frame_rate=1, centre_frequencies=[1, 2]
        )
    assert not (tmp_path / "x.png").exists()


def test_bad_arguments(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match="at least one row"):
        plotting.save_maps(path, [])
    with pytest.raises(ValueError, match=r"image of shape \[2, 20\], got \[2, 21\]"):
        plotting.save_maps(path, [("image", torch.zeros(2, 21), (4, 5))])
    with pytest.raises(ValueError, match=r"second of shape \[2, 4\], got \[3, 4\]"):
        plotting.save_maps(path, [("first", torch.zeros(2, 4), (2, 2)), ("second", torch.zeros(3, 4), (2, 2))])
    with pytest.raises(ValueError, match=r"got \[0, 4\]"):
        plotting.save_maps(path, [("first", torch.zeros(0, 4), (2, 2))])
    with pytest.raises(ValueError, match="2 titles, got 1"):
        plotting.save_maps(path, [("first", torch.zeros(2, 4), (2, 2))], titles=["0"])
    with pytest.raises(ValueError, match="at least one error, all finite, got 0"):
        plotting.save_loss_curve(path, [])
    with pytest.raises(ValueError, match="all finite, got 2"):
        plotting.save_loss_curve(path, [1.0, float("nan")])
    with pytest.raises(ValueError, match=r"\[out, 20\] and limit >= 1, got \[3, 21\]"):
        plotting.save_filters(path, torch.zeros(3, 21), (4, 5))
    assert not path.exists()


def test_matplotlib_is_imported_when_needed_only() -> None:
    import subprocess
    import sys

    code = "import sys, spikefuse.paper.plots.pictures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
