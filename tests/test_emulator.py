"""The emulator that runs the CUDA half on the CPU, what it catches, and how launches are cut into blocks."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from comparison import assert_within, lay_out, roundoff, spike_train, uniform
from torch import Tensor

from spikefuse import OnlineRule, _load, functional, online, ops, reference
from spikefuse.online import OnlineStats
from spikefuse.surrogate import SURROGATES

EMULATED = torch.ops.spikefuse_emulated
if not hasattr(EMULATED, "reverse_blocks"):
    pytest.skip("SPIKEFUSE_EMULATED=0", allow_module_level=True)
NONE, NO_BARRIER, HALF_AT_BARRIER, HALF_IN_WARP, SHARED_TOO_SMALL, PAST_THE_END = range(6)
ONE_BLOCK_MISSES_GRID_BARRIER, BLOCKS_NOT_TOGETHER = range(6, 8)
SANITIZED = "address" in str(_load.build_info().get("sanitize", ""))
HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def same_seed_afterwards() -> Iterator[None]:
    yield
    EMULATED.set_seed(0)


@pytest.mark.parametrize("device", ["emulated"], indirect=True)
def test_the_parity_tests_run_on_it(device: str) -> None:
    for name in ("lif_forward", "lif_backward", "spike_matmul", "pack_spikes", "online_batch_"):
        assert getattr(ops, name) is getattr(EMULATED, name)


def test_every_kernel_of_the_cuda_half_is_in_it() -> None:
    # Whatever csrc/cuda/register.cpp registers, the emulator does: both by the same macro.
    csrc = Path(__file__).parent.parent / "csrc"
    assert "SPIKEFUSE_IMPLEMENT_OPS(spikefuse::cuda)" in (csrc / "cuda" / "register.cpp").read_text()
    assert "m.impl(" not in (csrc / "cuda" / "register.cpp").read_text()
    defined = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "spikefuse_emulated" in name}
    assert {f"spikefuse_emulated::{name}" for name in ("lif_forward", "lif_backward", "spike_matmul")} <= defined


class TestMistakes:
    """A tester that finds nothing proves nothing: each mistake here must be found."""

    x = torch.arange(256, dtype=torch.float32)

    def test_without_one(self) -> None:
        for seed in range(5):
            EMULATED.set_seed(seed)
            out = EMULATED.reverse_blocks(self.x, 64, NONE)
            assert torch.equal(out, self.x.view(-1, 64).flip(1).flatten())

    def test_a_missing_barrier_shows_in_the_result(self) -> None:
        # Shared memory that no thread has written reads as NaN, whatever the order of the threads.
        for seed in range(5):
            EMULATED.set_seed(seed)
            out = EMULATED.reverse_blocks(self.x, 64, NO_BARRIER)
            assert bool(out.isnan().any())

    def test_a_barrier_that_half_the_threads_never_reach(self) -> None:
        with pytest.raises(RuntimeError, match="is stuck: 32 of 64 threads have ended, 32 wait at __syncthreads"):
            EMULATED.reverse_blocks(self.x, 64, HALF_AT_BARRIER)
        # and the next launch is a clean one
        self.test_without_one()

    def test_a_collective_that_half_the_lanes_never_reach(self) -> None:
        with pytest.raises(RuntimeError, match=r"32 of 64 threads have ended, .* 16 of warp 0 wait in __syncwarp"):
            EMULATED.reverse_blocks(self.x, 64, HALF_IN_WARP)

    def test_blocks_meet_in_a_barrier_of_the_grid(self) -> None:
        for seed in range(5):
            EMULATED.set_seed(seed)
            assert EMULATED.meet_in_grid(self.x, 3, NONE).tolist() == [192] * 192

    def test_a_missing_barrier_of_the_grid_shows_in_the_result(self) -> None:
        for seed in range(5):
            EMULATED.set_seed(seed)
            assert float(EMULATED.meet_in_grid(self.x, 3, NO_BARRIER).min()) < 192

    def test_a_barrier_of_the_grid_that_one_block_never_reaches(self) -> None:
        with pytest.raises(RuntimeError, match=r"block \d is stuck: .* 64 at the grid's barrier"):
            EMULATED.meet_in_grid(self.x, 3, ONE_BLOCK_MISSES_GRID_BARRIER)
        self.test_blocks_meet_in_a_barrier_of_the_grid()

    def test_a_barrier_of_the_grid_in_an_ordinary_launch(self) -> None:
        with pytest.raises(RuntimeError, match="a launch whose blocks are not together"):
            EMULATED.meet_in_grid(self.x, 3, BLOCKS_NOT_TOGETHER)

    def test_an_invalid_grid(self) -> None:
        with pytest.raises(ValueError, match="an invalid grid: 0 blocks of 512 threads"):
            EMULATED.reverse_blocks(self.x, 512, NONE)
        with pytest.raises(ValueError, match=r"an invalid grid: .* 2048 threads"):
            EMULATED.reverse_blocks(torch.zeros(2048), 2048, NONE)

    @pytest.mark.parametrize("mistake", [SHARED_TOO_SMALL, PAST_THE_END])
    @pytest.mark.skipif(not SANITIZED, reason="found by AddressSanitizer: make sanitize")
    def test_a_place_out_of_bounds(
        self, isolated: Callable[..., subprocess.CompletedProcess[str]], mistake: int
    ) -> None:
        code = f"""
