"""The Free Spoken Digit Dataset: small stand-ins under the published names, and the real files where they are."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from spikefuse.data import Corpus, DatasetUnavailableError, fsdd, fsdd_available, load_fsdd, store
from spikefuse.data.store import RemoteFile

from .speech import archive, wav, write


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SPIKEFUSE_DATA and an empty cache."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("SPIKEFUSE_DATA", str(folder))
    monkeypatch.setenv("SPIKEFUSE_CACHE", str(tmp_path / "cache"))
    return folder


FILES = {
    f"{digit}_{speaker}_{take}.wav": wav(np.array([digit, take, len(speaker)], np.int16))
    for digit in range(10)
    for speaker in fsdd.SPEAKERS
    for take in range(50)
}

COMMIT = {
    "LICENSE": b"not kept",
    "README.md": b"about",
    "metadata.py": b"",
    "utils/fsdd.py": b"not kept",
    **{f"recordings/{name}": content for name, content in reversed(FILES.items())},
}
UPSTREAM = archive(COMMIT, top="free-spoken-digit-dataset-26eb9aa/", mode="w:gz")


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder around the recordings as loose files."""
    folder = tmp_path_factory.mktemp("fsdd")
    write(folder / "recordings", {**FILES, "notes.txt": b""})
    return folder


