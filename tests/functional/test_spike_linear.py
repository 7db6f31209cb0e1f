"""The event-driven products with packed spikes: X W, X^T g, and spike_linear on top of them."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable

import pytest
import torch
from comparison import DTYPES, assert_within, lay_out, roundoff, spike_train, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spikefuse import PackedSpikes, functional, ops, reference

# R, N, M: around words of inputs and every width of the kernels' column tiles, single rows, enough rows for tables,
# several blocks of inputs, and several chunks of rows
SIZES = [
    (5, 1, 1),
    (5, 31, 3),
    (5, 32, 4),
    (5, 33, 17),
    (3, 70, 128),
    (3, 70, 129),
    (4, 300, 255),
    (1, 64, 31),
    (65, 97, 50),
    (300, 33, 129),
    (301, 65, 16),
    (200, 3000, 20),
    (4100, 40, 70),
    (70_001, 3, 2),
    (0, 5, 3),
    (4, 0, 3),
    (4, 5, 0),
    (0, 0, 0),
]


def sum_bound(terms: Tensor, sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """A sum of k terms in any order is off by at most (k - 1) u times the sum of their sizes."""
    return 1.01 * roundoff(dtype) * terms.clamp(min=1) * sizes


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_both_products_equal_the_dense_ones(
    device: str, dtype: torch.dtype, size: tuple[int, int, int], density: float
) -> None:
    rows, inputs, outputs = size
    x = spike_train(rows, inputs, density=density, dtype=torch.float64).to(device)
    words = reference.pack(x)
    weight = uniform(inputs, outputs, low=-1, high=1, dtype=dtype, seed=1).to(device)
    z = ops.spike_matmul(words, weight)
    assert z.dtype == dtype
    bound = sum_bound(x.sum(1, keepdim=True), x @ weight.double().abs(), dtype)
    assert_within(z, x @ weight.double(), bound, "X W")

    grad = uniform(rows, outputs, low=-1, high=1, dtype=dtype, seed=2).to(device)
    out = ops.spike_matmul_transposed(words, grad, inputs)
    bound = sum_bound(x.t().sum(1, keepdim=True), x.t() @ grad.double().abs(), dtype)
    assert_within(out, x.t() @ grad.double(), bound, "X^T g")


@pytest.mark.parametrize("layout", ["batch_first", "offset", "padded", "every_second_neuron", "one_row"])
def test_strided_operands(device: str, layout: str) -> None:
    def lay(x: Tensor) -> Tensor:
        return x[:1].expand_as(x) if layout == "one_row" else lay_out(x, layout)

    words = lay(reference.pack(spike_train(40, 70)).to(device))
    weight, grad = (lay(uniform(*s, dtype=torch.float32).to(device)) for s in ((70, 37), (40, 37)))
    assert torch.equal(ops.spike_matmul(words, weight), ops.spike_matmul(words.contiguous(), weight.contiguous()))
    actual = ops.spike_matmul_transposed(words, grad, 70)
    assert torch.equal(actual, ops.spike_matmul_transposed(words.contiguous(), grad.contiguous(), 70))


@given(
    leading=st.lists(st.integers(0, 4), max_size=3),
    inputs=st.integers(1, 100),
    outputs=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    packed=st.booleans(),
    bias=st.booleans(),
)
def test_spike_linear_equals_linear_in_float64(
    device: str, leading: list[int], inputs: int, outputs: int, seed: int, packed: bool, bias: bool
) -> None:
    x = spike_train(*leading, inputs, density=seed % 7 / 6, dtype=torch.float64, seed=seed).to(device)
    weight = uniform(outputs, inputs, low=-1, high=1, seed=seed).to(device).requires_grad_()
    b = uniform(outputs, seed=seed + 1).to(device).requires_grad_() if bias else None
    z = functional.spike_linear(PackedSpikes.pack(x) if packed else x, weight, b)
    expected = torch.nn.functional.linear(x, weight, b)
    assert_within(z, expected, 1e-12 * inputs, "z")
    grad = uniform(*z.shape, low=-1, high=1, seed=seed).to(device)
    given = [weight] if b is None else [weight, b]
    for actual, wanted in zip(
        torch.autograd.grad(z, given, grad), torch.autograd.grad(expected, given, grad), strict=True
    ):
        assert_within(actual, wanted, 1e-12 * (1 + math.prod(leading)), "gradient")


@pytest.mark.parametrize("density", [0.1, 0.9])
def test_gradcheck_of_spike_linear(device: str, density: float) -> None:
    # Only weight and bias: a numeric derivative with respect to x would leave zeros and ones, and so the sparse path.
    x = spike_train(3, 2, 6, density=density, dtype=torch.float64).to(device)
    weight, bias = (uniform(*s, low=-1, high=1).to(device).requires_grad_() for s in ((4, 6), (4,)))
    assert torch.autograd.gradcheck(lambda w, b: functional.spike_linear(x, w, b), (weight, bias))
    assert torch.autograd.gradcheck(lambda w, b: functional.spike_linear(PackedSpikes.pack(x), w, b), (weight, bias))


@pytest.mark.parametrize("density", [0.1, 0.9])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gradient_of_dense_spikes(device: str, dtype: torch.dtype, density: float) -> None:
    # A layer above another one: its input spikes carry the surrogate's gradient.
    x = spike_train(3, 2, 40, density=density, dtype=dtype).to(device).requires_grad_()
    weight = uniform(5, 40, low=-1, high=1, dtype=dtype).to(device)
    grad = uniform(3, 2, 5, low=-1, high=1, dtype=dtype).to(device)
    (actual,) = torch.autograd.grad(functional.spike_linear(x, weight), x, grad)
    assert_within(actual, grad.double() @ weight.double(), 5 * roundoff(dtype) * 5, "grad x")


@pytest.mark.parametrize("source", ["packed", "dense"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_low_precision_weights_are_summed_in_fp32(device: str, dtype: torch.dtype, source: str) -> None:
    # 2048 weights of 1/64: a bf16 sum stops growing at 4 = 256/64, an fp16 one at 32.
    inputs = 4096
    x = torch.zeros(1, 1, inputs, dtype=dtype, device=device)
    x[..., : inputs // 2] = 1
    weight = torch.full((3, inputs), 1 / 64, dtype=dtype, device=device, requires_grad=True)
    z = functional.spike_linear(PackedSpikes.pack(x) if source == "packed" else x, weight)
    assert z.dtype == dtype
    assert_within(z, torch.full((1, 1, 3), float(x.sum()) / 64, device=device), 0.0, "z")
    z.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == dtype
    assert torch.equal(weight.grad, x[0].expand(3, -1))


def test_which_dense_inputs_are_packed(device: str) -> None:
    weight = torch.rand(3, 40, device=device, requires_grad=True)
    for density in (0.0, 0.45, 1.0):
        x = torch.zeros(40, device=device)
        x[: round(40 * density)] = 1
        # on a GPU, to ask would be to wait for it
        assert ("SpikeLinear" in functional.spike_linear(x, weight).grad_fn.name()) is (device == "cpu")
    assert "SpikeLinear" not in functional.spike_linear(torch.full((40,), 0.5, device=device), weight).grad_fn.name()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_reach_their_outputs(device: str, value: float) -> None:
    x = spike_train(20, 70).to(device)
    weight = uniform(37, 70, dtype=torch.float32).to(device)
    clean = functional.spike_linear(PackedSpikes.pack(x), weight)
    weight[30, 50] = value
    z = functional.spike_linear(PackedSpikes.pack(x), weight)
    spiking = x[:, 50] > 0
    assert 0 < int(spiking.sum()) < 20
    torch.testing.assert_close(z[spiking, 30], torch.full_like(z[spiking, 30], value), equal_nan=True)
    z[:, 30] = clean[:, 30]
    assert torch.equal(z, clean)


@pytest.mark.parametrize("density", [0.05, 0.5])
def test_an_element_does_not_depend_on_its_column_tile(device: str, density: float) -> None:
    # Words of very different densities, so that both gathered and looked-up ones occur, in several blocks.
    x = spike_train(500, 2000, density=density)
    x[:, 500:1000] = spike_train(500, 500, density=0.9, seed=1)
    x[:, 1000:1500] = 0
    words, weight = reference.pack(x).to(device), uniform(2000, 130, dtype=torch.float32).to(device)
    whole = ops.spike_matmul(words, weight)
    for columns in (1, 16, 64, 65):
        assert torch.equal(ops.spike_matmul(words, weight[:, :columns].contiguous()), whole[:, :columns])


def test_a_nan_input_is_not_mistaken_for_a_spike(device: str) -> None:
    x = torch.zeros(3, 40, device=device)
    x[1, 7] = math.nan
    z = functional.spike_linear(x, torch.ones(5, 40, device=device))
    assert z.isnan().any(1).tolist() == [False, True, False]


SET_PADDING = """
import torch
from spikefuse import ops
memory = torch.full((64, 5), 1e30)
weight = memory[:33]
weight.fill_(1.0)
words = torch.full((3, 2), -1, dtype=torch.int32)
for _ in range(200):
    try:
        z = ops.spike_matmul(words, weight)
    except (RuntimeError, ValueError):
        continue
    assert z.eq(33).all(), z
