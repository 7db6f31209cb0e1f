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
    "mnist_autoencoder.py": ["--dataset", "digits", "--hidden", "32", "--batch-size", "10", "--picture", "out.png"],
    "custom_model.py": ["--epochs", "2"],
    "online_completion.py": ["--epochs", "4"],
    "distributed.py": ["--batches", "20"],
}
NEEDS = {"mnist_autoencoder.py": ("sklearn", "matplotlib"), "distributed.py": ()}
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
