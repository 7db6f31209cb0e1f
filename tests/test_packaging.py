"""The build and its decisions, the libraries' dependencies, and, slowly, every supported way to install."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from spikefuse import _load

ROOT = Path(__file__).resolve().parent.parent


def import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


native = import_file(ROOT / "build_backend" / "native.py")
cuda_check = import_file(ROOT / "tools" / "cuda_check.py")
NVCC = native.Nvcc(Path("/cuda"), "13.0", (75, 80, 86, 90, 100, 120))


class TestCudaDecision:
    @pytest.mark.parametrize("forced", ["", "1"])
    @pytest.mark.parametrize("torch_cuda", ["13.0", "13.2"])
    def test_built_where_it_can_be(self, forced: str, torch_cuda: str) -> None:
        decision = native.decide_cuda(forced, "2.14.1", torch_cuda, NVCC, kernels=7)
        assert decision.build
        assert torch_cuda in decision.reason and "nvcc 13.0" in decision.reason

    @pytest.mark.parametrize(
        ("torch_cuda", "nvcc", "kernels", "sanitize", "reason"),
        [
            (None, NVCC, 7, "", r"torch 2\.14\.1 is a build without CUDA"),
            (None, None, 7, "", r"torch 2\.14\.1 is a build without CUDA"),
            ("13.0", None, 7, "", r"no nvcc in CUDA_HOME.*CUDA 13\.0 toolkit"),
            ("12.8", NVCC, 7, "", r"nvcc is of CUDA 13\.0, torch 2\.14\.1 of CUDA 12\.8"),
            ("13.0", NVCC, 0, "", r"no CUDA kernels"),
            ("13.0", NVCC, 7, "address", r"SPIKEFUSE_SANITIZE"),
        ],
    )
    def test_what_is_missing_is_said_and_an_error_where_it_was_forced(
        self, torch_cuda: str | None, nvcc: object, kernels: int, sanitize: str, reason: str
    ) -> None:
        decision = native.decide_cuda("", "2.14.1", torch_cuda, nvcc, kernels, sanitize)
        assert not decision.build
        assert re.search(reason, decision.reason)
        with pytest.raises(native.BuildError, match=f"SPIKEFUSE_CUDA=1, but .*{reason}"):
            native.decide_cuda("1", "2.14.1", torch_cuda, nvcc, kernels, sanitize)
        assert not native.decide_cuda("0", "2.14.1", torch_cuda, nvcc, kernels, sanitize).build

    def test_forced_off(self) -> None:
        assert native.decide_cuda("0", "2.14.1", "13.0", NVCC, 7) == native.CudaDecision(False, "SPIKEFUSE_CUDA=0")

    @pytest.mark.parametrize("forced", ["yes", "2", "on"])
    def test_other_values_are_refused(self, forced: str) -> None:
        with pytest.raises(native.BuildError, match=f"expected 0, 1 or unset, got '{forced}'"):
            native.decide_cuda(forced, "2.14.1", "13.0", NVCC, 7)

    def test_no_visible_gpu_is_asked_for(self) -> None:
        for file in (ROOT / "setup.py", *(ROOT / "build_backend").glob("*.py")):
            assert not re.search(r"torch\.cuda\b", file.read_text(encoding="utf-8")), file


def test_pre_commit_and_lint_run_the_same_tools() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    revisions = dict(re.findall(r"repo: \S+/(\S+)\n    rev: v(\S+)", hooks))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"ruff~={revisions["ruff-pre-commit"]}"' in project
    assert f'"clang-format=={revisions["mirrors-clang-format"]}"' in project


class TestReleasesOfTorch:
    """61: a declared minimum version that was never compiled."""

    def test_the_oldest_one_is_the_first_that_is_compiled(self) -> None:
        assert native.SUPPORTED_TORCH[0] == ".".join(map(str, native.TORCH_TARGET))
        assert native.TORCH_TARGET == _load.OLDEST_TORCH

    def test_the_readme_and_the_doctor_say_how_each_was_tested(self) -> None:
        assert tuple(_load.TESTED_TORCH) == native.SUPPORTED_TORCH
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        rows = "\n".join(f"| {release} | {how} |" for release, how in _load.TESTED_TORCH.items())
        assert f"| torch | how it was tested |\n|---|---|\n{rows}\n" in readme

    @pytest.mark.parametrize("half", ["check_cpp", "check_cu"])
    def test_a_name_that_a_release_lacks_is_found(self, half: str, tmp_path: Path) -> None:
        nvcc = native.find_nvcc()
        if half == "check_cu" and nvcc is None:
            pytest.skip("no nvcc")
        torch_folder = tmp_path / "2.10.0" / "torch"
        (torch_folder / "include").mkdir(parents=True)
        source = tmp_path / ("file.cu" if half == "check_cu" else "file.cpp")
        arguments = (str(source), torch_folder, nvcc if half == "check_cu" else [])
        source.write_text("int main() { return 0; }\n")
        getattr(cuda_check, half)(*arguments)
        source.write_text("int main() { STABLE_MACRO(0); }\n")
        with pytest.raises(SystemExit, match="STABLE_MACRO"):
            getattr(cuda_check, half)(*arguments)

    def test_missing_headers_are_skipped_aloud(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("SPIKEFUSE_TORCH_HEADERS", str(tmp_path))
        monkeypatch.setattr(native, "sources", lambda half: [])
        monkeypatch.setattr(cuda_check, "installed_release", lambda: "2.13.0")
        cuda_check.check_headers(None)
        said = capsys.readouterr().out
        assert "no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda: headers of the CUDA half SKIPPED" in said
        assert f"headers of torch 2.11, 2.12, 2.14 SKIPPED: no archive of them in {tmp_path}" in said
        assert "the CPU half of csrc compile with the headers of torch 2.13.0" in said


class TestCompiler:
    def compiler(self, folder: Path, script: str) -> str:
        program = folder / "compiler"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return str(program)

    def test_one_that_works_is_taken_with_its_options(self) -> None:
        assert native.cxx_compiler()
        assert native.cxx_compiler({**os.environ, "CXX": "c++ -O1"}) == ["c++", "-O1"]

    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(
            native.BuildError, match=r"C\+\+17 compiler is needed: the default is 'c\+\+': No such file .*g\+\+"
        ):
            native.cxx_compiler({"PATH": str(tmp_path)})

    def test_cxx_names_none(self, tmp_path: Path) -> None:
        with pytest.raises(native.BuildError, match=r"CXX names 'g\+\+-99': No such file .* or set CXX to it"):
            native.cxx_compiler({**os.environ, "CXX": "g++-99 -O1"})
        (tmp_path / "folder").mkdir()
        with pytest.raises(native.BuildError, match=r"CXX names .*: Permission denied"):
            native.cxx_compiler({**os.environ, "CXX": str(tmp_path / "folder")})

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("echo 'error: unknown option -std=c++17' >&2; exit 1", "error: unknown option -std="),
            ("exit 3", "exit status 3"),
            ('echo "$@"', "exit status 0"),
        ],
        ids=["too old", "silent", "no compiler"],
    )
    def test_one_that_cannot_compile_the_language(self, script: str, message: str, tmp_path: Path) -> None:
        program = self.compiler(tmp_path, script)
        with pytest.raises(native.BuildError, match=f"CXX names .*compiler', which cannot compile .*{message}"):
            native.cxx_compiler({**os.environ, "CXX": program})

    def test_the_build_says_it_in_one_line(self, tmp_path: Path) -> None:
        arguments = ["setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env={**os.environ, "CXX": "g++-99"}, capture_output=True, text=True
        )
        assert done.returncode != 0
        assert done.stderr.splitlines()[-1].startswith("spikefuse: a C++17 compiler is needed: CXX names 'g++-99'")
        assert "Traceback" not in done.stderr


class TestArchitectures:
    @pytest.mark.parametrize(
        ("requested", "supported", "expected"),
        [
            ("", (75, 80, 90, 100, 120), ["8.0", "9.0", "10.0", "12.0+PTX"]),
            ("", (50, 80, 86, 90), ["8.0", "9.0+PTX"]),
            ("9.0", (80, 90), ["9.0"]),
            ("8.0;9.0a;12.0+PTX", (80, 90, 120), ["8.0", "9.0a", "12.0+PTX"]),
            ("7.5 8.0 8.6 9.0+PTX", (75, 80, 86, 90), ["8.0", "8.6", "9.0+PTX"]),
            (" 9.0, 9.0; ", (90,), ["9.0"]),
        ],
    )
    def test_list(self, requested: str, supported: tuple[int, ...], expected: list[str]) -> None:
        assert native.cuda_archs(requested, supported) == expected

    @pytest.mark.parametrize(
        ("requested", "supported", "message"),
        [
            ("Hopper", (90,), "expected entries such as .* got 'Hopper'"),
            ("native", (90,), "got 'native'"),
            ("12.0", (80, 90), r"cannot compile for 12\.0, only for \[80, 90\]"),
            ("6.0;7.5", (60, 75, 80), r"needs 8\.0 or newer, got '6\.0;7\.5'"),
            ("", (60, 75), "install a newer CUDA toolkit"),
        ],
    )
    def test_refused(self, requested: str, supported: tuple[int, ...], message: str) -> None:
        with pytest.raises(native.BuildError, match=message):
            native.cuda_archs(requested, supported)

    def test_flags(self) -> None:
        assert native.gencode(["8.0", "12.0+PTX"]) == [
            "-gencode=arch=compute_80,code=sm_80",
            "-gencode=arch=compute_120,code=sm_120",
            "-gencode=arch=compute_120,code=compute_120",
        ]


class TestNvcc:
    @staticmethod
    def fake(folder: Path, toolkit: Path, answer: str = "Cuda compilation tools, release 12.8, V12.8.93") -> None:
        """A wrapper script in `folder` for an nvcc of `toolkit`."""
        folder.mkdir(parents=True)
        script = folder / "nvcc"
        script.write_text(
            "#!/bin/sh\ncase $1 in\n"
            f"--version) echo '{answer}' ;;\n"
            "--list-gpu-arch) printf 'compute_80\\ncompute_90\\n' ;;\n"
            f"--dryrun) echo '#$ TOP={toolkit}/bin/..' >&2 ;;\nesac\n"
        )
        script.chmod(0o755)

    def test_a_wrapper_on_path_leads_to_the_toolkit(self, tmp_path: Path) -> None:
        toolkit = tmp_path / "cuda-12.8"
        (toolkit / "bin").mkdir(parents=True)
        (toolkit / "lib64").mkdir()
        self.fake(tmp_path / "bin", toolkit)
        nvcc = native.find_nvcc({"PATH": str(tmp_path / "bin")})
        assert nvcc == native.Nvcc(toolkit, "12.8", (80, 90))
        assert nvcc.program == str(toolkit / "bin" / "nvcc")
        assert nvcc.library_folders() == [str(toolkit / "lib64")]

    def test_cuda_home_is_the_only_place_where_it_is_set(self, tmp_path: Path) -> None:
        self.fake(tmp_path / "bin", tmp_path)
        path = {"PATH": str(tmp_path / "bin")}
        for variable in ("CUDA_HOME", "CUDA_PATH"):
            assert native.find_nvcc({**path, variable: str(tmp_path / "none")}) is None
            assert native.find_nvcc({"PATH": "", variable: str(tmp_path)}) == native.Nvcc(tmp_path, "12.8", (80, 90))

    def test_something_else_called_nvcc(self, tmp_path: Path) -> None:
        self.fake(tmp_path / "bin", tmp_path, answer="hello")
        with pytest.raises(native.BuildError, match="does not answer"):
            native.find_nvcc({"CUDA_HOME": str(tmp_path)})


class TestSources:
    def test_folders_are_globbed(self, tmp_path: Path) -> None:
        for name in ("schemas.cpp", "ops.h", "cpu/lif.cpp", "cpu/lif.inl", "cuda/lif.cu", "cuda/lif.cuh", "cuda/r.cpp"):
            (tmp_path / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "csrc" / name).touch()
        assert native.sources("cpu", tmp_path) == ["csrc/cpu/lif.cpp", "csrc/schemas.cpp"]
        assert native.sources("cuda", tmp_path) == ["csrc/cuda/lif.cu", "csrc/cuda/r.cpp"]
        assert native.headers(tmp_path) == ["csrc/cpu/lif.inl", "csrc/cuda/lif.cuh", "csrc/ops.h"]
        (tmp_path / "csrc/cuda/lif.cpp").touch()
        with pytest.raises(native.BuildError, match=r"lif\.cpp and csrc/cuda/lif\.cu would both become"):
            native.sources("cuda", tmp_path)

    def test_flags_keep_one_rounding_each_and_no_machine(self) -> None:
        cxx, nvcc = native.cxx_flags(Path("/torch")), native.nvcc_flags(Path("/torch"))
        for flags in (cxx, nvcc):
            text = " ".join(flags)
            assert "-std=c++17" in flags and "-O3" in flags
            assert "-DTORCH_TARGET_VERSION=0x020b000000000000" in flags
            assert "-ffp-contract=off" in text and "-fvisibility=hidden" in text
            assert not re.search(r"fast-math|fast_math|march|mtune|Ofast", text)
        assert "-fmad=false" in nvcc and "-DUSE_CUDA" in nvcc

    @pytest.mark.parametrize("version", ["2.10.0", "1.13", "unknown"])
    def test_old_torch_cannot_build(self, version: str) -> None:
        with pytest.raises(native.BuildError, match=rf"needs torch >= 2\.11, found {re.escape(version)}"):
            native.check_torch(version)

    def test_this_torch_can(self) -> None:
        native.check_torch(torch.__version__)

    def test_sanitizers(self) -> None:
        flags = native.cxx_flags(Path("/torch"), native.sanitizers("address,undefined"))
        assert "-fsanitize=address,undefined" in flags and "-fno-sanitize-recover=all" in flags
        with pytest.raises(native.BuildError, match=r"SPIKEFUSE_SANITIZE: expected .* got 'adress'"):
            native.sanitizers("adress")

    @pytest.mark.parametrize("kind", ["cxx", "nvcc"])
    def test_cmake_is_told_the_same_flags(self, kind: str) -> None:
        command = [sys.executable, str(ROOT / "build_backend" / "native.py"), kind, "/torch"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert printed == getattr(native, f"{kind}_flags")(Path("/torch"))


class TestBackend:
    # As pip's isolated builds do: the target's site-packages are off sys.path, and setuptools comes from elsewhere.
    ISOLATE = (
        "import importlib.util, site, sys, setuptools.build_meta\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p and 'dist-packages' not in p]\n"
        "{before}\n"
        "assert importlib.util.find_spec('torch') is None\n"
        f"sys.path.insert(0, {str(ROOT / 'build_backend')!r})\n"
        "import spikefuse_build as backend\n"
        "needs = backend.get_requires_for_build_wheel()\n"
        "assert backend.get_requires_for_build_editable() == needs\n"
        "print([need for need in needs if 'torch' in need], backend.get_requires_for_build_sdist())\n"
    )

    @pytest.mark.parametrize(
        ("before", "expected"),
        [("", "[] []"), ("site.getsitepackages = list; site.PREFIXES = []", "['torch>=2.11'] []")],
        ids=["torch installed", "no torch"],
    )
    def test_an_installed_torch_is_not_asked_for_again(self, before: str, expected: str) -> None:
        code = self.ISOLATE.format(before=before)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == expected


def foreign_symbols(library: Path) -> list[str]:
    """Undefined symbols but those of the C and C++ runtimes, CUDA, and the C functions that torch keeps stable."""
    printed = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    stable = re.compile(
        r"(aoti_torch|torch)_\w+"  # LibTorch's stable C interface
        r"|\w+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\w.]+"
        r"|_Z(T[ISV]|N?K?)*(S[at]|[nd][al])\w*"  # libstdc++ as torch exports it too: std::..., operator new and delete
        r"|(__)?cuda\w+(@libcudart\.so\.\d+)?"
        r"|_ITM_\w+TMCloneTable|__gmon_start__"
    )
    return [name for name in (line.split()[-1] for line in printed.stdout.splitlines()) if not stable.fullmatch(name)]


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("nm") is None, reason="needs nm and ELF libraries")
class TestLibraries:
    def test_only_stable_symbols_are_needed(self) -> None:
        libraries = sorted(_load.FOLDER.glob("_C*.abi3.so"))
        assert _load.FOLDER / "_C.abi3.so" in libraries
        for library in libraries:
            assert foreign_symbols(library) == [], library

    def test_and_unstable_ones_would_be_found(self) -> None:
        foreign = foreign_symbols(Path(torch.__file__).parent / "lib" / "libtorch_python.so")
        assert any(name.startswith("_ZN2at") for name in foreign)
        assert any(name.startswith("Py") for name in foreign)

    def test_no_python_and_no_path_of_the_build_machine(self) -> None:
        if shutil.which("readelf") is None:
            pytest.skip("no readelf")
        for library in _load.FOLDER.glob("_C*.abi3.so"):
            dynamic = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
            needed = re.findall(r"NEEDED.*\[(.+?)\]", dynamic)
            assert "libtorch_cpu.so" in needed
            assert not [name for name in needed if "python" in name], needed
            assert "torch/lib" not in dynamic
            for folder in (ROOT, Path(torch.__file__).parent):
                assert f"{folder}/".encode() not in library.read_bytes()


class TestCudaCheck:
    LOG = (
        "ptxas info    : 0 bytes gmem\n"
        "ptxas info    : Compiling entry function '_Z1fPf' for 'sm_90'\n"
        "ptxas info    : Function properties for _Z1fPf\n"
        "    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, {stack} bytes cumulative stack size, 1024 bytes smem\n"
    )

    @pytest.mark.parametrize(("stack", "stores", "loads"), [(0, 0, 0), (16, 0, 0), (8, 12, 4)])
    def test_what_ptxas_says(self, stack: int, stores: int, loads: int) -> None:
        log = self.LOG.format(stack=stack, stores=stores, loads=loads)
        row = {"arch": 90, "registers": 40, "shared_bytes": 1024, "stack_bytes": stack, "spill_bytes": stores + loads}
        other = log.replace("_Z1fPf", "_Z1gPf").replace(", 1024 bytes smem", "")
        assert cuda_check.kernels(log + other) == [
            {"kernel": "_Z1fPf", **row},
            {"kernel": "_Z1gPf", **row, "shared_bytes": 0},
        ]


@pytest.mark.slow
def test_every_way_of_installing() -> None:
    """Minutes, and a registry to fetch torch, numpy and setuptools from."""
    script = str(ROOT / "tools" / "check_install.sh")
    done = subprocess.run(["bash", script, "--python", sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[4-9] cases passed$", done.stdout, re.MULTILINE), done.stdout
