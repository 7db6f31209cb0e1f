"""The raw ops: torch.library.opcheck, and that every scalar argument reaches its kernel.

Nothing checks a boxed C++ signature against its schema: an int that is read as a double, or two arguments swapped,
would run and give garbage. So each scalar is changed on its own, and the output must change to what the reference says.
"""

from __future__ import annotations

import ctypes
import dataclasses
import types
from typing import Any

import pytest
import torch
from comparison import RESETS, SURROGATES, after_reset, assert_within, spike_train, uniform
from torch import Tensor

from spikefuse import ops, reference
from spikefuse.functional import RESETS as RESET_NUMBERS
from spikefuse.online import OPTIMIZERS, TRACES, OnlineRule
from spikefuse.surrogate import surrogate_id

T, B, N = 6, 3, 37
OPS = torch.ops.spikefuse


@ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64)
def no_peer(step: int) -> int:  # at module level: kept for as long as its address is in use
    return 1


def arguments_of(op: str, device: str, layout: str) -> tuple[object, ...]:
    """Arguments for opcheck; `strided` gives each tensor strides that its op's output must not inherit."""

    def lay(x: Tensor) -> Tensor:
        return x.to(device) if layout == "contiguous" else x.to(device).transpose(0, 1).contiguous().transpose(0, 1)

    z, v, state = (uniform(*s, high=1.3, dtype=torch.float32) for s in ((T, B, N), (T, B, N), (B, N)))
    decay, threshold = torch.tensor([0.9], device=device), torch.ones(N, device=device)
    target, words = reference.pack(spike_train(T, B, N)), reference.pack(spike_train(5, 40))
    one = torch.tensor(1.0, device=device)
    return {
        "lif_forward": (lay(z), lay(state), decay, threshold, lay(target), 0),
        "lif_forward without options": (lay(z).bfloat16(), None, decay, threshold, None, 1),
        "lif_backward": (
            *(lay(z), lay(v), lay(state), one, lay(v), lay(state), decay, threshold, lay(target)),
            *(torch.float32, 0, False, 1, 2.0, True),
        ),
        "lif_backward without options": (
            *(None, None, lay(state), None, lay(v), None, decay, threshold, None),
            *(torch.float16, 1, True, 0, 1.0, False),
        ),
        "pack_spikes": (lay(spike_train(5, 40)),),
        "unpack_spikes": (lay(words), 40, torch.bool),
        "poisson_encode": (lay(uniform(3, 40)), 4, 5, 6),
        "lif_linear_forward": (
            *(lay(reference.pack(spike_train(T, B, 40))), lay(uniform(40, 7, dtype=torch.float32))),
            *(
                torch.ones(7, device=device),
                lay(uniform(B, 7, dtype=torch.float32)),
                decay,
                torch.ones(7, device=device),
            ),
            1,
        ),
        "spike_matmul": (lay(words), lay(uniform(40, 7, dtype=torch.float32))),
        "spike_matmul_transposed": (lay(words), lay(uniform(5, 7)), 40),
        "online_batch_": (
            *(lay(reference.pack(spike_train(T, B, 40))), lay(reference.pack(spike_train(T, B, 7)))),
            [lay(uniform(9, 40)), lay(uniform(7, 9))],
            *(0.9, 1.0, 1, 0.0, False, 0, 1.0, 0, 1e-3, 0.9, 0.999, 1e-7, 0.01, True),
        ),
        "online_batch_ of one rank": (
            *(lay(reference.pack(spike_train(T, B, 40))), lay(reference.pack(spike_train(T, B, 7)))),
            [lay(uniform(9, 40)), lay(uniform(7, 18))],
            *(0.9, 1.0, 1, 0.0, False, 0, 1.0, 0, 1e-3, 0.9, 0.999, 1e-7, 0.01, True),
            *(torch.zeros(2, 1, B, dtype=torch.int32, device=device), ctypes.cast(no_peer, ctypes.c_void_p).value, 1),
        ),
    }[op]


CASES = [
    *("lif_forward", "lif_forward without options", "lif_backward", "lif_backward without options", "pack_spikes"),
    *("unpack_spikes", "poisson_encode", "spike_matmul", "spike_matmul_transposed", "online_batch_"),
    "lif_linear_forward",
    "online_batch_ of one rank",
]