import sys, torch
sys.path.insert(0, {HERE!r})
import conftest
conftest.emulated_backend()
torch.ops.spikefuse_emulated.reverse_blocks(torch.zeros(256), 64, {mistake})
"""
        result = isolated(code)
        assert result.returncode != 0
        assert "AddressSanitizer: heap-buffer-overflow" in result.stderr


def kernels_outputs() -> dict[str, list[Tensor]]:
    """Outputs of every op, at sizes of several blocks, warps, and tiles, with odd tails."""
    z = uniform(9, 5, 777, low=-0.5, high=1.5, dtype=torch.float32)
    target, one = reference.pack(spike_train(9, 5, 777)), torch.ones(1)
    forward = EMULATED.lif_forward(z, None, 0.9 * one, one, target, 0)
    arguments = (z, None, None, torch.ones(()), forward[1], None, 0.9 * one, one, target, torch.float32)
    dense = spike_train(1100, 260, density=0.2)
    words = EMULATED.pack_spikes(dense)[0]
    sparse = reference.pack(spike_train(1100, 260, density=0.01))
    weight, grad = (uniform(*s, low=-1, high=1, dtype=torch.float32) for s in ((260, 70), (1100, 33)))
    return {
        "lif_forward": list(forward),
        "lif_backward": list(EMULATED.lif_backward(*arguments, 0, False, 0, 1.0, True)),
        "packing": [words, *EMULATED.pack_spikes(dense)[1:], EMULATED.unpack_spikes(words, 260, torch.float32)],
        "poisson": [EMULATED.poisson_encode(uniform(3, 777), 11, 5, 6)],
        "products": [EMULATED.spike_matmul(words, weight), EMULATED.spike_matmul_transposed(words, grad, 260)],
        "sparse products": [EMULATED.spike_matmul(sparse, weight), EMULATED.spike_matmul_transposed(sparse, grad, 260)],
    }


def learn_online(
    rule: OnlineRule, sizes: tuple[int, ...], steps: int, density: float, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], OnlineStats]:
    """A batch of 3 samples; the density is that of the first layer's inputs."""
    weights = [
        uniform(o, i, low=-0.35, high=0.65, dtype=dtype, seed=o) * 2 * i**-0.5 for i, o in itertools.pairwise(sizes)
    ]
    x, y = (spike_train(steps, 3, n, density=d, seed=n) for n, d in ((sizes[0], density), (sizes[-1], 0.3)))
    return weights, online.online_batch_(weights, x, y, rule)