class TestFSDD:
    @pytest.fixture(autouse=True)
    def published(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Publishes small recordings under the real names."""
        self.tar = fsdd.repack(UPSTREAM)
        digest = hashlib.sha256()
        for name, content in sorted(FILES.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        monkeypatch.setattr(fsdd, "RECORDINGS_SHA256", digest.hexdigest())
        self.publish(monkeypatch, ())

    def publish(self, monkeypatch: pytest.MonkeyPatch, urls: tuple[str, ...]) -> None:
        remote = RemoteFile("fsdd-recordings.tar", hashlib.sha256(self.tar).hexdigest(), urls, fsdd.repack)
        monkeypatch.setattr(fsdd, "TAR", remote)

    def assert_is_fsdd(self, corpus: Corpus, source: str) -> None:
        assert (corpus.name, corpus.source, corpus.classes) == ("fsdd", source, tuple("0123456789"))
        assert [recording.name for recording in corpus] == sorted(FILES)
        assert corpus.speakers == fsdd.SPEAKERS
        assert torch.bincount(corpus.labels).tolist() == [300] * 10
        assert (len(corpus.select(split="train")), len(corpus.select(split="test"))) == (2700, 300)
        for recording in corpus[::97]:
            digit, speaker, take = recording.name.removesuffix(".wav").split("_")
            assert (recording.label, recording.speaker) == (int(digit), speaker)
            assert recording.split == ("test" if int(take) <= 4 else "train")

    def assert_can_be_read(self, corpus: Corpus) -> None:
        pytest.importorskip("soundfile")
        for recording in corpus[5::313]:
            samples, rate = recording.load()
            take = int(recording.name.removesuffix(".wav").split("_")[2])
            assert rate == 8000
            assert (samples * 32768).tolist() == [[recording.label, take, len(recording.speaker)]]

    @pytest.mark.parametrize("folder", ["fsdd", "."])
    def test_a_tar(self, data: Path, folder: str) -> None:
        write(data / folder, {"fsdd-recordings.tar": self.tar})
        assert fsdd_available()
        corpus = load_fsdd(download=False)
        self.assert_is_fsdd(corpus, "SPIKEFUSE_DATA")
        self.assert_can_be_read(corpus)
        self.assert_can_be_read(pickle.loads(pickle.dumps(corpus)))

    @pytest.mark.parametrize("inner", [".", "recordings"])
    def test_loose_files(self, data: Path, loose: Path, inner: str) -> None:
        (data / "fsdd").symlink_to(loose / inner)
        assert fsdd_available()
        corpus = load_fsdd(download=False)
        self.assert_is_fsdd(corpus, "SPIKEFUSE_DATA")
        self.assert_can_be_read(corpus)
        self.assert_is_fsdd(load_fsdd(folder=loose / inner), "folder")

    def test_splits(self, data: Path) -> None:
        write(data, {"fsdd-recordings.tar": self.tar})
        train, test = load_fsdd("train"), load_fsdd("test")
        assert (len(train), len(test)) == (2700, 300)
        assert {recording.split for recording in train} == {"train"}
        assert not {recording.name for recording in train} & {recording.name for recording in test}
        assert torch.bincount(test.labels).tolist() == [30] * 10
        with pytest.raises(ValueError, match="load_fsdd: expected split of train, test, got 'val'"):
            load_fsdd("val")

    def test_missing_and_unknown_recordings_are_named(self, loose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fsdd, "SPEAKERS", ("zoe", *fsdd.SPEAKERS[1:]))
        with pytest.raises(
            ValueError,
            match=r"expected the 3,000 recordings of FSDD, got 3,000; missing 500: 0_zoe_0\.wav, 0_zoe_1\.wav, "
            r"0_zoe_10\.wav, \.\.\.; unknown 500: 0_george_0\.wav, .*load_wav_folder",
        ):
            load_fsdd(folder=loose)

    def test_a_few_files_are_not_the_corpus(self, tmp_path: Path) -> None:
        write(tmp_path, {name: FILES[name] for name in ("0_theo_0.wav", "1_theo_0.wav")})
        with pytest.raises(
            ValueError, match=r"expected the 3,000 recordings of FSDD, got 2; missing 2,998: [^;]*; rec"
        ):
            load_fsdd(folder=tmp_path)

    def test_other_content_is_an_error(self, data: Path, loose: Path) -> None:
        path = loose / "recordings" / "3_theo_7.wav"
        path.write_bytes(wav())
        try:
            with pytest.raises(ValueError, match=r"expected recordings with SHA-256 .* together, got"):
                load_fsdd(folder=loose)
        finally:
            path.write_bytes(FILES[path.name])
        write(data / "fsdd", {"fsdd-recordings.tar": self.tar[:-1] + b"x"})
        with pytest.raises(ValueError, match=r"fsdd-recordings\.tar: expected SHA-256 .*unset SPIKEFUSE_DATA"):
            load_fsdd()

    def test_nowhere(self, tmp_path: Path) -> None:
        assert not fsdd_available()
        with pytest.raises(DatasetUnavailableError, match=r"fsdd: not on this machine.*load_wav_folder"):
            load_fsdd(download=False)
        with pytest.raises(ValueError, match=r"load_fsdd: expected an existing folder, got .*absent"):
            load_fsdd(folder=tmp_path / "absent")

    @pytest.fixture
    def upstream_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """Serves an archive as GitHub would, on this machine."""
        pytest.importorskip("pooch")
        root = tmp_path / "server"
        write(root, {"commit.tar.gz": UPSTREAM, "page": b"<html>"})
        write(root, {"commit.tar.xz": archive(COMMIT, top="another-name/", mode="w:xz")})

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: object) -> None:
                super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

            def log_message(self, format: str, *args: object) -> None:
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

    @pytest.mark.parametrize("file", ["commit.tar.gz", "commit.tar.xz"])
    def test_a_download_is_repacked_and_pinned_by_its_content(
        self, upstream_server: str, monkeypatch: pytest.MonkeyPatch, file: str
    ) -> None:
        self.publish(monkeypatch, (f"{upstream_server}/gone", f"{upstream_server}/page", f"{upstream_server}/{file}"))
        self.assert_is_fsdd(load_fsdd(), "download")
        cached = load_fsdd(download=False)
        self.assert_is_fsdd(cached, "cache")
        self.assert_can_be_read(cached)
        folder = Path(os.environ["SPIKEFUSE_CACHE"]) / "fsdd"
        assert [path.name for path in folder.iterdir()] == ["fsdd-recordings.tar"]
        assert (folder / "fsdd-recordings.tar").read_bytes() == self.tar

    def test_a_download_of_other_content_leaves_nothing_behind(
        self, upstream_server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changed = fsdd.repack(archive({**COMMIT, "recordings/0_theo_0.wav": wav()}, top="x/"))
        assert changed != self.tar
        self.tar = changed
        self.publish(monkeypatch, (f"{upstream_server}/page", f"{upstream_server}/commit.tar.gz"))
        with pytest.raises(
            DatasetUnavailableError,
            match=r"could not download fsdd-recordings\.tar .*page: expected an archive of FSDD",
        ):
            load_fsdd()
        assert list((Path(os.environ["SPIKEFUSE_CACHE"]) / "fsdd").iterdir()) == []


@pytest.fixture
def real_tar() -> Path:
    """The published recordings, where they are."""
    found = store.find("fsdd", (fsdd.TAR,)) if os.environ.get("SPIKEFUSE_DATA") else None
    if found is None:
        pytest.skip("no FSDD in SPIKEFUSE_DATA")
    return found.paths[0]


@pytest.mark.usefixtures("real_tar")
def test_the_real_fsdd(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    corpus = load_fsdd(download=False)
    assert len(corpus) == 3000
    assert (len(corpus.select(split="test")), corpus.speakers) == (300, fsdd.SPEAKERS)
    seconds = [samples.shape[1] / rate for samples, rate in (recording.load() for recording in corpus[::10])]
    assert 0.1 < min(seconds) < max(seconds) < 2.3
    with tarfile.open(corpus[0].source.path) as tar:
        # Of Python 3.10, only the later patches know filters.
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    assert torch.equal(load_fsdd(folder=tmp_path)[7].load().samples, corpus[7].load().samples)


def test_the_real_tar_comes_out_of_any_archive_of_the_commit(real_tar: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(real_tar) as given, tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as made:
        for member in reversed(given.getmembers()):
            content = given.extractfile(member) if member.isfile() else None
            member.name, member.mtime, member.uname = f"free-spoken-digit-dataset-x/{member.name}", 1, "root"
            made.addfile(member, content)
    assert hashlib.sha256(fsdd.repack(buffer.getvalue())).hexdigest() == fsdd.TAR.sha256
