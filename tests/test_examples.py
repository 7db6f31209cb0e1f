"""Every example runs, small, and does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spikefuse

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

SMALL = {
    "mnist_autoencoder.py": ["--dataset", "digits", "--hidden", "32", "--batch-size", "10", "--picture", "out.png"],
    "custom_model.py": ["--epochs", "2"],
    "online_completion.py": ["--epochs", "4"],
}
NEEDS = {"mnist_autoencoder.py": ("sklearn", "matplotlib"), "custom_model.py": ("sklearn",)}


def run(name: str, folder: Path) -> str:
    for package in NEEDS.get(name, ("sklearn",)):
        pytest.importorskip(package)
    environment = {**os.environ, "PYTHONPATH": str(Path(spikefuse.__file__).parents[1])}
    command = [sys.executable, str(EXAMPLES / name), *SMALL[name]]
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