@pytest.mark.parametrize("trace", ["shared", "gated"])
def test_the_order_of_threads_changes_nothing_that_is_learned_online(
    trace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks go on between one barrier of the grid and the next in another order, and list rows in another.
    monkeypatch.setattr(ops, "online_batch_", EMULATED.online_batch_)
    rule = OnlineRule(trace=trace, weight_decay=0.1)
    results = []
    for seed in (0, 1, 2):
        EMULATED.set_seed(seed)
        weights, stats = learn_online(rule, (200, 40, 30), 8, 0.05, torch.float32)
        results.append([*weights, *stats.spike_counts, torch.tensor(stats.loss, dtype=torch.float64)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("trace", "sizes", "steps", "density"),
    [
        # more columns than a block updates at a time, in a row of the first layer and in one of a later layer
        ("shared", (7, 2100, 3), 3, 0.5),
        ("gated", (7, 2100, 3), 3, 0.5),
        # windows of inputs for which shared memory has no room
        ("gated", (6, 250, 3), 600, 0.02),
    ],
    ids=str,
)
def test_large_layers_and_long_batches_are_learned_as_on_the_cpu(
    trace: str, sizes: tuple[int, ...], steps: int, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = OnlineRule(trace=trace)
    expected, wanted = learn_online(rule, sizes, steps, density)
    monkeypatch.setattr(ops, "online_batch_", EMULATED.online_batch_)
    weights, stats = learn_online(rule, sizes, steps, density)
    for ours, theirs in zip(weights, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    assert all(torch.equal(a, b) for a, b in zip(stats.spike_counts, wanted.spike_counts, strict=True))
    assert min(stats.firing_rates) > 0.001, "silent layers prove nothing"


def test_too_many_layers_for_a_kernels_parameters_are_refused() -> None:
    words = torch.ones(2, 1, 1, dtype=torch.int32)
    settings = (0.9, 1.0, 0, 0.0, True, 0, 1.0, 0, 1e-3, 0.9, 0.999, 1e-7, 0.0, True)
    EMULATED.online_batch_(words, words, [torch.ones(1, 1)] * 1, *settings)
    with pytest.raises(RuntimeError, match="at most 16 layers on CUDA, got 17"):
        EMULATED.online_batch_(words, words, [torch.ones(1, 1) for _ in range(17)], *settings)


def test_the_order_of_threads_changes_nothing() -> None:
    # 20: what would depend on a race, or on the order of an atomic, differs from seed to seed.
    expected = kernels_outputs()
    for seed in (1, 2):
        EMULATED.set_seed(seed)
        for name, outputs in kernels_outputs().items():
            assert all(torch.equal(a, b) for a, b in zip(outputs, expected[name], strict=True)), name


@pytest.mark.parametrize("large", [False, True], ids=["64", "128"])
@pytest.mark.parametrize(
    "size", [(1, 1, 1), (63, 31, 65), (64, 32, 64), (65, 33, 63), (130, 70, 132), (129, 100, 260)], ids=str
)
def test_products_on_tensor_cores(size: tuple[int, int, int], large: bool) -> None:
    rows, inputs, outputs = size
    x = spike_train(rows, inputs, density=0.5, dtype=torch.float64)
    weight = uniform(inputs, outputs, low=-1, high=1, dtype=torch.float32, seed=1)
    words = reference.pack(x)
    z = EMULATED.tensor_core_product(words, weight, large)
    # three exact parts of each weight, so three times the terms; summed in fp32
    bound = 1.01 * roundoff(torch.float32) * 3 * x.sum(1, keepdim=True).clamp(min=1) * (x @ weight.double().abs())
    assert_within(z, x @ weight.double(), bound, "X W")
    # a weight alone comes out as it went in, to its last bit
    alone = EMULATED.tensor_core_product(reference.pack(torch.eye(inputs)), weight, large)
    assert torch.equal(alone, weight)


@pytest.mark.parametrize("offset", [0, 1])
def test_tensor_cores_with_weights_that_are_not_aligned(offset: int) -> None:
    x = spike_train(70, 40, density=0.5)
    memory = uniform(40 * 64 + 1, dtype=torch.float32)
    weight = memory[offset : offset + 40 * 64].view(40, 64)
    expected = EMULATED.tensor_core_product(reference.pack(x), weight.clone(), False)
    assert torch.equal(EMULATED.tensor_core_product(reference.pack(x), weight, False), expected)


def test_both_sizes_of_tiles_give_the_same_bits() -> None:
    words, weight = reference.pack(spike_train(70, 100)), uniform(100, 66, dtype=torch.float32)
    small, large = (EMULATED.tensor_core_product(words, weight, size) for size in (False, True))
    assert torch.equal(small, large)


def test_infinite_and_tiny_weights_on_tensor_cores() -> None:
    x = torch.eye(32)
    weight = torch.zeros(32, 8)
    # near the largest bf16, the smallest normal number of fp32, and one whose third part is below it
    for i, value in enumerate((float("inf"), 3.38e38, 2.0**-126, 1.0000001 * 2.0**-100, -0.0, 1 + 2.0**-23)):
        weight[i, 0] = value
    column = EMULATED.tensor_core_product(reference.pack(x[1:]), weight[:, 1:].contiguous(), False)
    assert torch.equal(column, weight[1:, 1:])
    finite = weight[1:].clone()
    out = EMULATED.tensor_core_product(reference.pack(torch.eye(31)), finite, False)
    assert torch.equal(out, finite)
    infinite = EMULATED.tensor_core_product(reference.pack(x[:1]), weight, False)
    assert infinite[0, 0] == float("inf")


def launched() -> list[str]:
    """Kernels launched since the last call, without their parameters: ``lif_forward_kernel<float, float, 4>``."""
    return [name.removeprefix("void spikefuse::cuda::").split("(")[0] for name in EMULATED.take_launches()]


@pytest.mark.parametrize(
    ("shape", "layout", "neurons"),
    [
        ((6, 4, 64), "contiguous", 4),
        ((6, 4, 33), "contiguous", 4),  # rows of an odd width that lie behind each other are one row of 132
        ((6, 3, 33), "contiguous", 1),  # 99 is no multiple of 4
        ((6, 1, 64), "contiguous", 4),
        ((6, 64, 1), "contiguous", 4),
        ((6, 4, 33), "batch_first", 1),
        ((6, 4, 64), "batch_first", 4),
        ((6, 4, 64), "every_second_neuron", 1),
        ((6, 4, 64), "offset", 1),
    ],
    ids=str,
)
def test_neurons_a_thread_reads_at_once(shape: tuple[int, int, int], layout: str, neurons: int) -> None:
    z = lay_out(uniform(*shape, high=1.3, dtype=torch.float32), layout)
    grad = lay_out(uniform(*shape, low=-1, dtype=torch.float32, seed=1), layout)
    one = torch.ones(1)
    constants = (0.9 * one, one)
    launched()
    spikes, v, state, *_ = EMULATED.lif_forward(z, None, *constants, None, 0)
    assert launched() == [f"lif_forward_kernel<float, float, {neurons}>"]
    back = EMULATED.lif_backward(
        grad, grad, state, None, v, None, *constants, None, torch.float32, 0, True, 0, 1.0, True
    )
    assert launched() == [f"lif_backward_kernel<float, float, {neurons}>"]
    cpu = torch.ops.spikefuse
    expected = cpu.lif_forward(z, None, *constants, None, 0)
    grads = cpu.lif_backward(grad, grad, state, None, v, None, *constants, None, torch.float32, 0, True, 0, 1.0, True)
    assert all(torch.equal(a, b) for a, b in zip((spikes, v, state, *back), (*expected[:3], *grads), strict=True))


@pytest.mark.parametrize("per_neuron", [False, True])
def test_constants_of_their_own_keep_rows_apart(per_neuron: bool) -> None:
    z = uniform(6, 4, 33, high=1.3, dtype=torch.float32)
    launched()
    EMULATED.lif_forward(z, None, torch.full((33 if per_neuron else 1,), 0.9), torch.ones(1), None, 0)
    assert launched() == [f"lif_forward_kernel<float, float, {1 if per_neuron else 4}>"]


@pytest.mark.parametrize("layout", ["batch_first", "every_second_neuron", "stride_0", "offset"])
def test_strided_currents_are_read_where_they_lie(layout: str) -> None:
    z = lay_out(uniform(6, 4, 64, high=1.3, dtype=torch.float32), layout)
    plain = z.contiguous()
    constants = (torch.full((1,), 0.9), torch.ones(1))
    state = torch.zeros(64, 4).t()  # the launcher copies a state that is not contiguous: copies are counted
    results = []
    for current, held, copies in ((z, None, 0), (plain, None, 0), (plain, state, 1)):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            results.append(EMULATED.lif_forward(current, held, *constants, None, 0))
        names = [event.name for event in profile.events()]
        assert names.count("aten::new_empty") >= 5, "outputs are allocated by torch"
        assert names.count("aten::clone") == copies
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_as_the_cpu_backend(dtype: torch.dtype) -> None:
    # One arithmetic, in headers that both backends share. Sums over samples or neurons may differ in their order.
    z = uniform(9, 5, 777, low=-0.5, high=1.5, dtype=dtype)
    decay = uniform(777, low=0.7, high=0.95, dtype=torch.float32)
    grads = (uniform(9, 5, 777, low=-1, high=1, dtype=dtype), uniform(9, 5, 777, low=-1, high=1, dtype=torch.float32))
    for reset, surrogate in itertools.product(functional.RESETS.values(), SURROGATES.values()):
        results = []
        for library in (torch.ops.spikefuse, EMULATED):
            spikes, v, state, *_ = library.lif_forward(z, None, decay, torch.ones(1), None, reset)
            back = library.lif_backward(
                *(*grads, state, None, v, None, decay, torch.ones(1), None, dtype, reset, False, surrogate, 1.5, True)
            )
            results.append([spikes, v, state, *back])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class TestGrids:
    @pytest.mark.parametrize("work", [0, 1, 255, 256, 257, 65_535 * 256 + 1, 2**31, 2**31 + 1, 2**45])
    def test_blocks_fit_every_grid_dimension(self, work: int) -> None:
        # 5, 6: none for no work is invalid, and more than 65,535 is for a second or third dimension
        for per_block in (1, 8, 128, 256):
            blocks = EMULATED.grid("grid_for", work, per_block)
            assert 1 <= blocks <= 65_535
            assert blocks * per_block >= min(work, 32768 * per_block)

    @pytest.mark.parametrize("work", [0, 1, 100, 4800, 9600, 19_200, 2**20, 2**40])
    def test_short_walks_are_spread_over_the_gpu(self, work: int) -> None:
        threads = EMULATED.grid("scan_threads", work, 0)
        assert threads in (32, 64, 128)
        assert threads == 32 or work / threads >= 150

    @pytest.mark.parametrize("columns", [1, 4, 196, 256, 784, 1024, 2048, 10**6])
    @pytest.mark.parametrize("per_thread", [1, 2, 4])
    def test_threads_that_gather(self, columns: int, per_thread: int) -> None:
        threads = EMULATED.grid("gather_threads", columns, per_thread)
        assert threads % 32 == 0
        assert 32 <= threads <= 256
        assert threads == 256 or threads * per_thread >= columns

    def test_which_product_is_taken(self) -> None:
        def pays(rows: int, inputs: int) -> bool:
            return bool(EMULATED.grid("tensor_cores_may_pay", rows, inputs))

        assert pays(3000, 58_500) and pays(1500, 784)
        assert not pays(1500, 100) and not pays(1, 10**9) and not pays(10**9, 1)
        assert EMULATED.grid("gathered_spikes", 1000, 1000) == 20_000
        assert EMULATED.grid("gathered_spikes", 2**20, 2**20) == int(0.02 * 2**40)
        assert EMULATED.grid("large_tiles", 3000, 2048) and not EMULATED.grid("large_tiles", 1500, 196)


class TestBuild:
    """The library is built by whoever needs it first: a worker of pytest-xdist, a rank, a process of its own."""

    BUILD = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import build
build.BUILT = pathlib.Path(sys.argv[2])
build.build()
"""

    @pytest.fixture
    def start(self, tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
        """Starts a build with a compiler that writes its results' names to a file, then ends as it is told."""
        compiler = tmp_path / "compiler"
        compiler.write_text(
            # the build asks first whether it compiles C++17
            '#!/bin/sh\ncase " $* " in *" -S "*) echo spikefuse_probe; exit;; esac\n'
            'while [ "$1" != -o ]; do shift; done\nsleep 0.1\n'
            f'echo part > "$2"\necho "$2" >> {tmp_path}/written\nexit $STATUS\n'
        )
        compiler.chmod(0o755)

        def run(status: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-c", self.BUILD, f"{HERE}/emulator", str(tmp_path)],
                env={**os.environ, "CXX": str(compiler), "STATUS": status, "MAX_JOBS": "2"},
                stderr=subprocess.PIPE,
                text=True,
            )

        return run

    @staticmethod
    def written(folder: Path) -> list[str]:
        return (folder / "written").read_text().splitlines()

    def test_three_processes_at_once_compile_each_source_once(
        self, start: Callable[[str], subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        builds = [start("0") for _ in range(3)]
        assert [(build.communicate(timeout=60)[1], build.returncode) for build in builds] == 3 * [("", 0)]
        written = self.written(tmp_path)
        assert len(written) == len(set(written)) > 3
        assert (tmp_path / "emulator" / "_C_emulated.so").exists()

    def test_what_a_killed_compiler_leaves_is_compiled_again(
        self, start: Callable[[str], subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        killed = start("137")
        assert "RuntimeError" in killed.communicate(timeout=60)[1]
        begun = set(self.written(tmp_path))
        (tmp_path / "written").unlink()
        assert start("0").communicate(timeout=60)[1] == ""
        assert begun and begun < set(self.written(tmp_path))
