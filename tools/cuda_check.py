"""Checks the CUDA half on a machine without a GPU, and without a CUDA build of torch.

`compile` compiles every kernel for every architecture and fails where one spills registers, or where its registers,
shared memory or stack differ from those in cuda_kernels.json, which `compile --write` writes; `link` links the objects
against the three functions that a CPU build of torch lacks, leaving nothing undefined, and loads the result to see
which ops it registers. Both do nothing, and say so, where there is no nvcc or no kernel yet.

`headers` gives all of csrc, both halves, to the compilers' front ends with the headers of every supported release of
torch: of the installed one, and of the archives RELEASE.tar.xz in the folder SPIKEFUSE_TORCH_HEADERS.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build_backend"))

import native  # noqa: E402 - found only after the line above

Row = dict[str, Any]
OUT = ROOT / "build" / "cuda"
TABLE = ROOT / "tools" / "cuda_kernels.json"
ARCHS = (80, 90, 100, 120)
PTXAS = ("-Xptxas", "-v,-warn-spills,-warn-lmem-usage")
ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\S+)' for 'sm_(?P<arch>\d+)\w*'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def torch_folder() -> Path:
    """Where torch lies, found without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit(f"cuda_check: {sys.executable} has no torch")
    return Path(spec.origin).parent


def run(command: list[str]) -> str:
    """Everything the command printed; the end of this program where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def object_file(source: str, arch: int) -> Path:
    """The object that `source` is compiled to; host code has one for all architectures."""
    folder = f"sm_{arch}" if source.endswith(".cu") else "host"
    return OUT / folder / (Path(source).stem + ".o")


def compile_one(source: str, arch: int, nvcc: native.Nvcc) -> str:
    """Compiles one file where it is out of date; returns what ptxas said of its kernels."""
    target = object_file(source, arch)
    log = target.with_suffix(".log")
    inputs = [ROOT / source, *(ROOT / name for name in native.headers()), Path(native.__file__), Path(__file__)]
    if log.exists() and log.stat().st_mtime > max(path.stat().st_mtime for path in inputs):
        return log.read_text(encoding="utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.endswith(".cu"):
        command = [
            nvcc.program,
            *native.nvcc_flags(torch_folder()),
            *native.gencode([f"{arch // 10}.{arch % 10}"]),
            *PTXAS,
        ]
    else:
        include = ["-isystem", str(nvcc.toolkit / "include")]
        command = [*native.cxx_compiler(), *native.cxx_flags(torch_folder()), "-DUSE_CUDA", *include]
    text = run([*command, "-c", str(ROOT / source), "-o", str(target)])
    log.write_text(text, encoding="utf-8")
    print(f"compiled {source} for {target.parent.name}", flush=True)
    return text


def kernels(log: str) -> list[Row]:
    """Registers, shared memory, stack and spills of every kernel in what ptxas said."""
    rows = []
    for match in ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        rows.append(
            {
                "kernel": match["kernel"],
                "arch": int(match["arch"]),
                "registers": int(match["registers"]),
                "shared_bytes": int(shared[1]) if shared else 0,
                "stack_bytes": int(match["stack"]),
                "spill_bytes": int(match["stores"]) + int(match["loads"]),
            }
        )
    return rows


def readable(names: list[str]) -> list[str]:
    """Names as they stand in the source."""
    if shutil.which("c++filt") is None or not names:
        return names
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


Table = dict[str, dict[str, dict[str, int]]]


def table_of(rows: list[Row]) -> Table:
    """By kernel and architecture, both in order; what ptxas says in one line each."""
    table: Table = {}
    for row in sorted(rows, key=lambda row: (row["kernel"], row["arch"])):
        kernel = table.setdefault(row["kernel"], {})
        kernel[f"sm_{row['arch']}"] = {key: row[key] for key in ("registers", "shared_bytes", "stack_bytes")}
    return table


def table_text(nvcc: native.Nvcc, table: Table) -> str:
    """The file: one line for a kernel on an architecture, so that a change of one shows as one line."""
    kernels = []
    for name, archs in table.items():
        lines = [f"   {json.dumps(arch)}: {json.dumps(numbers)}" for arch, numbers in archs.items()]
        kernels.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    return f'{{\n "nvcc": {json.dumps(nvcc.release)},\n "kernels": {{\n' + ",\n".join(kernels) + "\n }\n}\n"


def compare_table(nvcc: native.Nvcc, table: Table) -> list[str]:
    """How the table differs from the committed one; nothing where another nvcc made that."""
    committed = json.loads(TABLE.read_text(encoding="utf-8"))
    if committed["nvcc"] != nvcc.release:
        print(f"cuda_check: not compared: {TABLE.name} is of nvcc {committed['nvcc']}, this is {nvcc.release}")
        return []
    wanted: Table = committed["kernels"]
    differences = [f"gone: {name}" for name in wanted.keys() - table.keys()]
    differences += [f"new: {name}" for name in table.keys() - wanted.keys()]
    for name in wanted.keys() & table.keys():
        for arch, numbers in table[name].items():
            before = wanted[name].get(arch)
            if before != numbers:
                differences.append(f"{name} on {arch}: {before} -> {numbers}")
    return sorted(differences)


def print_table(table: Table, archs: list[int]) -> None:
    """One line a kernel: its registers on each architecture, and the most of everything else."""
    print("registers on " + " ".join(f"{f'sm_{arch}':>6}" for arch in archs) + "  shared  stack  kernel")
    for name, kernel in table.items():
        columns = " ".join(f"{kernel.get(f'sm_{arch}', {}).get('registers', '-'):>6}" for arch in archs)
        shared, stack = (max(numbers[f"{key}_bytes"] for numbers in kernel.values()) for key in ("shared", "stack"))
        print(f"             {columns} {shared:>7} {stack:>6}  {name}")


def compile_all(nvcc: native.Nvcc, write: bool) -> int:
    """Compiles everything, prints a table, returns how many kernels spill or are not as the committed table says."""
    archs = [arch for arch in ARCHS if arch in nvcc.archs]
    if archs != list(ARCHS):
        print(f"cuda_check: nvcc {nvcc.release} compiles for {archs} of {list(ARCHS)} only")
    jobs = [(source, arch) for source in native.sources("cuda") for arch in (archs if source.endswith(".cu") else [0])]
    workers = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        logs = pool.map(lambda job: compile_one(*job, nvcc), jobs)
        rows = [row for log in logs for row in kernels(log)]
    for row, name in zip(rows, readable([row["kernel"] for row in rows]), strict=True):
        row["kernel"] = name
    table = table_of(rows)
    print_table(table, archs)
    spilled = [f"{row['kernel']} on sm_{row['arch']}: {row['spill_bytes']} bytes" for row in rows if row["spill_bytes"]]
    for line in spilled:
        print(f"cuda_check: spills registers: {line}")
    if write:
        TABLE.write_text(table_text(nvcc, table), encoding="utf-8")
    differences = compare_table(nvcc, table)
    for line in differences:
        print(f"cuda_check: not as in {TABLE.name}: {line}")
    if differences:
        print("cuda_check: where that is meant, `make cuda-table` writes it anew")
    print(f"cuda_check: {len(rows)} kernels, {len(spilled)} spill registers, {len(differences)} differ from the table")
    return len(spilled) + len(differences)


def link(nvcc: native.Nvcc) -> None:
    """Links the newest architecture's objects with nothing left undefined, and loads the result."""
    torch = torch_folder()
    arch = max(arch for arch in ARCHS if arch in nvcc.archs)
    objects = [str(object_file(source, arch)) for source in native.sources("cuda")]
    for source in native.sources("cuda"):
        compile_one(source, arch, nvcc)
    folders = [str(torch / "lib"), *nvcc.library_folders()]
    if not (torch / "lib" / "libtorch_cuda.so").exists():
        stub = OUT / "libtorch_cuda.so"
        run(["cc", "-shared", "-fPIC", str(ROOT / "tools" / "torch_cuda_stub.c"), "-o", str(stub)])
        folders.insert(0, str(OUT))
    library = OUT / "spikefuse" / "_C_cuda.abi3.so"
    library.parent.mkdir(exist_ok=True)
    paths = [f"-L{folder}" for folder in folders]
    libraries = ["-ltorch_cuda", "-ltorch_cpu", "-lcudart"]
    run([*native.cxx_compiler(), "-shared", *objects, *paths, *libraries, "-Wl,-z,defs", "-o", str(library)])
    print(f"cuda_check: linked {library.relative_to(ROOT)} for sm_{arch}, nothing undefined")
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(folders)}
    subprocess.run([sys.executable, "-W", "ignore", __file__, "ops", str(library)], env=environment, check=True)


