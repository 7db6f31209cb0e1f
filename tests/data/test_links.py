"""Readers of users' folders follow links, and leave nothing out that they cannot read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from permissions import forbidden

from spikefuse.data import (
    available,
    fsdd,
    fsdd_available,
    load,
    load_fsdd,
    load_ti46,
    load_wav_folder,
    read_audio,
    read_idx,
    ti46_available,
)

from .conftest import Published
from .speech import wav, write


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Two classes of three recordings."""
    write(tmp_path / "set", {f"{word}/{i}.wav": wav() for word in ("yes", "no") for i in range(3)})
    return tmp_path / "set"


class TestWavFolder:
    def test_a_linked_class_and_linked_files(self, words: Path, tmp_path: Path) -> None:
        (words / "yes").rename(tmp_path / "disk")
        (words / "yes").symlink_to("../disk")
        (words / "no/1.wav").rename(tmp_path / "one")
        (words / "no/1.wav").symlink_to(tmp_path / "one")
        corpus = load_wav_folder(words)
        assert [(r.name, r.label) for r in corpus] == [
            (f"{w}/{i}.wav", k) for k, w in enumerate(("no", "yes")) for i in range(3)
        ]
        assert corpus.classes == ("no", "yes")
        pytest.importorskip("soundfile")
        assert {recording.load().sample_rate for recording in corpus} == {8000}

    @pytest.mark.parametrize("name", ["maybe", "yes/3.wav"])
    def test_a_dangling_link(self, words: Path, name: str) -> None:
        (words / name).symlink_to("/disk/gone")
        with pytest.raises(FileNotFoundError, match=f"'{words}/{name}' -> '/disk/gone'"):
            load_wav_folder(words)

    def test_a_loop(self, words: Path) -> None:
        (words / "yes/all").symlink_to(words)
        with pytest.raises(OSError, match=f"leads back .*'{words}/yes/all' -> '{words}'"):
            load_wav_folder(words)

    def test_an_unreadable_class(self, words: Path) -> None:
        with forbidden(words / "yes"), pytest.raises(PermissionError, match=f"folder cannot be read.*'{words}/yes'"):
            load_wav_folder(words)

    def test_a_class_on_a_failing_disk(self, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scandir = os.scandir

        def failing(path: Any) -> Any:
            if Path(path).name == "yes":
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", failing)
        with pytest.raises(OSError, match=f"Input/output error: '{words}/yes'"):
            load_wav_folder(words)

    def test_an_unreadable_file(self, words: Path) -> None:
        with forbidden(words / "no/2.wav"), pytest.raises(PermissionError, match=rf"file cannot .*'{words}/no/2\.wav'"):
            load_wav_folder(words)

    def test_a_folder_that_cannot_be_looked_at_is_not_absent(self, words: Path) -> None:
        with forbidden(words.parent), pytest.raises(PermissionError, match=f"'{words}'"):
            load_wav_folder(words)


class TestTI46:
    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Path:
        write(tmp_path / "ti46", {f"ti20/train/f{i}/00f{i}set0.wav": b"" for i in (1, 2)})
        return tmp_path / "ti46"

    def names(self, folder: Path | None) -> list[str]:
        return [recording.name for recording in load_ti46(folder=folder, incomplete=True)]

    def test_a_linked_speaker_and_a_linked_file(self, corpus: Path, tmp_path: Path) -> None:
        train = corpus / "ti20/train"
        (train / "f1").rename(tmp_path / "elsewhere")
        (train / "F1").symlink_to(tmp_path / "elsewhere")
        (train / "f2/00f2set0.wav").rename(tmp_path / "x")
        (train / "f2/00f2set0.wav").symlink_to(tmp_path / "x")
        assert self.names(corpus) == ["train/00f1set0", "train/00f2set0"]

    def test_one_file_under_two_names_counts_once(self, corpus: Path) -> None:
        (corpus / "latest").symlink_to("ti20")
        (corpus / "copy").mkdir()
        (corpus / "copy/ti20").symlink_to("../ti20")
        assert self.names(corpus) == ["train/00f1set0", "train/00f2set0"]

    def test_a_dangling_link(self, corpus: Path) -> None:
        (corpus / "ti20/train/f3").symlink_to("../../../disk/f3")
        with pytest.raises(FileNotFoundError, match=r"ti20/train/f3' -> '\.\./\.\./\.\./disk/f3'"):
            self.names(corpus)

    def test_a_loop(self, corpus: Path) -> None:
        (corpus / "ti20/train/f1/up").symlink_to("../..")
        with pytest.raises(OSError, match=r"leads back .*ti20/train/f1/up' -> '.*ti20'"):
            self.names(corpus)

    @pytest.mark.parametrize("name", ["ti20/train/f1", "ti20/train/f1/00f1set0.wav"])
    def test_an_unreadable_folder_or_file(self, corpus: Path, name: str) -> None:
        with forbidden(corpus / name), pytest.raises(PermissionError, match=f"cannot be read.*'{corpus}/{name}'"):
            self.names(corpus)

    def test_in_spikefuse_data(self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SPIKEFUSE_DATA", str(tmp_path))
        assert ti46_available()
        with forbidden(tmp_path):
            for look in (ti46_available, load_ti46):
                with pytest.raises(PermissionError, match=f"folder cannot be read.*'{tmp_path}'"):
                    look()
        corpus.rename(tmp_path / "x")
        corpus.symlink_to("gone")
        for look in (ti46_available, load_ti46):
            with pytest.raises(FileNotFoundError, match=f"'{corpus}' -> 'gone'"):
                look()


class TestFSDD:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("SPIKEFUSE_DATA", str(tmp_path))
        write(tmp_path / "fsdd", {"0_theo_0.wav": wav()})
        return tmp_path / "fsdd"

    @pytest.mark.parametrize("look", [fsdd_available, load_fsdd])
    def test_an_unreadable_folder_is_not_absent(self, folder: Path, look: Any) -> None:
        assert fsdd_available()
        with forbidden(folder, 0o300), pytest.raises(PermissionError, match=f"folder cannot be read.*'{folder}'"):
            look()
        with forbidden(folder), pytest.raises(PermissionError, match=f"cannot be looked at.*'{folder}/fsdd-rec"):
            look()

    @pytest.mark.parametrize("look", [fsdd_available, load_fsdd])
    @pytest.mark.parametrize("name", ["fsdd-recordings.tar", "recordings"])
    def test_a_dangling_link(self, folder: Path, name: str, look: Any) -> None:
        (folder / name).symlink_to("/disk/gone")
        with pytest.raises(FileNotFoundError, match=f"'{folder}/{name}' -> '/disk/gone'"):
            look()

    def test_recordings_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for names in ("DIGITS", "SPEAKERS"):
            monkeypatch.setattr(fsdd, names, getattr(fsdd, names)[:1])
        write(tmp_path, {f"0_george_{take}.wav": b"" for take in range(50)})
        path = tmp_path / "0_george_7.wav"
        with forbidden(path), pytest.raises(PermissionError, match=r"0_george_7\.wav"):
            load_fsdd(folder=tmp_path)
        path.unlink()
        path.symlink_to("gone.wav")
        with pytest.raises(FileNotFoundError, match=r"0_george_7\.wav' -> 'gone\.wav'"):
            load_fsdd(folder=tmp_path)


class TestImages:
    @pytest.mark.parametrize("at", ["mnist", "."])
    def test_linked_folders_and_files(self, published: Published, user_folder: Path, tmp_path: Path, at: str) -> None:
        published.write(tmp_path / "disk", "mnist")
        if at == "mnist":
            (user_folder / "mnist").symlink_to(tmp_path / "disk")
        else:
            for path in (tmp_path / "disk").iterdir():
                (user_folder / path.name).symlink_to(path)
        assert available("mnist")
        assert len(load("mnist", "train", download=False)) == 6

    @pytest.mark.parametrize("mode", [0o000, 0o600])
    @pytest.mark.parametrize("name", ["mnist", "."])
    def test_an_unreadable_folder_is_not_absent(
        self, published: Published, user_folder: Path, no_download: None, name: str, mode: int
    ) -> None:
        published.write(user_folder / "mnist", "mnist")
        with forbidden(user_folder / name, mode):
            for look in (lambda: available("mnist"), lambda: load("mnist", "train")):
                with pytest.raises(PermissionError, match=f"cannot be looked at.*'{user_folder}/mnist/train-images"):
                    look()

    @pytest.mark.parametrize("name", ["mnist", "mnist/train-images-idx3-ubyte.gz"])
    def test_a_dangling_link(self, published: Published, user_folder: Path, no_download: None, name: str) -> None:
        published.write(user_folder / "mnist", "mnist")
        (user_folder / name).rename(user_folder / "x")
        (user_folder / name).symlink_to("/disk/gone")
        for look in (lambda: available("mnist"), lambda: load("mnist", "train")):
            with pytest.raises(FileNotFoundError, match=rf"'{user_folder}/{name}' -> '/disk/gone'"):
                look()

    def test_an_unreadable_file(self, published: Published, user_folder: Path) -> None:
        published.write(user_folder / "mnist", "mnist")
        path = user_folder / "mnist/train-labels-idx1-ubyte.gz"
        with forbidden(path), pytest.raises(PermissionError, match=f"'{path}'"):
            load("mnist", "train")

    def test_the_cache(self, published: Published, tmp_path: Path, no_download: None) -> None:
        published.write(tmp_path / "cache/mnist", "mnist")
        assert available("mnist")
        with forbidden(tmp_path / "cache"), pytest.raises(PermissionError, match=f"'{tmp_path}/cache/mnist/train-"):
            load("mnist", "train")

    def test_spikefuse_data_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "link").symlink_to("gone")
        monkeypatch.setenv("SPIKEFUSE_DATA", str(tmp_path / "link"))
        with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/link' -> 'gone'"):
            available("mnist")


@pytest.mark.parametrize("read", [read_audio, read_idx])
def test_a_dangling_link_to_one_file(tmp_path: Path, read: Any) -> None:
    pytest.importorskip("soundfile")
    (tmp_path / "a").symlink_to("gone")
    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/a' -> 'gone'"):
        read(tmp_path / "a")