@pytest.mark.torch_device
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize("op", CASES)
def test_opcheck(device: str, op: str, layout: str) -> None:
    # Schema (nothing mutated or aliased that is not declared), fake kernel (shapes, dtypes, strides), AOT dispatch.
    skip_without_kernel(op.split()[0], device)
    torch.library.opcheck(getattr(OPS, op.split()[0]), arguments_of(op, device, layout))


def skip_without_kernel(op: str, device: str) -> None:
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"spikefuse::{op}", device.upper()):
        pytest.skip(f"{op} has no kernel for {device}")


def test_every_op_is_opchecked() -> None:
    names = {
        n.split("::")[1].split(".")[0] for n in torch._C._dispatch_get_all_op_names() if n.startswith("spikefuse::")
    }
    assert names == {op.split()[0] for op in CASES} | {"cpu_instruction_set"}


@pytest.mark.parametrize("reset", RESETS)
def test_reset_reaches_the_forward_kernel(device: str, reset: str) -> None:
    z, one = uniform(T, B, N, high=1.5, seed=2).to(device), torch.ones(1, dtype=torch.float64, device=device)
    state = ops.lif_forward(z, None, 0.9 * one, one, None, RESET_NUMBERS[reset])[2]
    assert_within(state, reference.lif(z, decay=0.9, reset=reset)[2], 1e-14, "state")


BASE = {"reset": "zero", "detach_reset": True, "surrogate": "sigmoid", "slope": 1.0}
CHANGES: list[dict[str, Any]] = [
    *({"reset": r} for r in RESETS),
    *({"reset": r, "detach_reset": False} for r in RESETS),
    *({"surrogate": s} for s in SURROGATES),
    *({"slope": k} for k in (0.5, 2.0, 3.0)),
    {"reset": "subtract", "detach_reset": False, "surrogate": "triangle", "slope": 0.75},
]


def raw_backward(v: Tensor, grads: list[Tensor], settings: dict[str, Any], dtype: torch.dtype, parameters: bool) -> Any:
    one = torch.ones(1, dtype=torch.float64, device=v.device)
    one = one.to(ops.accumulate_dtype(dtype))
    return ops.lif_backward(
        *(grads[0].to(dtype), grads[1].to(one.dtype), grads[2].to(one.dtype), None, v.to(one.dtype), None),
        *(0.9 * one, one, None, dtype),
        RESET_NUMBERS[settings["reset"]],
        settings["detach_reset"],
        surrogate_id(settings["surrogate"]),
        settings["slope"],
        parameters,
    )


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_settings_reach_the_backward_kernel(device: str, change: dict[str, Any]) -> None:
    settings = {**BASE, **change}
    z = uniform(T, B, N, high=1.5, seed=2).to(device).requires_grad_()
    decay, threshold = (torch.tensor(x, dtype=torch.float64, device=device, requires_grad=True) for x in (0.9, 1.0))
    expected = reference.lif(z, decay=decay, threshold=threshold, **settings)
    grads = [uniform(*t.shape, low=-1, high=1, seed=3).to(device) for t in expected]
    wanted = torch.autograd.grad(expected, (z, decay, threshold), grads)
    v = expected[1].detach()
    actual = raw_backward(v, grads, settings, torch.float64, True)
    for a, b in zip((actual[0], actual[2].sum(), actual[3].sum()), wanted, strict=True):
        assert_within(a, b, 1e-12 * (1 + float(b.abs().max())), "gradient")
    base = raw_backward(v, grads, {**BASE, "reset": settings["reset"]}, torch.float64, True)
    same = {"reset", "detach_reset", "surrogate", "slope"} & {k for k, x in settings.items() if BASE[k] != x} <= {
        "reset"
    }
    # A reset that does nothing has nothing to detach.
    same = same or (settings["reset"] == "none" and change == {"reset": "none", "detach_reset": False})
    assert torch.equal(actual[0], base[0]) is same


