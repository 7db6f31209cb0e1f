"""Origin of a result file: the source, the software and the device."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


@functools.cache
def provenance(instruction_set: str) -> dict[str, Any]:
    """Commit of the source where it is a git checkout (else None), versions, device.

    A commit ends in ``-dirty`` where files that git follows were changed. It is asked for once a process: a run names
    the source it began with.

    Args:
        instruction_set: of the CPU kernels that run; see :func:`spikefuse.ops.cpu_instruction_set`.

    >>> sorted(provenance("avx2"))
    ['commit', 'device', 'versions']
    """
    return {
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "versions": versions(),
        "device": {
            "name": "cpu",
            "machine": platform.machine(),
            "instruction_set": instruction_set,
            "threads": torch.get_num_threads(),
        },
    }


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists():
        return None
    asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Versions of what computes the results.

    >>> sorted(versions())
    ['python', 'spikefuse', 'torch']
    """
    return {"spikefuse": metadata.version("spikefuse"), "torch": torch.__version__, "python": platform.python_version()}
