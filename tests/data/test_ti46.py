"""TI-46 in the layouts it is found in: trees of empty files under the published names, with some real headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spikefuse.data import DatasetUnavailableError, load_ti46, ti46, ti46_available

from .speech import sphere, write


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SPIKEFUSE_DATA and an empty cache."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("SPIKEFUSE_DATA", str(folder))
    monkeypatch.setenv("SPIKEFUSE_CACHE", str(tmp_path / "cache"))
    return folder


TI46_LAYOUTS = {
    "ti20": "TI46/ti20/{split}/{speaker}/{word}{speaker}{token}.wav",
    "ti20 on a disc": "DISC1/TI46/TI20/{SPLIT}/{SPEAKER}/{word}{SPEAKER}{TOKEN}.WAV;1",
    "ti10_digits": "ti10_digits/{split}/{speaker}/{word}{speaker}{token}.wav",
    "converted": "ti10_digits/{split}/{speaker}/{word}{speaker}{token}.sph",
    "bare": "{split}/{speaker}/{word}{speaker}{token}.wav",
}
TOKENS = {"train": [f"set{i}" for i in range(10)], "test": [f"s{i}t{j}" for i in range(1, 9) for j in range(2)]}


def ti46_names(layout: str, words: int = 10) -> dict[tuple[str, str, int], list[str]]:
    """The names of a corpus without its 24 gaps, by split, speaker and word."""
    return {
        (split, speaker, word): [
            TI46_LAYOUTS[layout].format(
                split=split,
                SPLIT=split.upper(),
                speaker=speaker,
                SPEAKER=speaker.upper(),
                word=f"{word:02}",
                token=token,
                TOKEN=token.upper(),
            )
            for token in TOKENS[split]
        ]
        for split in TOKENS
        for speaker in ti46.SPEAKERS
        for word in range(words)
    }


def ti46_files(layout: str, words: int = 10) -> dict[str, bytes]:
    """A corpus of 4,136 digit files: 6 of the train and 18 of the test split are not published."""
    names = ti46_names(layout, words)
    for i in range(6):
        names["train", ti46.SPEAKERS[i], i].pop()
    for i in range(9):
        del names["test", ti46.SPEAKERS[i], i][:2]
    return {
        name: sphere(np.array([word, len(name)], np.int16)) if name == files[0] else b""
        for (_, _, word), files in names.items()
        for name in files
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 4,136 digit files."""
    folder = tmp_path_factory.mktemp("ti46")
    write(folder, ti46_files("ti20"))
    return folder


@pytest.mark.parametrize("layout", list(TI46_LAYOUTS))
def test_layouts(tmp_path: Path, layout: str) -> None:
    names = ti46_names(layout, words=12)
    files = {name: b"" for (_, speaker, _), some in names.items() if speaker in ("f1", "m8") for name in some}
    write(tmp_path, files)
    corpus = load_ti46(folder=tmp_path, incomplete=True)
    assert (len(corpus), len(files)) == (2 * 260, 2 * 312)
    assert (corpus.speakers, corpus.source) == (("f1", "m8"), "folder")
    assert (corpus[0].name, corpus[-1].name) == ("train/00f1set0", "test/09m8s8t1")
    assert torch.bincount(corpus.labels).tolist() == [52] * 10


@pytest.mark.parametrize("folder", ["ti46", "TI-46", "LDC93S9"])
def test_ti46(data: Path, whole: Path, folder: str) -> None:
    (data / folder).symlink_to(whole)
    assert ti46_available()
    corpus = load_ti46()
    assert (len(corpus), corpus.name, corpus.source) == (4136, "ti46", "SPIKEFUSE_DATA")
    assert (len(load_ti46("train")), len(load_ti46("test"))) == (1594, 2542)
    assert corpus.speakers == ti46.SPEAKERS
    assert len(set(corpus.labels.tolist())) == len(corpus.classes) == 10
    names = [recording.name for recording in corpus]
    assert names == sorted(names, key=lambda name: (name.startswith("test"), name))
    for recording in corpus[::101]:
        split, name = recording.name.split("/")
        assert (recording.split, recording.label, recording.speaker) == (split, int(name[:2]), name[2:4])
    pytest.importorskip("soundfile")
    first = corpus[0].load()
    assert first.sample_rate == 12_500
    assert (first.samples * 32768)[0, 0] == corpus[0].label == 0


