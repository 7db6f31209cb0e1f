"""Surrogate derivatives: the formulas, and their behaviour at both ends of the number line."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import DTYPES, SURROGATES, roundoff
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spikefuse import functional
from spikefuse.surrogate import SURROGATES as NUMBERS
from spikefuse.surrogate import surrogate_id

FORMULAS = {
    "sigmoid": lambda x, k: k * torch.sigmoid(k * x) * torch.sigmoid(-k * x),
    "atan": lambda x, k: k / 2 / (1 + (math.pi / 2 * k * x) ** 2),
    "fast_sigmoid": lambda x, k: 1 / (1 + k * x.abs()) ** 2,
    "triangle": lambda x, k: k * (1 - k * x.abs()).clamp(min=0),
}


def derivative(name: str, x: Tensor, slope: float, device: str = "cpu") -> Tensor:
    """The compiled op's d spike / d v at v - threshold = x."""
    v = x.to(device).reshape(1, 1, -1).requires_grad_()
    functional.lif(v, leak=0.1, threshold=0.0, surrogate=name, slope=slope).spikes.sum().backward()
    assert v.grad is not None
    return v.grad.flatten().cpu()


@pytest.mark.parametrize("slope", [0.5, 1.0, 4.0, 25.0])
@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_equal_the_formulas(device: str, name: str, slope: float, dtype: torch.dtype) -> None:
    x = torch.cat((torch.linspace(-30, 30, 4001), torch.logspace(-30, 30, 601), torch.zeros(1))).to(dtype)
    expected = FORMULAS[name](x.double(), slope)
    actual = derivative(name, x, slope, device)
    # 12 roundings; one of them of k x, which exp and the triangle's edge magnify by |k x|; and what is below the
    # smallest normal number, or one over the largest, may become 0
    bound = roundoff(dtype) * (12 * expected + slope * (slope * x.double()).abs().clamp(max=100) * expected)
    bound += roundoff(dtype) * 2 * slope if name == "triangle" else 2e-38 * max(1, slope)
    assert bool((actual.double() - expected).abs().le(bound).all())


@given(x=st.floats(-1e4, 1e4, width=32), slope=st.floats(0.25, 64))
@pytest.mark.parametrize("name", SURROGATES)
def test_symmetric_positive_and_largest_at_the_threshold(name: str, x: float, slope: float) -> None:
    left, right, top = derivative(name, torch.tensor([-x, x, 0.0]), slope)
    assert left == right
    assert 0 <= left <= top * (1 + 12 * roundoff(torch.float32))
    assert top == pytest.approx({"sigmoid": slope / 4, "atan": slope / 2, "fast_sigmoid": 1, "triangle": slope}[name])


@pytest.mark.parametrize("slope", [0.25, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SURROGATES)
def test_finite_up_to_the_largest_number_and_at_infinity(
    device: str, name: str, dtype: torch.dtype, slope: float
) -> None:
    largest = torch.finfo(dtype).max
    x = torch.tensor([largest, -largest, largest / 2, math.inf, -math.inf], dtype=dtype)
    assert torch.equal(derivative(name, x, slope, device), torch.zeros(5, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_gradients_are_finite_for_the_largest_v(device: str, surrogate: str, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    z = torch.tensor([[[largest, -largest, 1e4, -1e4, 0.0]]], dtype=dtype, device=device, requires_grad=True)
    functional.lif(z, leak=0.1, surrogate=surrogate, slope=4.0).spikes.sum().backward()
    assert bool(z.grad.isfinite().all())
    assert bool((z.grad >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SURROGATES)
def test_nan_stays_nan(device: str, name: str, dtype: torch.dtype) -> None:
    # Among enough finite numbers that a vector holds both kinds.
    x = torch.linspace(-2, 2, 77, dtype=dtype)
    x[[0, 13, 38, 76]] = math.nan
    assert torch.equal(derivative(name, x, 1.0, device).isnan(), x.isnan())


def test_exp_is_within_two_units_in_the_last_place(device: str) -> None:
    # Below -17.4, e = exp(x) is under half an ulp of 1, so the sigmoid's derivative e / (1 + e)^2 is e itself.
    x = torch.linspace(-86.9, -17.4, 2_000_001, dtype=torch.float32)
    expected = x.double().exp()
    ulp = torch.exp2(expected.log2().floor() - 23)
    errors = (derivative("sigmoid", x, 1.0, device).double() - expected).abs() / ulp
    assert float(errors.max()) <= 2
    # Nearer to 0 it has 1 + e (twice, squared), the square and the quotient on top: 2 ulp of e and 4 roundings.
    x = torch.linspace(-17.4, 0, 2_000_001, dtype=torch.float32)
    expected = FORMULAS["sigmoid"](x.double(), 1.0)
    errors = (derivative("sigmoid", x, 1.0, device).double() - expected).abs() / expected
    assert float(errors.max()) <= (4 + 4) * roundoff(torch.float32)


def test_sigmoid_below_the_smallest_normal_number_is_zero(device: str) -> None:
    # Never garbage from the bits of an exponent out of range.
    x = torch.linspace(-110, -86, 100_001, dtype=torch.float32)
    actual = derivative("sigmoid", x, 1.0, device)
    assert bool((actual >= 0).all())
    assert bool((actual.double() - x.double().exp()).abs().le(1.7e-38).all())


def test_the_surrogate_and_its_slope_reach_the_kernel(device: str) -> None:
    x = torch.tensor([0.3])
    values = {(name, k): float(derivative(name, x, k, device)) for name in SURROGATES for k in (1.0, 2.0)}
    assert len(set(values.values())) == 8


def test_names() -> None:
    assert tuple(NUMBERS) == SURROGATES
    assert [surrogate_id(name) for name in SURROGATES] == [0, 1, 2, 3]
    for name in ("Sigmoid", "", None, 0, ["sigmoid"]):
        with pytest.raises(ValueError, match="expected one of sigmoid, atan, fast_sigmoid, triangle, got"):
            surrogate_id(name)  # type: ignore[arg-type]
