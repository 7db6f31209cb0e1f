"""Loading the compiled libraries: what each failure tells the user, and that CUDA trouble leaves the CPU in use."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import spikefuse
from spikefuse import _load

INFO = {
    "torch": "2.12.3+cu130",
    "torch_cuda": "13.0",
    "torch_target": "2.11",
    "cuda_reason": "no nvcc in CUDA_HOME",
    "platform": "linux-riscv64",
}


class Folder:
    """A package folder with libraries that are only names, and a torch that opens them or fails to."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path, self.patch = path, patch
        self.opened: list[str] = []
        self.failures: dict[str, str] = {}
        patch.setattr(_load, "FOLDER", path)
        patch.setattr(torch.ops, "load_library", self.open)
        patch.setattr(_load, "DRIVER_FILES", (str(path / "driver"),))
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self.write(**INFO)

    def open(self, library: str) -> None:
        name = Path(library).name
        self.opened.append(name)
        if name in self.failures:
            raise OSError(f"Could not load this library: {library}") from OSError(self.failures[name])

    def write(self, **info: Any) -> None:
        (self.path / "_build_info.json").write_text(json.dumps(info))

    def add(self, *libraries: str, gpu: bool = False, cuda: str | None = "13.1") -> None:
        for library in libraries:
            (self.path / library).touch()
        if gpu:
            (self.path / "driver").touch()
        self.patch.setattr(torch.version, "cuda", cuda)

    def load(self) -> _load.LoadReport:
        return _load.load.__wrapped__()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(tmp_path, monkeypatch)


def test_a_folder_that_was_not_built(folder: Folder) -> None:
    with pytest.raises(ImportError, match=r"_C\.abi3\.so is missing.*not built.*pip install -e \."):
        folder.load()
    assert folder.opened == []


@pytest.mark.parametrize("version", ["2.10.1", "2.9.0+cu126", "1.13.1"])
def test_torch_too_old_is_refused_before_anything_is_opened(folder: Folder, version: str) -> None:
    folder.add("_C.abi3.so")
    folder.patch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError, match=rf"needs torch >= 2\.11, found torch {re.escape(version)} in .*upgrade"):
        folder.load()
    assert folder.opened == []


@pytest.mark.parametrize("version", ["2.11.0", "2.12.0a0+git1234567", "3.0.0"])
def test_torch_new_enough(folder: Folder, version: str) -> None:
    folder.add("_C.abi3.so", cuda=None)
    folder.patch.setattr(torch, "__version__", version)
    assert folder.load() == _load.LoadReport(
        folder.path / "_C.abi3.so", None, f"torch {version} is a build without CUDA."
    )


def test_undefined_symbol_names_both_torches_and_no_architecture(folder: Folder) -> None:
    folder.add("_C.abi3.so")
    folder.failures["_C.abi3.so"] = "/x/_C.abi3.so: undefined symbol: torch_new_thing, version V"
    with pytest.raises(ImportError) as caught:
        folder.load()
    message = str(caught.value)
    assert "needs the function torch_new_thing" in message
    assert "built with torch 2.12.3+cu130 for torch >= 2.11" in message
    assert f"found torch {torch.__version__} in {Path(torch.__file__).parent}" in message
    assert "whatever the GPU and its architecture" in message
    assert "--force-reinstall" in message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            "libcudart.so.12: cannot open shared object file: No such file or directory",
            r"needs libcudart\.so\.12, which is not found.*CUDA 13\.1",
        ),
        (
            "/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by /x/_C.abi3.so)",
            r"built on a newer system: GLIBCXX_3\.4\.32 is missing here",
        ),
        ("/x/_C.abi3.so: invalid ELF header", r"cannot be loaded \(.*invalid ELF header\)\. For linux-riscv64"),
    ],
)
def test_other_failures_of_the_linker(folder: Folder, error: str, expected: str) -> None:
    folder.add("_C.abi3.so")
    folder.failures["_C.abi3.so"] = error
    with pytest.raises(ImportError, match=expected):
        folder.load()


def test_a_failure_without_build_information(folder: Folder) -> None:
    folder.add("_C.abi3.so")
    (folder.path / "_build_info.json").unlink()
    folder.failures["_C.abi3.so"] = "/x/_C.abi3.so: undefined symbol: torch_new_thing"
    with pytest.raises(ImportError, match=r"torch of an unknown version for torch >= 2\.11"):
        folder.load()


def test_the_linker_s_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real library with a real hole, so that a change of the linker's wording is noticed."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    source, library = tmp_path / "hole.cpp", tmp_path / "_C.abi3.so"
    source.write_text('extern "C" int torch_of_tomorrow(); extern "C" int use() { return torch_of_tomorrow(); }\n')
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    monkeypatch.setattr(_load, "FOLDER", tmp_path)
    with pytest.raises(ImportError, match=r"needs the function \w*torch_of_tomorrow"):
        _load.load.__wrapped__()
    library.unlink()  # the name of a library that failed to open is remembered by the linker
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "_C.abi3.so").write_text("no library")
    monkeypatch.setattr(_load, "FOLDER", tmp_path / "deeper")
    with pytest.raises(ImportError, match=r"_C\.abi3\.so cannot be loaded \("):
        _load.load.__wrapped__()


