"""Which digit an image shows to a small network trained on MNIST: whether a synthesised image can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from spikefuse import data
from spikefuse._io import folders, provenance, safetensors_file
from spikefuse._io.safetensors_file import CheckpointError
from spikefuse.data import store
from spikefuse.paper import metrics
from spikefuse.paper.seeds import derived_seed

FORMAT: Final = "spikefuse-recogniser"
VERSION: Final = 1
FILE: Final = "mnist-recogniser.safetensors"
LEAST_ACCURACY: Final = 0.98
"""Of MNIST's test images; a recogniser below it would say little about anything else."""

_HIDDEN: Final = 512
_EPOCHS: Final = 8
_BATCH: Final = 128


class Recogniser(nn.Module):
    """784-512-10 with dropout, on images of zero mean and unit variance: brightness and contrast do not matter.

    Example:
        >>> Recogniser()(torch.rand(3, 784)).shape
        torch.Size([3])
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, _HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(_HIDDEN, 10))

    def logits(self, images: Tensor) -> Tensor:
        """Of images ``[B, 784]`` in any scale, such as summed spikes: ``[B, 10]``."""
        logits: Tensor = self.layers(metrics.normalize_maps(images).to(torch.float32))
        return logits

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The digit that each of ``[B, 784]`` images shows, int64 ``[B]``."""
        return self.logits(images).argmax(1)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images ``[B, 784]`` that it takes for what they are to show, 0 to 1."""
        return float((self(images) == labels).double().mean()) if len(labels) else 0.0


def recogniser(folder: str | Path | None = None) -> Recogniser:
    """The recogniser, trained on MNIST's 60,000 training images the first time (about half a minute) and then kept.

    Args:
        folder: where it is kept; None for the cache of the data sets.

    Raises:
        DatasetUnavailableError: it is not there, and neither is MNIST.
        CheckpointError: the kept one is damaged.
        ImportError: safetensors is not installed.
        OSError: the folder cannot be read or written to.
    """
    place = store.cache_folder() if folder is None else Path(folder)
    path = None if place is None else place / FILE
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and replaced
        model = Recogniser()
    if path is not None and folders.exists(path):
        _, tensors = safetensors_file.read(path, FORMAT, VERSION)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: an inconsistent recogniser: {error}") from error
        return model.eval()
    accuracy = _train(model)
    if path is not None:
        document = {"format": FORMAT, "version": VERSION, "test_accuracy": accuracy, "versions": provenance.versions()}
        safetensors_file.write(path, document, model.state_dict())
    return model


def _train(model: Recogniser) -> float:
    train, test = data.load("mnist", "train"), data.load("mnist", "test")
    # Seeded without touching the caller's generator; dropout draws from the global one.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(0, "recogniser"))
        for layer in model.layers:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _EPOCHS)
        model.train()
        for _ in range(_EPOCHS):
            for chosen in torch.randperm(len(train)).split(_BATCH):
                loss = nn.functional.cross_entropy(model.logits(train.images[chosen]), train.labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    model.eval()
    accuracy = model.accuracy(test.images, test.labels)
    if accuracy < LEAST_ACCURACY:
        raise RuntimeError(f"recogniser: expected a test accuracy of at least {LEAST_ACCURACY:.0%}, got {accuracy:.2%}")
    return accuracy
