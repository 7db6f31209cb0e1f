"""Runs of batch after batch that depend on nothing but a seed, and can be left and taken up again anywhere.

Nothing random has a hidden state: the order of an epoch depends on the seed and the epoch, the Poisson spikes of a
batch on the seed and the number of the batch.

Poisson streams (the ``offset`` of :func:`spikefuse.functional.poisson_encode`), so that no draw is ever used twice:

==================== =====================================
0 to 2^31 - 1        training, by the number of the batch
2^31 on              evaluation on training samples
2^31 + 2^30 on       evaluation on test samples
2^32 - 2^20 on       pictures
==================== =====================================
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from spikefuse.paper.seeds import derived_seed

_Run = TypeVar("_Run", bound="BatchRun")

STREAMS: Final[dict[str, int]] = {"train": 2**31, "test": 2**31 + 2**30, "pictures": 2**32 - 2**20}
"""First Poisson stream of each kind of evaluation."""


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run that are not the model's.

    Args:
        epochs: passes over the images, >= 0.
        batch_size: images in a batch, >= 1; the last batch of an epoch may be smaller.
        steps: time steps T of an image's spikes, >= 1; without meaning for the artificial network.
        max_rate: spike probability per step of a pixel of value 1, in (0, 1]; likewise.
        seed: 0 <= seed < 2^63.

    Raises:
        TypeError: a number of another type.
        ValueError: one outside its range.

    Example:
        >>> TrainSettings(max_rate=0.3).steps
        15
    """

    epochs: int = 1
    batch_size: int = 100
    steps: int = 15
    max_rate: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, end in (
            ("epochs", 0, 2**31),
            ("batch_size", 1, 2**31),
            ("steps", 1, 2**31),
            ("seed", 0, 2**63),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"TrainSettings: expected {name} as an int, got {type(value).__name__}")
            if not low <= value < end:
                raise ValueError(f"TrainSettings: expected {low} <= {name} < {end}, got {value}")
        if not 0 < self.max_rate <= 1:
            raise ValueError(f"TrainSettings: expected 0 < max_rate <= 1, got {self.max_rate}")


class BatchRun(ABC):
    """The state of one training run: settings, how many batches are done, and what each of them gave.

    Args:
        samples: in an epoch, >= 1.
        settings: epochs, batch size, seed.
        columns: names of what a batch gives.

    Attributes:
        batch: batches done so far, over all epochs.
        history: per batch, in order, each of the columns.
        seconds: time spent in batches.

    Raises:
        ValueError: more batches than there are Poisson streams.
    """

    def __init__(self, samples: int, settings: TrainSettings, columns: Sequence[str]) -> None:
        self.samples = samples
        self.settings = settings
        self.columns = tuple(columns)
        self.batch = 0
        self.history: dict[str, list[float]] = {name: [] for name in self.columns}
        self.seconds = 0.0
        self._order: tuple[int, Tensor] | None = None
        if self.total_batches > STREAMS["train"]:
            raise ValueError(f"{type(self).__name__}: expected at most 2^31 batches in all, got {self.total_batches}")

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over the samples."""
        return -(-self.samples // self.settings.batch_size)

    @property
    def total_batches(self) -> int:
        """Batches in the whole run."""
        return self.settings.epochs * self.batches_per_epoch

    @property
    def done(self) -> bool:
        """True if no batch is left."""
        return self.batch >= self.total_batches

    def step(self) -> dict[str, float]:
        """Learns from the next batch.

        Returns:
            This batch's entries of ``history``.

        Raises:
            RuntimeError: no batch is left.
            ValueError: samples outside [0, 1], or weights that are not finite.
            FloatingPointError: the learning diverged; see the model's ``learn_``.
        """
        if self.done:
            raise RuntimeError(f"{type(self).__name__}: all {self.total_batches} batches are done")
        started = time.perf_counter()
        epoch, index = divmod(self.batch, self.batches_per_epoch)
        size = self.settings.batch_size
        record = self._learn_from(self._epoch_order(epoch)[index * size : (index + 1) * size])
        for name in self.columns:
            self.history[name].append(record[name])
        self.batch += 1
        self.seconds += time.perf_counter() - started
        return record

    def run(
        self: _Run,
        *,
        until: int | None = None,
        on_batch: Callable[[_Run], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        save: Callable[[_Run], Any] | None = None,
        save_every: int = 100,
    ) -> None:
        """Learns from batch after batch, to the last one or until told to stop.

        Args:
            until: the number of batches done at which to stop; None for all.
            on_batch: called after every batch.
            should_stop: asked after every batch; True ends the run there.
            save: called after every ``save_every`` batches and at the end, however it comes but by an error.
            save_every: in batches, >= 1.

        Raises:
            ValueError: ``save_every`` is below 1.
            FloatingPointError, ValueError: as :meth:`step`.
        """
        if save_every < 1:
            raise ValueError(f"{type(self).__name__}.run: expected save_every >= 1, got {save_every}")
        end = self.total_batches if until is None else min(until, self.total_batches)
        saved = -1
        while self.batch < end:
            self.step()
            if on_batch is not None:
                on_batch(self)
            if save is not None and self.batch % save_every == 0:
                save(self)
                saved = self.batch
            if should_stop is not None and should_stop():
                break
        if save is not None and saved != self.batch:
            save(self)

    def _epoch_order(self, epoch: int) -> Tensor:
        """The permutation of the samples in an epoch."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.settings.seed, "order", epoch))
            self._order = (epoch, torch.randperm(self.samples, generator=generator))
        return self._order[1]

    @abstractmethod
    def _learn_from(self, chosen: Tensor) -> dict[str, float]:
        """Learns from the samples of these indices, int64 ``[B]`` on the CPU; returns the columns."""