def test_damaged_build_information(folder: Folder) -> None:
    (folder.path / "_build_info.json").write_text('{"torch": ')
    with pytest.raises(ImportError, match=r"_build_info\.json is damaged .*install spikefuse again"):
        _load.build_info()


def test_another_copy_of_the_package_is_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registering the same ops twice would end the process."""
    folder.add("_C.abi3.so")
    other = folder.path / "elsewhere" / folder.path.name / "_C.abi3.so"
    monkeypatch.setattr(torch.ops, "loaded_libraries", {str(other)})
    with pytest.raises(ImportError, match="is loaded already"):
        folder.load()
    assert folder.opened == []


def test_the_cuda_library_is_loaded_after_the_schemas(folder: Folder) -> None:
    folder.add("_C.abi3.so", "_C_cuda.abi3.so", gpu=True)
    report = folder.load()
    assert folder.opened == ["_C.abi3.so", "_C_cuda.abi3.so"]
    assert report == _load.LoadReport(folder.path / "_C.abi3.so", folder.path / "_C_cuda.abi3.so", "")


def test_a_cuda_library_beside_a_torch_without_cuda_is_left_alone(folder: Folder) -> None:
    folder.add("_C.abi3.so", "_C_cuda.abi3.so", gpu=True, cuda=None)
    assert folder.load().cuda_library is None
    assert folder.opened == ["_C.abi3.so"]


def other_cuda(folder: Folder) -> None:
    folder.add("_C.abi3.so", "_C_cuda.abi3.so", cuda="12.6")


def not_built(folder: Folder) -> None:
    folder.add("_C.abi3.so")


def not_fitting(folder: Folder) -> None:
    folder.add("_C.abi3.so", "_C_cuda.abi3.so")
    folder.failures["_C_cuda.abi3.so"] = "/x/_C_cuda.abi3.so: undefined symbol: torch_new_thing"


CUDA_TROUBLE = [
    (other_cuda, rf"built for CUDA 13\.0, and torch {re.escape(torch.__version__)} is of CUDA 12\.6\. Rebuild"),
    (not_built, r"built without its CUDA half: no nvcc in CUDA_HOME\. Then: SPIKEFUSE_CUDA=1 pip install"),
    (not_fitting, r"_C_cuda\.abi3\.so needs the function torch_new_thing"),
]


@pytest.mark.parametrize(("trouble", "expected"), CUDA_TROUBLE)
def test_cuda_trouble_is_warned_of_where_there_is_a_gpu(
    folder: Folder, trouble: Callable[[Folder], None], expected: str
) -> None:
    trouble(folder)
    (folder.path / "driver").touch()
    with pytest.warns(RuntimeWarning, match=expected) as caught:
        report = folder.load()
    assert len(caught) == 1
    assert report.cpu_library.name == "_C.abi3.so" and report.cuda_library is None
    assert re.search(expected, report.cuda_missing)


@pytest.mark.parametrize("hidden", [None, "", "-1"])
@pytest.mark.parametrize(("trouble", "expected"), CUDA_TROUBLE)
def test_and_kept_in_the_report_where_there_is_none(
    folder: Folder, trouble: Callable[[Folder], None], expected: str, hidden: str | None
) -> None:
    trouble(folder)
    if hidden is not None:
        (folder.path / "driver").touch()
        folder.patch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = folder.load()
    assert re.search(expected, report.cuda_missing)


def test_a_minor_difference_of_cuda_is_none(folder: Folder) -> None:
    folder.add("_C.abi3.so", "_C_cuda.abi3.so", gpu=True, cuda="13.2")
    assert folder.load().cuda_missing == ""


def test_importing_starts_no_cuda(isolated: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """torch.cuda.is_available() starts the driver, after which a forked child cannot use the GPU."""
    done = isolated(
        "import torch\n"
        "def refuse(*_): raise AssertionError('asked torch.cuda')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = refuse\n"
        "import spikefuse\n"
    )
    assert done.returncode == 0, done.stderr


def test_this_build_says_what_it_is() -> None:
    info, report = _load.build_info(), _load.load()
    assert set(info) == {
        *("spikefuse", "torch", "torch_cuda", "torch_target", "compiler", "sanitize"),
        *("cuda_built", "cuda_reason", "cuda_archs", "nvcc", "platform"),
    }
    assert info["spikefuse"] == spikefuse.__version__ == importlib.metadata.version("spikefuse")
    assert info["torch_target"] == ".".join(map(str, _load.OLDEST_TORCH))
    assert report.cpu_library == _load.FOLDER / "_C.abi3.so"
    assert info["cuda_built"] == (_load.FOLDER / "_C_cuda.abi3.so").exists()
    assert bool(info["cuda_archs"]) == info["cuda_built"]
