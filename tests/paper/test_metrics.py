"""MSE and Spike-MSE: every map has zero mean and unit variance before it is compared."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spikefuse.paper import metrics
from spikefuse.paper.metrics import mse, normalize_maps, spike_mse

REAL_DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 784), (2, 3, 7), (40,), (3, 2)], ids=str)
def test_normalised_maps_have_zero_mean_and_unit_population_variance(shape: tuple[int, ...]) -> None:
    normalised = normalize_maps(7 * maps(*shape) - 100)
    assert normalised.shape == shape
    assert normalised.dtype == torch.float64
    # A mean of N terms of size 1, each rounded after an offset of 100 / 7 spans: well within 1e-12.
    torch.testing.assert_close(normalised.mean(-1), torch.zeros(shape[:-1], dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(normalised.var(-1, correction=0), torch.ones(shape[:-1], dtype=torch.float64))


def test_normalised_maps_equal_the_formula() -> None:
    x = maps(6, 30)
    expected = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0)
    torch.testing.assert_close(normalize_maps(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", REAL_DTYPES, ids=str)
def test_every_real_dtype_is_computed_in_float64(dtype: torch.dtype) -> None:
    x = (4 * maps(3, 50)).round().to(dtype)
    assert torch.equal(normalize_maps(x), normalize_maps(x.double()))
    assert mse(x, maps(3, 50, seed=1)) == mse(x.double(), maps(3, 50, seed=1))


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e308, -1e308, 5e-324, 15])
def test_a_constant_map_becomes_exact_zeros(value: float) -> None:
    # 784 times 0.1 does not sum to 78.4, so a variance computed the plain way is not 0.
    x = torch.cat([torch.full((1, 784), value, dtype=torch.float64), maps(1, 784)])
    normalised = normalize_maps(x)
    assert torch.equal(normalised[0], torch.zeros(784, dtype=torch.float64))
    assert normalised[1].std(correction=0) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-323, 1e-200, 1e-20, 1e20, 1e200, 1.7e308], ids=str)
def test_maps_of_any_size_neither_overflow_nor_vanish(scale: float) -> None:
    x = scale * torch.tensor([[1.0, -1.0, -1.0, 1.0]], dtype=torch.float64)
    assert normalize_maps(x).tolist() == [[1, -1, -1, 1]]


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=12, max_size=12),
)
def test_finite_maps_never_give_nan(first: list[float], second: list[float]) -> None:
    a = torch.tensor([first], dtype=torch.float64)
    b = torch.tensor([second[: len(first)]], dtype=torch.float64)
    normalised = normalize_maps(a)
    constant = len(set(first)) == 1
    assert normalised.square().mean().item() == pytest.approx(0 if constant else 1, abs=1e-9)
    assert 0 <= mse(a, b) <= 4 + 1e-9


def test_empty_maps_are_normalised_to_empty_maps() -> None:
    assert normalize_maps(torch.zeros(0, 5)).shape == (0, 5)
    assert normalize_maps(torch.zeros(5, 0)).shape == (5, 0)


def test_mse_equals_the_formula() -> None:
    a, b = maps(6, 30), maps(6, 30, seed=1)
    expected = (normalize_maps(a) - normalize_maps(b)).square().sum().item() / (6 * 30)
    assert mse(a, b) == pytest.approx(expected, rel=1e-14)
    # For two maps of unit variance the mean squared difference is 2 - 2 * correlation.
    correlation = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)])
    assert mse(a, b) == pytest.approx((2 - 2 * correlation).mean().item(), rel=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_the_size_of_the_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    a, b = maps(7, 30), maps(7, 30, seed=1)
    whole = mse(a, b)
    monkeypatch.setattr(metrics, "_CHUNK_ROWS", rows)
    assert mse(a, b) == pytest.approx(whole, rel=1e-14)


def test_brightness_and_contrast_do_not_count() -> None:
    x = maps(4, 50)
    assert mse(3 * x + 1, x) == pytest.approx(0, abs=1e-24)
    assert mse(-x, x) == pytest.approx(4)
    assert spike_mse(torch.tensor([[4, 0, 2, 2]]), torch.tensor([[8, 0, 4, 4]])) == 0


def test_a_silent_net_scores_one() -> None:
    counts = (maps(10, 784) < 0.2).int() + (maps(10, 784, seed=1) < 0.1).int()
    silent = torch.zeros_like(counts)
    assert spike_mse(silent, counts) == pytest.approx(1, rel=1e-12)
    assert mse(silent, maps(10, 784)) == pytest.approx(1, rel=1e-12)
    assert spike_mse(silent, silent) == 0


def test_dividing_the_variance_by_n_minus_1_scales_every_score() -> None:
    a, b = maps(10, 784), maps(10, 784, seed=1)

    def sample_normalised(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)

    score = (sample_normalised(a) - sample_normalised(b)).square().mean().item()
    assert score == pytest.approx(mse(a, b) * 783 / 784, rel=1e-12)
    silent = sample_normalised(b).square().mean().item()
    assert silent == pytest.approx(0.9987, abs=5e-5)


def test_samples_that_are_silent_count_like_the_others() -> None:
    target = maps(4, 30)
    output = target.clone()
    output[1] = 0
    assert mse(output, target) == pytest.approx(1 / 4)


def test_strided_inputs_and_gradients() -> None:
    a, b = maps(30, 6).T, maps(6, 60, seed=1)[:, ::2]
    assert mse(a.requires_grad_(), b) == mse(a.detach().contiguous(), b.contiguous())
    assert not normalize_maps(a).requires_grad
    row = maps(1, 30).expand(6, 30)
    assert mse(row, row.contiguous()) == 0


@pytest.mark.parametrize("function", [mse, spike_mse])
@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), ValueError, r"expected {b} of {a}'s shape \[2, 3\], got \[2, 4\]"),
        (torch.zeros(2, 3), torch.zeros(1, 3), ValueError, r"expected {b} of {a}'s shape \[2, 3\], got \[1, 3\]"),
        (torch.zeros(3), torch.zeros(3), ValueError, r"expected {a} of shape \[B, N\], got \[3\]"),
        (torch.zeros(0, 3), torch.zeros(0, 3), ValueError, r"at least one map .* got shape \[0, 3\]"),
        (torch.zeros(3, 0), torch.zeros(3, 0), ValueError, r"at least one element, got shape \[3, 0\]"),
        (torch.zeros(2, 3), torch.zeros(2, 3, device="meta"), ValueError, "expected {b} on {a}'s device cpu, got meta"),
        (torch.tensor([[math.nan, 0]]), torch.zeros(1, 2), ValueError, "finite values in {a}, got 1 NaN or infinite"),
        (torch.zeros(1, 2), torch.tensor([[math.inf, -math.inf]]), ValueError, "finite values in {b}, got 2 NaN"),
        ([[0.0]], torch.zeros(1, 1), TypeError, "expected {a} as a tensor, got list"),
        (torch.zeros(1, 1), None, TypeError, "expected {b} as a tensor, got NoneType"),
        (
            torch.zeros(1, 1),
            torch.zeros(1, 1, dtype=torch.complex64),
            TypeError,
            "{b} of a real dtype, got torch.complex",
        ),
    ],
)
def test_wrong_arguments_are_named(
    function: Callable[[Tensor, Tensor], float], a: Tensor, b: Tensor, error: type[Exception], message: str
) -> None:
    names = {mse: ("a", "b"), spike_mse: ("output_counts", "input_counts")}[function]
    with pytest.raises(error, match=f"{function.__name__}: .*" + message.format(a=names[0], b=names[1])):
        function(a, b)


def test_wrong_maps_are_named() -> None:
    with pytest.raises(ValueError, match=r"normalize_maps: expected x of shape \[\.\.\., N\], got a scalar"):
        normalize_maps(torch.tensor(1.0))
    with pytest.raises(ValueError, match="normalize_maps: expected finite values in x, got 1"):
        normalize_maps(torch.tensor([math.inf, 0]))
    with pytest.raises(TypeError, match="normalize_maps: expected x as a tensor, got int"):
        normalize_maps(3)  # type: ignore[arg-type]
