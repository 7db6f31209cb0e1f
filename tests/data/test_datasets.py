"""Where the data sets are found, how they are checked, and what a user without them is told; all on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
import torch

from spikefuse._io.optional import require
from spikefuse.data import DATASETS, SPLITS, Dataset, DatasetUnavailableError, available, load, mnist, store
from spikefuse.data.digits import NUM_TRAIN
from spikefuse.data.mnist import TABLE

if TYPE_CHECKING:
    from .conftest import Published

IDX_DATASETS = tuple(TABLE)


def assert_is(dataset: Dataset, published: Published, name: str, split: str, source: str) -> None:
    images, labels = published.arrays[name, split]
    assert (dataset.name, dataset.split, dataset.source) == (name, split, source)
    assert dataset.image_shape == (4, 5)
    assert dataset.num_classes == 10
    assert len(dataset) == len(images)
    assert dataset.images.dtype == torch.float32
    assert dataset.labels.dtype == torch.int64
    expected = torch.tensor(images.reshape(len(images), 20).astype(np.float32) / np.float32(255))
    assert torch.equal(dataset.images, expected)
    assert dataset.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", IDX_DATASETS)
@pytest.mark.usefixtures("no_download")
def test_a_folder_per_dataset(published: Published, user_folder: Path, name: str, split: str) -> None:
    for each in IDX_DATASETS:
        published.write(user_folder / each, each)
    assert available(name)
    assert_is(load(name, split), published, name, split, "SPIKEFUSE_DATA")


@pytest.mark.usefixtures("no_download")
def test_files_directly_in_the_folder(published: Published, user_folder: Path) -> None:
    published.write(user_folder, "fashion-mnist")
    assert available("fashion-mnist")
    assert_is(load("fashion-mnist", "test"), published, "fashion-mnist", "test", "SPIKEFUSE_DATA")


@pytest.mark.usefixtures("no_download")
def test_another_dataset_directly_in_the_folder_is_passed_over(published: Published, user_folder: Path) -> None:
    # Both data sets have the same file names: only the content tells them apart.
    published.write(user_folder, "fashion-mnist")
    assert not available("mnist")
    published.write(Path(os.environ["SPIKEFUSE_CACHE"]) / "mnist", "mnist")
    assert available("mnist")
    assert_is(load("mnist", "train"), published, "mnist", "train", "cache")


def test_the_user_s_folder_precedes_the_cache_and_the_cache_the_download(
    published: Published, user_folder: Path, retrieved: list[str]
) -> None:
    assert not available("mnist")
    assert load("mnist", "test").source == "download"
    assert len(retrieved) == 2
    assert_is(load("mnist", "test"), published, "mnist", "test", "cache")
    assert not available("mnist"), "the training split is nowhere yet"
    published.write(user_folder / "mnist", "mnist", ("test",))
    assert_is(load("mnist", "test"), published, "mnist", "test", "SPIKEFUSE_DATA")
    assert len(retrieved) == 2


@pytest.mark.parametrize("subfolder", ["mnist", "."])
@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize("damage", ["cut short", "one bit", "empty"])
@pytest.mark.usefixtures("no_download")
def test_a_damaged_file_of_the_user_is_an_error(
    published: Published, user_folder: Path, subfolder: str, file: str, damage: str
) -> None:
    published.write(user_folder / subfolder, "mnist")
    path = user_folder / subfolder / file
    whole = path.read_bytes()
    damaged = {"cut short": whole[:-1], "one bit": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[damage]
    path.write_bytes(damaged)
    digests = [hashlib.sha256(content).hexdigest() for content in (whole, damaged)]
    message = (
        rf"mnist: .*{file}: expected SHA-256 {digests[0]}, got {digests[1]} \({len(damaged)} bytes\); "
        "replace it, or unset SPIKEFUSE_DATA"
    )
    with pytest.raises(ValueError, match=message):
        load("mnist", "test")
    assert path.read_bytes() == damaged
    assert load("mnist", "train").source == "SPIKEFUSE_DATA"


@pytest.mark.usefixtures("no_download")
def test_a_damaged_file_of_the_cache_is_an_error(published: Published) -> None:
    folder = Path(os.environ["SPIKEFUSE_CACHE"]) / "mnist"
    published.write(folder, "mnist")
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz: expected SHA-256 .*; delete it to download it"):
        load("mnist", "train")


@pytest.mark.usefixtures("no_download")
def test_images_without_their_labels_are_an_error(published: Published, user_folder: Path) -> None:
    published.write(user_folder / "mnist", "mnist")
    (user_folder / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    message = r"SPIKEFUSE_DATA: expected train-labels-idx1-ubyte\.gz beside train-images-idx3-ubyte\.gz in .*mnist"
    with pytest.raises(ValueError, match=message):
        load("mnist", "train")
    with pytest.raises(ValueError, match=message):
        available("mnist")


@pytest.mark.parametrize("kind", ["absent", "a file"])
@pytest.mark.usefixtures("published", "no_download")
def test_spikefuse_data_must_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "typo"
    if kind == "a file":
        path.write_bytes(b"")
    monkeypatch.setenv("SPIKEFUSE_DATA", str(path))
    for call in (lambda: load("mnist", "train"), lambda: available("mnist")):
        with pytest.raises(ValueError, match=r"SPIKEFUSE_DATA: expected an existing folder, got '.*typo'"):
            call()


def test_an_empty_variable_is_unset(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_download: None
) -> None:
    pooch = pytest.importorskip("pooch")
    monkeypatch.setenv("SPIKEFUSE_DATA", "")
    monkeypatch.setenv("SPIKEFUSE_CACHE", "")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "system" / project)
    published.write(tmp_path / "system" / "spikefuse" / "mnist", "mnist")
    assert_is(load("mnist", "test"), published, "mnist", "test", "cache")


def test_folders_may_start_with_a_tilde(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_download: None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPIKEFUSE_DATA", "~/mine")
    published.write(tmp_path / "mine" / "mnist", "mnist")
    assert load("mnist", "test").source == "SPIKEFUSE_DATA"


def test_only_what_the_cache_lacks_is_downloaded(published: Published, retrieved: list[str]) -> None:
    folder = Path(os.environ["SPIKEFUSE_CACHE"]) / "mnist"
    published.write(folder, "mnist", ("train",))
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    assert_is(load("mnist", "train"), published, "mnist", "train", "download")
    assert retrieved == ["https://first.invalid/mnist/train-labels-idx1-ubyte.gz"]


def test_a_download_tries_every_mirror_and_then_names_the_ways_out(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = {"https://first.invalid": OSError("no route"), "https://second.invalid": ValueError("another checksum")}

    def retrieve(url: str, **_: Any) -> NoReturn:
        raise failures[url.rpartition("/mnist/")[0]]

    monkeypatch.setattr(pytest.importorskip("pooch"), "retrieve", retrieve)
    with pytest.raises(DatasetUnavailableError) as caught:
        load("mnist", "train")
    message = str(caught.value)
    assert message.startswith("mnist: could not download train-images-idx3-ubyte.gz")
    for part in (
        "https://first.invalid/mnist/train-images-idx3-ubyte.gz: no route",
        "https://second.invalid/mnist/train-images-idx3-ubyte.gz: another checksum",
        "SPIKEFUSE_DATA",
        "SPIKEFUSE_CACHE",
        '"digits"',
    ):
        assert part in message


@pytest.mark.usefixtures("published", "no_download")
def test_download_false_uses_no_network() -> None:
    with pytest.raises(
        DatasetUnavailableError, match="mnist: not on this machine, and download=False; set SPIKEFUSE_DATA"
    ):
        load("mnist", "train", download=False)


def test_without_pooch_only_the_download_is_lost(
    published: Published, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.delenv("SPIKEFUSE_CACHE")
    assert not available("mnist")
    with pytest.raises(ImportError, match=r"downloading mnist .*SPIKEFUSE_DATA.* needs pooch.*spikefuse\[app\]"):
        load("mnist", "train")
    with pytest.raises(DatasetUnavailableError, match="download=False"):
        load("mnist", "train", download=False)
    published.write(user_folder / "mnist", "mnist")
    assert load("mnist", "train").source == "SPIKEFUSE_DATA"


@pytest.mark.parametrize("bar", ["rich", "tqdm", "none"])
def test_a_real_download_with_each_progress_bar(
    published: Published, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bar: str
) -> None:
    pooch = pytest.importorskip("pooch")
    if bar != "none":
        pytest.importorskip(bar)
    for other in {"rich", "tqdm"} - {bar}:
        monkeypatch.setitem(sys.modules, other, None)
    log = logging.handlers.BufferingHandler(capacity=100)
    logger = logging.Logger("pooch", level=logging.DEBUG)
    logger.addHandler(log)
    monkeypatch.setattr(pooch.utils, "LOGGER", logger)
    # The first mirror has no such file.
    monkeypatch.setattr(mnist, "TABLE", published.table((f"{server}/gone", server)))

    assert_is(load("mnist", "train"), published, "mnist", "train", "download")

    assert logger.level == logging.DEBUG
    cache = Path(os.environ["SPIKEFUSE_CACHE"])
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(published.files("mnist", "train"))
    assert load("mnist", "train", download=False).source == "cache"
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("mnist/train-images-idx3-ubyte.gz" in shown.err) == (bar == "rich")
    assert ("100%" in shown.err) == (bar == "tqdm")
    # Without a bar of ours, pooch says what it does: once for each file and mirror.
    assert len(log.buffer) == (0 if bar == "rich" else 4)


@pytest.mark.parametrize("content", [b"", b"<html>log in to this network</html>"], ids=["empty", "another"])
def test_a_download_of_other_content_leaves_nothing_behind(
    published: Published, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(mnist, "TABLE", published.table((server,)))
    (tmp_path / "server" / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DatasetUnavailableError, match=r"could not download train-images-idx3-ubyte\.gz"):
        load("mnist", "train")
    assert list((Path(os.environ["SPIKEFUSE_CACHE"]) / "mnist").iterdir()) == []


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 20)), np.zeros(3), r"expected images of uint8 \[N, H, W\], got uint8 \[3, 20\]"),
        (np.zeros((3, 4, 5)), np.zeros(2), r"expected labels of uint8 \[3\], got uint8 \[2\]"),
        (np.zeros((3, 4, 5)), np.zeros((3, 1)), r"expected labels of uint8 \[3\], got uint8 \[3, 1\]"),
        (np.zeros((3, 4, 5)), np.array([0, 10, 9]), "expected labels of 0 to 9, got 10"),
    ],
    ids=["flat images", "a label missing", "labels in columns", "label 10"],
)
def test_whole_files_that_do_not_belong_together_are_an_error(
    published: Published,
    user_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: np.ndarray,
    labels: np.ndarray,
    message: str,
) -> None:
    published.arrays["mnist", "train"] = images.astype(np.uint8), labels.astype(np.uint8)
    monkeypatch.setattr(mnist, "TABLE", published.table(()))
    published.write(user_folder / "mnist", "mnist")
    with pytest.raises(ValueError, match=f"mnist train: {message}"):
        load("mnist", "train")


def test_no_images_are_an_empty_dataset(
    published: Published, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.arrays["mnist", "train"] = np.zeros((0, 4, 5), np.uint8), np.zeros(0, np.uint8)
    monkeypatch.setattr(mnist, "TABLE", published.table(()))
    published.write(user_folder / "mnist", "mnist")
    assert load("mnist", "train").images.shape == (0, 20)


def test_other_names_and_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="load: expected name of mnist, fashion-mnist, digits, got 'cifar'"):
        load("cifar", "train")
    with pytest.raises(ValueError, match="load: expected split of train, test, got 'val'"):
        load("digits", "val")
    with pytest.raises(ValueError, match="available: expected name of mnist, fashion-mnist, digits, got 'MNIST'"):
        available("MNIST")
    with pytest.raises(ValueError, match="load_mnist: expected name of mnist, fashion-mnist, got 'digits'"):
        mnist.load_mnist("digits", "train")


def test_a_dataset_is_frozen_and_prints_no_pixels() -> None:
    dataset = Dataset("tiny", "test", torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), (2, 2), 2, "cache")
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"  # type: ignore[misc]
    assert "tensor" not in repr(dataset)


def test_digits() -> None:
    pytest.importorskip("sklearn")
    assert available("digits")
    train, test = (load("digits", split, download=False) for split in SPLITS)
    assert (len(train), len(test)) == (NUM_TRAIN, 1797 - NUM_TRAIN) == (1415, 382)
    for dataset in (train, test):
        assert (dataset.name, dataset.image_shape, dataset.num_classes) == ("digits", (8, 8), 10)
        assert dataset.source == "scikit-learn"
        assert dataset.images.dtype == torch.float32
        assert dataset.labels.dtype == torch.int64
        assert dataset.images.shape == (len(dataset), 64)
        assert (dataset.images.min(), dataset.images.max()) == (0, 1)
        assert torch.equal(dataset.images * 16, (dataset.images * 16).round())
        assert torch.bincount(dataset.labels, minlength=10).min() >= 35
    assert torch.equal(train.images, load("digits", "train").images)


def test_no_writer_of_the_digits_is_in_both_splits() -> None:
    pytest.importorskip("sklearn")
    # A writer's form begins with the digits 0 to 9 three times over.
    assert load("digits", "train").labels[:30].tolist() == 3 * list(range(10))
    assert load("digits", "test").labels[:30].tolist() == 3 * list(range(10))


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert not available("digits")
    with pytest.raises(ImportError, match=r"data set 'digits' needs scikit-learn.*pip install spikefuse\[app\]"):
        load("digits", "train")


def test_a_broken_extra_is_not_reported_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_extra.py").write_text("import absent_dependency_of_the_extra\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_dependency_of_the_extra"):
        require("broken_extra", "broken", "this test")


def test_every_published_file_has_a_checksum_and_two_mirrors() -> None:
    files = [file for splits in TABLE.values() for both in splits.values() for file in (both.images, both.labels)]
    assert tuple(TABLE) == tuple(name for name in DATASETS if name != "digits")
    assert len({file.sha256 for file in files}) == len(files) == 8
    for file in files:
        assert len(file.sha256) == 64
        assert set(file.sha256) <= set("0123456789abcdef")
        assert len(file.urls) == 2
        assert all(url.endswith("/" + file.name) for url in file.urls)


@pytest.mark.skipif(not os.environ.get("SPIKEFUSE_DATA"), reason="SPIKEFUSE_DATA names no folder with the real files")
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.1307), ("fashion-mnist", 0.2860)])
def test_the_real_files(name: str, mean: float, split: str, count: int) -> None:
    files = TABLE[name][split]
    if store.find(name, (files.images, files.labels)) is None:
        pytest.skip(f"no {name} in SPIKEFUSE_DATA")
    dataset = load(name, split, download=False)
    assert dataset.images.shape == (count, 784)
    assert dataset.image_shape == (28, 28)
    assert (dataset.images.min(), dataset.images.max()) == (0, 1)
    # The mean over the training pixels, as published with the data sets; the test split's is within 0.003.
    assert dataset.images.double().mean().item() == pytest.approx(mean, abs=5e-5 if split == "train" else 3e-3)
    shares = torch.bincount(dataset.labels, minlength=10) / count
    assert shares.min() >= (0.1 if name == "fashion-mnist" else 0.089)
