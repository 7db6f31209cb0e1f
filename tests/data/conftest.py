"""Small published files, a server for them, and a pooch that cannot reach the network."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from spikefuse.data import SPLITS, mnist
from spikefuse.data.mnist import IdxFiles
from spikefuse.data.store import RemoteFile

IDX_DATASETS = ("mnist", "fashion-mnist")
STEMS = {"train": "train", "test": "t10k"}


def idx_gz(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


class Published:
    """Small stand-ins for the published files of both data sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        random = np.random.default_rng(0)
        for name in IDX_DATASETS:
            for split, count in (("train", 6), ("test", 3)):
                pixels = random.integers(0, 256, (count, 4, 5), dtype=np.uint8)
                self.arrays[name, split] = pixels, random.integers(0, 10, count, dtype=np.uint8)

    def files(self, name: str, split: str) -> dict[str, bytes]:
        images, labels = self.arrays[name, split]
        stem = STEMS[split]
        return {f"{stem}-images-idx3-ubyte.gz": idx_gz(images), f"{stem}-labels-idx1-ubyte.gz": idx_gz(labels)}

    def table(self, mirrors: tuple[str, ...]) -> dict[str, dict[str, IdxFiles]]:
        def remote(name: str, file: str, content: bytes) -> RemoteFile:
            digest = hashlib.sha256(content).hexdigest()
            return RemoteFile(file, digest, tuple(f"{mirror}/{name}/{file}" for mirror in mirrors))

        return {
            name: {
                split: IdxFiles(*(remote(name, file, content) for file, content in self.files(name, split).items()))
                for split in SPLITS
            }
            for name in IDX_DATASETS
        }

    def write(self, folder: Path, name: str, splits: tuple[str, ...] = SPLITS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for split in splits:
            for file, content in self.files(name, split).items():
                (folder / file).write_bytes(content)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Publishes small files, with an empty cache and no SPIKEFUSE_DATA."""
    monkeypatch.delenv("SPIKEFUSE_DATA", raising=False)
    monkeypatch.setenv("SPIKEFUSE_CACHE", str(tmp_path / "cache"))
    small = Published(tmp_path)
    monkeypatch.setattr(mnist, "TABLE", small.table(("https://first.invalid", "https://second.invalid")))
    return small


@pytest.fixture
def user_folder(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.setenv("SPIKEFUSE_DATA", str(folder))
    return folder


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes any use of the network a failure of the test."""

    def retrieve(url: str, **_: Any) -> NoReturn:
        pytest.fail(f"tried to download {url}")

    monkeypatch.setattr(pytest.importorskip("pooch"), "retrieve", retrieve)


@pytest.fixture
def retrieved(published: Published, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces pooch's download by a copy of the published files; lists the addresses asked for."""
    urls: list[str] = []

    def retrieve(url: str, *, known_hash: str, fname: str, path: Path, downloader: Any) -> str:
        urls.append(url)
        name, file = url.split("/")[-2:]
        content = next(f[file] for f in (published.files(name, split) for split in SPLITS) if file in f)
        assert known_hash == f"sha256:{hashlib.sha256(content).hexdigest()}"
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes(content)
        return str(path / fname)

    monkeypatch.setattr(pytest.importorskip("pooch"), "retrieve", retrieve)
    return urls


@pytest.fixture
def server(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves the published files on this machine: the whole way through pooch, without the network."""
    pytest.importorskip("pooch")
    root = tmp_path / "server"
    for name in IDX_DATASETS:
        published.write(root / name, name)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(root))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()