print("safe")
"""


def test_set_padding_bits_do_not_read_past_the_weights(
    isolated: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    # PackedSpikes refuses such words, but words can be changed in place, and raw ops called.
    result = isolated(SET_PADDING)
    assert result.stdout.strip() == "safe", result.stderr[-2000:]


@pytest.mark.parametrize(
    ("x", "weight", "bias", "error", "message"),
    [
        (torch.zeros(2, 5), torch.rand(3, 4), None, ValueError, r"x of shape \[..., 4\], got \[2, 5\]"),
        (torch.tensor(1.0), torch.rand(3, 4), None, ValueError, r"x of shape \[..., 4\], got \[\]"),
        (torch.zeros(2, 4), torch.rand(4), None, ValueError, r"weight of shape \[out, in\], got \[4\]"),
        (torch.zeros(2, 4), torch.ones(3, 4).int(), None, TypeError, "weight of dtype float32, .* got torch.int32"),
        (torch.zeros(2, 4).double(), torch.rand(3, 4), None, TypeError, "x of dtype torch.float32, the weight's, got"),
        (torch.zeros(2, 4).bool(), torch.rand(3, 4), None, TypeError, "x of dtype torch.float32, the weight's, got"),
        (torch.zeros(2, 4, device="meta"), torch.rand(3, 4), None, ValueError, "x on cpu, got it on meta"),
        ([[0.0]], torch.rand(3, 1), None, TypeError, "x as a tensor or PackedSpikes, got list"),
        (
            PackedSpikes.pack(torch.zeros(2, 5)),
            torch.rand(3, 4),
            None,
            ValueError,
            r"x of shape \[..., 4\], got \[2, 5\]",
        ),
        (
            PackedSpikes.pack(torch.zeros(2, 4)).to("meta"),
            torch.rand(3, 4),
            None,
            ValueError,
            "x on cpu, got it on meta",
        ),
        (torch.zeros(2, 4), torch.rand(3, 4), torch.rand(4), ValueError, r"bias of shape \[3\], got \[4\]"),
        (torch.zeros(2, 4), torch.rand(3, 4), torch.rand(1), ValueError, r"bias of shape \[3\], got \[1\]"),
        (torch.zeros(2, 4), torch.rand(3, 4), torch.rand(2, 3), ValueError, r"bias of shape \[3\], got \[2, 3\]"),
        (torch.ones(2, 4), torch.rand(3, 4), torch.rand(1), ValueError, r"bias of shape \[3\], got \[1\]"),
        (
            torch.zeros(2, 4),
            torch.rand(3, 4),
            torch.rand(3).double(),
            TypeError,
            "bias of dtype torch.float32, the weight's",
        ),
    ],
)
def test_bad_arguments_are_named(
    x: object, weight: Tensor, bias: Tensor | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^spike_linear: expected " + message):
        functional.spike_linear(x, weight, bias)  # type: ignore[arg-type]


def test_the_raw_ops_check_too(device: str) -> None:
    words, weight = torch.zeros(3, 2, dtype=torch.int32, device=device), torch.rand(40, 5, device=device)
    grad = torch.rand(3, 5, device=device)
    for op, arguments in (
        (ops.spike_matmul, (words, weight[:32])),
        (ops.spike_matmul, (words.long(), weight)),
        (ops.spike_matmul, (words, weight.half())),
        (ops.spike_matmul, (words[0], weight)),
        (ops.spike_matmul_transposed, (words, grad, 32)),
        (ops.spike_matmul_transposed, (words, grad, 65)),
        (ops.spike_matmul_transposed, (words, grad, -1)),
        (ops.spike_matmul_transposed, (words, grad[:2], 40)),
        (ops.unpack_spikes, (words, 65, torch.float32)),
        (ops.unpack_spikes, (words, -1, torch.float32)),
    ):
        with pytest.raises(RuntimeError, match="spikefuse: expected"):
            op(*arguments)
