"""Poisson encoding: the generator's published numbers, independence of how the work is cut, and statistics."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from comparison import DTYPES, lay_out, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spikefuse import PackedSpikes, ops, reference
from spikefuse.functional import poisson_encode

# kat_vectors of Random123, philox4x32 with 10 rounds: counter, key, result
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def dense(rates: Tensor, steps: int, seed: int, offset: int = 0) -> Tensor:
    return poisson_encode(rates, steps, seed=seed, offset=offset).unpack()


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_the_reference_gives_the_published_numbers(
    counter: tuple[int, ...], key: tuple[int, int], result: tuple[int, ...]
) -> None:
    assert tuple(reference.philox4x32(torch.tensor(counter), key).tolist()) == result


def test_the_kernel_gives_the_published_numbers(device: str) -> None:
    # A draw is the largest d for which the rate d / 2^32 does not fire and (d + 1) / 2^32 does: both are exact in fp64.
    draws = torch.tensor(KNOWN_ANSWERS[0][2], dtype=torch.float64, device=device)
    assert dense((draws / 2**32).reshape(1, 4), 1, seed=0).sum() == 0
    assert dense(((draws + 1) / 2**32).reshape(1, 4), 1, seed=0).sum() == 4


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 0x299F31D0A4093822, 2**63 - 1])
@pytest.mark.parametrize("offset", [0, 1, 0x03707344, 2**32 - 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_equal_the_reference(device: str, dtype: torch.dtype, seed: int, offset: int) -> None:
    rates = uniform(3, 70, dtype=dtype, seed=1).to(device)
    rates[0, :3] = torch.tensor([0.0, 1.0, 0.5])
    expected = reference.poisson_encode(rates, 5, seed=seed, offset=offset)
    assert torch.equal(dense(rates, 5, seed, offset), expected)


@pytest.mark.parametrize(
    "size",
    [(1, 1, 1), (2, 3, 31), (2, 3, 32), (2, 3, 33), (2, 70_001, 1), (300, 1, 5), (0, 2, 3), (3, 0, 4), (3, 2, 0)],
)
def test_sizes(device: str, size: tuple[int, int, int]) -> None:
    steps, samples, neurons = size
    rates = uniform(samples, neurons, dtype=torch.float32).to(device)
    spikes = poisson_encode(rates, steps, seed=3)
    assert spikes.shape == size
    if math.prod(size):
        assert spikes == PackedSpikes.pack(reference.poisson_encode(rates, steps, seed=3))


@pytest.mark.parametrize("layout", ["batch_first", "offset", "padded", "stride_0_samples", "every_second_neuron"])
def test_strided_rates(device: str, layout: str) -> None:
    rates = lay_out(uniform(5, 70, dtype=torch.float32).to(device), layout)
    assert poisson_encode(rates, 4, seed=3) == poisson_encode(rates.contiguous(), 4, seed=3)


@given(
    steps=st.integers(1, 9),
    samples=st.integers(1, 9),
    neurons=st.integers(1, 130),
    seed=st.integers(0, 2**63 - 1),
    offset=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_a_bit_depends_on_its_own_coordinates_only(
    device: str, steps: int, samples: int, neurons: int, seed: int, offset: int, data: st.DataObject
) -> None:
    rates = uniform(samples, neurons, dtype=torch.float32).to(device)
    whole = dense(rates, steps, seed, offset)
    t = data.draw(st.integers(1, steps))
    b = data.draw(st.integers(1, samples))
    n = data.draw(st.integers(1, neurons))
    assert torch.equal(dense(rates[:b, :n], t, seed, offset), whole[:t, :b, :n])
    # and on its own rate only
    changed = rates.clone()
    changed[b - 1, n - 1] = 1 - changed[b - 1, n - 1]
    different = dense(changed, steps, seed, offset) != whole
    different[:, b - 1, n - 1] = False
    assert not bool(different.any())


def test_any_number_of_threads(set_threads: Callable[[int], None]) -> None:
    rates = uniform(40, 1000, high=0.5, dtype=torch.float32)
    results = []
    for threads in (1, 2, 3, 1):
        set_threads(threads)
        results.append(poisson_encode(rates, 20, seed=11))
    assert all(r == results[0] for r in results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rates_0_and_1_are_exact(device: str, dtype: torch.dtype) -> None:
    rates = torch.tensor([0.0, 1.0], dtype=dtype, device=device).repeat(500, 500)
    assert torch.equal(dense(rates, 20, seed=5), rates.float().expand(20, -1, -1))


def test_the_smallest_and_largest_rates_between(device: str) -> None:
    # 2^-40 is below the resolution of a draw and never fires; 1 - 2^-24 misses one draw in 17 million.
    rates = torch.tensor([2.0**-40, 1 - 2.0**-24], device=device).repeat(100, 1)
    counts = dense(rates, 1000, seed=5).sum((0, 1))
    assert counts[0] == 0
    assert 99_990 <= counts[1] <= 100_000


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.3, 0.5, 0.97])
def test_spike_counts_are_binomial(device: str, rate: float) -> None:
    spikes = dense(torch.full((100, 400), rate, device=device), 50, seed=2024)
    draws = spikes.numel()
    deviation = math.sqrt(draws * rate * (1 - rate))
    assert abs(float(spikes.sum()) - draws * rate) < 5 * deviation
    # chi-square over time steps, samples and inputs: each marginal is as uneven as chance, within 5 sigma
    for other in ((1, 2), (0, 2), (0, 1)):
        counts = spikes.sum(other).double()
        expected = draws / counts.numel() * rate
        chi_square = float(((counts - expected) ** 2 / (expected * (1 - rate))).sum())
        assert abs(chi_square - counts.numel()) < 5 * math.sqrt(2 * counts.numel())


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 4), (0, 0, 32)], ids=str)
def test_neighbouring_draws_are_uncorrelated(device: str, shift: tuple[int, int, int]) -> None:
    x = dense(torch.full((100, 400), 0.5, device=device), 50, seed=7) - 0.5
    t, b, n = shift
    products = x[t:, b:, n:] * x[: 50 - t, : 100 - b, : 400 - n] * 4
    assert abs(float(products.mean())) < 5 / math.sqrt(products.numel())


def test_seeds_and_offsets_give_other_streams(device: str) -> None:
    rates = torch.full((20, 500), 0.5, device=device)
    streams = [dense(rates, 10, seed, offset) for seed in (0, 1, 2**32, 2**32 + 1) for offset in (0, 1, 2**31)]
    for i, a in enumerate(streams):
        for b in streams[:i]:
            share = float((a == b).float().mean())
            assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(a.numel())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rates": torch.full((2, 3), 1.5)}, ValueError, r"rates in \[0, 1\], got values from 1.5 to 1.5"),
        ({"rates": torch.tensor([[0.1, -0.1]])}, ValueError, r"rates in \[0, 1\], got values from -0.1"),
        ({"rates": torch.tensor([[0.1, math.nan]])}, ValueError, r"rates in \[0, 1\], got values from nan"),
        ({"rates": torch.tensor([[math.inf]])}, ValueError, r"rates in \[0, 1\], got values from inf"),
        ({"rates": torch.rand(3)}, ValueError, r"rates of shape \[B, N\], got \[3\]"),
        ({"rates": torch.rand(3, 2, 1)}, ValueError, r"rates of shape \[B, N\], got \[3, 2, 1\]"),
        ({"rates": torch.ones(3, 2, dtype=torch.int64)}, TypeError, "rates of dtype float32, .*, got torch.int64"),
        ({"rates": [[0.1]]}, TypeError, "rates as a tensor, got list"),
        ({"steps": -1}, ValueError, "0 <= steps < 4294967296, got -1"),
        ({"steps": 2**32}, ValueError, "0 <= steps < 4294967296, got 4294967296"),
        ({"steps": 1.5}, TypeError, "steps as an int, got float"),
        ({"seed": -1}, ValueError, "0 <= seed < 9223372036854775808, got -1"),
        ({"seed": 2**63}, ValueError, "0 <= seed < 9223372036854775808, got 9223372036854775808"),
        ({"offset": -1}, ValueError, "0 <= offset < 4294967296, got -1"),
        ({"offset": 2**32}, ValueError, "0 <= offset < 4294967296, got 4294967296"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {"rates": torch.rand(2, 3), "steps": 2, "seed": 0, **change}
    with pytest.raises(error, match="^poisson_encode: expected " + message):
        poisson_encode(**arguments)  # type: ignore[arg-type]


def test_the_raw_op_checks_too(device: str) -> None:
    rates = torch.rand(2, 3, device=device)
    for arguments in (
        (rates, -1, 0, 0),
        (rates, 2**32, 0, 0),
        (rates, 1, 0, -1),
        (rates, 1, 0, 2**32),
        (rates[0], 1, 0, 0),
    ):
        with pytest.raises(RuntimeError, match="spikefuse: expected"):
            ops.poisson_encode(*arguments)


def test_rates_that_require_grad_give_spikes_without_one() -> None:
    assert not dense(torch.rand(2, 3, requires_grad=True), 2, seed=0).requires_grad
