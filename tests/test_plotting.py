"""Pictures: whole PNG files of a sensible size, and clear errors. What they look like, eyes have judged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

import matplotlib.image

from spikefuse import plotting


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

    code = "import sys, spikefuse.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
