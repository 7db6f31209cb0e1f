"""Any folder of labelled WAV or SPHERE files as a corpus."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Final

from spikefuse._io import folders
from spikefuse.data.audiofile import FileSlice
from spikefuse.data.recordings import Corpus, Recording

FOLDER_PER_CLASS: Final = r"(?:(?P<split>train|test)/)?(?P<label>[^/]+)/[^/]+"
"""Pattern of ``label/anything.wav`` and of ``train/label/anything.wav``."""

_SUFFIXES: Final = (".wav", ".sph")


def load_wav_folder(
    folder: str | PathLike[str],
    split: str | None = None,
    *,
    pattern: str = FOLDER_PER_CLASS,
    classes: tuple[str, ...] | None = None,
) -> Corpus:
    r"""Loads a folder of labelled ``.wav`` and ``.sph`` files, told from others by their names in any case of letters.

    Args:
        folder: searched at any depth, through links. Files and folders whose names begin with a dot are passed over,
            and files of other suffixes.
        split: ``"train"``, ``"test"``, or None for both.
        pattern: regular expression that each file's path below ``folder``, with ``/`` between its parts, must match
            in whole; its group ``label`` is the name of the class, ``speaker`` who speaks (else empty) and ``split``
            ``train`` or ``test`` (else ``train``). The default takes a folder for each class, with or without
            ``train/`` and ``test/`` around them.
        classes: names of the classes in the order of their labels; None takes the names found, numbers in the order of
            their values and all others alphabetically.

    Returns:
        The recordings in the order of their paths, which are their names; none read.

    Raises:
        ValueError: no such folder, no sound files in it, a path that ``pattern`` does not match, a class that is not
            of ``classes``, another split, or a pattern that is none or lacks the group ``label``.
        OSError: a folder or a sound file that may not be read, a link to a path that does not exist, or one that leads
            back to a folder it lies in. The message names it: no class and no recording is left out unsaid.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("ann/yes-1.wav", "ann/no-1.wav", "bob/no-1.wav"):
        ...         Path(folder, name).parent.mkdir(exist_ok=True)
        ...         Path(folder, name).touch()
        ...     corpus = load_wav_folder(folder, pattern=r"(?P<speaker>\w+)/(?P<label>\w+)-\d+\.wav")
        >>> corpus.classes, corpus.speakers, corpus.labels
        (('no', 'yes'), ('ann', 'bob'), tensor([0, 1, 0]))
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"load_wav_folder: expected split of train, test, got {split!r}")
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"load_wav_folder: expected pattern to be a regular expression, got {pattern!r}") from error
    if "label" not in expression.groupindex:
        raise ValueError(f"load_wav_folder: expected a group (?P<label>...) in pattern, got {pattern!r}")
    root = Path(folder).expanduser().absolute()
    if not folders.is_folder(root):
        raise ValueError(f"load_wav_folder: expected folder to exist, got {root}")

    found: dict[str, dict[str, str]] = {}
    unmatched = []
    for path in folders.walk(root):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        folders.check_readable(path)
        name = path.relative_to(root).as_posix()
        if (match := expression.fullmatch(name)) is None or match["label"] is None:
            unmatched.append(name)
        else:
            found[name] = match.groupdict()
    if unmatched:
        raise ValueError(
            f"load_wav_folder: {root}: expected every path to match {pattern!r}, got {len(unmatched):,} that do not, "
            f"such as {min(unmatched)}"
        )
    if not found:
        raise ValueError(f"load_wav_folder: {root}: expected .wav or .sph files, got none")
    names = tuple(sorted({groups["label"] for groups in found.values()}, key=_class_order))
    if classes is None:
        classes = names
    elif unknown := [name for name in names if name not in classes]:
        raise ValueError(f"load_wav_folder: {root}: expected classes {', '.join(classes)}, got {', '.join(unknown)}")
    recordings = []
    for name, groups in sorted(found.items()):
        of = groups.get("split") or "train"
        if of not in ("train", "test"):
            raise ValueError(f"load_wav_folder: {root / name}: expected split of train, test, got {of!r}")
        label = classes.index(groups["label"])
        recordings.append(Recording(name, label, groups.get("speaker") or "", of, FileSlice(root / name)))
    corpus = Corpus(root.name, classes, tuple(recordings), "folder")
    return corpus if split is None else corpus.select(split=split)


def _class_order(name: str) -> tuple[bool, int, str]:
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)
