"""Builds the CUDA half for the CPU: csrc/cuda as it is, compiled by the C++ compiler against include/cuda_runtime.h.

The library registers every op that has CUDA kernels a second time, as torch.ops.spikefuse_emulated.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = ROOT / "build"
sys.path.insert(0, str(ROOT / "build_backend"))

import native  # noqa: E402 - found only after the line above


def torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes other processes that build into the folder wait; the lock ends with its process."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(sanitize: str = "") -> Path:
    """The library, compiled where it is out of date, by one process at a time.

    Raises:
        RuntimeError: the compiler's message.
    """
    folder = BUILT / ("emulator-" + sanitize.replace(",", "-") if sanitize else "emulator")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        return build_into(folder, sanitize)


def build_into(folder: Path, sanitize: str) -> Path:
    library = folder / "_C_emulated.so"
    kernels = [ROOT / name for name in native.sources("cuda") if name.endswith(".cu")]
    sources = [*kernels, HERE / "emulated.cpp", HERE / "emulator.cpp"]
    shared = [ROOT / name for name in native.headers()]
    shared += [*HERE.glob("*.h"), *HERE.glob("include/*.h"), Path(native.__file__), Path(__file__)]
    newest = max(path.stat().st_mtime for path in shared)

    compiler = native.cxx_compiler()
    flags = [*native.cxx_flags(torch_folder(), sanitize), f"-I{HERE / 'include'}", "-DSPIKEFUSE_EMULATED"]
    # Pragmas of nvcc are unknown; a kernel's name is found only where it is exported.
    flags += ["-Wno-unknown-pragmas", "-fvisibility=default"]

    def compile_one(source: Path) -> Path:
        target = folder / (source.stem + ".o")
        if not target.exists() or target.stat().st_mtime < max(newest, source.stat().st_mtime):
            # a compiler that is killed leaves a part of a file, which would be taken for the object
            partial = target.with_suffix(".partial.o")
            run([*compiler, *flags, "-x", "c++", "-c", str(source), "-o", str(partial)])
            partial.replace(target)
        return target

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        objects = list(pool.map(compile_one, sources))
    if not library.exists() or library.stat().st_mtime < max(path.stat().st_mtime for path in objects):
        libraries = [f"-L{torch_folder() / 'lib'}", "-ltorch_cpu"]
        sanitizers = [f"-fsanitize={sanitize}"] if sanitize else []
        partial = library.with_suffix(".partial")
        run([*compiler, "-shared", *map(str, objects), *libraries, *sanitizers, "-o", str(partial)])
        partial.replace(library)
    return library


def implemented_ops() -> list[str]:
    """The ops that have CUDA kernels."""
    text = (ROOT / "csrc" / "schemas.h").read_text(encoding="utf-8")
    return re.findall(r'OP\(context, (\w+),[\s\\]*"', text)


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    print(build(*sys.argv[1:]))
