"""Folders of labelled recordings, and what a corpus can do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spikefuse.data import Corpus, Recording, load_wav_folder
from spikefuse.data.audiofile import FileSlice

from .speech import wav, write


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    names = ["10/a.wav", "9/b.WAV", "nine/a.sph", "9/deep.txt", ".hidden/a.wav", "9/._b.wav"]
    write(tmp_path, {name: wav() for name in names})
    corpus = load_wav_folder(tmp_path)
    assert corpus.classes == ("9", "10", "nine")
    assert [(r.name, r.label, r.speaker, r.split) for r in corpus] == [
        ("10/a.wav", 1, "", "train"),
        ("9/b.WAV", 0, "", "train"),
        ("nine/a.sph", 2, "", "train"),
    ]
    pytest.importorskip("soundfile")
    assert corpus[0].load().sample_rate == 8000


def test_splits_around_the_classes(tmp_path: Path) -> None:
    write(tmp_path, {"train/yes/a.wav": b"", "test/yes/a.wav": b"", "test/no/a.wav": b""})
    corpus = load_wav_folder(tmp_path)
    assert (corpus.classes, len(corpus)) == (("no", "yes"), 3)
    assert [r.name for r in load_wav_folder(tmp_path, "test")] == ["test/no/a.wav", "test/yes/a.wav"]
    assert load_wav_folder(tmp_path, "train").labels.tolist() == [1], "labels are those of all classes"


def test_a_pattern_for_names(tmp_path: Path) -> None:
    write(tmp_path, {"7_theo_0.wav": b"", "7_ann_1.wav": b"", "0_ann_1.wav": b""})
    pattern = r"(?P<label>\d)_(?P<speaker>\w+)_\d+\.wav"
    corpus = load_wav_folder(tmp_path, pattern=pattern, classes=tuple("0123456789"))
    assert (corpus.labels.tolist(), corpus.speakers) == ([0, 7, 7], ("ann", "theo"))
    assert load_wav_folder(tmp_path, pattern=pattern).labels.tolist() == [0, 1, 1]


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"yes/a.wav": b"", "b.wav": b"", "c.wav": b""})
    with pytest.raises(ValueError, match=r"every path to match .*, got 2 that do not, such as b\.wav"):
        load_wav_folder(tmp_path)
    with pytest.raises(ValueError, match=r"expected folder to exist, got .*absent"):
        load_wav_folder(tmp_path / "absent")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"expected \.wav or \.sph files, got none"):
        load_wav_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"got 2 that do not, such as b\.wav"):
        load_wav_folder(tmp_path, pattern=r"(?:(?P<label>\w+)/)?\w\.wav")
    with pytest.raises(ValueError, match=r"expected classes no, got a, b, c"):
        load_wav_folder(tmp_path, pattern=r"(?:\w+/)?(?P<label>\w)\.wav", classes=("no",))
    with pytest.raises(ValueError, match=r"expected a group \(\?P<label>\.\.\.\) in pattern, got 'x'"):
        load_wav_folder(tmp_path, pattern="x")
    with pytest.raises(ValueError, match=r"pattern to be a regular expression, got '\('"):
        load_wav_folder(tmp_path, pattern="(")
    with pytest.raises(ValueError, match=r"expected split of train, test, got 'val'"):
        load_wav_folder(tmp_path, "val")
    write(tmp_path / "odd", {"yes/a.wav": b""})
    with pytest.raises(ValueError, match=r"yes/a\.wav: expected split of train, test, got 'yes'"):
        load_wav_folder(tmp_path / "odd", pattern=r"(?P<split>\w+)/(?P<label>\w)\.wav")


def tiny(count: int = 40) -> Corpus:
    recordings = tuple(
        Recording(f"{i}.wav", i % 10, "ab"[i % 2], "test" if i % 5 == 0 else "train", FileSlice(Path(f"{i}.wav")))
        for i in range(count)
    )
    return Corpus("tiny", tuple("0123456789"), recordings, "folder")


def test_a_corpus_is_a_sequence() -> None:
    corpus = tiny()
    assert len(corpus) == 40
    assert corpus[-1] is corpus.recordings[39]
    assert [r.name for r in corpus[3:5]] == ["3.wav", "4.wav"]
    assert corpus[3] in corpus
    assert corpus[:0].labels.shape == (0,)
    assert corpus.labels.dtype == torch.int64
    with pytest.raises(IndexError):
        corpus[40]


def test_selections_of_a_corpus() -> None:
    corpus = tiny()
    assert {r.name for r in corpus.select(split="test", speaker="b")} == {f"{i}.wav" for i in (5, 15, 25, 35)}
    assert len(corpus.select()) == 40
    with pytest.raises(ValueError, match="expected split of train, test, got 'val'"):
        corpus.select(split="val")
    with pytest.raises(ValueError, match="expected speaker of a, b, got 'c'"):
        corpus.select(speaker="c")


def test_shuffling() -> None:
    corpus = tiny()
    orders = [[r.name for r in corpus.shuffled(seed)] for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    for order in orders:
        assert sorted(order) == sorted(r.name for r in corpus)
    # Pinned: a shuffle that changed would change every published figure that depends on it.
    assert [r.name for r in tiny(8).shuffled(7)] == [f"{i}.wav" for i in (6, 3, 1, 0, 5, 7, 4, 2)]
    with pytest.raises(TypeError, match="seed as an int, got float"):
        corpus.shuffled(1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed >= 0, got -1"):
        corpus.shuffled(-1)
