"""Failures that users of other libraries reported, by their numbers in the project's list, and where each is tested.

A list at the end names the tests of other files; a test checks that it is whole and that each entry exists.
"""

from __future__ import annotations

import ast
import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.utils.checkpoint
from comparison import RESETS, spike_train, uniform
from global_modes import waiting_for_the_gpu_is_an_error
from torch import Tensor

from spikefuse import LIFLinear, PackedSpikes, functional, ops, reference

BEYOND_32_BITS = 2**32 + 128


def far_apart(path: Path, values: Tensor, dim: int) -> Tensor:
    """`values`, its elements along `dim` 2^32 elements apart: a sparse file holds the gaps, and no memory is used."""
    stride = [0] * values.dim()
    stride[dim], step = BEYOND_32_BITS, 1
    for d in reversed(range(values.dim())):
        if d != dim:
            stride[d], step = step, step * values.shape[d]
    size = (values.shape[dim] - 1) * BEYOND_32_BITS + step
    with path.open("wb") as file:
        file.truncate(size * values.element_size())
    memory = torch.from_file(str(path), shared=True, size=size, dtype=values.dtype)
    return memory.as_strided(values.shape, stride).copy_(values)


@pytest.mark.parametrize("dim", [0, 1, 2], ids=["T", "B", "N"])
def test_strides_beyond_32_bits(tmp_path: Path, dim: int) -> None:
    # 1-4: offsets, products and strides that wrap in 32 bits read, or write, the wrong place without a word.
    z = uniform(3, 2, 4, high=1.3, dtype=torch.bfloat16)
    far = far_apart(tmp_path / "z", z, dim)
    assert max(far.stride()) > 2**32
    out, expected = functional.lif(far, leak=0.1), functional.lif(z, leak=0.1)
    assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))
    one = torch.ones(1)
    grads = (far_apart(tmp_path / "g", z, dim), far_apart(tmp_path / "v", z.float(), dim))
    tail = (None, None, expected.v, None, 0.9 * one, one, None, torch.bfloat16, 0, False, 0, 1.0, True)
    actual, wanted = ops.lif_backward(*grads, *tail), ops.lif_backward(z, z.float(), *tail)
    assert all(torch.equal(a, b) for a, b in zip(actual, wanted, strict=True))


@pytest.mark.parametrize("dim", [0, 1])
def test_packed_operands_with_strides_beyond_32_bits(tmp_path: Path, dim: int) -> None:
    neurons = 70 if dim == 0 else 3
    dense = spike_train(3, neurons, dtype=torch.uint8)
    words = reference.pack(dense)
    far_words = far_apart(tmp_path / "words", words, dim)
    assert torch.equal(ops.pack_spikes(far_apart(tmp_path / "x", dense, dim))[0], words)
    assert torch.equal(ops.unpack_spikes(far_words, neurons, torch.uint8), dense)
    weight = uniform(neurons, 5, dtype=torch.float32)
    assert torch.equal(ops.spike_matmul(far_words, weight), ops.spike_matmul(words, weight))
    rates = uniform(3, neurons, dtype=torch.float32)
    far_rates = far_apart(tmp_path / "rates", rates, dim)
    assert torch.equal(ops.poisson_encode(far_rates, 2, 1, 0), ops.poisson_encode(rates, 2, 1, 0))


