"""TI-46 (LDC93S9): isolated words of sixteen speakers, 12.5 kHz, of which the ten digits are read here.

The corpus is licensed by the LDC and downloaded by nobody but its licensees: the caller names its folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Final

from spikefuse._io import folders
from spikefuse.data import store
from spikefuse.data.audiofile import FileSlice
from spikefuse.data.recordings import Corpus, Recording

NAME: Final = "ti46"
NUM_RECORDINGS: Final = 4136
"""Digit files of the published corpus: 24 fewer than 16 speakers x 10 digits x 26 tokens."""

DIGITS: Final = tuple("0123456789")
SPEAKERS: Final = (*(f"f{i}" for i in range(1, 9)), *(f"m{i}" for i in range(1, 9)))
SPLITS: Final = ("train", "test")
TOKENS: Final = {"train": 10, "test": 16}
"""Tokens of each digit and speaker where none is missing."""

_LAYOUTS: Final = ("ti20", "ti10_digits")
_FOLDERS: Final = ("ti46", "ti-46", "ldc93s9")
# Word, speaker, session, token; ";1" is the version that a CD-ROM's file system may show.
_FILE_NAME: Final = re.compile(
    r"(?P<word>\d\d)(?P<speaker>[fm][1-8])(?P<session>[a-z0-9]{2})(?P<token>[a-z0-9]{2})\.(?:wav|sph)(?:;1)?"
)


def load_ti46(
    split: str | None = None, *, folder: str | PathLike[str] | None = None, incomplete: bool = False
) -> Corpus:
    """Loads the digits of TI-46: 16 speakers, 4,136 recordings of 12.5 kHz, in the order of split and file name.

    Two layouts are known, at any depth and in any case of letters: LDC's ``ti20/{train,test}/{f1..m8}/`` and
    ``ti10_digits/{train,test}/{f1..m8}/``; a folder that itself holds ``train/`` and ``test/`` will do. A file's name
    is word (two digits, of which 00 to 09 are the digits), speaker, session and token, two characters each, and
    ``.wav`` or ``.sph``: ``00f1set0.wav``. Whether it is RIFF or NIST SPHERE is told by its content when it is loaded;
    until then only names are read.

    The paper takes both splits together, shuffled, and the first 3,500 recordings to train:
    ``corpus = load_ti46().shuffled(seed)``, then ``corpus[:3500]`` and ``corpus[3500:]``.

    Links to files and folders are followed, and folders whose names begin with a dot are searched too; other files are
    passed over. A file that is found under two names, by a link, counts once.

    Args:
        split: ``"train"``, ``"test"`` as the LDC divides it, or None for both.
        folder: of the corpus; None looks for ``ti46``, ``ti-46`` or ``LDC93S9`` in ``SPIKEFUSE_DATA``.
        incomplete: allow a corpus without all of its 4,136 files.

    Raises:
        ValueError: another split; no such folder; the folder does not hold 4,136 digit files, with a report of which
            speakers and splits lack what; files that lie in another speaker's folder; or two files of one recording.
        DatasetUnavailableError: no ``folder`` is given and ``SPIKEFUSE_DATA`` holds none.
        OSError: a folder or a digit file that may not be read, a link to a path that does not exist, or one that leads
            back to a folder it lies in; the message names it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "TI46", "TI20", "TRAIN", "F1", "07F1SET3.WAV")
        ...     path.parent.mkdir(parents=True)
        ...     path.touch()
        ...     load_ti46(folder=folder, incomplete=True)[0]
        Recording(name='train/07f1set3', label=7, speaker='f1', split='train')
    """
    if split not in (None, *SPLITS):
        raise ValueError(f"load_ti46: expected split of {', '.join(SPLITS)}, got {split!r}")
    root, source = (_user_folder(), store.DATA_VARIABLE) if folder is None else (Path(folder).expanduser(), "folder")
    root = root.absolute()
    if not folders.is_folder(root):
        raise ValueError(f"load_ti46: expected folder to exist, got {root}")
    recordings = _without_copies(root, _walk(root))
    if not recordings or (len(recordings) != NUM_RECORDINGS and not incomplete):
        raise ValueError(_report(root, recordings))
    corpus = Corpus(NAME, DIGITS, recordings, source)
    return corpus if split is None else corpus.select(split=split)


def ti46_available() -> bool:
    """True where ``SPIKEFUSE_DATA`` holds a folder of TI-46; checked only when it is loaded.

    Raises:
        ValueError: ``SPIKEFUSE_DATA`` names no folder.
        OSError: the folder may not be read, or its ``ti46`` is a link to a path that does not exist.

    Example:
        >>> isinstance(ti46_available(), bool)
        True
    """
    data = store.data_folder()
    return data is not None and _corpus_folder(data) is not None


def _corpus_folder(data: Path) -> Path | None:
    named = (path for path in folders.entries(data) if path.name.lower() in _FOLDERS)
    return next((path for path in named if folders.is_folder(path)), None)


def _user_folder() -> Path:
    data = store.data_folder()
    found = None if data is None else _corpus_folder(data)
    if found is None:
        raise store.DatasetUnavailableError(
            f"ti46: not on this machine; it is licensed by the LDC (LDC93S9). Name its folder, or put it into "
            f"{store.DATA_VARIABLE} as ti46/; FSDD is a free stand-in (load_fsdd)"
        )
    return found


def _walk(root: Path) -> Iterator[Recording]:
    """Every digit file below ``root``, in its own speaker's folder of one of the layouts."""
    for path in folders.walk(root, hidden=True):
        *base, split, speaker = ("", "", *path.parent.relative_to(root).as_posix().lower().split("/"))
        if split not in SPLITS or speaker not in SPEAKERS or base[-1] not in ("", *_LAYOUTS):
            continue
        name = path.name.lower()
        match = _FILE_NAME.fullmatch(name)
        if match is None or int(match["word"]) >= len(DIGITS):
            continue
        if match["speaker"] != speaker:
            raise ValueError(f"load_ti46: {path}: expected files of {speaker} in its folder, got one of another's")
        folders.check_readable(path)
        stem = name.partition(".")[0]
        yield Recording(f"{split}/{stem}", int(match["word"]), speaker, split, FileSlice(path))