def ops(library: Path) -> None:
    """Loads the CPU library and then `library`, and prints for which ops it has a CUDA kernel."""
    import torch

    from spikefuse import _load

    _load.load()
    torch.ops.load_library(str(library))
    names = sorted({schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("spikefuse::")})
    known = torch._C._dispatch_has_kernel_for_dispatch_key
    on_cpu = [name for name in names if known(name, "CPU")]
    on_cuda = [name for name in names if known(name, "CUDA")]
    print(f"cuda_check: CUDA kernels registered for {len(on_cuda)} of {len(on_cpu)} ops")
    missing = sorted(set(on_cpu) - set(on_cuda))
    if missing:
        print(f"cuda_check: without a CUDA kernel: {', '.join(missing)}")


def installed_release() -> str:
    """The installed torch's release, such as "2.13.0", read without importing torch."""
    text = (torch_folder() / "version.py").read_text(encoding="utf-8")
    match = re.search(r"__version__\s*=\s*['\"](\d+\.\d+\.\d+)", text)
    if match is None:
        raise SystemExit(f"cuda_check: {torch_folder() / 'version.py'} names no release")
    return match[1]


def torch_folders(archives: Path | None) -> dict[str, Path]:
    """By release, the installed torch and the unpacked archives."""
    folders = {installed_release(): torch_folder()}
    for archive in sorted(archives.glob("*.tar.xz")) if archives else []:
        folder = OUT / "headers" / archive.name.removesuffix(".tar.xz")
        if not (folder / "torch" / "include").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
        folders.setdefault(folder.name, folder / "torch")
    return folders