@pytest.mark.parametrize("dtype", ops.IO_DTYPES, ids=str)
def test_dtype_and_parameter_gradients_reach_the_backward_kernel(device: str, dtype: torch.dtype) -> None:
    v = uniform(T, B, N, high=1.5, dtype=torch.float32).double().to(device)
    grads = [uniform(*s, low=-1, high=1, dtype=dtype).double().to(device) for s in ((T, B, N), (T, B, N), (B, N))]
    exact = raw_backward(v, grads, BASE, torch.float64, True)
    out = raw_backward(v, grads, BASE, dtype, True)
    assert out[0].dtype == dtype
    assert {t.dtype for t in out[1:]} == {ops.accumulate_dtype(dtype)}
    for a, b in zip(out, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-2, atol=1e-4)  # a wrong dtype reads other numbers altogether
    bare = raw_backward(v, grads, BASE, dtype, False)
    assert [t.shape[0] for t in bare[2:]] == [0, 0]
    assert torch.equal(bare[0], out[0])


def test_target_state_and_loss_gradient_reach_the_backward_kernel(device: str) -> None:
    v, state = uniform(T, B, N, high=1.5).to(device), uniform(B, N, seed=1).to(device)
    one = torch.ones(1, dtype=torch.float64, device=device)
    target = spike_train(T, B, N, dtype=torch.float64).to(device)
    words, grad_loss = reference.pack(target), torch.tensor(2.5, dtype=torch.float64, device=device)
    tail = (torch.float64, 0, True, 0, 1.0, True)
    out = ops.lif_backward(None, None, None, grad_loss, v, state, 0.9 * one, one, words, *tail)
    spikes = (v >= 1).double()
    g, decay = torch.zeros_like(state), torch.zeros_like(state)
    for t in reversed(range(T)):
        g = -2.5 * reference.masked_error(v[t], spikes[t], target[t]) + 0.9 * (1 - spikes[t]) * g
        decay += g * (after_reset("zero", v[t - 1], spikes[t - 1], one) if t else state)
        assert_within(out[0][t], g, 1e-13, "grad z")
    assert_within(out[1], 0.9 * g, 1e-13, "grad state")
    assert_within(out[2], decay, 1e-12, "grad decay")


@pytest.mark.parametrize("neurons", [33, 40, 64])
def test_neurons_and_dtype_reach_their_kernels(device: str, neurons: int) -> None:
    words = reference.pack(spike_train(5, 33)).to(device)
    dense = reference.unpack(words, neurons)
    for dtype in ops.SPIKE_DTYPES:
        out = ops.unpack_spikes(words, neurons, dtype)
        assert out.dtype == dtype
        assert torch.equal(out, dense.to(dtype))
    grad = uniform(5, 4).to(device)
    assert_within(ops.spike_matmul_transposed(words, grad, neurons), dense.double().t() @ grad, 1e-14, "X^T g")


RULE = OnlineRule(leak=0.1, trace="gated", v_clamp=False, lr=0.01, weight_decay=0.0, weight_decay_mode="decoupled")
RULE_CHANGES: list[dict[str, Any]] = [
    {},
    {"leak": 0.3},
    {"threshold": 0.8},
    {"trace": "shared"},
    {"trace": "shared", "trace_divisor": 5.0},
    {"v_clamp": True},
    *({"surrogate": s} for s in SURROGATES[1:]),
    {"slope": 2.5},
    {"optimizer": "sgd"},
    {"lr": 0.02},
    {"betas": (0.5, 0.999)},
    {"betas": (0.9, 0.9)},
    {"eps": 0.1},
    {"weight_decay": 0.5},
    {"weight_decay": 0.5, "weight_decay_mode": "l2"},
]


def raw_online(rule: OnlineRule, device: str) -> tuple[list[Tensor], tuple[Tensor, ...], tuple[Any, ...]]:
    weights = [uniform(o, i, low=-0.4, high=0.6, seed=o).to(device) for o, i in ((9, 40), (7, 9))]
    x, y = (spike_train(T, B, n, density=0.4, dtype=torch.float64, seed=n).to(device) for n in (40, 7))
    expected = reference.online_step([w.cpu() for w in weights], x.cpu(), y.cpu(), rule)
    out = ops.online_batch_(
        reference.pack(x),
        reference.pack(y),
        weights,
        1 - rule.leak,
        rule.threshold,
        TRACES[rule.trace],
        rule.trace_divisor or 0.0,
        bool(rule.v_clamp),
        surrogate_id(rule.surrogate),
        rule.slope,
        OPTIMIZERS[rule.optimizer],
        rule.lr,
        *rule.betas,
        rule.eps,
        rule.weight_decay,
        rule.weight_decay_mode == "decoupled",
    )
    return weights, out, expected


