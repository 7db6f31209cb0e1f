"""Training of nets that make images of sound: pairs, scores, runs, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("safetensors")

from safetensors.torch import save as save_tensors

from spikefuse._io import safetensors_file
from spikefuse._io.safetensors_file import CheckpointError
from spikefuse.data import Pairs, pair
from spikefuse.functional import poisson_encode
from spikefuse.online import OnlineRule
from spikefuse.paper import metrics
from spikefuse.paper.models import (
    ANNAudiocoder,
    ANNAudioToImage,
    ANNAutoencoder,
    ANNRule,
    Audiocoder,
    AudioToImage,
    SpikingAutoencoder,
    digit_classifier,
)
from spikefuse.paper.seeds import derived_seed, weight_generator
from spikefuse.paper.training import checkpoint
from spikefuse.paper.training.audio_to_image import SynthesisTrainer, baselines, evaluate, synthesize
from spikefuse.paper.training.autoencoder import Trainer
from spikefuse.paper.training.loop import STREAMS, TrainSettings

CLASSES, SOUND, PIXELS, CODE = 4, 80, 36, 16
SETTINGS = TrainSettings(epochs=2, batch_size=10, steps=20, max_rate=0.3, seed=3)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def sounds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy copies of one sparse cochleagram for each class."""
    labels = torch.arange(count) % CLASSES
    patterns = (random(CLASSES, SOUND, seed=1) < 0.25).float()
    return (patterns[labels] * (0.5 + 0.5 * random(count, SOUND, seed=seed))), labels


def picture_classes(count: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % CLASSES
    patterns = (random(CLASSES, PIXELS, seed=2) < 0.4).float()
    return patterns[labels] * (0.6 + 0.4 * random(count, PIXELS, seed=4)), labels


def pairs(dataset: str = "A") -> Pairs:
    return pair(dataset, *sounds(44, seed=5), *picture_classes(60))


@pytest.fixture(scope="module")
def autoencoder() -> SpikingAutoencoder:
    rule = OnlineRule(trace="shared", trace_divisor=float(PIXELS), lr=2e-3)
    model = SpikingAutoencoder(PIXELS, CODE, rule, init_bound=0.2, generator=weight_generator(0))
    Trainer(model, picture_classes(400)[0], TrainSettings(epochs=8, batch_size=10, max_rate=0.5)).run()
    return model


def spiking(autoencoder: SpikingAutoencoder, bound: float = 0.1) -> AudioToImage:
    coder = Audiocoder(SOUND, 24, CODE, OnlineRule(lr=2e-3), init_bound=bound, generator=weight_generator(1))
    return AudioToImage(coder, autoencoder, duration=5, image_rate=0.5)


def artificial(optimizer: str = "adam") -> ANNAudioToImage:
    net = ANNAutoencoder(PIXELS, CODE, ANNRule(), init_bound=0.2, generator=weight_generator(0))
    rule = ANNRule(optimizer, 0.01, 1e-4)
    return ANNAudioToImage(ANNAudiocoder(SOUND, 24, CODE, rule, init_bound=0.1, generator=weight_generator(1)), net)


class TestPairs:
    def test_a_pairs_each_class_with_its_first_image(self) -> None:
        made = pairs("A")
        assert torch.equal(made.images, picture_classes(60)[0][:CLASSES])
        assert torch.equal(made.image_labels[made.chosen], made.labels)
        assert torch.equal(made.chosen, made.labels)

    def test_b_pairs_each_sound_with_an_image_of_its_own(self) -> None:
        made = pairs("B")
        images, labels = picture_classes(60)
        assert len(made.images) == 44
        assert len(made.chosen.unique()) == 44
        assert torch.equal(made.image_labels[made.chosen], made.labels)
        third_of_class_2 = (made.labels == 2).nonzero()[2, 0]
        assert torch.equal(made.images[made.chosen[third_of_class_2]], images[labels == 2][2])

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="dataset as one of A, B, got 'C'"):
            pair("C", *sounds(4, 0), *picture_classes(4))
        with pytest.raises(ValueError, match="one label for each of 4 sounds and 4 images, got 3 and 4"):
            pair("A", sounds(4, 0)[0], torch.zeros(3, dtype=torch.int64), *picture_classes(4))
        with pytest.raises(ValueError, match="at least 2 images of class 0, got 1"):
            pair("B", *sounds(8, 0), *picture_classes(4))

    def test_fingerprint_tells_pairs_apart(self) -> None:
        assert pairs().fingerprint == pairs().fingerprint
        assert pairs("A").fingerprint != pairs("B").fingerprint
        other = pairs()
        other.chosen[0] = (other.chosen[0] + 1) % CLASSES
        assert other.fingerprint != pairs().fingerprint


