"""The Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, 8 kHz, CC BY-SA 4.0."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from os import PathLike
from pathlib import Path
from typing import Final

from spikefuse._io import folders
from spikefuse.data import store
from spikefuse.data.audiofile import FileSlice
from spikefuse.data.recordings import Corpus, Recording
from spikefuse.data.store import RemoteFile

NAME: Final = "fsdd"
COMMIT: Final = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
"""Commit of github.com/Jakobovski/free-spoken-digit-dataset that is pinned."""

NUM_RECORDINGS: Final = 3000
NUM_TEST_TAKES: Final = 5
"""Takes 0 to 4 of each digit and speaker are the test split, as the data set's README says; 5 to 49 are to train."""

DIGITS: Final = tuple("0123456789")
SPEAKERS: Final = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
RECORDINGS_SHA256: Final = "a2e8a660492f28d9eed6270b290d26cbc5c81d6077ce87d3c0ad5adf4d4ee696"
"""SHA-256 over the name, a zero byte and the SHA-256 digest of each recording, in the order of their names."""

_FILE_NAME: Final = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)\.wav")
_TAR_MTIME: Final = 1_714_608_000


def repack(archive: bytes) -> bytes:
    """Makes the pinned tar out of GitHub's archive of the commit, whose compression GitHub does not promise to keep.

    The tar holds README.md, metadata.py and recordings/, in the order of their names, with fixed owners and times,
    so its SHA-256 depends on their content alone.

    Args:
        archive: a tar, compressed or not, with one folder around everything.

    Returns:
        The uncompressed tar.

    Raises:
        ValueError: ``archive`` is no tar.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as given:
            kept = {}
            for member in given:
                name = member.name.partition("/")[2]
                if name in ("README.md", "metadata.py", "recordings") or name.startswith("recordings/"):
                    # Read in the archive's own order: going back in a compressed one starts again from its beginning.
                    file = given.extractfile(member) if member.isfile() else None
                    kept[name] = member, file.read() if file else b""
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as made:
                for name, (member, content) in sorted(kept.items()):
                    entry = tarfile.TarInfo(name)
                    entry.type, entry.size, entry.mtime = member.type, member.size, _TAR_MTIME
                    entry.mode = 0o775 if member.mode & 0o100 else 0o664
                    made.addfile(entry, io.BytesIO(content))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"expected an archive of FSDD: {error}") from error
    return buffer.getvalue()


TAR: Final = RemoteFile(
    "fsdd-recordings.tar",
    "76d45a0b85226789acb2a4b8b321d80b63f483e9a1d05a5c1fbe57dfa7597a5b",
    (
        f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{COMMIT}.tar.gz",
        f"https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/tar.gz/{COMMIT}",
    ),
    repack,
)


def fsdd_available() -> bool:
    """True where FSDD is on this machine, in ``SPIKEFUSE_DATA`` or the cache; checked only when it is loaded.

    Raises:
        ValueError: ``SPIKEFUSE_DATA`` names no folder.
        OSError: a folder may not be read, or a link leads to a path that does not exist; the message names it.

    Example:
        >>> isinstance(fsdd_available(), bool)
        True
    """
    return _user_folder() is not None or store.find(NAME, (TAR,)) is not None


def load_fsdd(split: str | None = None, *, folder: str | PathLike[str] | None = None, download: bool = True) -> Corpus:
    """Loads the Free Spoken Digit Dataset: 2,700 recordings to train, 300 to test, in the order of their names.

    It is looked for in ``SPIKEFUSE_DATA`` (``fsdd-recordings.tar`` or ``recordings/`` inside ``fsdd/``, or the tar
    directly), then in the cache, and is else downloaded into the cache (16 MB). All content is checked by SHA-256
    before a recording is handed out. Recordings are 8 kHz, mono, 16 bit, 0.1 to 2.3 s; each is read when loaded.

    Args:
        split: ``"train"`` (takes 5 to 49), ``"test"`` (0 to 4), or None for all.
        folder: of the WAV files, or around their ``recordings/``; None looks as said above.
        download: whether the network may be used.

    Raises:
        ValueError: another split; recordings are missing from the folder, or their content or the tar's is not the
            published one; ``SPIKEFUSE_DATA`` names no folder.
        DatasetUnavailableError: the data is not here, and the download is not allowed or failed.
        OSError: a folder or file may not be read, or a link leads to a path that does not exist; the message names it.
        ImportError: a download is needed and pooch is not installed.

    Example:
        >>> test = load_fsdd("test") if fsdd_available() else None
        >>> test is None or (test[0].name, len(test)) == ("0_george_0.wav", 300)
        True
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"load_fsdd: expected split of train, test, got {split!r}")
    if folder is not None:
        files, source = _from_folder(Path(folder).expanduser().absolute()), "folder"
    elif (user_folder := _user_folder()) is not None:
        files, source = _from_folder(user_folder), store.DATA_VARIABLE
    else:
        instead = "read a folder of recordings of your own with load_wav_folder"
        found = store.obtain(NAME, (TAR,), download=download, instead=instead)
        files, source = _from_tar(found.paths[0]), found.source
    corpus = Corpus(NAME, DIGITS, tuple(_recording(name, piece) for name, piece in sorted(files.items())), source)
    return corpus if split is None else corpus.select(split=split)