@pytest.mark.slow
def test_more_than_2_to_the_31_elements() -> None:
    # 1, 2: the output itself, 2.1 GB of it, and a row whose first element lies beyond 2^31.
    neurons = 2**30 + 32
    words = torch.zeros(3, neurons // 32, dtype=torch.int32)
    words[2, -1] = -1
    out = ops.unpack_spikes(words, neurons, torch.bool)
    assert out.numel() > 2**31
    assert bool(out[2, -32:].all())
    assert int(out[2].sum()) == 32
    assert torch.equal(ops.pack_spikes(out)[0], words)


GUARDED = """
import ctypes, mmap, sys, torch
from spikefuse import ops, reference
sys.path.insert(0, HERE)
if EMULATED:
    from conftest import emulated_backend
    for name, op in emulated_backend().ops.items():
        setattr(ops, name, op)
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
keep = []

def guarded(x):
    size = x.numel() * x.element_size()
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(start + pages, mmap.PAGESIZE, 0) == 0
    keep.append(memory)
    end = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=pages - size)
    return end.view(x.dtype).view(x.shape).copy_(x)

torch.manual_seed(0)
if PROBE:
    x = guarded(torch.rand(5))
    ctypes.string_at(x.data_ptr(), 5 * 4 + 1)
for n in (1, 3, 7, 15, 17, 31, 33, 63, 65, 100, 255, 257, 777):
    for dtype in ops.IO_DTYPES:
        acc = ops.accumulate_dtype(dtype)
        z, state = guarded(torch.rand(3, 2, n).to(dtype)), guarded(torch.rand(2, n, dtype=acc))
        decay, threshold = guarded(torch.rand(n, dtype=acc)), guarded(torch.ones(n, dtype=acc))
        target = guarded(reference.pack(torch.rand(3, 2, n) < 0.3))
        v = guarded(ops.lif_forward(z, state, decay, threshold, target, 0)[1])
        ops.lif_backward(z, v, state, torch.ones((), dtype=acc), v, state, decay, threshold, target, dtype,
                         0, False, 0, 1.0, True)
        ops.pack_spikes(guarded((torch.rand(3, n) < 0.3).to(dtype)))
        ops.poisson_encode(guarded(torch.rand(3, n).to(dtype)), 2, 1, 0)
        words = guarded(reference.pack(torch.rand(3, n) < 0.3))
        ops.unpack_spikes(words, n, dtype)
        if dtype in (torch.float32, torch.float64):
            for m in (1, 3, 7, 17, 33, 129):
                ops.spike_matmul(words, guarded(torch.rand(n, m, dtype=dtype)))
                ops.spike_matmul_transposed(words, guarded(torch.rand(3, m, dtype=dtype)), n)
print("safe")
"""


@pytest.mark.parametrize("emulated", [False, True], ids=["cpu", "emulated"])
def test_nothing_is_read_past_the_end_of_an_input(
    isolated: Callable[..., subprocess.CompletedProcess[str]], emulated: bool
) -> None:
    # 8: each input ends where its page ends, and the next page may not be touched.
    if not hasattr(ctypes.CDLL(None), "mprotect"):
        pytest.skip("needs mprotect")
    settings = f"HERE = {str(Path(__file__).parent)!r}\nEMULATED = {emulated}\n"
    result = isolated(f"{settings}PROBE = False\n{GUARDED}")
    assert result.stdout.strip() == "safe", (result.returncode, result.stderr[-2000:])
    # and a read of one byte more does end the process
    probe = isolated(f"{settings}PROBE = True\n{GUARDED}")
    assert probe.returncode < 0


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_stay_in_their_neuron(device: str, value: float, reset: str) -> None:
    z = uniform(5, 2, 300, high=0.8, dtype=torch.float32).to(device)
    clean = functional.lif(z, leak=0.1, reset=reset)
    z[1, 1, 290] = value
    z.requires_grad_()
    out = functional.lif(z, leak=0.1, reset=reset)
    others = torch.ones(2, 300, dtype=torch.bool, device=device)
    others[1, 290] = False
    assert torch.equal(out.v[:, others], clean.v[:, others])
    expected = reference.lif(z[:, 1:, 290:291].detach().double(), decay=0.9, reset=reset)
    torch.testing.assert_close(out.v[:, 1:, 290:291].double(), expected[1], equal_nan=True, rtol=1e-6, atol=0)
    assert torch.equal(out.spikes[:, 1:, 290:291].double(), expected[0])
    (out.v.sum() + out.spikes.sum()).backward()
    assert bool(z.grad[:, others].isfinite().all())


def test_inputs_are_neither_changed_nor_returned(device: str) -> None:
    z, state = torch.rand(0, 2, 3, device=device), torch.rand(2, 3, device=device)
    before = state.clone()
    out = functional.lif(z, state, leak=0.1)
    assert torch.equal(out.state, before)
    assert out.state.data_ptr() != state.data_ptr()
    out.state.zero_()
    assert torch.equal(state, before)


@pytest.mark.parametrize("changed", ["v", "words", "target"])
def test_a_change_of_what_the_backward_needs_is_noticed(device: str, changed: str) -> None:
    layer = LIFLinear(40, 33, leak=0.1, device=device)
    x, target = (PackedSpikes.pack(spike_train(6, 3, n).to(device)) for n in (40, 33))
    _, _, v = layer(x, return_vmem=True)
    loss = v.sum() + layer.masked_loss(x, target).loss
    {"v": v, "words": x.words, "target": target.words}[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_autograd_and_with_checkpoints(device: str) -> None:
    layer, x = LIFLinear(40, 33, leak=0.1, device=device), spike_train(6, 3, 40).to(device)
    expected = layer(x)[0]
    with torch.inference_mode():
        assert torch.equal(layer(x)[0], expected)
    again = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)[0]
    one, two = (torch.autograd.grad(spikes.sum(), layer.weight)[0] for spikes in (expected, again))
    assert torch.equal(one, two)


TRAINING = """
import gc, mmap, os, torch
from spikefuse import LIFLinear, PackedSpikes, functional
layer = LIFLinear(200, 100, leak=0.1, learn_beta=True)
optimizer = torch.optim.Adam(layer.parameters())
state = None

def train(batches):
    global state
    for seed in range(batches):
        x = functional.poisson_encode(torch.full((16, 200), 0.1), 20, seed=seed)
        target = functional.poisson_encode(torch.full((16, 100), 0.3), 20, seed=seed)
        out = layer.masked_loss(x, target, state)
        spikes, state = layer(x, out.state)
        state = state.detach()
        optimizer.zero_grad()
        (out.loss + spikes.sum()).backward()
        optimizer.step()

def measure():
    gc.collect()
    tensors = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
    statm = "/proc/self/statm"
    return tensors, int(open(statm).read().split()[1]) * mmap.PAGESIZE if os.path.exists(statm) else 0

train(10)
before = measure()
train(40)
print(*before, *measure())
"""


def test_memory_does_not_grow_over_steps(isolated: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    # 41: states carried on from batch to batch, losses, and packed spikes, all let go.
    result = isolated(TRAINING)
    assert result.returncode == 0, result.stderr[-2000:]
    tensors, resident, tensors_after, resident_after = map(int, result.stdout.split())
    assert tensors_after == tensors
    # one batch keeps 0.5 MB for its backward: 40 of them kept would be 20 MB
    assert resident_after - resident < 5e6


# CUDA: written to run as soon as there are kernels and a GPU.


def on_gpu(*sizes: int, seed: int = 0, **options: float) -> Tensor:
    return uniform(*sizes, dtype=torch.float32, seed=seed, **options).cuda()  # type: ignore[arg-type]


@pytest.mark.cuda
def test_a_device_that_is_not_the_current_one() -> None:
    # 14, 15: an illegal access, or silent zeros.
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    z = uniform(6, 3, 300, high=1.3, dtype=torch.float32)
    with torch.cuda.device(0):
        out = functional.lif(z.to("cuda:1"), leak=0.1)
    assert {t.device for t in out} == {torch.device("cuda:1")}
    assert all(torch.equal(a.cpu(), b) for a, b in zip(out, functional.lif(z, leak=0.1), strict=True))


@pytest.mark.cuda
def test_work_waits_for_the_current_stream_only() -> None:
    # 16, 17: on the default or the null stream a kernel would read z before the other stream has written it.
    expected = functional.lif(on_gpu(50, 64, 512, high=1.3), leak=0.1)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        z = torch.zeros(50, 64, 512, device="cuda")
        torch.cuda._sleep(50_000_000)
        z.copy_(on_gpu(50, 64, 512, high=1.3))
        out = functional.lif(z, leak=0.1)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))


