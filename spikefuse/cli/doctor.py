"""Reports the abilities of this installation on this machine, and the reason of each limit."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from importlib import metadata

import numpy as np
import torch
from rich.table import Table

import spikefuse
from spikefuse import _load, data, ops
from spikefuse.data import store


def facts() -> list[tuple[str, str]]:
    """Names and values, in the order to show them.

    >>> [name for name, _ in facts()][:3]
    ['spikefuse', 'Python', 'torch']
    """
    loaded, built = _load.load(), _load.build_info()
    rows = [
        ("spikefuse", f"{spikefuse.__version__} in {_load.FOLDER}"),
        ("Python", f"{platform.python_version()}, {platform.platform()}"),
        ("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"),
        ("torch, tested", _tested(torch.__version__)),
        ("NumPy", np.__version__),
        ("built with", _built_with(built)),
        ("CPU kernels", f"{ops.cpu_instruction_set()}, {torch.get_num_threads()} threads"),
        ("CUDA kernels", str(loaded.cuda_library) if loaded.cuda_library else f"none: {loaded.cuda_missing}"),
        ("GPU", _gpu()),
    ]
    rows += [(f"data set {name}", _dataset(name)) for name in data.DATASETS]
    rows += [(f"extra {name}", _extra(packages)) for name, packages in extras().items()]
    return rows


def extras() -> dict[str, list[str]]:
    """Packages of each extra, as the installed distribution declares them; empty if it is not installed.

    >>> "typer" in extras()["app"]
    True
    """
    try:
        requirements = metadata.requires("spikefuse") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        match = re.match(r"([\w.-]+).*\bextra == ['\"]([\w-]+)", requirement)
        if match is not None:
            found.setdefault(match[2], []).append(match[1])
    return found


def _tested(version: str) -> str:
    """How this release of torch was tested.

    >>> _tested("2.12.1+cpu")
    '2.12: compiled with its headers in CI'
    """
    release = ".".join(version.split(".")[:2])
    known = _load.TESTED_TORCH.get(release, f"not tested; tested are {', '.join(_load.TESTED_TORCH)}")
    return f"{release}: {known}"


def _built_with(built: dict[str, object]) -> str:
    if not built:
        return "unknown: the libraries were compiled by hand"
    return f"torch {built.get('torch')} for torch >= {built.get('torch_target')}, {built.get('compiler')}"


def _gpu() -> str:
    if torch.version.cuda is None:
        return "not looked for: torch is a build without CUDA"
    if not torch.cuda.is_available():
        return "none that torch can use"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    try:
        import pynvml

        pynvml.nvmlInit()
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        gpus = [
            f"{name}, {pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30:.0f} GiB, at most "
            f"{pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)} MHz"
            for name, handle in zip(names, map(_nvml_handle, range(len(names))), strict=True)
        ]
    except ImportError:
        return f'{", ".join(names)} (memory, clocks and driver: pip install "spikefuse[bench]")'
    except pynvml.NVMLError as error:
        return f"{', '.join(names)} (memory, clocks and driver not known: {error})"
    return f"{'; '.join(gpus)}; driver {driver}"


def _nvml_handle(device: int) -> object:
    """NVML's handle of one of torch's devices, whose order may differ."""
    import pynvml

    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def _dataset(name: str) -> str:
    try:
        if data.available(name):
            return "here"
        if name == "digits":
            return 'not here: scikit-learn holds it (pip install "spikefuse[app]")'
        cache = store.cache_folder()
        if cache is None:
            return f'not here: set {store.DATA_VARIABLE} to its folder, or pip install "spikefuse[app]" to download it'
        return f"not here: downloaded to {cache} when first asked for, or set {store.DATA_VARIABLE} to its folder"
    except (ValueError, OSError) as error:
        return f"not usable: {error}"


def _extra(packages: Sequence[str]) -> str:
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    return ", ".join(versions)


def facts_table(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and values without lines, the values wrapped under one another."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table
