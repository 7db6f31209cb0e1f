"""The same bits from every instruction set, any number of threads, every run, and in deterministic mode."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from comparison import RESETS, SURROGATES, spike_train, uniform
from torch import Tensor

from spikefuse import LIFLinear, PackedSpikes, functional, ops

ISOLATED = Callable[..., "subprocess.CompletedProcess[str]"]
HERE = str(Path(__file__).parent)
CSRC = Path(__file__).parent.parent / "csrc"
CXX = shlex.split(os.environ.get("CXX", "c++"))


def digest(*tensors: Tensor) -> str:
    """Of the bits, NaN's included."""
    total = hashlib.sha256()
    for t in tensors:
        total.update(
            t.detach().contiguous().view(torch.uint8).numpy().tobytes() if t.dim() else bytes(str(t.item()), "ascii")
        )
    return total.hexdigest()


def digests() -> dict[str, str]:
    """Digests of what every kernel returns, large enough for several threads and with odd tails."""
    results = {}
    for dtype in ops.IO_DTYPES:
        acc = ops.accumulate_dtype(dtype)
        for i, surrogate in enumerate(SURROGATES):
            z = uniform(9, 7, 777, low=-0.5, high=1.5, dtype=dtype).requires_grad_()
            decay = uniform(777, low=0.7, high=0.95, dtype=acc).requires_grad_()
            settings = {"reset": RESETS[i % 3], "detach_reset": i % 2 == 0, "surrogate": surrogate, "slope": 1.5}
            out = functional.lif(z, beta=decay, **settings)
            grads = torch.autograd.grad(
                out, (z, decay), [uniform(*t.shape, low=-1, high=1, dtype=t.dtype) for t in out]
            )
            results[f"lif {dtype} {surrogate}"] = digest(*out, *grads)
        loss = functional.lif_masked_loss(z, spike_train(9, 7, 777), leak=0.1)
        results[f"masked loss {dtype}"] = digest(*loss, *torch.autograd.grad(loss.loss, z))
    for dtype in ops.SPIKE_DTYPES:
        spikes = PackedSpikes.pack(spike_train(20, 13, 777, dtype=dtype))
        results[f"pack {dtype}"] = digest(spikes.words, spikes.unpack(dtype))
    encoded = functional.poisson_encode(uniform(13, 777, dtype=torch.float32), 50, seed=2**40 + 3, offset=5)
    results["poisson"] = digest(encoded.words)
    for dtype in (torch.float32, torch.float64):
        words = spikes.words.flatten(0, 1)
        weight, grad = uniform(777, 333, low=-1, high=1, dtype=dtype), uniform(260, 333, low=-1, high=1, dtype=dtype)
        results[f"spike_matmul {dtype}"] = digest(ops.spike_matmul(words, weight))
        results[f"spike_matmul_transposed {dtype}"] = digest(ops.spike_matmul_transposed(words, grad, 777))
    torch.manual_seed(0)
    layer = LIFLinear(777, 333, leak=0.1)
    state = layer(spikes)[1]
    results["layer"] = digest(state, *torch.autograd.grad(state.sum(), layer.parameters()))
    return results


@pytest.fixture(scope="module")
def here() -> dict[str, str]:
    """The digests of this process."""
    return digests()


@pytest.mark.parametrize("isa", ["default", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_bits(isa: str, isolated: ISOLATED, here: dict[str, str]) -> None:
    code = (
        f"import sys; sys.path.insert(0, {HERE!r}); import json, test_isa, spikefuse.ops;"
        "print(json.dumps([spikefuse.ops.cpu_instruction_set(), test_isa.digests()]))"
    )
    result = isolated(code, SPIKEFUSE_ISA=isa)
    if "but this processor has not all of" in result.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert result.returncode == 0, result.stderr[-2000:]
    ran, theirs = json.loads(result.stdout)
    assert ran == isa
    assert [name for name in here if here[name] != theirs[name]] == []


def test_an_unknown_instruction_set_is_an_error(isolated: ISOLATED) -> None:
    # On a tensor large enough for the first use to be inside a parallel region, where an exception can end the process.
    code = """
import torch
from spikefuse import functional, ops
for call in (lambda: functional.lif(torch.rand(20, 64, 1000), leak=0.1), ops.cpu_instruction_set):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""
    result = isolated(code, SPIKEFUSE_ISA="sse2")
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("SPIKEFUSE_ISA must be default, avx2 or avx512, got sse2") == 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have one instruction set")
@pytest.mark.skipif(shutil.which(CXX[0]) is None, reason="needs a C++ compiler")
def test_the_processor_is_asked_for_every_feature_compiled_for(tmp_path: Path) -> None:
    def preprocess(source: str) -> str:
        command = [*CXX, "-std=c++17", "-E", "-x", "c++", "-I", str(tmp_path), "-"]
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout

    # torch's headers, which play no part, are left empty
    (tmp_path / "torch/csrc/stable").mkdir(parents=True)
    (tmp_path / "torch/csrc/stable/ops.h").touch()
    (tmp_path / "kernels.inl").write_text("SF_ISA features of", encoding="utf-8")
    header = f'#include "{CSRC}/cpu/isa.h"\n'
    source = f'{header}#define SF_KERNELS "{tmp_path}/kernels.inl"\n#include "{CSRC}/cpu/foreach_isa.h"\n'
    compiled = re.findall(r"target\(([^)]+)\).*?(\w+) features of", preprocess(source), re.DOTALL)
    asked = preprocess(f"{header}SF_AVX2_FEATURES(&&, asks); SF_AVX512_FEATURES(&&, asks);").split(";")[-3:-1]
    sets = {isa: set("".join(re.findall(r'"([^"]*)"', text)).split(",")) for text, isa in compiled}
    sets["isa_avx512"].discard("prefer-vector-width=512")  # for GCC: no feature
    assert sets == {
        isa: set(re.findall(r'asks\("(\w+)"\)', text))
        for isa, text in zip(("isa_avx2", "isa_avx512"), asked, strict=True)
    }
    detection = (CSRC / "cpu" / "isa.cpp").read_text(encoding="utf-8")
    assert re.findall(r"(\w+)\(&&, __builtin_cpu_supports\)", detection) == ["SF_AVX2_FEATURES", "SF_AVX512_FEATURES"]
    assert detection.count("__builtin_cpu_supports") == 2


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads_gives_the_same_bits(
    threads: int, set_threads: Callable[[int], None], here: dict[str, str]
) -> None:
    set_threads(threads)
    theirs = digests()
    assert [name for name in here if here[name] != theirs[name]] == []


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before, warn_only=warn_only)


@pytest.mark.usefixtures("deterministic")
def test_deterministic_algorithms_are_the_ones_in_use_anyway(here: dict[str, str]) -> None:
    # In this mode torch fills new memory with NaN, so an element that a kernel left unwritten would show, too.
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert digests() == here