@pytest.mark.cuda
def test_forward_and_backward_are_captured_in_a_graph() -> None:
    # 18, 19: an op that cannot be captured, or one that waits for the GPU in the middle.
    layer = LIFLinear(40, 33, leak=0.1, device="cuda")
    x = PackedSpikes.pack(spike_train(6, 3, 40).cuda())

    def step() -> Tensor:
        (grad,) = torch.autograd.grad(layer(x)[0].sum(), layer.weight)
        return grad

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    captured.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)


@pytest.mark.cuda
def test_no_call_waits_for_the_gpu() -> None:
    # 19: a synchronisation in forward or backward raises here.
    layer, x = LIFLinear(40, 33, leak=0.1, device="cuda"), PackedSpikes.pack(spike_train(6, 3, 40).cuda())
    second, target = LIFLinear(33, 40, leak=0.1, device="cuda"), PackedSpikes.pack(spike_train(6, 3, 40, seed=1).cuda())
    with waiting_for_the_gpu_is_an_error():
        hidden, _ = layer(x)
        second.masked_loss(hidden, target).loss.backward()


@pytest.mark.cuda
# torch's own: the first CUDA graph that it captures on a device holds the memory pool, and no kernel
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")
# torch's own: it suggests a faster product, whose error is larger
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32 matrix multiplication available:UserWarning")
def test_reduce_overhead_equals_eager() -> None:
    # 16: torch.compile's CUDA graphs.
    layer = LIFLinear(40, 33, leak=0.1, device="cuda")
    fast = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    for seed in range(4):
        x = PackedSpikes.pack(spike_train(6, 3, 40, seed=seed).cuda())
        assert torch.equal(fast(x)[0].clone(), layer(x)[0])