def test_ti46_in_the_paper_s_split(whole: Path) -> None:
    shuffled = load_ti46(folder=whole).shuffled(0)
    train, test = shuffled[:3500], shuffled[3500:]
    assert (len(train), len(test)) == (3500, 636)
    assert {r.split for r in train} == {r.split for r in test} == {"train", "test"}


def test_ti46_without_some_files_says_which(whole: Path, tmp_path: Path) -> None:
    lost = [whole / "TI46/ti20/test/m3", whole / "TI46/ti20/train/f8/09f8set4.wav"]
    for i, path in enumerate(lost):
        path.rename(tmp_path / str(i))
    try:
        with pytest.raises(ValueError, match=r"expected 4,136 digit files, got ") as error:
            load_ti46(folder=whole)
        kept = len(load_ti46(folder=whole, incomplete=True))
    finally:
        for i, path in enumerate(lost):
            (tmp_path / str(i)).rename(path)
    assert kept == 4136 - 160 - 1
    report = str(error.value).splitlines()
    assert f"got {kept:,}; incomplete=True takes them" in report[0]
    assert "  test: nothing of m3" in report
    assert "  train f8: 9 of digit 9 (of 10 each)" in report
    assert "  train f1: 9 of digit 0 (of 10 each)" in report, "one of the 24 gaps"
    assert not any("train f7" in line for line in report), "f7 lacks nothing"


def test_ti46_with_too_many_files(whole: Path) -> None:
    path = whole / "TI46/ti20/train/f1/00f1set9.wav"
    assert not path.exists(), "one of the 24 gaps"
    path.touch()
    try:
        with pytest.raises(ValueError, match=r"expected 4,136 digit files, got 4,137"):
            load_ti46(folder=whole)
    finally:
        path.unlink()


def test_ti46_of_one_split_alone(whole: Path) -> None:
    with pytest.raises(ValueError, match=r"got none"):
        load_ti46(folder=whole / "TI46/ti20/train")
    hidden = whole / "TI46/ti20/test"
    hidden.rename(whole / "elsewhere")
    try:
        with pytest.raises(ValueError, match=r"got 1,594;(.|\n)*test: nothing of all speakers"):
            load_ti46(folder=whole)
    finally:
        (whole / "elsewhere").rename(hidden)


def test_ti46_ignores_other_words_and_files(tmp_path: Path) -> None:
    write(
        tmp_path / "TI46",
        {
            "ti20/train/f1/00f1set0.wav": b"",
            "ti20/train/f1/10f1set0.wav": b"",
            "ti20/train/f1/readme.txt": b"",
            "ti20/doc/f1/00f1set1.wav": b"",
            "ti20/train/x1/00x1set1.wav": b"",
            "ti_alpha/train/f1/00f1set1.wav": b"",
        },
    )
    assert [recording.name for recording in load_ti46(folder=tmp_path, incomplete=True)] == ["train/00f1set0"]


def test_ti46_with_files_in_the_wrong_place(tmp_path: Path) -> None:
    write(tmp_path / "a", {"train/f1/00f2set0.wav": b""})
    with pytest.raises(ValueError, match=r"00f2set0\.wav: expected files of f1 in its folder"):
        load_ti46(folder=tmp_path / "a", incomplete=True)
    write(tmp_path / "b", {"ti20/train/f1/00f1set0.wav": b"", "ti10_digits/train/f1/00f1set0.wav": b""})
    with pytest.raises(ValueError, match=r"each recording once, got train/00f1set0 as .*ti.*and .*ti.*one copy"):
        load_ti46(folder=tmp_path / "b", incomplete=True)


def test_ti46_nowhere(data: Path, tmp_path: Path) -> None:
    assert not ti46_available()
    with pytest.raises(DatasetUnavailableError, match=r"licensed by the LDC \(LDC93S9\).*SPIKEFUSE_DATA as ti46/"):
        load_ti46()
    with pytest.raises(ValueError, match=r"expected folder to exist, got .*absent"):
        load_ti46(folder=tmp_path / "absent")
    with pytest.raises(ValueError, match=r"expected 4,136 digit files such as .*, got none"):
        load_ti46(folder=data, incomplete=True)
    with pytest.raises(ValueError, match="expected split of train, test, got 'val'"):
        load_ti46("val")


def test_ti46_compressed_with_shorten(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    write(tmp_path, {"ti20/train/f1/00f1set0.wav": sphere(coding="pcm,embedded-shorten-v2.00")})
    with pytest.raises(ValueError, match=r"00f1set0\.wav: .*sph2pipe"):
        load_ti46(folder=tmp_path, incomplete=True)[0].load()