def check_cpp(source: str, torch: Path, extra: list[str]) -> None:
    """Parses and type-checks a C++ file, templates instantiated."""
    run([*native.cxx_compiler(), *native.cxx_flags(torch), *extra, "-fsyntax-only", str(ROOT / source)])


def check_cu(source: str, torch: Path, nvcc: native.Nvcc) -> None:
    """Parses and type-checks a CUDA file by nvcc's own front end: its steps up to cudafe++, host and device code."""
    folder = OUT / "headers" / torch.parent.name / Path(source).stem
    folder.mkdir(parents=True, exist_ok=True)
    flags = [*native.nvcc_flags(torch), "-arch=sm_90", "--keep", "--keep-dir", str(folder), "--dryrun"]
    steps = re.findall(r"^#\$ (.+)$", run([nvcc.program, *flags, "-c", str(ROOT / source)]), re.MULTILINE)
    last = next(i for i, step in enumerate(steps) if step.startswith(("cudafe++ ", '"cudafe++"')))
    path = os.pathsep.join([str(nvcc.toolkit / "bin"), str(nvcc.toolkit / "nvvm" / "bin"), os.environ["PATH"]])
    for step in steps[last - 1 : last + 1]:  # the preprocessor for host code, then the front end
        done = subprocess.run(
            step, shell=True, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{source} with the headers of {torch.parent.name}:\n{done.stdout}{done.stderr}")


def check_headers(nvcc: native.Nvcc | None) -> None:
    """Type-checks all of csrc beside every release of torch whose headers are here; says which are not."""
    named = os.environ.get("SPIKEFUSE_TORCH_HEADERS")
    folders = torch_folders(Path(named) if named else None)
    if nvcc is None:
        print("cuda_check: no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda: headers of the CUDA half SKIPPED")
    jobs: list[Callable[[], None]] = []
    for torch in folders.values():
        jobs += [partial(check_cpp, source, torch, []) for source in native.sources("cpu")]
        if nvcc is not None:
            extra = ["-DUSE_CUDA", "-isystem", str(nvcc.toolkit / "include")]
            for source in native.sources("cuda"):
                if source.endswith(".cu"):
                    jobs.append(partial(check_cu, source, torch, nvcc))
                else:
                    jobs.append(partial(check_cpp, source, torch, extra))
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        for result in [pool.submit(job) for job in jobs]:
            result.result()
    halves = "the CPU half" if nvcc is None else "both halves"
    print(f"cuda_check: {halves} of csrc compile with the headers of torch {', '.join(sorted(folders))}")
    missing = [
        release for release in native.SUPPORTED_TORCH if not any(name.startswith(f"{release}.") for name in folders)
    ]
    if missing:
        where = f"in {named}" if named else "since SPIKEFUSE_TORCH_HEADERS names no folder"
        print(f"cuda_check: headers of torch {', '.join(missing)} SKIPPED: no archive of them {where}")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("compile", "link", "headers", "ops"))
    parser.add_argument("library", nargs="?", type=Path, help="for ops: the library to load")
    parser.add_argument("--write", action="store_true", help=f"for compile: write {TABLE.name} anew")
    arguments = parser.parse_args()
    if arguments.what == "ops":
        ops(arguments.library)
        return 0
    try:
        nvcc = native.find_nvcc()
        if arguments.what == "headers":
            check_headers(nvcc)
            return 0
        if not native.sources("cuda"):
            print(f"cuda_check: no sources in csrc/cuda: nothing to {arguments.what}")
            return 0
        if nvcc is None:
            print(f"cuda_check: no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda: {arguments.what} SKIPPED")
            return 0
        if arguments.what == "link":
            link(nvcc)
            return 0
        return 1 if compile_all(nvcc, arguments.write) else 0
    except native.BuildError as error:
        raise SystemExit(f"cuda_check: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