@pytest.mark.parametrize("change", RULE_CHANGES, ids=str)
def test_settings_reach_the_online_kernel(device: str, change: dict[str, Any]) -> None:
    weights, (loss, mismatches, counts), expected = raw_online(dataclasses.replace(RULE, **change), device)
    for w, wanted in zip(weights, expected[0], strict=True):
        assert_within(w.cpu(), wanted, 1e-10, "weights")
    assert float(loss) / B == pytest.approx(expected[1], rel=1e-10)
    assert torch.equal(counts.cpu(), torch.cat(expected[2], 1))
    assert 1 - int(mismatches) / (T * B * 7) == pytest.approx(expected[3])
    base = raw_online(RULE, device)[0]
    changed = any(not torch.equal(a, b) for a, b in zip(weights, base, strict=True))
    assert changed is bool(change)
    if "trace_divisor" in change:
        shared = raw_online(dataclasses.replace(RULE, trace="shared"), device)[0]
        assert not torch.equal(weights[0], shared[0])
    if "weight_decay_mode" in change:
        decoupled = raw_online(dataclasses.replace(RULE, weight_decay=0.5), device)[0]
        assert not torch.equal(weights[0], decoupled[0])


def test_numbers_out_of_range_are_refused(device: str) -> None:
    z, one = torch.rand(T, B, N, device=device), torch.ones(1, device=device)
    for reset in (-1, 3):
        with pytest.raises(RuntimeError, match=f"expected 0 <= reset < 3, got {reset}"):
            ops.lif_forward(z, None, one, one, None, reset)
    tail = (True, 0, 1.0, False)
    with pytest.raises(RuntimeError, match="expected 0 <= reset < 3, got 5"):
        ops.lif_backward(z, None, None, None, z, None, one, one, None, torch.float32, 5, *tail)
    with pytest.raises(RuntimeError, match="expected 0 <= surrogate < 4, got 4"):
        ops.lif_backward(z, None, None, None, z, None, one, one, None, torch.float32, 0, True, 4, 1.0, False)


@pytest.mark.parametrize(
    "change",
    [
        {"z": torch.rand(T, B)},
        {"z": torch.ones(T, B, N, dtype=torch.int32)},
        {"state": torch.rand(B, N + 1)},
        {"state": torch.rand(B, N, dtype=torch.float64)},
        {"decay": torch.rand(2)},
        {"decay": torch.rand(1, 1)},
        {"decay": torch.rand(1, dtype=torch.float64)},
        {"threshold": torch.rand(N - 1)},
        {"threshold": torch.rand(0)},
        {"target": torch.zeros(T, B, 1, dtype=torch.int32)},
        {"target": torch.zeros(T, B, 2, dtype=torch.int64)},
    ],
    ids=lambda c: f"{next(iter(c))} {list(next(iter(c.values())).shape)}",
)
def test_tensors_that_do_not_fit_are_refused(change: dict[str, Tensor]) -> None:
    one = torch.ones(1)
    arguments: dict[str, Any] = {
        "z": torch.rand(T, B, N),
        "state": None,
        "decay": one,
        "threshold": one,
        "target": None,
    }
    with pytest.raises(RuntimeError, match="spikefuse: expected"):
        ops.lif_forward(**{**arguments, **change}, reset=0)


def test_a_device_without_kernels_is_named() -> None:
    for op in ("lif_forward", "pack_spikes", "poisson_encode", "spike_matmul", "online_batch_"):
        with pytest.raises(NotImplementedError, match=f"spikefuse: {op} has no kernel for 'mps' in this build"):
            ops.check_backend(types.SimpleNamespace(device=torch.device("mps")), op)  # type: ignore[arg-type]
        ops.check_backend(torch.empty(0), op)