def _without_copies(root: Path, found: Iterable[Recording]) -> tuple[Recording, ...]:
    """The recordings in order, each there once."""
    first: dict[str, Recording] = {}
    for recording in found:
        other = first.setdefault(recording.name, recording)
        if other is not recording and not other.source.path.samefile(recording.source.path):
            raise ValueError(
                f"load_ti46: {root}: expected each recording once, got {recording.name} as {other.source.path} and "
                f"{recording.source.path}; name the folder of one copy"
            )
    return tuple(first[name] for name in sorted(first, key=lambda name: (name.split("/")[0] == "test", name)))


def _report(root: Path, recordings: tuple[Recording, ...]) -> str:
    """Names the missing parts of an incomplete corpus, by split and speaker."""
    if not recordings:
        return (
            f"load_ti46: {root}: expected {NUM_RECORDINGS:,} digit files such as ti20/train/f1/00f1set0.wav or "
            f"ti10_digits/train/f1/00f1set0.wav, got none"
        )
    counts = Counter((r.split, r.speaker, r.label) for r in recordings)
    lines = []
    for split in SPLITS:
        full = TOKENS[split]
        absent = [s for s in SPEAKERS if not any(counts[split, s, digit] for digit in range(10))]
        if absent:
            lines.append(f"{split}: nothing of {'all speakers' if len(absent) == 16 else ', '.join(absent)}")
        for speaker in SPEAKERS:
            short = [(d, counts[split, speaker, d]) for d in range(10) if counts[split, speaker, d] != full]
            if short and speaker not in absent:
                detail = ", ".join(f"{counted} of digit {digit}" for digit, counted in short)
                lines.append(f"{split} {speaker}: {detail} (of {full} each)")
    return (
        f"load_ti46: {root}: expected {NUM_RECORDINGS:,} digit files, got {len(recordings):,}; "
        "incomplete=True takes them as they are. The published corpus itself lacks 24 of the tokens counted here:\n  "
        + "\n  ".join(lines)
    )
