"""Loads the compiled libraries, once, and says in plain words what is wrong where that fails."""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch

OLDEST_TORCH: Final = (2, 11)
FOLDER: Final = Path(__file__).resolve().parent
CPU_LIBRARY: Final = "_C.abi3.so"
CUDA_LIBRARY: Final = "_C_cuda.abi3.so"
BUILD_INFO: Final = "_build_info.json"
REBUILD: Final = "pip install --no-build-isolation --no-deps --force-reinstall ."

TESTED_TORCH: Final[dict[str, str]] = {
    "2.11": "compiled with its headers in CI; op tests passed on an H100 (torch 2.11.0+cu130)",
    "2.12": "compiled with its headers in CI",
    "2.13": "the whole test suite in CI (CPU)",
    "2.14": "compiled with its headers in CI; a wheel built with 2.13 ran on 2.14+cu130 (CPU)",
}
"""How each release of torch was tested."""

# Their presence tells that there is an NVIDIA driver. Asking torch.cuda would start it, and CUDA that was started
# before a fork does not work in the child.
DRIVER_FILES: Final = ("/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")


@dataclass(frozen=True)
class LoadReport:
    """The libraries that `load` has loaded.

    Attributes:
        cpu_library: the library with the schemas and the CPU ops.
        cuda_library: the library with the CUDA ops, or None.
        cuda_missing: why there is no `cuda_library`, as a sentence; "" where there is one.
    """

    cpu_library: Path
    cuda_library: Path | None
    cuda_missing: str


def build_info() -> dict[str, Any]:
    """Reads how the libraries were built; empty if they were compiled by hand, without setup.py.

    Keys: ``spikefuse``, ``torch``, ``torch_cuda`` (or None), ``torch_target`` (the oldest torch they run with),
    ``compiler``, ``sanitize``, ``cuda_built``, ``cuda_reason`` (why or why not), ``cuda_archs``, ``nvcc`` (or None),
    ``platform``.

    Raises:
        ImportError: the file is damaged.

    >>> build_info()["torch_target"]
    '2.11'
    """
    path = FOLDER / BUILD_INFO
    if not path.exists():
        return {}
    try:
        return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ImportError(f"spikefuse: {path} is damaged ({error}): install spikefuse again") from error


@functools.cache
def load() -> LoadReport:
    """Loads the CPU library, and the CUDA library where it was built and torch has CUDA.

    Raises:
        ImportError: torch is too old, or the CPU library is missing or does not fit this torch. Trouble with the CUDA
            library alone is warned of where there is a GPU, and leaves the CPU ops in use; CUDA tensors are refused.

    >>> load().cpu_library.name
    '_C.abi3.so'
    """
    _check_torch()
    library = FOLDER / CPU_LIBRARY
    if not library.exists():
        raise ImportError(
            f"spikefuse: {library} is missing, so this is a source folder that was not built. Build it with "
            f"`pip install -e .` in {FOLDER.parent}; if spikefuse is installed, start Python in another folder."
        )
    _load_library(library)
    cuda_library, missing = _load_cuda()
    if missing and torch.version.cuda is not None and _gpu_present():
        warnings.warn(f"spikefuse: CUDA tensors cannot be used: {missing}", RuntimeWarning, stacklevel=2)
    return LoadReport(library, cuda_library, missing)


def _check_torch() -> None:
    release = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if release is None or tuple(map(int, release.groups())) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ImportError(
            f"spikefuse needs torch >= {oldest}, found {_torch_found()}: upgrade it (pip install 'torch>={oldest}')"
        )


def _torch_found() -> str:
    return f"torch {torch.__version__} in {Path(torch.__file__).parent}"


def _load_library(library: Path) -> None:
    for loaded in map(Path, torch.ops.loaded_libraries):
        if loaded.name == library.name and loaded.parent.name == library.parent.name and loaded != library:
            # Registering the same ops twice ends the process, with no exception to catch.
            raise ImportError(f"spikefuse: {loaded} is loaded already; {library} cannot be loaded beside it")
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        reason = error.__cause__ or error  # torch says which library, the linker says why
        raise ImportError(f"spikefuse: {_explain(str(reason), library)}") from error


def _explain(error: str, library: Path) -> str:
    """Explains the dynamic linker's message to a user."""
    info = build_info()
    fit = (
        f"It was built with torch {info.get('torch', 'of an unknown version')} for torch >= "
        f"{info.get('torch_target', '.'.join(map(str, OLDEST_TORCH)))}; found {_torch_found()}, "
        f"CUDA {torch.version.cuda or 'none'}. Rebuild in the source folder: {REBUILD}"
    )
    if symbol := re.search(r"undefined symbol: ([^\s,]+)", error):
        return (
            f"{library.name} needs the function {symbol[1]}, which this torch does not have: the two do not fit, "
            f"whatever the GPU and its architecture. {fit}"
        )
    if needed := re.search(r"(lib[^\s:]+): cannot open shared object file", error):
        return f"{library.name} needs {needed[1]}, which is not found. {fit}"
    if runtime := re.search(r"version [`']([^']+)' not found", error):
        return f"{library.name} was built on a newer system: {runtime[1]} is missing here. {fit}"
    return f"{library} cannot be loaded ({error}). For {info.get('platform', 'an unknown platform')}: {fit}"


def _load_cuda() -> tuple[Path | None, str]:
    """The CUDA library and "", or None and why there is none."""
    library = FOLDER / CUDA_LIBRARY
    info = build_info()
    if torch.version.cuda is None:
        return None, f"torch {torch.__version__} is a build without CUDA."
    if not library.exists():
        reason = info.get("cuda_reason", "it was compiled by hand, the CPU half only")
        return None, f"spikefuse was built without its CUDA half: {reason}. Then: SPIKEFUSE_CUDA=1 {REBUILD}"
    built_for = str(info.get("torch_cuda") or torch.version.cuda)
    if built_for.split(".")[0] != torch.version.cuda.split(".")[0]:
        return None, (
            f"its CUDA half was built for CUDA {built_for}, and torch {torch.__version__} is of CUDA "
            f"{torch.version.cuda}. Rebuild in the source folder, with a toolkit of that major version: {REBUILD}"
        )
    try:
        _load_library(library)
    except ImportError as error:
        return None, str(error).removeprefix("spikefuse: ")
    return library, ""


def _gpu_present() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(Path(file).exists() for file in DRIVER_FILES)