def _recording(name: str, piece: FileSlice) -> Recording:
    match = _FILE_NAME.fullmatch(name)
    assert match is not None, "only such names were collected"
    split = "test" if int(match["take"]) < NUM_TEST_TAKES else "train"
    return Recording(name, int(match["digit"]), match["speaker"], split, piece)


def _user_folder() -> Path | None:
    """The folder of loose recordings in ``SPIKEFUSE_DATA``, where there is one and no tar."""
    data = store.data_folder()
    if data is None or any(folders.is_file(folder / TAR.name) for folder in (data / NAME, data)):
        return None
    folder = data / NAME
    if folders.is_folder(folder / "recordings"):
        return folder
    loose = folders.is_folder(folder) and any(path.match("*_*_*.wav") for path in folders.entries(folder))
    return folder if loose else None


def _from_tar(path: Path) -> dict[str, FileSlice]:
    """The recordings inside the tar, by name, to be read in place."""
    with tarfile.open(path, "r:") as tar:
        return {
            Path(member.name).name: FileSlice(path, member.offset_data, member.size)
            for member in tar
            if member.isfile() and _FILE_NAME.fullmatch(Path(member.name).name)
        }


def _from_folder(folder: Path) -> dict[str, FileSlice]:
    """The recordings in a folder, by name, all there and with the published content."""
    if not folders.is_folder(folder):
        raise ValueError(f"load_fsdd: expected an existing folder, got {folder}")
    inner = folder / "recordings"
    folder = inner if folders.is_folder(inner) else folder
    files = {path.name: FileSlice(path) for path in folders.entries(folder) if _FILE_NAME.fullmatch(path.name)}
    wanted = {f"{digit}_{speaker}_{take}.wav" for digit in DIGITS for speaker in SPEAKERS for take in range(50)}
    missing, unknown = sorted(wanted - files.keys()), sorted(files.keys() - wanted)
    if missing or unknown:
        raise ValueError(
            f"load_fsdd: {folder}: expected the {NUM_RECORDINGS:,} recordings of FSDD, got {len(files):,}"
            + (f"; missing {_some(missing)}" if missing else "")
            + (f"; unknown {_some(unknown)}" if unknown else "")
            + "; recordings of your own are read with load_wav_folder"
        )
    digest = hashlib.sha256()
    for name, piece in sorted(files.items()):
        with folders.open_file(piece.path) as file:
            digest.update(name.encode() + b"\0" + hashlib.sha256(file.read()).digest())
    if digest.hexdigest() != RECORDINGS_SHA256:
        raise ValueError(
            f"load_fsdd: {folder}: expected recordings with SHA-256 {RECORDINGS_SHA256} together, got "
            f"{digest.hexdigest()}; some differ from the published ones"
        )
    return files


def _some(names: list[str]) -> str:
    """The first names of a list, and how many there are."""
    return f"{len(names):,}: {', '.join(names[:3])}" + (", ..." if len(names) > 3 else "")
