"""Backends, subprocesses and settings shared by all tests."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from spikefuse import _load, ops

# Test modules share tests/comparison.py, and pytest's importlib mode leaves sys.path alone.
sys.path.insert(0, str(Path(__file__).parent))

from emulator import build
from global_modes import pytest_runtest_setup, pytest_runtest_teardown

__all__ = ["pytest_runtest_setup", "pytest_runtest_teardown"]  # a hook of pytest is one where conftest has its name

# A run on a loaded machine is slow, not wrong; CI sees the same examples every time, a developer new ones.
settings.register_profile("spikefuse", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("spikefuse")


@dataclasses.dataclass(frozen=True)
class Backend:
    """Where a parity test runs."""

    device: str
    """The device of its tensors."""
    ops: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    """Functions that replace those of spikefuse.ops while the test runs, for a backend that torch does not know."""


def cuda_kernels() -> bool:
    """True if there is a GPU, and this build has kernels for it."""
    return torch.cuda.is_available() and torch._C._dispatch_has_kernel_for_dispatch_key(
        "spikefuse::lif_forward", "CUDA"
    )


def emulated_backend() -> Backend:
    """The CUDA launchers and kernels on the CPU, built where they are out of date."""
    torch.ops.load_library(str(build.build(_load.build_info().get("sanitize", ""))))
    library = torch.ops.spikefuse_emulated
    return Backend("cpu", {name: getattr(library, name) for name in build.implemented_ops()})


BACKENDS = {"cpu": Backend("cpu")}
if os.environ.get("SPIKEFUSE_EMULATED") != "0":
    BACKENDS["emulated"] = emulated_backend()
if cuda_kernels():
    BACKENDS["cuda"] = Backend("cuda")


# Of module scope, so that hypothesis may draw many examples inside one test that uses it.
@pytest.fixture(scope="module", params=list(BACKENDS))
def device(request: pytest.FixtureRequest) -> str:
    """The device of each backend in turn."""
    return BACKENDS[request.param].device


def backend_of(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("device")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Replaces the ops while a test runs that asks for such a backend, and for no other test of its module."""
    backend = BACKENDS.get(backend_of(item) or "cpu")
    with pytest.MonkeyPatch.context() as patch:
        for name, op in (backend.ops if backend else {}).items():
            patch.setattr(ops, name, op)
        yield


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def isolated() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python code in a process of its own: what is decided once per process, or may end it, is tested there."""

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
        )

    return run


def pytest_report_header() -> str:
    return f"backends: {', '.join(BACKENDS)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [
        item for item in items if not (item.get_closest_marker("torch_device") and backend_of(item) == "emulated")
    ]
    for item in items:
        if item.get_closest_marker("cuda") and not cuda_kernels():
            item.add_marker(pytest.mark.skip(reason="no GPU, or no CUDA kernels in this build"))