class TestScores:
    def test_nearest_mse_is_the_lowest_of_all_pairs(self) -> None:
        outputs, labels = random(7, PIXELS, seed=8), torch.arange(7) % CLASSES
        images, image_labels = picture_classes(30)
        lowest = metrics.nearest_mse(outputs, labels, images, image_labels)
        for i in range(7):
            candidates = images[image_labels == labels[i]]
            expected = min(metrics.mse(outputs[i : i + 1], image.unsqueeze(0)) for image in candidates)
            assert float(lowest[i]) == pytest.approx(expected, abs=1e-12)

    def test_of_one_image_a_class_it_is_the_mse(self) -> None:
        outputs, made = random(7, PIXELS, seed=8), pairs("A")
        labels = torch.arange(7) % CLASSES
        lowest = metrics.nearest_mse(outputs, labels, made.images, made.image_labels)
        assert float(lowest.mean()) == pytest.approx(metrics.mse(outputs, made.images[labels]), abs=1e-12)

    def test_silence_scores_one(self) -> None:
        made = pairs("A")
        silent = torch.zeros(3, PIXELS)
        scores = metrics.nearest_mse(silent, torch.tensor([0, 1, 2]), made.images, made.image_labels)
        assert torch.allclose(scores, torch.ones(3, dtype=torch.float64))

    def test_refusals(self) -> None:
        made = pairs("A")
        with pytest.raises(ValueError, match="at least one image of class 9, got none"):
            metrics.nearest_mse(made.images, torch.full((CLASSES,), 9), made.images, made.image_labels)
        with pytest.raises(ValueError, match="images of shape"):
            metrics.nearest_mse(random(2, 5), torch.zeros(2), made.images, made.image_labels)

    def test_baselines_are_the_mean_image_and_all_classes_in_turn(self) -> None:
        made, labels = pairs("A"), torch.tensor([0, 0, 3])
        scores = baselines(labels, made)
        mean = made.images[made.chosen].mean(0, keepdim=True)
        wanted = made.images[labels]
        assert scores.mean_image == pytest.approx(metrics.mse(mean.expand(3, -1), wanted), abs=1e-6)
        each = [metrics.mse(image.unsqueeze(0).expand(3, -1), wanted) for image in made.images]
        assert scores.random_class == pytest.approx(sum(each) / CLASSES, abs=1e-9)


