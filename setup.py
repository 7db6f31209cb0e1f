"""Builds spikefuse/_C.abi3.so, and spikefuse/_C_cuda.abi3.so where it can be. Metadata stands in pyproject.toml.

Environment: SPIKEFUSE_CUDA=0|1 forces the CUDA half off or on, TORCH_CUDA_ARCH_LIST its architectures, CUDA_HOME its
toolkit; MAX_JOBS limits parallel compilers; CXX and CXXFLAGS are honoured; SPIKEFUSE_SANITIZE=address,undefined builds
the CPU half with sanitizers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))

import native  # noqa: E402 - found only after the line above

PACKAGE = "spikefuse"
CUDA_EXTENSION = f"{PACKAGE}._C_cuda"
BUILD_INFO = "_build_info.json"


def compiler_version(compiler: list[str]) -> str:
    """First line of what the C++ compiler says of itself."""
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["unknown"])[0]


def torch_build() -> tuple[list[Extension], type[build_ext]]:
    """The libraries to build, and the command that builds them."""
    nvcc = native.find_nvcc()
    if nvcc is not None:
        # torch would derive a wrong folder from PATH if PATH holds a wrapper script.
        os.environ["CUDA_HOME"] = str(nvcc.toolkit)
    import torch
    from torch.utils.cpp_extension import BuildExtension

    native.check_torch(torch.__version__)
    folder = Path(torch.__file__).parent
    sanitize = native.sanitizers(os.environ.get("SPIKEFUSE_SANITIZE", ""))
    forced = os.environ.get("SPIKEFUSE_CUDA", "")
    cuda_sources = native.sources("cuda")
    kernels = sum(name.endswith(".cu") for name in cuda_sources)
    decision = native.decide_cuda(forced, torch.__version__, torch.version.cuda, nvcc, kernels, sanitize)

    cxx = [*native.cxx_flags(folder, sanitize), *shlex.split(os.environ.get("CXXFLAGS", ""))]
    link = [f"-fsanitize={sanitize}"] if sanitize else ["-Wl,-z,defs"] if sys.platform == "linux" else []
    common = {
        "library_dirs": [str(folder / "lib")],
        "extra_link_args": link,
        "depends": native.headers(),
        "language": "c++",
        "py_limited_api": True,
    }
    extensions = [
        Extension(
            f"{PACKAGE}._C", native.sources("cpu"), libraries=["torch_cpu"], extra_compile_args={"cxx": cxx}, **common
        )
    ]
    archs: list[str] = []
    if decision.build and nvcc is not None:
        archs = native.cuda_archs(os.environ.get("TORCH_CUDA_ARCH_LIST", ""), nvcc.archs)
        include = ["-isystem", str(nvcc.toolkit / "include")]
        common["library_dirs"] = [str(folder / "lib"), *nvcc.library_folders()]
        extensions.append(
            Extension(
                CUDA_EXTENSION,
                cuda_sources,
                libraries=["torch_cuda", "torch_cpu", "cudart"],
                extra_compile_args={
                    "cxx": [*cxx, "-DUSE_CUDA", *include],
                    "nvcc": [*native.nvcc_flags(folder), *native.gencode(archs)],
                },
                **common,
            )
        )
    info: dict[str, object] = {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "torch_target": ".".join(map(str, native.TORCH_TARGET)),
        "sanitize": sanitize,
        "cuda_built": decision.build,
        "cuda_reason": decision.reason,
        "cuda_archs": archs,
        "nvcc": nvcc.release if nvcc else None,
        "platform": sysconfig.get_platform(),
    }

    class BuildLibraries(BuildExtension):  # type: ignore[misc]
        """Compiles with native.py's flags only, and leaves _build_info.json beside the libraries."""

        def finalize_options(self) -> None:
            super().finalize_options()
            if self.editable_mode:
                # pip's own folder is a new one each time: nothing would ever be up to date there.
                self.build_temp = str(ROOT / "build" / "editable")
            # ninja compares commands and our files, but no system headers, which torch's are taken for.
            self.build_temp = os.path.join(self.build_temp, f"torch-{torch.__version__}")
            self.force = True  # without ninja, nothing compares the commands

        def get_ext_filename(self, ext_name: str) -> str:
            # The libraries are no Python modules: their names depend on no Python.
            return ext_name.replace(".", os.sep) + ".abi3.so"

        def build_extensions(self) -> None:
            # Python's own CFLAGS, which may hold anything from -g to -march=native, are left out.
            compiler = native.cxx_compiler()
            for name in ("compiler_so", "compiler_so_cxx"):
                if hasattr(self.compiler, name):
                    self.compiler.set_executable(name, compiler)
            super().build_extensions()

        def run(self) -> None:
            half = "CPU and CUDA" if decision.build else "CPU only"
            try:
                compiler = native.cxx_compiler()
            except native.BuildError as error:
                raise SystemExit(f"{PACKAGE}: {error}") from None
            print(f"{PACKAGE}: building for {half}: {decision.reason}", flush=True)
            folders = [Path(self.build_lib, PACKAGE)]
            if self.inplace:
                folders.append(Path(self.get_finalized_command("build_py").get_package_dir(PACKAGE)))
            for folder in folders:  # an earlier build's CUDA half must not stay beside a new CPU half
                (folder / Path(self.get_ext_filename(CUDA_EXTENSION)).name).unlink(missing_ok=True)
            super().run()
            facts = {PACKAGE: self.distribution.get_version(), **info, "compiler": compiler_version(compiler)}
            text = json.dumps(facts, indent=2) + "\n"
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / BUILD_INFO).write_text(text, encoding="utf-8")

    return extensions, BuildLibraries


class NoTorch(build_ext):
    """Stands in where there is no torch: sources can be packed, not compiled."""

    def run(self) -> None:
        """Says what is missing."""
        raise SystemExit(
            f"{PACKAGE}: compiling needs PyTorch, and {sys.executable} has none. Install it first (pip install "
            "'torch>=2.11'), or leave out --no-build-isolation to let pip fetch it for the build."
        )


def main() -> None:
    """Entry point for pip and for `python setup.py`."""
    if sys.platform == "win32":
        raise SystemExit(f"{PACKAGE} builds on Linux and macOS; on Windows use WSL")
    command: type[build_ext] = NoTorch
    extensions = [Extension(f"{PACKAGE}._C", native.sources("cpu"), py_limited_api=True, language="c++")]
    if importlib.util.find_spec("torch") is not None:
        try:
            extensions, command = torch_build()
        except native.BuildError as error:
            raise SystemExit(f"{PACKAGE}: {error}") from None
    # cp310-abi3, which a Python without the limited API refuses.
    tag = {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"py_limited_api": "cp310"}
    setup(ext_modules=extensions, cmdclass={"build_ext": command}, options={"bdist_wheel": tag})


main()
