"""The spiking autoencoder and the artificial one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from spikefuse import PackedSpikes, online, reference
from spikefuse.functional import poisson_encode
from spikefuse.online import OnlineRule
from spikefuse.paper import metrics
from spikefuse.paper.models import ANNAutoencoder, ANNRule, SpikingAutoencoder, preset

FEATURES, HIDDEN, STEPS, BATCH = 40, 12, 9, 6


def spikes(offset: int = 0, features: int = FEATURES) -> PackedSpikes:
    bright = torch.rand(BATCH, features, generator=torch.Generator().manual_seed(7)) < 0.3
    return poisson_encode(0.6 * bright, STEPS, seed=3, offset=offset)


def spiking(trace: str = "shared", seed: int = 0, bound: float | None = 0.3) -> SpikingAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    return SpikingAutoencoder(FEATURES, HIDDEN, preset(trace, FEATURES).rule, init_bound=bound, generator=generator)


def reference_lif(x: Tensor, weight: Tensor, rule: OnlineRule) -> Tensor:
    return reference.lif(x @ weight.T, decay=1 - rule.leak, threshold=rule.threshold)[0]


def test_presets_are_the_papers() -> None:
    shared, gated = preset("shared", 784), preset("gated", 784)
    assert shared.rule == OnlineRule(trace="shared", trace_divisor=784.0, eps=1e-7, weight_decay=0.0, lr=5e-4, leak=0.1)
    assert (shared.rule.clamps, shared.init_bound, shared.max_rate) == (True, 0.1, 0.3)
    assert gated.rule == OnlineRule(trace="gated", eps=1e-8, weight_decay=1e-4, lr=5e-4, leak=0.1)
    assert (gated.rule.clamps, gated.init_bound, gated.max_rate) == (False, None, 1.0)


def test_preset_refuses_what_there_is_not() -> None:
    with pytest.raises(ValueError, match="trace as one of shared, gated, got 'mine'"):
        preset("mine")
    with pytest.raises(ValueError, match="in_features >= 1, got 0"):
        preset("shared", 0)


@pytest.mark.parametrize("bound", [0.3, None])
def test_initial_weights_fill_their_bounds(bound: float | None) -> None:
    model = spiking(bound=bound)
    for weight, fan_in in ((model.encoder_weight, FEATURES), (model.decoder_weight, HIDDEN)):
        limit = fan_in**-0.5 if bound is None else bound
        assert 0.9 * limit < weight.abs().max() <= limit
        assert weight.stride() == (1, weight.shape[0]), "input-major"
        assert not weight.requires_grad


def test_same_generator_same_weights() -> None:
    assert torch.equal(spiking(seed=1).encoder_weight, spiking(seed=1).encoder_weight)
    assert not torch.equal(spiking(seed=1).encoder_weight, spiking(seed=2).encoder_weight)


def test_encode_and_decode_are_lif_layers() -> None:
    model, x = spiking(), spikes()
    hidden = model.encode(x)
    output = model.decode(hidden)
    assert hidden.shape == (STEPS, BATCH, HIDDEN)
    assert 0.05 < hidden.density() < 0.95, "or the comparison says nothing"
    # float64: no sum may land on the other side of the threshold for its rounding
    expected = reference_lif(x.unpack(torch.float64), model.encoder_weight.double(), model.rule)
    assert torch.equal(hidden.unpack(torch.float64), expected)
    expected = reference_lif(hidden.unpack(torch.float64), model.decoder_weight.double(), model.rule)
    assert torch.equal(output.unpack(torch.float64), expected)
    assert model(x) == output
    assert model(x.unpack()) == output, "dense inputs too"


@pytest.mark.parametrize("trace", ["shared", "gated"])
def test_learn_is_the_online_rule(trace: str) -> None:
    model = spiking(trace)
    weights = [weight.detach().clone() for weight in model.weights]
    expected = online.online_batch_(weights, spikes(), spikes(), model.rule)
    stats = model.learn_(spikes())
    assert stats.loss == expected.loss
    assert torch.equal(model.encoder_weight, weights[0])
    assert torch.equal(model.decoder_weight, weights[1])


def test_learn_takes_other_targets() -> None:
    model, other = spiking(), spiking()
    model.learn_(spikes(0))
    other.learn_(spikes(0), spikes(1))
    assert not torch.equal(model.decoder_weight, other.decoder_weight)


@pytest.mark.parametrize("trace", ["shared", "gated"])
def test_learning_brings_the_output_closer_to_the_input(trace: str) -> None:
    model = spiking(trace)
    before = metrics.spike_mse(model(spikes()).counts(), spikes().counts())
    for batch in range(150):
        model.learn_(spikes(batch))
    after = metrics.spike_mse(model(spikes(1000)).counts(), spikes(1000).counts())
    assert after < 0.6 * before


def test_state_dict_brings_the_weights_into_the_same_layout() -> None:
    model, other = spiking(seed=1), spiking(seed=2)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.encoder_weight, other.encoder_weight)
    for kept in (other, copy.deepcopy(model), spiking().double()):
        assert kept.encoder_weight.stride() == (1, HIDDEN)
    assert set(model.state_dict()) == {"encoder_weight", "decoder_weight"}


def test_config_makes_the_same_model_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    made = SpikingAutoencoder.from_config(spiking("gated", bound=None).config())
    assert (made.in_features, made.hidden_features, made.rule) == (FEATURES, HIDDEN, preset("gated").rule)
    assert made.init_bound is None
    ANNAutoencoder.from_config(ANNAutoencoder(4, 2, ANNRule(), generator=torch.Generator()).config())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "in_features >= 1, got 0"),
        ({"hidden_features": -1}, "hidden_features >= 1, got -1"),
        ({"init_bound": 0.0}, "init_bound > 0 or None, got 0.0"),
        ({"init_bound": float("nan")}, "init_bound > 0 or None, got nan"),
    ],
)
def test_bad_sizes(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpikingAutoencoder(**{"in_features": 4, "hidden_features": 2, "rule": OnlineRule(), **arguments})  # type: ignore[arg-type]


def test_bad_dtype() -> None:
    with pytest.raises(TypeError, match=r"float32 or float64, got torch\.float16"):
        SpikingAutoencoder(4, 2, OnlineRule(), dtype=torch.float16)


def test_bad_inputs_name_their_shape() -> None:
    with pytest.raises(ValueError, match=r"\[12, 41\]|41"):
        spiking().encode(spikes(features=41))
    with pytest.raises(ValueError, match="targets"):
        spiking().learn_(spikes(), spikes(features=41))


def test_empty_batch_and_no_steps() -> None:
    model = spiking()
    before = model.encoder_weight.clone()
    for shape in ((0, 3, FEATURES), (4, 0, FEATURES)):
        x = torch.zeros(shape)
        assert model(x).shape == shape
        model.learn_(x)
    assert torch.equal(model.encoder_weight, before)


class TestANN:
    def images(self) -> Tensor:
        return torch.rand(30, FEATURES, generator=torch.Generator().manual_seed(0))

    def model(self, **rule: float | str) -> ANNAutoencoder:
        return ANNAutoencoder(FEATURES, HIDDEN, ANNRule(**rule), generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]

    def test_forward_is_two_relu_layers(self) -> None:
        model, x = self.model(), self.images()
        hidden = (x @ model.encoder_weight.T).clamp(min=0)
        torch.testing.assert_close(model(x), (hidden @ model.decoder_weight.T).clamp(min=0))
        assert model.encoder_weight.abs().max() <= 0.01

    @pytest.mark.parametrize(("optimizer", "lr"), [("adam", 0.01), ("sgd", 0.05)])
    def test_learns(self, optimizer: str, lr: float) -> None:
        model, x = self.model(optimizer=optimizer, lr=lr), self.images()
        losses = [model.learn_(x).loss for _ in range(300)]
        assert losses[-1] < 0.6 * losses[0]

    def test_one_sgd_step_is_the_gradient_of_half_the_squared_error(self) -> None:
        model, x = self.model(optimizer="sgd", lr=0.5, weight_decay=0.1), self.images()
        w1, w2 = (w.detach().clone().requires_grad_() for w in (model.encoder_weight, model.decoder_weight))
        output = torch.relu(torch.relu(x @ w1.T) @ w2.T)
        (0.5 * (output - x).square().sum(1).mean()).backward()
        stats = model.learn_(x)
        assert torch.equal(stats.outputs, output)
        assert w1.grad is not None
        torch.testing.assert_close(model.encoder_weight, w1 - 0.5 * (w1.grad + 0.1 * w1))

    def test_optimizer_state_goes_on_where_it_was(self) -> None:
        model, other, x = self.model(), self.model(), self.images()
        for _ in range(3):
            model.learn_(x)
        other.load_state_dict(model.state_dict())
        other.load_optimizer_state_({name: value.clone() for name, value in model.optimizer_state().items()})
        model.learn_(x)
        other.learn_(x)
        assert torch.equal(model.encoder_weight, other.encoder_weight)
        assert self.model(optimizer="sgd").optimizer_state() == {}

    def test_foreign_optimizer_state_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"'bias\.exp_avg'"):
            self.model().load_optimizer_state_({"bias.exp_avg": torch.zeros(3)})
        with pytest.raises(ValueError, match=r"shape \[3\] fits no parameter"):
            self.model().load_optimizer_state_({"encoder_weight.exp_avg": torch.zeros(3)})

    def test_divergence_is_told(self) -> None:
        model = self.model(optimizer="sgd", lr=1e20)
        model.learn_(self.images())
        with pytest.raises(FloatingPointError, match=r"lr = 1e\+20"):
            model.learn_(self.images())

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match=r"\[B, 40\], got \[2, 41\]"):
            self.model().learn_(torch.zeros(2, 41))
        with pytest.raises(ValueError, match=r"got \[0, 40\]"):
            self.model().learn_(torch.zeros(0, 40))
        with pytest.raises(ValueError, match="adam, sgd, got 'adamw'"):
            ANNRule(optimizer="adamw")
        with pytest.raises(ValueError, match="lr >= 0, got -1"):
            ANNRule(lr=-1)
        with pytest.raises(ValueError, match="hidden_features >= 1, got 0"):
            ANNAutoencoder(4, 0, ANNRule())
        with pytest.raises(ValueError, match="init_bound > 0, got inf"):
            ANNAutoencoder(4, 2, ANNRule(), init_bound=float("inf"))