class TestTraining:
    def test_a_batch_is_the_online_rule_on_its_own_poisson_stream(self, autoencoder: SpikingAutoencoder) -> None:
        trainer, other = SynthesisTrainer(spiking(autoencoder), pairs("B"), SETTINGS), spiking(autoencoder)
        record = [trainer.step(), trainer.step()][1]
        maps = other.hidden_maps(pairs("B").images, derived_seed(3, "hidden maps"))
        generator = torch.Generator().manual_seed(derived_seed(3, "order", 0))
        for i, chosen in enumerate(torch.randperm(44, generator=generator).split(10)[:2]):
            inputs = poisson_encode(pairs().rates[chosen] * 0.3, 20, seed=3, offset=i)
            stats = other.learn_(inputs, maps, pairs("B").chosen[chosen])
        assert torch.equal(trainer.model.state_dict()["audiocoder.first_weight"], other.audiocoder.first_weight)
        assert record["loss"] == stats.loss
        assert record["error_zeros"] == stats.error_zeros
        assert [record["hidden_rate"], record["output_rate"]] == stats.firing_rates

    @pytest.mark.parametrize("dataset", ["A", "B"])
    def test_it_learns_to_call_up_images_better_than_answers_that_do_not_listen(
        self, dataset: str, autoencoder: SpikingAutoencoder
    ) -> None:
        made, (rates, labels) = pairs(dataset), sounds(20, seed=77)
        settings = TrainSettings(epochs=12, batch_size=10, steps=20, max_rate=0.3)
        trainer = SynthesisTrainer(spiking(autoencoder), made, settings)
        before = evaluate(trainer.model, rates, labels, made, settings).mse
        trainer.run()
        after = evaluate(trainer.model, rates, labels, made, settings)
        scores = baselines(labels, made)
        assert after.mse < 0.8 * min(scores.mean_image, scores.random_class, before)
        assert after.output_rate is not None
        assert 0 < after.output_rate < 1

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_the_artificial_one_learns(self, optimizer: str) -> None:
        trainer = SynthesisTrainer(artificial(optimizer), pairs(), TrainSettings(epochs=40, batch_size=10))
        trainer.run()
        assert trainer.history["loss"][-1] < 0.5 * trainer.history["loss"][0]
        evaluation = evaluate(trainer.model, *sounds(20, seed=77), pairs(), SETTINGS)
        assert evaluation.hidden_rate is None

    def test_evaluation_draws_afresh_and_asks_the_recogniser(self, autoencoder: SpikingAutoencoder) -> None:
        model, (rates, labels) = spiking(autoencoder, bound=0.5), sounds(120, seed=9)  # or nothing spikes
        asked: list[Tensor] = []

        def recognise(images: Tensor) -> Tensor:
            asked.append(images)
            return torch.zeros(len(images), dtype=torch.int64)

        result = evaluate(model, rates, labels, pairs(), SETTINGS, recognise=recognise)
        assert result.recognised == pytest.approx(1 / CLASSES)
        parts = [synthesize(model, rates[:100], SETTINGS, STREAMS["test"])]
        parts += [synthesize(model, rates[100:], SETTINGS, STREAMS["test"] + 1)]
        assert torch.equal(asked[0], torch.cat([part.images for part in parts]))
        expected = (100 * (parts[0].hidden_rate or 0) + 20 * (parts[1].hidden_rate or 0)) / 120
        assert result.hidden_rate == pytest.approx(expected)
        assert result.input_rate == pytest.approx(float(rates.mean()) * SETTINGS.max_rate, rel=0.05)
        errors = [[metrics.mse(image[None], other[None]) for other in pairs().images] for image in asked[0]]
        right = [
            pairs().image_labels[int(torch.tensor(row).argmin())] == label
            for row, label in zip(errors, labels, strict=True)
        ]
        assert result.nearest == pytest.approx(sum(map(bool, right)) / len(right))
        assert evaluate(model, rates, labels, pairs(), SETTINGS, stream="train").mse != result.mse

    def test_refusals(self, autoencoder: SpikingAutoencoder) -> None:
        model = spiking(autoencoder)
        with pytest.raises(ValueError, match=r"rates of shape \[N, 80\], got \[4, 9\]"):
            SynthesisTrainer(model, pair("A", random(4, 9), torch.arange(4), *picture_classes(4)), SETTINGS)
        with pytest.raises(ValueError, match="images of 36 pixels, got 5"):
            SynthesisTrainer(model, pair("A", *sounds(4, 0), random(4, 5), torch.arange(4)), SETTINGS)
        with pytest.raises(ValueError, match=r"rates of shape \[B, 80\], got \[2, 81\]"):
            synthesize(model, random(2, 81), SETTINGS, 0)
        with pytest.raises(ValueError, match="at least one sound, got 0 labels"):
            evaluate(model, random(0, SOUND), torch.zeros(0, dtype=torch.int64), pairs(), SETTINGS)
        with pytest.raises(ValueError, match="stream as one of train, test, pictures, got 'other'"):
            evaluate(model, *sounds(4, 0), pairs(), SETTINGS, stream="other")


