"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28x28 pixels in 10 classes, as IDX files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from spikefuse.data import store
from spikefuse.data.dataset import Dataset
from spikefuse.data.idx import read_idx
from spikefuse.data.store import RemoteFile

NUM_CLASSES: Final = 10


@dataclass(frozen=True)
class IdxFiles:
    """The published files of one split."""

    images: RemoteFile
    labels: RemoteFile


def _split(mirrors: tuple[str, ...], stem: str, images_sha256: str, labels_sha256: str) -> IdxFiles:
    def file(name: str, sha256: str) -> RemoteFile:
        return RemoteFile(name, sha256, tuple(mirror + name for mirror in mirrors))

    return IdxFiles(
        file(f"{stem}-images-idx3-ubyte.gz", images_sha256), file(f"{stem}-labels-idx1-ubyte.gz", labels_sha256)
    )


_MNIST_MIRRORS: Final = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_FASHION_MIRRORS: Final = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)

TABLE: Final[dict[str, dict[str, IdxFiles]]] = {
    "mnist": {
        "train": _split(
            _MNIST_MIRRORS,
            "train",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        "test": _split(
            _MNIST_MIRRORS,
            "t10k",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    },
    "fashion-mnist": {
        "train": _split(
            _FASHION_MIRRORS,
            "train",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        "test": _split(
            _FASHION_MIRRORS,
            "t10k",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    },
}
"""The files of each data set and split; both data sets use the same file names."""


def mnist_available(name: str) -> bool:
    """True where every file of both splits is on this machine; their content is checked when they are loaded.

    Args:
        name: ``"mnist"`` or ``"fashion-mnist"``.

    Raises:
        ValueError: ``SPIKEFUSE_DATA`` names no folder, or one that holds some of the files but not all.
        OSError: a folder may not be looked into, or a link leads to a path that does not exist; the message names it.

    Example:
        >>> isinstance(mnist_available("mnist"), bool)
        True
    """
    return all(
        store.find(name, (files.images, files.labels), _checksums_of_others(name)) is not None
        for files in TABLE[name].values()
    )


def load_mnist(name: str, split: str, *, download: bool = True) -> Dataset:
    """Loads a split of MNIST or Fashion-MNIST from ``SPIKEFUSE_DATA``, else the cache, else by download into the cache.

    Args:
        name: ``"mnist"`` or ``"fashion-mnist"``.
        split: ``"train"`` or ``"test"``.
        download: whether the network may be used.

    Raises:
        ValueError: another name or split; a file whose SHA-256 is not the published one; ``SPIKEFUSE_DATA`` names no
            folder, or one that holds some of the files but not all.
        DatasetUnavailableError: the files are not here, and the download is not allowed or failed.
        OSError: a folder or file may not be read, or a link leads to a path that does not exist; the message names it.
        ImportError: a download is needed and pooch is not installed.

    Example:
        >>> train = load_mnist("mnist", "train") if mnist_available("mnist") else None
        >>> train is None or train.images.shape == (60000, 784)
        True
    """
    for argument, value, allowed in (("name", name, tuple(TABLE)), ("split", split, ("train", "test"))):
        if value not in allowed:
            raise ValueError(f"load_mnist: expected {argument} of {', '.join(allowed)}, got {value!r}")
    files = TABLE[name][split]
    found = store.obtain(name, (files.images, files.labels), foreign=_checksums_of_others(name), download=download)
    images, labels = (read_idx(path) for path in found.paths)
    _check(name, split, images, labels)
    num_images, height, width = images.shape
    return Dataset(
        name=name,
        split=split,
        images=torch.from_numpy(images.reshape(num_images, height * width)).to(torch.float32).div_(255),
        labels=torch.from_numpy(labels).to(torch.int64),
        image_shape=(height, width),
        num_classes=NUM_CLASSES,
        source=found.source,
    )


def _check(name: str, split: str, images: NDArray[Any], labels: NDArray[Any]) -> None:
    """Refuses IDX files that are whole but are not images with their labels."""
    where = f"{name} {split}"
    if images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(f"{where}: expected images of uint8 [N, H, W], got {images.dtype} {list(images.shape)}")
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise ValueError(f"{where}: expected labels of uint8 [{len(images)}], got {labels.dtype} {list(labels.shape)}")
    if labels.size and labels.max() >= NUM_CLASSES:
        raise ValueError(f"{where}: expected labels of 0 to {NUM_CLASSES - 1}, got {labels.max()}")


def _checksums_of_others(name: str) -> frozenset[str]:
    """SHA-256 of the other data sets' files."""
    return frozenset(
        file.sha256
        for other, splits in TABLE.items()
        if other != name
        for files in splits.values()
        for file in (files.images, files.labels)
    )
