"""Leaves out the docstring examples of modules whose optional packages are not installed, and says so."""

from __future__ import annotations

import importlib.util

# Before pytest imports a file of it alone, which would put the module `lif` in the place of the function.
importlib.import_module("spikefuse")

NEEDS = {
    "spikefuse/_io/safetensors_file.py": ("safetensors",),
    "spikefuse/audio": ("scipy",),
    "spikefuse/cli": ("typer", "rich", "safetensors"),
    "spikefuse/data": ("pooch", "sklearn", "soundfile"),
    "spikefuse/paper/experiments": ("rich", "safetensors", "scipy", "soundfile", "matplotlib", "jinja2"),
    "spikefuse/paper/plots": ("matplotlib",),
    "spikefuse/paper/training/audio_to_image_runs.py": ("rich", "safetensors"),
    "spikefuse/paper/training/autoencoder_runs.py": ("rich", "safetensors"),
    "spikefuse/paper/training/checkpoint.py": ("safetensors",),
    "spikefuse/paper/training/progress.py": ("rich",),
}

_missing = {path: [name for name in names if importlib.util.find_spec(name) is None] for path, names in NEEDS.items()}
collect_ignore = [path for path, names in _missing.items() if names]


def pytest_report_header() -> list[str]:
    """One line for each left-out module."""
    return [f"examples in {path} left out: no {', '.join(names)}" for path, names in _missing.items() if names]