class TestCheckpoint:
    @pytest.mark.parametrize("kind", ["spiking", "adam", "sgd"])
    def test_a_resumed_run_ends_as_if_it_had_never_stopped(
        self, kind: str, tmp_path: Path, autoencoder: SpikingAutoencoder
    ) -> None:
        def make() -> AudioToImage | ANNAudioToImage:
            return spiking(autoencoder) if kind == "spiking" else artificial(kind)

        straight = SynthesisTrainer(make(), pairs("B"), SETTINGS)
        straight.run()
        stopped = SynthesisTrainer(make(), pairs("B"), SETTINGS)
        stopped.run(until=3)
        stopped.measured.append({"epoch": 0, "mse": 0.5})
        kept = checkpoint.load_audio_to_image(
            checkpoint.save_audio_to_image(tmp_path / "r.safetensors", stopped, {"corpus": "x"})
        )
        resumed = kept.resume(pairs("B"))
        assert (resumed.batch, resumed.measured, kept.run) == (3, [{"epoch": 0, "mse": 0.5}], {"corpus": "x"})
        resumed.run()
        assert resumed.history == straight.history
        for name, weight in straight.model.state_dict().items():
            assert torch.equal(weight, resumed.model.state_dict()[name]), name
        first, second = (evaluate(run.model, *sounds(8, 1), pairs("B"), SETTINGS) for run in (straight, resumed))
        assert first == second

    def test_refusals(self, tmp_path: Path, autoencoder: SpikingAutoencoder) -> None:
        trainer = SynthesisTrainer(spiking(autoencoder), pairs(), SETTINGS)
        trainer.run(until=6)
        kept = checkpoint.load_audio_to_image(checkpoint.save_audio_to_image(tmp_path / "r.safetensors", trainer))
        with pytest.raises(ValueError, match="the 44 pairs of sound and image that the run was on, got 44 others"):
            kept.resume(pairs("B"))
        with pytest.raises(ValueError, match="epochs >= 2 for 6 batches done, got 1"):
            kept.resume(pairs(), epochs=1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda document, tensors: document["model"].update(kind="mine"),
                "audio-to-image, ann-audio-to-image, got",
            ),
            (
                lambda document, tensors: document["model"]["audiocoder"].update(hidden_features=10**9),
                "first_weight of",
            ),
            (lambda document, tensors: tensors.pop("history.loss"), "'history.loss' is missing"),
            (lambda document, tensors: document.update(batch=5), r"history.loss of shape \[5\], got \[2\]"),
            (lambda document, tensors: document.pop("settings"), "'settings' is missing"),
            (lambda document, tensors: document.update(version=9), "version 1, got version 9"),
            (lambda document, tensors: document.update(format="spikefuse-autoencoder"), "but of spikefuse-autoencoder"),
        ],
    )
    def test_what_does_not_fit_is_told(
        self,
        change: Callable[[dict[str, Any], dict[str, Tensor]], None],
        message: str,
        tmp_path: Path,
        autoencoder: SpikingAutoencoder,
    ) -> None:
        trainer = SynthesisTrainer(spiking(autoencoder), pairs(), SETTINGS)
        trainer.run(until=2)
        path = checkpoint.save_audio_to_image(tmp_path / "r.safetensors", trainer)
        document, tensors = safetensors_file.read(
            path, checkpoint.AUDIO_TO_IMAGE_FORMAT, checkpoint.AUDIO_TO_IMAGE_VERSION
        )
        change(document, tensors)
        document["sha256"] = safetensors_file.digest(document, tensors)
        path.write_bytes(save_tensors(tensors, {"spikefuse": json.dumps(document)}))
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load_audio_to_image(path)


class TestRecogniser:
    def test_brightness_and_contrast_do_not_matter(self) -> None:
        model = digit_classifier.Recogniser().eval()
        images = random(20, 784)
        # Powers of two scale exactly, so the normalised images are the same bits.
        assert torch.equal(model(images), model(images * 16))

    def test_accuracy_is_the_share_of_right_answers(self) -> None:
        model = digit_classifier.Recogniser().eval()
        images = random(20, 784)
        answers = model(images)
        answers[:5] = (answers[:5] + 1) % 10
        assert model.accuracy(images, answers) == 0.75

    def test_kept_and_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trained: list[digit_classifier.Recogniser] = []

        def train(model: digit_classifier.Recogniser) -> float:
            trained.append(model.eval())
            return 0.99

        monkeypatch.setattr(digit_classifier, "_train", train)
        first, second = digit_classifier.recogniser(tmp_path), digit_classifier.recogniser(tmp_path)
        assert len(trained) == 1
        assert torch.equal(first.logits(random(3, 784)), second.logits(random(3, 784)))
        path = tmp_path / digit_classifier.FILE
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match="cut short"):
            digit_classifier.recogniser(tmp_path)

    @pytest.mark.slow
    def test_it_reads_mnist(self, tmp_path: Path) -> None:
        from spikefuse import data

        if not data.available("mnist"):
            pytest.skip("needs MNIST")
        state = torch.get_rng_state()
        model = digit_classifier.recogniser(tmp_path)
        assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left alone"
        test = data.load("mnist", "test")
        assert model.accuracy(test.images, test.labels) >= digit_classifier.LEAST_ACCURACY
