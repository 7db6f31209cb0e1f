"""Process-wide modes of torch and Python, and hooks of pytest that fail a test which leaves one changed.

conftest.py imports the hooks. The modes are compared after the teardown of a test's fixtures, and set back.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch

SYNC_DEBUG_WARNING = "Synchronization debug mode is a prototype feature"
# Of environment variables that pytest sets for each test, and torch, Triton and OpenMP when they are first used.
SET_BY_LIBRARIES = (
    *("PYTEST_", "TORCH", "_TORCH", "PYTORCH_", "TRITON_", "KMP_", "CUBLAS_WORKSPACE_CONFIG", "CUDA_MODULE_LOADING"),
    *("CUDA_HOME", "DISABLE_CUPTI_LAZY_REINIT", "TEARDOWN_CUPTI"),
)


class Mode(NamedTuple):
    """Reads and sets a mode; a value of None says that it cannot be known yet."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


def set_sync_debug_mode(mode: int | str) -> None:
    """torch.cuda.set_sync_debug_mode without torch's warning that it is a prototype."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SYNC_DEBUG_WARNING)
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def waiting_for_the_gpu_is_an_error() -> Iterator[None]:
    """Raises at a call that waits for the GPU; restores the mode however the block ends, or entering it fails."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        set_sync_debug_mode("error")
        yield
    finally:
        set_sync_debug_mode(before)


def _of_cuda(read: Callable[[], int]) -> Callable[[], int]:
    """`read`, or 0 in a process that has not used CUDA: reading would start it."""
    return lambda: read() if torch.cuda.is_initialized() else 0


def _autocast(device: str) -> Mode:
    def write(value: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, value[0])
        torch.set_autocast_dtype(device, value[1])

    return Mode(lambda: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)), write)


def _deterministic() -> tuple[bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def _set_deterministic(value: tuple[bool, bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])
    torch.utils.deterministic.fill_uninitialized_memory = value[2]


def _attribute(owner: Any, name: str) -> Mode:
    return Mode(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _dynamo_config() -> dict[str, Any] | None:
    module: Any = sys.modules.get("torch._dynamo.config")  # its import takes seconds
    return None if module is None else module.get_config_copy()


def _set_dynamo_config(value: dict[str, Any]) -> None:
    now = _dynamo_config() or {}
    for name in now:
        if now[name] != value[name]:
            setattr(sys.modules["torch._dynamo.config"], name, value[name])


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(SET_BY_LIBRARIES)}


def _set_environment(value: dict[str, str]) -> None:
    for name in _environment().keys() - value.keys():
        del os.environ[name]
    os.environ.update(value)


MODES = {
    "number of threads": Mode(torch.get_num_threads, torch.set_num_threads),
    "default dtype": Mode(torch.get_default_dtype, torch.set_default_dtype),
    # "cpu" would be a mode of its own that slows every new tensor
    "default device": Mode(
        torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)
    ),
    "grad mode": Mode(torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": Mode(torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "deterministic algorithms": Mode(_deterministic, _set_deterministic),
    "autocast on the CPU": _autocast("cpu"),
    "autocast on CUDA": _autocast("cuda"),
    "float32 matmul precision": Mode(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "TF32 in cuDNN": _attribute(torch.backends.cudnn, "allow_tf32"),
    "cuDNN benchmark": _attribute(torch.backends.cudnn, "benchmark"),
    "cuDNN deterministic": _attribute(torch.backends.cudnn, "deterministic"),
    "CUDA sync debug mode": Mode(_of_cuda(torch.cuda.get_sync_debug_mode), set_sync_debug_mode),
    "current CUDA device": Mode(_of_cuda(torch.cuda.current_device), torch.cuda.set_device),
    "torch._dynamo.config": Mode(_dynamo_config, _set_dynamo_config),
    "environment": Mode(_environment, _set_environment),
    "working directory": Mode(os.getcwd, os.chdir),
}


class Modes:
    """The values of all modes when this was made."""

    def __init__(self) -> None:
        self.values = {name: mode.read() for name, mode in MODES.items()}

    def restore(self) -> list[str]:
        """Sets changed modes back; returns a line for each with the value then and now."""
        changes: list[str] = []
        for name, mode in MODES.items():
            then, now = self.values[name], mode.read()
            if then is None:
                self.values[name] = now
            elif now != then:
                mode.write(then)
                changes += _differences(name, then, now)
        return changes


def _differences(name: str, then: Any, now: Any) -> list[str]:
    if not isinstance(then, dict):
        return [f"{name}: was {then}, is {now}"]
    keys = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    return [f"{name}: {key} was {then.get(key)!r}, is {now.get(key)!r}" for key in keys]


BEFORE_THE_TESTS = pytest.StashKey[Modes]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Reads the modes before the first test."""
    if BEFORE_THE_TESTS not in item.session.stash:
        item.session.stash[BEFORE_THE_TESTS] = Modes()
    yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fails a test that leaves a mode changed, and sets it back for the others."""
    try:
        yield
    finally:
        changes = item.session.stash[BEFORE_THE_TESTS].restore()
    if changes:
        pytest.fail("the test leaves changed: " + "; ".join(changes), pytrace=False)
