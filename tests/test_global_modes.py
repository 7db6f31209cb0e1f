"""The guard against tests that leave a process-wide mode changed, and the mode in which waiting for a GPU raises."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch._dynamo
from global_modes import MODES, SYNC_DEBUG_WARNING, Modes, waiting_for_the_gpu_is_an_error

ANOTHER: dict[str, Callable[[], object]] = {
    "number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "anomaly detection": lambda: torch.set_anomaly_enabled(True),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "autocast on the CPU": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast on CUDA": lambda: torch.set_autocast_dtype("cuda", torch.bfloat16),
    "float32 matmul precision": lambda: torch.set_float32_matmul_precision("high"),
    "TF32 in cuDNN": lambda: setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32),
    "cuDNN benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "cuDNN deterministic": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "torch._dynamo.config": lambda: setattr(torch._dynamo.config, "cache_size_limit", 3),
    "environment": lambda: os.environ.update(SPIKEFUSE_DATA="/elsewhere", COLUMNS="7"),
    "working directory": lambda: os.chdir("/"),
}
NEED_A_GPU = {"CUDA sync debug mode", "current CUDA device"}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Sets the modes back even where the guard under test fails to."""
    before = Modes()
    yield
    before.restore()


def test_every_mode_is_tested() -> None:
    assert {*ANOTHER, *NEED_A_GPU} == set(MODES)


@pytest.mark.parametrize("name", list(ANOTHER))
def test_a_changed_mode_is_named_and_set_back(name: str) -> None:
    before, value = Modes(), MODES[name].read()
    assert before.restore() == []
    ANOTHER[name]()
    assert MODES[name].read() != value
    changes = before.restore()
    assert changes and all(change.startswith(f"{name}: ") for change in changes)
    assert MODES[name].read() == value
    assert before.restore() == []


def test_added_changed_and_removed_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    before = Modes()
    os.environ.update(COLUMNS="7", SPIKEFUSE_ISA="avx2", TORCHINDUCTOR_CACHE_DIR="/of/torch")
    del os.environ["NO_COLOR"]
    assert before.restore() == [
        "environment: COLUMNS was '80', is '7'",
        "environment: NO_COLOR was '1', is None",
        "environment: SPIKEFUSE_ISA was None, is 'avx2'",
    ]
    assert os.environ["COLUMNS"] == "80" and os.environ["NO_COLOR"] == "1" and "SPIKEFUSE_ISA" not in os.environ
    del os.environ["TORCHINDUCTOR_CACHE_DIR"]


LEAVING = """
import pytest, torch

@pytest.fixture
def doubles():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)

def test_restores(doubles): pass
def test_leaves_a_mode(): torch.use_deterministic_algorithms(True)
def test_comes_after(): assert not torch.are_deterministic_algorithms_enabled()

@pytest.fixture(scope="module")
def of_the_module(): torch.set_default_dtype(torch.float64)

def test_whose_module_leaves_a_mode(of_the_module): pass
def test_comes_last(of_the_module): assert torch.get_default_dtype() == torch.float32
"""


def test_pytest_fails_the_test_that_leaves_a_mode_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "test_leaving.py").write_text(LEAVING)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "global_modes", "-v", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert "5 passed, 2 errors" in done.stdout, done.stdout[-2000:]
    assert done.stdout.count("ERROR at teardown of test_leaves_a_mode") == 1
    assert done.stdout.count("ERROR at teardown of test_whose_module_leaves_a_mode") == 1
    assert "the test leaves changed: deterministic algorithms: was (False, False, True)" in done.stdout
    assert "the test leaves changed: default dtype: was torch.float32, is torch.float64" in done.stdout


@pytest.fixture
def modes_set(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """Modes set in place of a GPU's, the last one in force; as torch does, each call warns after it."""
    modes: list[int | str] = [0]

    def set_mode(mode: int | str) -> None:
        modes.append(mode)
        warnings.warn(f"{SYNC_DEBUG_WARNING} and does not yet detect all synchronizing operations", stacklevel=2)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    return modes


def test_the_sync_debug_mode_is_left_without_its_warning(modes_set: list[int | str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with waiting_for_the_gpu_is_an_error():
            assert modes_set[-1] == "error"
            with pytest.raises(UserWarning, match="of another kind"):
                warnings.warn("of another kind", stacklevel=1)
    assert modes_set == [0, "error", 0]


def test_the_sync_debug_mode_is_left_where_the_block_raises(modes_set: list[int | str]) -> None:
    modes_set.append("warn")
    with pytest.raises(RuntimeError, match="called a synchronizing"), waiting_for_the_gpu_is_an_error():
        raise RuntimeError("called a synchronizing CUDA operation")
    assert modes_set[-1] == "warn"


def test_the_sync_debug_mode_is_left_where_entering_it_raises(
    modes_set: list[int | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_mode = torch.cuda.set_sync_debug_mode

    def warn_otherwise(mode: int | str) -> None:
        set_mode(mode)
        if mode == "error":
            raise UserWarning("another text")

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", warn_otherwise)
    with pytest.raises(UserWarning, match="another text"), waiting_for_the_gpu_is_an_error():
        pytest.fail("entered")
    assert modes_set[-1] == 0
