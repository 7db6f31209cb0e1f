"""The training loop: order, encoding, history, resuming, evaluation, and the paper's figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spikefuse import data
from spikefuse.functional import poisson_encode
from spikefuse.paper import metrics, seeds
from spikefuse.paper.models import ANNAutoencoder, ANNRule, SpikingAutoencoder, preset
from spikefuse.paper.seeds import weight_generator
from spikefuse.paper.training import autoencoder
from spikefuse.paper.training.autoencoder import Autoencoder, Trainer, evaluate
from spikefuse.paper.training.loop import STREAMS, TrainSettings

FEATURES, HIDDEN = 36, 10
SETTINGS = TrainSettings(epochs=2, batch_size=8, steps=6, max_rate=0.7, seed=5)


def images(count: int = 28) -> Tensor:
    return torch.rand(count, FEATURES, generator=torch.Generator().manual_seed(9))


def shared() -> Autoencoder:
    rule = preset("shared", FEATURES).rule
    return SpikingAutoencoder(FEATURES, HIDDEN, rule, init_bound=0.3, generator=weight_generator(0))


def gated() -> Autoencoder:
    rule = preset("gated", FEATURES).rule
    return SpikingAutoencoder(FEATURES, HIDDEN, rule, init_bound=None, generator=weight_generator(0))


def ann() -> Autoencoder:
    return ANNAutoencoder(FEATURES, HIDDEN, ANNRule(), generator=weight_generator(0))


MODELS = pytest.mark.parametrize("make", [shared, gated, ann])


def assert_same_run(a: Trainer, b: Trainer) -> None:
    assert a.batch == b.batch
    assert a.history == b.history
    for name, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[name]), name


@MODELS
def test_resuming_in_the_middle_of_an_epoch_is_as_if_never_stopped(
    make: Callable[[], Autoencoder], tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    from spikefuse.paper.training import checkpoint

    straight = Trainer(make(), images(), SETTINGS)
    straight.run(until=7)
    first = Trainer(make(), images(), SETTINGS)
    first.run(until=3)
    checkpoint.save(tmp_path / "run.safetensors", first)
    resumed = checkpoint.load(tmp_path / "run.safetensors").resume(images())
    resumed.run(until=7)
    assert straight.batches_per_epoch == 4, "the seventh batch is in another epoch than the third"
    assert_same_run(resumed, straight)


@pytest.mark.parametrize("make", [shared, gated])
def test_number_of_threads_changes_nothing(make: Callable[[], Autoencoder], set_threads: Callable[[int], None]) -> None:
    runs = []
    for count in (1, 2, 5):
        set_threads(count)
        runs.append(Trainer(make(), images(), SETTINGS))
        runs[-1].run()
    assert_same_run(runs[0], runs[1])
    assert_same_run(runs[0], runs[2])


def test_another_seed_is_another_run() -> None:
    runs = [Trainer(shared(), images(), TrainSettings(batch_size=8, seed=seed)) for seed in (0, 1)]
    for run in runs:
        run.run()
    assert runs[0].history != runs[1].history


def test_every_image_once_an_epoch_in_another_order_each_time() -> None:
    class Recording(Trainer):
        def _learn(self, images: Tensor) -> dict[str, float]:
            seen.append(images[:, 0].tolist())
            return super()._learn(images)

    seen: list[list[float]] = []
    Recording(shared(), images(), SETTINGS).run()
    assert [len(batch) for batch in seen] == [8, 8, 8, 4] * 2
    epochs = [[pixel for batch in batches for pixel in batch] for batches in (seen[:4], seen[4:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(images()[:, 0].tolist())
    assert epochs[0] != epochs[1]
    assert epochs[0] != images()[:, 0].tolist()


def test_history_is_what_the_batches_gave() -> None:
    trainer = Trainer(shared(), images(8), SETTINGS)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seeds.derived_seed(5, "order", 0)))
    spikes = poisson_encode(images(8)[order] * 0.7, 6, seed=5, offset=0)
    model = shared()
    assert isinstance(model, SpikingAutoencoder)
    stats = model.learn_(spikes)
    record = trainer.step()
    assert record == {name: values[0] for name, values in trainer.history.items()}
    assert record == {
        "spike_mse": metrics.spike_mse(stats.spike_counts[1], spikes.counts()),
        "loss": stats.loss,
        "error_zeros": stats.error_zeros,
        "hidden_rate": stats.firing_rates[0],
        "output_rate": stats.firing_rates[1],
    }


def test_callbacks_and_checkpoints() -> None:
    seen: list[int] = []
    saved: list[int] = []
    trainer = Trainer(shared(), images(), SETTINGS)
    trainer.run(
        on_batch=lambda t: seen.append(t.batch),
        should_stop=lambda: trainer.batch == 5,
        save=lambda t: saved.append(t.batch),
        save_every=2,
    )
    assert seen == [1, 2, 3, 4, 5]
    assert saved == [2, 4, 5], "and where it was stopped"
    trainer.run(save=lambda t: saved.append(t.batch), save_every=4)
    assert saved == [2, 4, 5, 8], "the last one once only"
    assert trainer.done
    with pytest.raises(RuntimeError, match="all 8 batches are done"):
        trainer.step()
    with pytest.raises(ValueError, match="save_every >= 1, got 0"):
        trainer.run(save_every=0)


def test_a_diverging_run_is_not_saved() -> None:
    model = ANNAutoencoder(FEATURES, HIDDEN, ANNRule("sgd", lr=1e20), generator=weight_generator(0))
    saved: list[int] = []
    with pytest.raises(FloatingPointError):
        Trainer(model, images(), SETTINGS).run(save=lambda t: saved.append(t.batch))
    assert saved == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "0 <= epochs"),
        ({"batch_size": 0}, ValueError, "1 <= batch_size"),
        ({"steps": 0}, ValueError, "1 <= steps"),
        ({"steps": 1.5}, TypeError, "steps as an int, got float"),
        ({"seed": True}, TypeError, "seed as an int, got bool"),
        ({"seed": 2**63}, ValueError, "0 <= seed"),
        ({"max_rate": 0.0}, ValueError, "max_rate <= 1, got 0.0"),
        ({"max_rate": float("nan")}, ValueError, "max_rate <= 1, got nan"),
    ],
)
def test_bad_settings(settings: dict[str, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TrainSettings(**settings)  # type: ignore[arg-type]


def test_bad_images() -> None:
    for bad in (torch.zeros(3, FEATURES + 1), torch.zeros(0, FEATURES), torch.zeros(FEATURES)):
        with pytest.raises(ValueError, match=rf"\[N, {FEATURES}\], got"):
            Trainer(shared(), bad, SETTINGS)
        with pytest.raises(ValueError, match=rf"\[N, {FEATURES}\], got"):
            evaluate(shared(), bad, SETTINGS)
    with pytest.raises(ValueError, match=r"rates in \[0, 1\]"):
        Trainer(shared(), images() * 2, SETTINGS).step()
    with pytest.raises(ValueError, match="2\\^31 batches"):
        Trainer(shared(), images(), TrainSettings(epochs=2**31 - 1, batch_size=1))


def test_strided_images_are_the_same_images() -> None:
    wide = torch.zeros(28, 2 * FEATURES)
    wide[:, ::2] = images()
    runs = [Trainer(shared(), x, SETTINGS) for x in (images(), wide[:, ::2])]
    for run in runs:
        run.run()
    assert_same_run(*runs)
    assert runs[0].images_fingerprint == runs[1].images_fingerprint


def test_evaluation_draws_fresh_spikes_and_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets: list[int] = []

    def recording(rates: Tensor, steps: int, *, seed: int, offset: int = 0) -> object:
        offsets.append(offset)
        return poisson_encode(rates, steps, seed=seed, offset=offset)

    monkeypatch.setattr(autoencoder, "poisson_encode", recording)
    monkeypatch.setattr(autoencoder, "EVALUATION_BATCH", 10)
    model = shared()
    first = evaluate(model, images(), SETTINGS)
    assert evaluate(model, images(), SETTINGS) == first
    assert evaluate(model, images(), SETTINGS, "train") != first
    test, train = STREAMS["test"], STREAMS["train"]
    assert offsets == [*range(test, test + 3)] * 2 + [*range(train, train + 3)]
    with pytest.raises(ValueError, match="train, test, pictures, got 'mine'"):
        evaluate(model, images(), SETTINGS, "mine")


def test_evaluation_measures_what_it_says() -> None:
    model = shared()
    assert isinstance(model, SpikingAutoencoder)
    Trainer(model, images(), SETTINGS).run()
    result = evaluate(model, images(), SETTINGS)
    inputs = poisson_encode(images() * 0.7, 6, seed=5, offset=STREAMS["test"])
    hidden = model.encode(inputs)
    output = model.decode(hidden)
    assert result.mse == metrics.mse(output.counts(), images())
    assert result.spike_mse == metrics.spike_mse(output.counts(), inputs.counts())
    assert result.input_mse == metrics.mse(inputs.counts(), images())
    assert result.error_zeros == pytest.approx((inputs.unpack() == output.unpack()).float().mean().item())
    assert result.input_rate == pytest.approx(inputs.density())
    assert result.hidden_rate == pytest.approx(hidden.density())
    assert result.output_rate == pytest.approx(output.density())


def test_a_silent_net_scores_one() -> None:
    model = SpikingAutoencoder(FEATURES, HIDDEN, preset("shared", FEATURES).rule, init_bound=1e-6)
    result = evaluate(model, images(), SETTINGS)
    assert result.output_rate == 0.0
    assert [result.mse, result.spike_mse] == pytest.approx([1.0, 1.0])


def test_evaluation_of_the_artificial_network() -> None:
    result = evaluate(ann(), images(), SETTINGS)
    with torch.no_grad():
        assert result.mse == metrics.mse(ann()(images()), images())
    assert (result.spike_mse, result.hidden_rate, result.error_zeros) == (None, None, None)


def test_digits_are_learned() -> None:
    pytest.importorskip("sklearn")
    train, test = data.load("digits", "train"), data.load("digits", "test")
    chosen = preset("shared", 64)
    model = SpikingAutoencoder(64, 32, chosen.rule, init_bound=chosen.init_bound, generator=weight_generator(0))
    settings = TrainSettings(epochs=2, batch_size=10, max_rate=0.7)
    Trainer(model, train.images, settings).run()
    result = evaluate(model, test.images, settings)
    assert result.mse < 0.25
    assert result.spike_mse is not None
    assert result.spike_mse < 0.25


# PAPER section 4: reference runs of an independent float32 implementation, to be met within 0.03 over three seeds.
REFERENCE = [("shared", 0.3, 0.25, 0.35), ("shared", 0.5, 0.17, 0.20), ("gated", 1.0, 0.158, 0.152)]


@pytest.mark.slow
@pytest.mark.parametrize(("trace", "rate", "spike_mse", "mse"), REFERENCE)
def test_mnist_meets_the_reference_runs(trace: str, rate: float, spike_mse: float, mse: float) -> None:
    if not data.available("mnist"):
        pytest.skip("MNIST is not on this machine")
    train, test = data.load("mnist", "train"), data.load("mnist", "test")
    chosen = preset(trace, 784)
    results = []
    for seed in range(3):
        generator = weight_generator(seed)
        model = SpikingAutoencoder(784, 196, chosen.rule, init_bound=chosen.init_bound, generator=generator)
        settings = TrainSettings(max_rate=rate, seed=seed)
        Trainer(model, train.images, settings).run()
        results.append(evaluate(model, test.images, settings))
    assert sum(r.spike_mse or 0.0 for r in results) / 3 == pytest.approx(spike_mse, abs=0.03)
    assert sum(r.mse for r in results) / 3 == pytest.approx(mse, abs=0.03)


@pytest.mark.slow
def test_fashion_mnist_is_learned_in_one_epoch() -> None:
    # `spikefuse train autoencoder --dataset fashion-mnist --hidden 512 --steps 60 --rate 0.5`
    if not data.available("fashion-mnist"):
        pytest.skip("Fashion-MNIST is not on this machine")
    train, test = data.load("fashion-mnist", "train"), data.load("fashion-mnist", "test")
    chosen = preset("shared", 784)
    model = SpikingAutoencoder(784, 512, chosen.rule, init_bound=chosen.init_bound, generator=weight_generator(0))
    settings = TrainSettings(steps=60, max_rate=0.5)
    Trainer(model, train.images, settings).run()
    result = evaluate(model, test.images, settings)
    assert result.spike_mse is not None
    assert result.spike_mse <= 0.20
