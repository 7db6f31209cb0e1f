"""Operations counted one by one in small nets, against what is derived from firing rates."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("safetensors")

from spikefuse import data
from spikefuse.functional import poisson_encode
from spikefuse.packed import PackedSpikes
from spikefuse.paper import seeds
from spikefuse.paper.experiments import energy
from spikefuse.paper.experiments.jobs import ImageJob, SoundJob
from spikefuse.paper.models import Audiocoder, AudioToImage, SpikingAutoencoder, preset
from spikefuse.paper.training import audio_to_image
from spikefuse.paper.training import autoencoder as training
from spikefuse.paper.training.loop import STREAMS, TrainSettings

SAMPLES, STEPS = 3, 4
SETTINGS = TrainSettings(steps=STEPS, max_rate=0.8)


def counted(layers: list[PackedSpikes]) -> tuple[int, int]:
    """Additions of weights and updates of potentials, one by one, of a batch; the last layer's spikes reach nothing."""
    added = updated = 0
    for before, after in itertools.pairwise(layers):
        spikes, neurons = before.unpack(), after.shape[2]
        for t in range(spikes.shape[0]):
            for sample in range(spikes.shape[1]):
                for _ in range(neurons):
                    for spike in spikes[t, sample].tolist():
                        added += int(spike == 1)
                    updated += 1
    return added, updated


def test_an_autoencoder() -> None:
    model = SpikingAutoencoder(9, 5, preset("shared", 9).rule, init_bound=1.0, generator=seeds.weight_generator(1))
    images = torch.rand(SAMPLES, 9, generator=torch.Generator().manual_seed(0))
    inputs = poisson_encode(images * SETTINGS.max_rate, STEPS, seed=SETTINGS.seed, offset=STREAMS["test"])
    hidden = model.encode(inputs)
    added, updated = counted([inputs, hidden, model.decode(hidden)])
    assert hidden.density() > 0

    result = training.evaluate(model, images, SETTINGS)
    assert result.input_rate is not None
    assert result.hidden_rate is not None
    operations = energy.spiking([9, 5, 9], [result.input_rate, result.hidden_rate], STEPS)
    assert operations.synops == pytest.approx(added / SAMPLES)
    assert operations.updates == updated / SAMPLES
    assert operations.joules == pytest.approx((0.9 * added + (3.7 + 0.9) * updated) * 1e-12 / SAMPLES)


def test_a_net_that_makes_images_of_sound() -> None:
    generator = seeds.weight_generator(1)
    autoencoder = SpikingAutoencoder(9, 5, preset("shared", 9).rule, init_bound=1.0, generator=generator)
    model = AudioToImage(Audiocoder(12, 6, 5, init_bound=1.0, generator=generator), autoencoder)
    sounds = torch.rand(SAMPLES, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(SAMPLES) % 2
    pairs = data.pair("A", sounds, labels, torch.rand(2, 9), torch.arange(2))
    inputs = poisson_encode(sounds * SETTINGS.max_rate, STEPS, seed=SETTINGS.seed, offset=STREAMS["test"])
    spikes = model(inputs)
    added, updated = counted([inputs, spikes.hidden, spikes.code, spikes.output])
    assert spikes.code.density() > 0

    result = audio_to_image.evaluate(model, sounds, labels, pairs, SETTINGS)
    rates = [result.input_rate, result.hidden_rate, result.output_rate]
    operations = energy.spiking([12, 6, 5, 9], [rate or 0.0 for rate in rates], STEPS)
    assert operations.synops == pytest.approx(added / SAMPLES)
    assert operations.updates == updated / SAMPLES


def test_jobs_are_measured_at_their_own_sizes() -> None:
    image = ImageJob("digits", hidden=32, steps=10)
    rates = {"input_rate": 0.1, "hidden_rate": 0.2, "output_rate": 0.3}
    synops = 10 * (64 * 0.1 * 32 + 32 * 0.2 * 64)
    assert energy.measures(image, {"test": rates}) == {
        "operations": pytest.approx(synops),
        "microjoules": pytest.approx((0.9 * synops + 4.6 * 10 * (32 + 64)) * 1e-6),
    }
    sound = SoundJob(image, hidden=7, steps=20)
    synops = 20 * (58_500 * 0.1 * 7 + 7 * 0.2 * 32 + 32 * 0.3 * 64)
    measured = energy.measures(sound, {"test": rates})
    assert measured is not None
    assert measured["operations"] == pytest.approx(synops)
    artificial = dataclasses.replace(sound, autoencoder=dataclasses.replace(image, method="ann"))
    assert energy.measures(artificial, {"test": {}}) == {
        "operations": 58_500 * 7 + 7 * 32 + 32 * 64,
        "microjoules": pytest.approx((58_500 * 7 + 7 * 32 + 32 * 64) * 4.6e-6),
    }


def test_what_was_not_measured_is_not_guessed() -> None:
    assert energy.measures(ImageJob(), {"test": {"hidden_rate": 0.1}}) is None
    assert energy.measures(ImageJob(), {}) is None


@pytest.mark.parametrize(("layers", "rates"), [([5], []), ([5, 4], []), ([5, 4], [0.1, 0.1])])
def test_rates_must_fit(layers: list[int], rates: list[float]) -> None:
    with pytest.raises(ValueError, match="expected rates of all layers but the last"):
        energy.spiking(layers, rates, STEPS)
