"""Every example runs, small, and does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import spikefuse

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

SMALL = {
    "audio_to_image.py": ["--tones", "--hidden", "32", "--epochs", "8", "--picture", "out.png"],
    "fashion_autoencoder.py": [
        *("--dataset", "digits", "--hidden", "32", "--batch-size", "10", "--steps", "20", "--picture", "out.png")
    ],
    "mnist_autoencoder.py": ["--dataset", "digits", "--hidden", "32", "--batch-size", "10", "--picture", "out.png"],
    "custom_model.py": ["--epochs", "2"],
    "online_completion.py": ["--epochs", "4"],
    "distributed.py": ["--batches", "20"],
}
NEEDS = {
    "audio_to_image.py": ("sklearn", "matplotlib", "scipy"),
    "fashion_autoencoder.py": ("sklearn", "matplotlib"),
    "mnist_autoencoder.py": ("sklearn", "matplotlib"),
    "custom_model.py": ("sklearn",),
    "distributed.py": (),
}
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
LAUNCHERS = {"distributed.py": [*TORCHRUN, "--rdzv-endpoint", "localhost:0"]}  # on any free port


def run(name: str, folder: Path, *more: str) -> str:
    for package in NEEDS.get(name, ("sklearn",)):
        pytest.importorskip(package)
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(Path(spikefuse.__file__).parents[1])}
    command = [sys.executable, *LAUNCHERS.get(name, ()), str(EXAMPLES / name), *SMALL[name], *more]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_example_is_here_and_short() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SMALL)
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 80, path.name


def test_mnist_autoencoder(tmp_path: Path) -> None:
    out = run("mnist_autoencoder.py", tmp_path)
    found = re.search(r"test MSE ([\d.]+), Spike-MSE ([\d.]+)", out)
    assert found is not None
    assert float(found[2]) < 0.6, "one epoch of few and small images"
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_fashion_autoencoder(tmp_path: Path) -> None:
    out = run("fashion_autoencoder.py", tmp_path)
    found = re.findall(r"spiking, (\d+) steps: test MSE ([\d.]+)", out)
    assert [steps for steps, _ in found] == ["5", "15", "20"]
    assert float(found[2][1]) < float(found[0][1]), "more steps, more grey levels"
    assert float(found[2][1]) < 0.8
    assert "artificial: test MSE" in out
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_audio_to_image(tmp_path: Path) -> None:
    out = run("audio_to_image.py", tmp_path)
    heard = [float(score) for score in re.findall(r"epoch \d+: test MSE ([\d.]+)", out)]
    mean = re.search(r"mean image: test MSE ([\d.]+)", out)
    assert mean is not None
    assert len(heard) == 8
    assert heard[-1] < float(mean[1]), "it has listened"
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_custom_model(tmp_path: Path) -> None:
    accuracies = re.findall(r"test accuracy ([\d.]+)%", run("custom_model.py", tmp_path))
    assert len(accuracies) == 2
    assert float(accuracies[-1]) > 75


def test_online_completion(tmp_path: Path) -> None:
    shown, output = re.findall(r"test MSE of .*: +([\d.]+)", run("online_completion.py", tmp_path))
    assert float(output) < float(shown)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
@pytest.mark.parametrize("way", ["autograd", "online"])
def test_distributed(way: str, tmp_path: Path) -> None:
    line = r"batch (\d+) on 2 ranks, from batch (\d+) on: loss ([\d.]+)"
    first = re.findall(line, run("distributed.py", tmp_path, "--way", way))
    assert [(done, begin) for done, begin, _ in first] == [("10", "0"), ("20", "0")]
    assert float(first[1][2]) < float(first[0][2])
    resumed = re.findall(line, run("distributed.py", tmp_path, "--way", way, "--batches", "30"))
    assert [(done, begin) for done, begin, _ in resumed] == [("30", "20")]
    assert float(resumed[0][2]) < float(first[0][2])
