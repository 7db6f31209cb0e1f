"""Describes the two compiled libraries: sources, flags, and the decision to build the CUDA half.

setup.py, CMakeLists.txt and tools/cuda_check.py all ask here, so that nothing is listed twice. Nothing here imports
torch: `python native.py WHAT TORCH_FOLDER` prints one list, one entry a line.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_TARGET = (2, 11)
SUPPORTED_TORCH = ("2.11", "2.12", "2.13", "2.14")
DEFAULT_ARCHS = ("8.0", "9.0", "10.0", "12.0")
OLDEST_ARCH = 80
SANITIZERS = ("address", "undefined", "thread")


class BuildError(Exception):
    """A build that cannot go on, and what the person building it can do."""


# One rounding wherever the source has one operation, on every backend: products and sums are fused only where
# macros.h says so, hence -ffp-contract=off and -fmad=false. No -march: a wheel runs on other machines than its own.
HOST_FLAGS = ("-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-Wall")
COMMON_FLAGS = (
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    f"-DTORCH_TARGET_VERSION=0x{TORCH_TARGET[0]:02x}{TORCH_TARGET[1]:02x}000000000000",
)


def sources(half: str, root: Path = ROOT) -> list[str]:
    """The sources of the "cpu" or the "cuda" library, relative to the root.

    Raises:
        BuildError: two sources would share an object file.
    """
    patterns = {"cpu": ("csrc/*.cpp", "csrc/cpu/*.cpp"), "cuda": ("csrc/cuda/*.cu", "csrc/cuda/*.cpp")}[half]
    found = sorted(path.relative_to(root).as_posix() for pattern in patterns for path in root.glob(pattern))
    objects = Counter(os.path.splitext(name)[0] for name in found)
    twice = [name for name in found if objects[os.path.splitext(name)[0]] > 1]
    if twice:
        raise BuildError(f"{' and '.join(twice)} would both become the same object file: rename one")
    return found


def headers(root: Path = ROOT) -> list[str]:
    """Everything that sources include, relative to the root."""
    found = (path for path in (root / "csrc").rglob("*") if path.suffix in (".h", ".inl", ".cuh"))
    return sorted(path.relative_to(root).as_posix() for path in found)


def relative_names(include: Path) -> list[str]:
    """Flags that keep the folders of the build machine out of the file names in error messages."""
    return [f"-ffile-prefix-map={folder}{os.sep}=" for folder in (ROOT, include)]


def cxx_flags(torch_folder: Path, sanitize: str = "") -> list[str]:
    """Flags for g++ or clang++, for both libraries."""
    quiet = "-Wno-maybe-uninitialized"  # GCC 12 says it of its own AVX-512 header
    include = torch_folder / "include"
    flags = [*COMMON_FLAGS, *HOST_FLAGS, *relative_names(include), "-Wextra", quiet, "-isystem", str(include)]
    if sanitize:
        flags += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]
    return flags


def nvcc_flags(torch_folder: Path) -> list[str]:
    """Flags for nvcc, without the architectures."""
    include = torch_folder / "include"
    host = ",".join((*HOST_FLAGS, *relative_names(include)))
    cuda = ("-DUSE_CUDA", "-fmad=false", "--expt-relaxed-constexpr", f"-Xcompiler={host}")
    return [*COMMON_FLAGS, *cuda, "-isystem", str(include)]


def sanitizers(requested: str) -> str:
    """SPIKEFUSE_SANITIZE, checked.

    Raises:
        BuildError: it names something else than sanitizers.
    """
    unknown = [name for name in requested.split(",") if name and name not in SANITIZERS]
    if unknown:
        raise BuildError(f"SPIKEFUSE_SANITIZE: expected a comma-separated list of {SANITIZERS}, got {requested!r}")
    return requested


# Uses of the language and of its library that came with C++17.
CPP17 = """
#include <optional>
#include <tuple>
template <class T> constexpr int size() { if constexpr (sizeof(T) > 1) return 2; else return 1; }
static std::optional<int> sum(std::tuple<int, int> pair) { auto [a, b] = pair; return a + b + size<int>(); }
extern "C" int spikefuse_probe() { return sum({1, 2}).value(); }
"""


def cxx_compiler(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The command of the C++ compiler, CXX or c++, when it compiles C++17.

    Raises:
        BuildError: there is none, it cannot be run, or it is too old; the message says how to install one.
    """
    command = shlex.split(environ.get("CXX", "")) or ["c++"]
    source = "CXX names" if environ.get("CXX", "").strip() else "the default is"
    install = (
        "install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install) "
        "or set CXX to it"
    )
    try:
        done = subprocess.run(
            [*command, "-std=c++17", "-x", "c++", "-S", "-o", "-", "-"],
            input=CPP17,
            capture_output=True,
            text=True,
            check=False,
            env=dict(environ),
        )
    except OSError as error:
        raise BuildError(
            f"a C++17 compiler is needed: {source} {command[0]!r}: {error.strerror or error}; {install}"
        ) from None
    if done.returncode or "spikefuse_probe" not in done.stdout:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
        raise BuildError(
            f"a C++17 compiler is needed: {source} {shlex.join(command)!r}, which cannot compile C++17 "
            f"({said or f'exit status {done.returncode}'}); {install}"
        )
    return command


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler: where its toolkit lies, its release ("13.0") and the architectures it knows (80 for sm_80)."""

    toolkit: Path
    release: str
    archs: tuple[int, ...]

    @property
    def program(self) -> str:
        """The compiler itself, behind any wrapper script."""
        return str(self.toolkit / "bin" / "nvcc")

    def library_folders(self) -> list[str]:
        """Where libcudart may lie."""
        names = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")
        return [str(self.toolkit / name) for name in names if (self.toolkit / name).is_dir()]


def find_nvcc(environ: Mapping[str, str] = os.environ) -> Nvcc | None:
    """The nvcc of CUDA_HOME or CUDA_PATH where one is set, else of PATH, else of /usr/local/cuda; None without one."""
    named = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc", path=environ.get("PATH"))
    candidates = [Path(named, "bin", "nvcc")] if named else [Path(on_path or ""), Path("/usr/local/cuda/bin/nvcc")]
    program = next((path for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)
    if program is None:
        return None

    def ask(*arguments: str) -> str:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    release = re.search(r"release (\d+\.\d+)", ask("--version"))
    # A dry run names the toolkit even where PATH holds a wrapper script that lies in another folder.
    top = re.search(r"^#\$ TOP=(.+)$", ask("--dryrun", "-c", "none.cu"), re.MULTILINE)
    archs = tuple(int(number) for number in re.findall(r"compute_(\d+)\b", ask("--list-gpu-arch")))
    if release is None or not archs:
        raise BuildError(f"{program} does not answer --version and --list-gpu-arch as nvcc does: set CUDA_HOME")
    toolkit = Path(top.group(1)) if top else program.parent.parent
    return Nvcc(toolkit.resolve(), release.group(1), archs)


@dataclass(frozen=True)
class CudaDecision:
    """The decision to build the CUDA half, and its reason."""

    build: bool
    reason: str


def decide_cuda(
    forced: str, torch_version: str, torch_cuda: str | None, nvcc: Nvcc | None, kernels: int, sanitize: str = ""
) -> CudaDecision:
    """Decides whether to build the CUDA half. A visible GPU plays no part, since wheels are built elsewhere.

    Args:
        forced: SPIKEFUSE_CUDA: "1" must, "0" must not, "" where possible.
        torch_version: `torch.__version__`.
        torch_cuda: `torch.version.cuda`, the CUDA release torch was built with, or None.
        nvcc: the compiler found, or None.
        kernels: how many .cu files there are.
        sanitize: sanitizers asked for; they build the CPU half only.

    Raises:
        BuildError: `forced` is "1" and something is missing, or is none of the three values.
    """
    if forced not in ("", "0", "1"):
        raise BuildError(f"SPIKEFUSE_CUDA: expected 0, 1 or unset, got {forced!r}")
    if forced == "0":
        return CudaDecision(False, "SPIKEFUSE_CUDA=0")
    missing = ""
    if torch_cuda is None:
        missing = f"torch {torch_version} is a build without CUDA; install one with CUDA"
    elif nvcc is None:
        missing = (
            f"no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda; install the CUDA {torch_cuda} toolkit, or set "
            "CUDA_HOME to where it lies"
        )
    elif nvcc.release.split(".")[0] != torch_cuda.split(".")[0]:
        missing = (
            f"nvcc is of CUDA {nvcc.release}, torch {torch_version} of CUDA {torch_cuda}; the major versions must be "
            "equal, so set CUDA_HOME to another toolkit or install another torch"
        )
    elif kernels == 0:
        missing = "this version of spikefuse has no CUDA kernels (csrc/cuda holds no .cu file)"
    elif sanitize:
        missing = "SPIKEFUSE_SANITIZE is for the CPU half; unset it"
    if missing and forced == "1":
        raise BuildError(f"SPIKEFUSE_CUDA=1, but {missing}")
    if missing:
        return CudaDecision(False, missing)
    return CudaDecision(True, f"torch {torch_version} with CUDA {torch_cuda}, nvcc {nvcc.release if nvcc else ''}")


def cuda_archs(requested: str, supported: Sequence[int]) -> list[str]:
    """Architectures to compile for, such as ["8.0", "9.0", "12.0+PTX"].

    Args:
        requested: TORCH_CUDA_ARCH_LIST, or "" for all the default ones that nvcc knows, and PTX of the newest.
        supported: what nvcc knows, 80 for compute_80.

    Raises:
        BuildError: an entry is no architecture, nvcc does not know it, or none is left. Those older than 8.0 are
            left out without an error: many images list them for torch itself.
    """
    if not requested:
        known = [arch for arch in DEFAULT_ARCHS if int(arch.replace(".", "")) in supported]
        if not known:
            raise BuildError(f"this nvcc compiles for none of {DEFAULT_ARCHS}: install a newer CUDA toolkit")
        return [*known[:-1], known[-1] + "+PTX"]
    archs = []
    for entry in re.split(r"[;,\s]+", requested.strip(" ;,")):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if match is None:
            raise BuildError(f'TORCH_CUDA_ARCH_LIST: expected entries such as "9.0" or "12.0+PTX", got {entry!r}')
        number = int(match.group(1) + match.group(2))
        if number < OLDEST_ARCH:
            continue
        if number not in supported:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST: this nvcc cannot compile for {entry}, only for {list(supported)}")
        archs.append(entry)
    if not archs:
        raise BuildError(f"TORCH_CUDA_ARCH_LIST: spikefuse needs 8.0 or newer, got {requested!r}")
    return list(dict.fromkeys(archs))


def gencode(archs: Sequence[str]) -> list[str]:
    """Flags for nvcc that compile for `cuda_archs`."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def check_torch(version: str) -> None:
    """Raises BuildError where torch is older than the stable ABI that spikefuse is written for."""
    release = re.match(r"(\d+)\.(\d+)", version)
    if release is None or tuple(map(int, release.groups())) < TORCH_TARGET:
        raise BuildError(f"needs torch >= {TORCH_TARGET[0]}.{TORCH_TARGET[1]}, found {version}: upgrade torch first")


def main(arguments: Sequence[str]) -> int:
    """Prints one list for CMake."""
    lists = {"cxx": cxx_flags, "nvcc": nvcc_flags}
    if len(arguments) != 2 or arguments[0] not in lists:
        print("usage: native.py cxx|nvcc TORCH_FOLDER", file=sys.stderr)
        return 2
    print("\n".join(lists[arguments[0]](Path(arguments[1]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