@pytest.mark.cuda
@pytest.mark.parametrize("reset", RESETS)
def test_this_architecture_gives_the_bits_of_the_cpu(reset: str) -> None:
    # 27: silently corrupt forward passes on one new architecture. The arithmetic is one set of headers: equal bits.
    z = uniform(20, 7, 777, low=-0.5, high=1.5, dtype=torch.float32)
    grad = uniform(20, 7, 777, low=-1, high=1, dtype=torch.float32, seed=1)
    results = []
    for device in ("cpu", "cuda"):
        current = z.to(device).requires_grad_()
        out = functional.lif(current, leak=0.1, reset=reset)
        (grad_z,) = torch.autograd.grad(out.spikes, current, grad.to(device))
        results.append([t.detach().cpu() for t in (*out, grad_z)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


TESTED = {
    1: "test_robustness.py::test_strides_beyond_32_bits",
    2: "test_robustness.py::test_strides_beyond_32_bits",
    3: "test_robustness.py::test_strides_beyond_32_bits",
    4: "test_robustness.py::test_packed_operands_with_strides_beyond_32_bits",
    5: "functional/test_lif.py::test_more_samples_than_a_grid_dimension_holds",
    6: "functional/test_lif.py::test_lif_equals_the_reference",
    7: "functional/test_lif.py::test_lif_equals_the_reference",
    8: "test_robustness.py::test_nothing_is_read_past_the_end_of_an_input",
    9: "functional/test_lif.py::test_more_samples_than_a_grid_dimension_holds",
    10: "functional/test_lif.py::test_lif_equals_the_reference",
    11: "functional/test_lif.py::test_gradients_strided_by_cat_and_slices",
    12: "functional/test_lif.py::test_gradients_of_some_outputs",
    13: "functional/test_lif.py::test_lif_equals_the_reference",
    20: "test_isa.py::test_any_number_of_threads_gives_the_same_bits",
    21: "test_isa.py::test_deterministic_algorithms_are_the_ones_in_use_anyway",
    22: "test_robustness.py::test_nan_and_infinity_stay_in_their_neuron",
    23: "test_layers.py::test_the_membrane_is_fp32_in_half_precision_layers",
    24: "test_layers.py::test_learnable_parameters_under_autocast",
    25: "functional/test_lif.py::test_every_option_equals_the_reference",
    26: "test_compile.py::test_two_layers_trained_with_inductor",
    28: "test_surrogate.py::test_finite_up_to_the_largest_number_and_at_infinity",
    29: "functional/test_lif.py::test_v_exactly_at_the_threshold_is_a_spike",
    30: "functional/test_lif.py::test_chunks_with_carried_state_equal_one_call",
    31: "test_ops.py::test_opcheck",
    32: "test_ops.py::test_opcheck",
    33: "test_compile.py::test_state_carried_between_compiled_calls",
    34: "test_compile.py::test_the_compiled_graph_copies_no_sequence",
    35: "test_packaging.py::TestBackend::test_an_installed_torch_is_not_asked_for_again",
    36: "test_packaging.py::TestCudaDecision::test_no_visible_gpu_is_asked_for",
    37: "test_packaging.py::TestArchitectures::test_list",
    38: "test_load.py::test_a_minor_difference_of_cuda_is_none",
    39: "test_packaging.py::TestLibraries::test_only_stable_symbols_are_needed",
    40: "test_load.py::test_undefined_symbol_names_both_torches_and_no_architecture",
    41: "test_robustness.py::test_memory_does_not_grow_over_steps",
    42: "test_layers.py::test_a_layer_keeps_v_and_the_inputs_bits_and_nothing_else",
}
ON_A_GPU = {
    14: "test_robustness.py::test_a_device_that_is_not_the_current_one",
    15: "test_robustness.py::test_a_device_that_is_not_the_current_one",
    16: "test_robustness.py::test_reduce_overhead_equals_eager",
    17: "test_robustness.py::test_work_waits_for_the_current_stream_only",
    18: "test_robustness.py::test_forward_and_backward_are_captured_in_a_graph",
    19: "test_robustness.py::test_no_call_waits_for_the_gpu",
    27: "test_robustness.py::test_this_architecture_gives_the_bits_of_the_cpu",
}
NEEDS_A_GPU = {14, 15, 16, 17, 18, 19, 27}


def test_every_number_of_the_list_is_accounted_for() -> None:
    tables = (TESTED, ON_A_GPU)
    assert sorted(n for table in tables for n in table) == list(range(1, 43))
    assert set(ON_A_GPU) == NEEDS_A_GPU
    here = Path(__file__).parent
    for number, entry in {**TESTED, **ON_A_GPU}.items():
        file, *path = entry.split("::")
        node: ast.AST = ast.parse((here / file).read_text())
        for name in path:
            inside = {n.name: n for n in node.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}  # type: ignore[attr-defined]
            assert name in inside, f"{number}: {entry} does not exist"
            node = inside[name]
        assert isinstance(node, ast.FunctionDef)
        marks = {ast.unparse(mark) for mark in node.decorator_list}
        assert ("pytest.mark.cuda" in marks) is (number in ON_A_GPU), f"{number}: {entry}"
