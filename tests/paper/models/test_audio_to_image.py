"""Audiocoders, stored hidden maps, and the nets that make images of sound."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spikefuse import PackedSpikes, online, reference
from spikefuse.functional import poisson_encode
from spikefuse.online import OnlineRule
from spikefuse.paper.models import (
    ANNAudiocoder,
    ANNAudioToImage,
    ANNAutoencoder,
    ANNRule,
    Audiocoder,
    AudioToImage,
    HiddenMaps,
    ImageStream,
    SpikingAutoencoder,
    audiocoder_preset,
    hidden_maps,
    preset,
    quantized,
)

SOUND, HIDDEN, CODE, PIXELS, STEPS, BATCH = 60, 14, 10, 25, 12, 5
CHANNELS = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def autoencoder() -> SpikingAutoencoder:
    return SpikingAutoencoder(PIXELS, CODE, preset("shared", PIXELS).rule, init_bound=0.5, generator=generator(1))


def audiocoder(trace: str = "shared") -> Audiocoder:
    rule = audiocoder_preset(trace).rule
    return Audiocoder(SOUND, HIDDEN, CODE, rule, init_bound=0.5, generator=generator(2))


def model(duration: int = 5) -> AudioToImage:
    return AudioToImage(audiocoder(), autoencoder(), duration=duration, image_rate=0.6)


def sound(offset: int = 0, steps: int = STEPS) -> PackedSpikes:
    return poisson_encode(torch.rand(BATCH, SOUND, generator=generator(3)) * 0.5, steps, seed=4, offset=offset)


def pictures(count: int = 6) -> Tensor:
    return torch.rand(count, PIXELS, generator=generator(5))


def test_presets_are_the_papers() -> None:
    shared, gated = audiocoder_preset("shared"), audiocoder_preset("gated")
    assert shared.rule == OnlineRule(trace="shared", lr=5e-5, leak=0.1, eps=1e-7, weight_decay=0.0)
    assert gated.rule == OnlineRule(trace="gated", lr=5e-5, leak=0.1, eps=1e-8, weight_decay=1e-4)
    assert shared.rule.trace_divisor is None, "each layer's fan-in"
    assert (shared.init_bound, shared.max_rate) == (gated.init_bound, gated.max_rate) == (0.01, 0.02)
    with pytest.raises(ValueError, match="shared, gated, got 'mine'"):
        audiocoder_preset("mine")


def test_default_sizes_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[int]] = []
    # The first layer alone holds 480 MB.
    monkeypatch.setattr(torch.nn.init, "uniform_", lambda weight, *_, **__: made.append(list(weight.shape)))
    Audiocoder()
    assert made == [[58_500, 2_048], [2_048, 196]], "input-major"


class TestHiddenMaps:
    def test_step_t_shows_slice_t_mod_duration(self) -> None:
        # Neuron n of image m spikes at slice s where (s + m) mod 3 is n, so a slice tells where it came from.
        dense = torch.zeros(3, 2, 3)
        for s in range(3):
            for m in range(2):
                dense[s, m, (s + m) % 3] = 1
        targets = HiddenMaps(PackedSpikes.pack(dense)).targets(torch.tensor([1, 0, 1]), steps=7)
        shown = targets.unpack().argmax(2)
        for t in range(1, 8):
            assert shown[t - 1].tolist() == [(t % 3 + m) % 3 for m in (1, 0, 1)]

    @pytest.mark.parametrize(("duration", "compression"), [(15, 2.1), (10, 3.2), (5, 6.4), (2, 16.0), (1, 32.0)])
    def test_compression_is_the_papers(self, duration: int, compression: float) -> None:
        maps = HiddenMaps(PackedSpikes.pack(torch.zeros(15, 1, 196))).first(duration)
        assert maps.compression(784) == pytest.approx(compression, abs=0.05)

    def test_maps_are_the_first_hidden_spikes_of_the_autoencoder(self) -> None:
        net = autoencoder()
        maps = hidden_maps(net, pictures(), duration=8, max_rate=0.6, seed=9)
        assert maps.spikes == net.encode(poisson_encode(pictures() * 0.6, 8, seed=9))
        assert 0.02 < maps.spikes.density() < 0.98, "or the comparison says nothing"
        assert maps.first(3).spikes == hidden_maps(net, pictures(), duration=3, max_rate=0.6, seed=9).spikes

    def test_refusals(self) -> None:
        maps = HiddenMaps(PackedSpikes.pack(torch.zeros(4, 2, 3)))
        with pytest.raises(ValueError, match="duration of 1 to 4, got 5"):
            maps.first(5)
        with pytest.raises(ValueError, match=r"indices \[B\] of 0 to 1"):
            maps.targets(torch.tensor([0, 2]), 3)
        with pytest.raises(TypeError, match="int64"):
            maps.targets(torch.tensor([0.0]), 3)
        with pytest.raises(ValueError, match="steps >= 0, got -1"):
            maps.targets(torch.tensor([0]), -1)
        with pytest.raises(ValueError, match=r"Th >= 1, M, H\], got \[0, 2, 3\]"):
            HiddenMaps(PackedSpikes.pack(torch.zeros(0, 2, 3)))
        with pytest.raises(ValueError, match="duration >= 1, got 0"):
            hidden_maps(autoencoder(), pictures(), duration=0, max_rate=0.3, seed=0)
        with pytest.raises(ValueError, match="max_rate <= 1, got 2"):
            hidden_maps(autoencoder(), pictures(), duration=1, max_rate=2, seed=0)


class TestQuantized:
    @pytest.mark.parametrize("bits", [1, 2, 5, 10, 15])
    def test_levels_are_evenly_spaced_from_0_to_the_largest(self, bits: int) -> None:
        hidden = torch.rand(400, 7, generator=generator(), dtype=torch.float64) * 3
        steps = quantized(hidden, bits) / hidden.max() * (2**bits - 1)
        assert torch.allclose(steps, steps.round(), atol=1e-6)
        assert (quantized(hidden, bits) - hidden).abs().max() <= float(hidden.max()) / (2**bits - 1) / 2 * 1.0001
        assert float(quantized(hidden, bits).max()) == pytest.approx(float(hidden.max()))

    def test_sixteen_bits_are_half_precision(self) -> None:
        hidden = torch.tensor([[0.1, 1.0, 2049.0]])
        assert torch.equal(quantized(hidden, 16), torch.tensor([[0.0999755859375, 1.0, 2048.0]]))

    def test_silence_and_refusals(self) -> None:
        assert not quantized(torch.zeros(2, 3), 1).any()
        for bits in (0, 17):
            with pytest.raises(ValueError, match=f"bits of 1 to 16, got {bits}"):
                quantized(torch.zeros(1, 1), bits)
        for bad in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="finite hidden values >= 0"):
                quantized(torch.tensor([[bad]]), 2)


class TestAudioToImage:
    def test_three_lif_layers(self) -> None:
        net, x = model(), sound()
        result = net(x)
        at = x.unpack(torch.float64)
        rule = net.audiocoder.rule
        for weight, spikes in (
            (net.audiocoder.first_weight, result.hidden),
            (net.audiocoder.second_weight, result.code),
            (net.autoencoder.decoder_weight, result.output),
        ):
            at = reference.lif(at @ weight.double().T, decay=1 - rule.leak, threshold=rule.threshold)[0]
            assert 0.02 < spikes.density() < 0.98, "or the comparison says nothing"
            assert torch.equal(spikes.unpack(torch.float64), at)
        assert net.autoencoder.decode(net.audiocoder(x)) == result.output
        assert net(x.unpack()).output == result.output, "dense inputs too"

    @pytest.mark.parametrize("trace", ["shared", "gated"])
    def test_learning_is_the_online_rule_towards_the_repeated_map(self, trace: str) -> None:
        net = AudioToImage(audiocoder(trace), autoencoder(), duration=5, image_rate=0.6)
        maps, images = net.hidden_maps(pictures(), seed=1), torch.tensor([0, 3, 3, 5, 1])
        weights = [weight.clone() for weight in net.audiocoder.weights]
        decoder = net.autoencoder.decoder_weight.clone()
        expected = online.online_batch_(weights, sound(), maps.targets(images, STEPS), net.audiocoder.rule)
        assert net.learn_(sound(), maps, images).loss == expected.loss
        for mine, theirs in zip(net.audiocoder.weights, weights, strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(net.autoencoder.decoder_weight, decoder)

    def test_it_learns_to_emit_the_map(self) -> None:
        net = model()
        net.audiocoder.rule = OnlineRule(lr=2e-3)
        maps, images = net.hidden_maps(pictures(), seed=1), torch.arange(BATCH)
        wanted = maps.targets(images, STEPS).counts().float()

        def off() -> float:
            return float((net(sound(10_000)).code.counts() - wanted).square().mean())

        before = off()
        for batch in range(150):
            net.learn_(sound(batch), maps, images)
        assert off() < 0.6 * before

    def test_config_makes_the_same_model_and_leaves_the_global_generator_alone(self) -> None:
        state = torch.get_rng_state()
        made = AudioToImage.from_config(model(7).config())
        assert made.config() == model(7).config()
        assert (made.duration, made.image_rate, made.in_features, made.image_features) == (7, 0.6, SOUND, PIXELS)
        artificial = ANNAudioToImage.from_config(self.artificial(3).config())
        assert artificial.config() == self.artificial(3).config()
        assert torch.equal(state, torch.get_rng_state())

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="audiocoder of 10 outputs, the autoencoder's hidden, got 9"):
            AudioToImage(Audiocoder(SOUND, HIDDEN, 9), autoencoder())
        with pytest.raises(ValueError, match="duration >= 1, got 0"):
            AudioToImage(audiocoder(), autoencoder(), duration=0)
        with pytest.raises(ValueError, match="image_rate <= 1, got 0"):
            AudioToImage(audiocoder(), autoencoder(), image_rate=0)
        with pytest.raises(ValueError, match=r"shape \[T, B, 60\], got \[2, 1, 61\]"):
            model()(torch.zeros(2, 1, 61))
        with pytest.raises(ValueError, match="hidden_features >= 1, got 0"):
            Audiocoder(SOUND, 0, CODE)
        with pytest.raises(ValueError, match="init_bound > 0, got inf"):
            Audiocoder(SOUND, 1, CODE, init_bound=float("inf"))
        with pytest.raises(ValueError, match="bits of 1 to 16, got 17"):
            self.artificial(17)

    def artificial(self, bits: int, optimizer: str = "adam") -> ANNAudioToImage:
        coder = ANNAudiocoder(SOUND, HIDDEN, CODE, ANNRule(optimizer, 5e-3), init_bound=0.3, generator=generator(2))
        net = ANNAutoencoder(PIXELS, CODE, ANNRule(), init_bound=0.3, generator=generator(1))
        return ANNAudioToImage(coder, net, bits=bits)

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_artificial_one_learns_hidden_vectors(self, optimizer: str) -> None:
        net = self.artificial(2, optimizer)
        targets = net.hidden_vectors(pictures())
        assert len(targets.unique()) <= 4, "two bits"
        rates, images = torch.rand(BATCH, SOUND, generator=generator(3)), torch.arange(BATCH)
        losses = [net.learn_(rates, targets, images).loss for _ in range(300)]
        assert losses[-1] < 0.7 * losses[0]
        assert torch.equal(net(rates), net.autoencoder.decode(net.audiocoder(rates)))

    def test_artificial_audiocoder_refuses_other_shapes(self) -> None:
        coder = self.artificial(16).audiocoder
        with pytest.raises(ValueError, match=r"rates of shape \[B, 60\], got \[2, 61\]"):
            coder.learn_(torch.zeros(2, 61), torch.zeros(2, CODE))
        with pytest.raises(ValueError, match=r"targets of shape \[2, 10\], got \[2, 9\]"):
            coder.learn_(torch.zeros(2, SOUND), torch.zeros(2, 9))


class TestImageStream:
    def test_pieces_give_what_the_whole_gives(self) -> None:
        net, x = model(), sound()
        stream = ImageStream(net, batch=BATCH, channels=CHANNELS)
        for piece in (x[:1], x[1:4], x[4:4], x[4:]):
            image = stream.feed(piece)
        assert torch.equal(image, net(x).output.counts())
        assert image.any(), "or the comparison says nothing"
        assert stream.steps == STEPS

    def test_frames_sound_from_when_they_are_heard(self) -> None:
        net = model()
        frames = torch.rand(SOUND // CHANNELS, CHANNELS, generator=generator(6)) * 40
        stream = ImageStream(net, channels=CHANNELS, max_rate=0.8, seed=5)
        stream.hear(frames[:8], steps=3)
        image = stream.hear(frames[8:], steps=4)

        heard = torch.zeros(SOUND // CHANNELS, CHANNELS)
        heard[:8] = frames[:8]
        rates = [heard / heard.max(), frames / frames.max()]
        spikes = [poisson_encode(rates[t >= 3].reshape(1, -1) * 0.8, 1, seed=5, offset=t).unpack() for t in range(7)]
        assert torch.equal(image, net(torch.cat(spikes)).output.counts())
        assert (stream.frames, stream.steps) == (SOUND // CHANNELS, 7)

    def test_how_steps_are_cut_into_calls_changes_nothing(self) -> None:
        frames = torch.rand(SOUND // CHANNELS, CHANNELS, generator=generator(6))
        stream = ImageStream(model(), channels=CHANNELS, max_rate=0.8)
        whole = stream.hear(frames, steps=6)
        assert whole.any()
        stream.restart()
        assert not stream.counts.any()
        stream.hear(frames, steps=1)
        stream.run(2)
        assert torch.equal(stream.run(3), whole)

    def test_silence_gives_no_spike_and_no_nan(self) -> None:
        assert not ImageStream(model(), channels=CHANNELS).hear(torch.zeros(4, CHANNELS), steps=5).any()

    def test_refusals_change_nothing(self) -> None:
        stream = ImageStream(model(), channels=CHANNELS)
        for frames, message in (
            (torch.zeros(3, 4), r"\[1, n, 3\], got \[3, 4\]"),
            (torch.zeros(21, CHANNELS), "at most 20 frames in all, got 21"),
            (torch.full((1, CHANNELS), -1.0), "finite frames >= 0"),
            (torch.full((1, CHANNELS), float("nan")), "finite frames >= 0"),
        ):
            with pytest.raises(ValueError, match=message):
                stream.hear(frames, steps=1)
            assert (stream.frames, stream.steps) == (0, 0)
        for arguments, message in (
            ({"batch": 0}, "batch >= 1, got 0"),
            ({"channels": 7}, "divide the model's 60 inputs, got 7"),
            ({"channels": CHANNELS, "max_rate": 0.0}, "max_rate <= 1, got 0"),
        ):
            with pytest.raises(ValueError, match=message):
                ImageStream(model(), **arguments)  # type: ignore[arg-type]
