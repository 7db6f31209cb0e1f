"""LIF and LIFLinear: the pieces put together, what they keep in memory, their dtypes, and what torch.nn expects."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from comparison import DTYPES, RESETS, SURROGATES, assert_within, spike_train, uniform
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from spikefuse import LIF, LIFLinear, PackedSpikes, functional, ops, reference
from spikefuse.distributed import NeuronParallelLIFLinear


def layer_of(inputs: int, outputs: int, **settings: object) -> LIFLinear:
    """A layer whose neurons spike a few times: weights of a size of 0.4."""
    settings = {"leak": 0.1, **settings} if not {"beta", "tau"} & set(settings) else settings
    layer = LIFLinear(inputs, outputs, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.copy_(uniform(outputs, inputs, low=-0.3, high=0.5, seed=5))
    return layer


@given(
    steps=st.integers(1, 8),
    samples=st.integers(1, 3),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    leak=st.floats(0, 1),
    reset=st.sampled_from(RESETS),
    detach_reset=st.booleans(),
    surrogate=st.sampled_from(SURROGATES),
    bias=st.booleans(),
    packed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_autograd_equals_plain_autograd_in_float64(
    device: str,
    steps: int,
    samples: int,
    inputs: int,
    outputs: int,
    leak: float,
    reset: str,
    detach_reset: bool,
    surrogate: str,
    bias: bool,
    packed: bool,
    seed: int,
) -> None:
    settings = {"reset": reset, "detach_reset": detach_reset, "surrogate": surrogate, "slope": 1.5}
    layer = LIFLinear(inputs, outputs, bias, leak=leak, device=device, dtype=torch.float64, **settings)
    x = spike_train(steps, samples, inputs, density=seed % 5 / 4, dtype=torch.float64, seed=seed).to(device)
    state = uniform(samples, outputs, low=-0.5, high=1, seed=seed).to(device).requires_grad_()
    spikes, new_state, v = layer(PackedSpikes.pack(x) if packed else x, state, return_vmem=True)
    z = nn.functional.linear(x, layer.weight, layer.bias)
    expected = reference.lif(z, state, decay=1 - leak, **settings)
    assume(float((expected[1] - 1).detach().abs().min()) > 1e-9)
    assert torch.equal(spikes, expected[0])
    assert_within(v, expected[1], 1e-12 * inputs, "v")
    assert_within(new_state, expected[2], 1e-12 * inputs, "state")
    given = [state, *layer.parameters()]
    grads = [uniform(*t.shape, low=-1, high=1, seed=seed + i).to(device) for i, t in enumerate(expected)]
    wanted = torch.autograd.grad(expected, given, grads)
    for a, b in zip(torch.autograd.grad((spikes, v, new_state), given, grads), wanted, strict=True):
        assert_within(a, b, 1e-12 * (1 + float(b.abs().max())), "gradient")


@pytest.mark.parametrize("kind", ["packed", "sparse", "dense", "real"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_layer_is_its_product_and_its_recursion(device: str, dtype: torch.dtype, kind: str) -> None:
    layer = layer_of(40, 33, bias=True, device=device, dtype=dtype, surrogate="atan", slope=2.0, threshold=0.9)
    x = spike_train(6, 3, 40, density=0.8 if kind == "dense" else 0.3, dtype=dtype).to(device)
    x = uniform(6, 3, 40, dtype=dtype).to(device) if kind == "real" else x
    given = PackedSpikes.pack(x) if kind == "packed" else x
    spikes, state, v = layer(given, return_vmem=True)
    z = functional.spike_linear(given, layer.weight, layer.bias)
    expected = functional.lif(z, leak=0.1, threshold=0.9, surrogate="atan", slope=2.0)
    assert (spikes.dtype, v.dtype, state.dtype) == (dtype, ops.accumulate_dtype(dtype), ops.accumulate_dtype(dtype))
    assert 0 < int(spikes.detach().sum()) < spikes.numel()
    assert torch.equal(spikes, expected.spikes)
    assert torch.equal(v, expected.v)
    assert torch.equal(state, expected.state)
    assert len(layer(given)) == 2


def test_packed_and_dense_spikes_give_the_same_bits(device: str) -> None:
    layer = layer_of(70, 33, device=device)
    x = spike_train(6, 3, 70).to(device)
    results = []
    given = [PackedSpikes.pack(x), PackedSpikes.pack(x.transpose(0, 1).contiguous()).transpose(0, 1)]
    if device == "cpu":  # CUDA leaves dense inputs to torch
        given.append(x)
    for spikes_in in given:
        spikes, state = layer(spikes_in)
        (grad,) = torch.autograd.grad(spikes.sum() + state.sum(), layer.weight)
        results.append((spikes, state, grad))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("packed", [False, True])
def test_batch_first_swaps_time_and_samples(device: str, packed: bool) -> None:
    layer = layer_of(40, 33, device=device)
    x, target = spike_train(6, 3, 40).to(device), spike_train(6, 3, 33, seed=1).to(device)
    swapped = copy.deepcopy(layer)
    swapped.lif.batch_first = True
    wrap = PackedSpikes.pack if packed else torch.Tensor.contiguous
    spikes, state, v = layer(wrap(x), return_vmem=True)
    other, other_state, other_v = swapped(wrap(x.transpose(0, 1)), return_vmem=True)
    assert torch.equal(other, spikes.transpose(0, 1))
    assert torch.equal(other_v, v.transpose(0, 1))
    assert torch.equal(other_state, state)
    one = layer.masked_loss(wrap(x), wrap(target))
    two = swapped.masked_loss(wrap(x.transpose(0, 1)), wrap(target.transpose(0, 1)))
    assert torch.equal(two.spikes, one.spikes.transpose(0, 1))
    assert torch.equal(two.loss, one.loss)
    z = uniform(6, 3, 33, dtype=torch.float32).to(device)
    assert torch.equal(swapped.lif(z.transpose(0, 1))[0], layer.lif(z)[0].transpose(0, 1))


def saved_storages(run: object) -> list[int]:
    """Bytes of every memory block that autograd keeps for the backward of what `run` returns, largest first."""
    blocks: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        blocks[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        alive = run()  # type: ignore[operator]
    assert alive is not None
    return sorted(blocks.values(), reverse=True)


T, B, IN, OUT = 50, 4, 70, 33
V_BYTES, WORD_BYTES = 4 * T * B * OUT, 4 * T * B * 3


@pytest.mark.parametrize("kind", ["packed", "dense spikes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("learn", [False, True])
def test_a_layer_keeps_v_and_the_inputs_bits_and_nothing_else(dtype: torch.dtype, kind: str, learn: bool) -> None:
    layer = LIFLinear(IN, OUT, bias=True, leak=0.1, learn_beta=learn, learn_threshold=learn, dtype=dtype)
    x = spike_train(T, B, IN, dtype=dtype)
    given = PackedSpikes.pack(x) if kind == "packed" else x
    sizes = saved_storages(lambda: layer(given))
    assert sizes[:2] == [V_BYTES, WORD_BYTES]  # 4 bytes a neuron-step, 1 bit an input-step (in words of 32)
    assert sum(sizes[2:]) <= 64  # decay, threshold, the clamp's input: a few numbers


def test_two_layers_keep_bits_between_them() -> None:
    first, second = layer_of(IN, OUT, threshold=4.0), layer_of(OUT, 20)
    sizes = saved_storages(lambda: second(first(spike_train(T, B, IN))[0]))
    weight = 4 * OUT * 20  # the second layer's own parameter, not a copy
    assert sizes[:5] == sorted([V_BYTES, 4 * T * B * 20, 4 * T * B * 2, WORD_BYTES, weight], reverse=True)
    assert sum(sizes[5:]) <= 64


def test_the_masked_loss_keeps_the_targets_bits() -> None:
    layer = LIFLinear(IN, OUT, leak=0.1)
    sizes = saved_storages(lambda: layer.masked_loss(spike_train(T, B, IN), spike_train(T, B, OUT)))
    assert sizes[:3] == [V_BYTES, WORD_BYTES, 4 * T * B * 2]
    assert sum(sizes[3:]) <= 64


def test_a_real_valued_input_is_kept_as_it_is() -> None:
    x = uniform(T, B, IN, dtype=torch.float32)
    sizes = saved_storages(lambda: LIFLinear(IN, OUT, leak=0.1)(x))
    assert sizes[:2] == sorted([4 * x.numel(), V_BYTES], reverse=True)
    assert sum(sizes[2:]) <= 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_membrane_is_fp32_in_half_precision_layers(device: str, dtype: torch.dtype) -> None:
    # 4096 steps of 2^-12 reach 1 exactly; in fp16 v would stay at 1/2 and in bf16 at 1/16, where 2^-12 is rounded away.
    spikes, _, v = LIF(leak=0.0)(torch.full((4096, 1, 1), 2**-12, dtype=dtype, device=device), return_vmem=True)
    assert spikes.dtype == dtype
    assert v.dtype == torch.float32
    assert torch.equal(v.flatten(), torch.arange(1, 4097, device=device) / 4096)
    assert int(spikes.sum()) == int(spikes[-1]) == 1


@pytest.mark.parametrize("cast", ["bfloat16", "half"])
def test_casting_a_layer_leaves_its_decay_alone(cast: str) -> None:
    # 0.999 would be 1 in bf16.
    for beta in (0.999, torch.tensor([0.999, 0.998, 0.997])):
        layer = getattr(LIFLinear(4, 3, beta=beta, learn_beta=True), cast)()
        assert layer.weight.dtype == getattr(torch, cast)
        assert torch.equal(layer.lif.beta.detach(), torch.as_tensor(beta).float().expand_as(layer.lif.beta))
        x = torch.ones(2, 1, 4, dtype=layer.weight.dtype)
        layer(x)[0].sum().backward()
        assert layer.lif.beta.grad is not None
    assert LIFLinear(4, 3, leak=0.1).double().lif(torch.ones(1, 1, 1).double(), torch.ones(1, 1))[1].item() == 0


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_autocast_gives_one_dtype_whatever_the_input(amp: torch.dtype, bias: bool) -> None:
    layer = layer_of(40, 33, bias=bias)
    x = spike_train(6, 3, 40, density=0.2)
    with torch.autocast("cpu", dtype=amp):
        dtypes = {
            kind: layer(given)[0].dtype
            for kind, given in (("sparse", x), ("packed", PackedSpikes.pack(x)), ("dense", 1 - x), ("real", x / 2))
        }
    assert len(set(dtypes.values())) == 1, dtypes


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16], ids=str)
def test_learnable_parameters_under_autocast(amp: torch.dtype) -> None:
    layer = layer_of(40, 33, learn_beta=True, learn_threshold=True, bias=True)
    with torch.autocast("cpu", dtype=amp):
        spikes, state, v = layer(uniform(6, 3, 40, dtype=torch.float32), return_vmem=True)
    assert (spikes.dtype, v.dtype, state.dtype) == (amp, torch.float32, torch.float32)
    (spikes.float().sum() + v.sum()).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert bool(parameter.grad.isfinite().all())
        assert float(parameter.grad.abs().max()) > 0


@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("reset", RESETS)
def test_learnable_beta_and_threshold(device: str, reset: str, per_neuron: bool) -> None:
    beta, threshold = (
        (uniform(33, low=0.7, high=0.95), uniform(33, low=0.8, high=1.2))
        if per_neuron
        else (torch.tensor(0.9).double(), 1.0)
    )
    layer = LIF(
        beta=beta,
        threshold=threshold,
        reset=reset,
        learn_beta=True,
        learn_threshold=True,
        device=device,
        dtype=torch.float64,
    )
    assert {n: p.shape for n, p in layer.named_parameters()} == {
        "beta": torch.Size((33,) if per_neuron else ()),
        "threshold": torch.Size((33,) if per_neuron else ()),
    }
    z = uniform(6, 3, 33, low=-0.5, high=1.5).to(device)
    spikes, state, v = layer(z, return_vmem=True)
    expected = reference.lif(z, decay=layer.beta, threshold=layer.threshold, reset=reset)
    grads = [uniform(*t.shape, seed=i).to(device) for i, t in enumerate(expected)]
    actual = torch.autograd.grad((spikes, v, state), layer.parameters(), grads)
    wanted = torch.autograd.grad(expected, layer.parameters(), grads)
    for a, b in zip(actual, wanted, strict=True):
        assert_within(a, b, 1e-12 * (1 + float(b.abs().max())), "gradient")


def test_a_learned_beta_is_clamped_where_it_is_used() -> None:
    z = uniform(5, 2, 3, dtype=torch.float32)
    for value, used in ((1.5, 1.0), (-0.5, 0.0)):
        layer = LIF(beta=0.5, learn_beta=True)
        with torch.no_grad():
            layer.beta.fill_(value)  # type: ignore[union-attr]
        assert torch.equal(layer(z)[0], LIF(beta=used)(z)[0])
        assert torch.equal(layer(z)[1], LIF(beta=used)(z)[1])


@pytest.mark.parametrize("name", ["leak", "beta", "tau"])
def test_the_three_names_of_the_decay(name: str) -> None:
    z = uniform(5, 2, 3, dtype=torch.float32)
    value = {"leak": 0.25, "beta": 0.75, "tau": 4.0}[name]
    for form in (value, torch.tensor(value), torch.full((3,), value)):
        assert torch.equal(LIF(**{name: form})(z)[1], functional.lif(z, beta=0.75).state)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_the_weight_stays_input_major_while_it_is_trained(optimizer: type[torch.optim.Optimizer]) -> None:
    layer = layer_of(40, 33)
    step = optimizer(layer.parameters(), lr=0.01)
    for kind in ("packed", "sparse", "dense", "real"):
        x = {"packed": 0.2, "sparse": 0.2, "dense": 0.8, "real": 0.5}[kind]
        given = spike_train(6, 3, 40, density=x) * (0.5 if kind == "real" else 1)
        before = layer.weight.detach().clone()
        layer(PackedSpikes.pack(given) if kind == "packed" else given)[0].sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.stride() == (1, 33), kind
        step.step()
        step.zero_grad()
        assert layer.weight.stride() == (1, 33), kind
        assert not torch.equal(layer.weight, before)


def test_weights_of_any_strides_give_the_same_layer() -> None:
    layer, row_major = layer_of(40, 33), layer_of(40, 33)
    row_major.weight = nn.Parameter(layer.weight.detach().contiguous())
    assert row_major.weight.stride() == (40, 1)
    x = spike_train(6, 3, 40)
    for a, b in zip(layer(x), row_major(x), strict=True):
        assert torch.equal(a, b)


def test_state_dict_round_trips() -> None:
    layer = layer_of(40, 33, bias=True, beta=torch.linspace(0.5, 0.9, 33), learn_threshold=True)
    assert set(layer.state_dict()) == {"weight", "bias", "lif.beta", "lif.threshold"}
    x = spike_train(6, 3, 40)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    for assign in (False, True):
        file.seek(0)
        other = LIFLinear(40, 33, bias=True, beta=torch.zeros(33), learn_threshold=True)
        other.load_state_dict(torch.load(file, weights_only=True), assign=assign)
        assert other.weight.stride() == (1, 33)
        assert torch.equal(other(x)[1], layer(x)[1])
    other.load_state_dict({k: v.contiguous() for k, v in layer.state_dict().items()}, assign=True)  # row-major weights
    assert torch.equal(other(x)[1], layer(x)[1])


def test_copies_and_pickles_are_layers_of_their_own() -> None:
    layer = layer_of(40, 33, bias=True, tau=5.0, learn_beta=True, reset="subtract", surrogate="atan", slope=2.0)
    x = spike_train(6, 3, 40)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.weight.stride() == (1, 33)
        assert repr(other) == repr(layer)
        assert torch.equal(other(x)[1], layer(x)[1])
        with torch.no_grad():
            other.weight.zero_()
        assert float(layer.weight.detach().abs().sum()) > 0


def test_initialisation_is_that_of_linear() -> None:
    layer = LIFLinear(400, 300, bias=True, leak=0.1)
    assert layer.bias is not None
    for parameter in (layer.weight, layer.bias):
        assert float(parameter.detach().abs().max()) <= 1 / math.sqrt(400)
    # a uniform distribution's variance, 5 sigma of 120,000 draws
    assert float(layer.weight.detach().var()) * 400 * 3 == pytest.approx(1, abs=5 * math.sqrt(0.8 / 120_000))


@pytest.mark.parametrize("learn", [False, True])
def test_layers_made_without_memory_and_filled_later(learn: bool) -> None:
    with torch.device("meta"):
        layer = LIFLinear(40, 33, beta=0.75, threshold=0.5, learn_beta=learn, learn_threshold=learn)
    assert layer.weight.is_meta
    assert "in_features=40" in repr(layer)
    assert layer(torch.empty(6, 3, 40, device="meta"))[0].shape == (6, 3, 33)
    layer.to_empty(device="cpu")
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    z = uniform(5, 2, 33, dtype=torch.float32)
    assert torch.equal(layer.lif(z)[1], functional.lif(z, beta=0.75, threshold=0.5).state)


@pytest.mark.parametrize("name", ["leak", "beta", "tau", "threshold"])
@pytest.mark.parametrize("made", [lambda v: torch.nn.Parameter(v), lambda v: torch.nn.Parameter(v) * 1.0])
@pytest.mark.parametrize(
    "layer", [LIF, lambda **s: LIFLinear(8, 5, **s), lambda **s: NeuronParallelLIFLinear(8, 5, **s)]
)
def test_a_decay_or_threshold_with_a_graph_is_refused_or_learned(
    layer: Callable[..., torch.nn.Module], name: str, made: Callable[[Tensor], Tensor]
) -> None:
    # 45: it would be detached and never trained
    learn = "learn_threshold" if name == "threshold" else "learn_beta"
    settings = {name: made(torch.full((5,), 1.5 if name == "tau" else 0.5))}
    decay = {} if name != "threshold" else {"leak": 0.1}
    with pytest.raises(ValueError, match=rf"expected {name} as .* {learn}=True makes .*functional.lif\(z, {name}="):
        layer(**settings, **decay)
    learned = layer(**settings, **decay, **{learn: True})
    copy.deepcopy(learned)  # 48
    parameters = dict(learned.named_parameters())
    assert sum(key.endswith(learn.removeprefix("learn_")) for key in parameters) == 1
    with torch.no_grad():
        without_graph = settings[name] * 1.0
    layer(**{name: without_graph}, **decay)


def test_the_callers_tensors_are_copied() -> None:
    beta, threshold = torch.full((5,), 0.9), torch.full((5,), 1.1)
    layer = LIF(beta=beta, threshold=threshold, learn_beta=True)
    beta.fill_(0.1)
    threshold.fill_(0.1)
    layer.reset_parameters()
    assert layer.beta.tolist() == pytest.approx([0.9] * 5)
    assert layer.threshold.tolist() == pytest.approx([1.1] * 5)


def test_repr_says_the_settings() -> None:
    text = repr(LIFLinear(4, 3, leak=0.1, reset="subtract", surrogate="atan", slope=2))
    for part in ("in_features=4", "out_features=3", "bias=False", "beta=0.9", "reset=subtract", "atan", "slope=2"):
        assert part in text


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"leak": None}, TypeError, "exactly one of leak, beta and tau, got none"),
        ({"beta": 0.9}, TypeError, "exactly one of leak, beta and tau, got leak, beta"),
        ({"leak": 2.0}, ValueError, "leak: expected 0 <= leak <= 1, got 2.0"),
        ({"leak": None, "tau": 0.5}, ValueError, "tau: expected 1 <= tau <= inf, got 0.5"),
        ({"threshold": math.nan}, ValueError, "finite threshold, got nan"),
        ({"reset": "soft"}, ValueError, "reset as one of zero, subtract, none, got 'soft'"),
        ({"surrogate": "step"}, ValueError, "surrogate: expected one of sigmoid"),
        ({"slope": -1.0}, ValueError, "finite slope > 0, got -1.0"),
        ({"in_features": 0}, ValueError, "LIFLinear: expected in_features >= 1, got 0"),
        ({"out_features": -3}, ValueError, "LIFLinear: expected out_features >= 1, got -3"),
        ({"leak": torch.full((4,), 0.1)}, ValueError, r"\[3\], got \[4\]"),
        ({"threshold": torch.ones(2, 3)}, ValueError, r"got \[2, 3\]"),
    ],
)
def test_bad_settings_are_named_when_the_layer_is_made(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LIFLinear(**{"in_features": 5, "out_features": 3, "leak": 0.1, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_first", [False, True])
def test_bad_inputs_are_named(batch_first: bool) -> None:
    layer = LIFLinear(784, 10, leak=0.1, batch_first=batch_first)
    wanted = r"\[B, T, 784\]" if batch_first else r"\[T, B, 784\]"
    for x, error, message in (
        (torch.zeros(15, 100, 785), ValueError, rf"LIFLinear: expected x of shape {wanted}, got \[15, 100, 785\]"),
        (torch.zeros(100, 784), ValueError, rf"LIFLinear: expected x of shape {wanted}, got \[100, 784\]"),
        (PackedSpikes.pack(torch.zeros(2, 3, 785)), ValueError, rf"expected x of shape {wanted}, got \[2, 3, 785\]"),
        ([0.0], TypeError, "LIFLinear: expected x as a tensor or PackedSpikes, got list"),
        (torch.zeros(2, 3, 784).half(), TypeError, "x of dtype torch.float32, the weight's, got torch.float16"),
        (torch.zeros(2, 3, 784, device="meta"), ValueError, "x on cpu, got it on meta"),
    ):
        with pytest.raises(error, match=message):
            layer(x)
    with pytest.raises(ValueError, match=r"state of shape \[3, 10\], got \[2, 10\]"):
        layer(torch.zeros(3, 3, 784), torch.zeros(2, 10))
