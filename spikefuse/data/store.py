"""Published files on this machine: found in the user's folder or the cache, else downloaded; checked by SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from spikefuse._io import folders
from spikefuse._io.optional import require

DATA_VARIABLE: Final = "SPIKEFUSE_DATA"
"""Environment variable: the user's folder, with a folder per data set inside, or with the files themselves."""

CACHE_VARIABLE: Final = "SPIKEFUSE_CACHE"
"""Environment variable: the cache, instead of the system's usual place."""

_CHUNK_BYTES: Final = 1 << 16


class DatasetUnavailableError(OSError):
    """A data set is neither on this machine nor could be downloaded.

    >>> issubclass(DatasetUnavailableError, OSError)
    True
    """


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: file name, the same everywhere.
        sha256: its SHA-256 in lower-case hexadecimal digits.
        urls: where to download it, tried in this order.
        repack: makes the file out of what is downloaded, where that is another one, or differs from day to day.
    """

    name: str
    sha256: str
    urls: tuple[str, ...]
    repack: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Found:
    """Files on this machine, in the order asked for, and where they were found (see ``Dataset.source``)."""

    source: str
    paths: tuple[Path, ...]


def find(dataset: str, files: Sequence[RemoteFile], foreign: Collection[str] = ()) -> Found | None:
    """Looks for all of ``files`` without downloading: in ``SPIKEFUSE_DATA/<dataset>``, ``SPIKEFUSE_DATA``, the cache.

    Args:
        dataset: the data set's name, and of its folder.
        files: what to look for.
        foreign: SHA-256 of other data sets' files under the same names, which do not count where they lie directly in
            ``SPIKEFUSE_DATA``.

    Returns:
        The files, not yet checked, or None.

    Raises:
        ValueError: ``SPIKEFUSE_DATA`` names no folder, or one that holds some of the files but not all.
        OSError: a folder may not be looked into, or a link leads to a path that does not exist; the message names it.
    """
    user_folder = data_folder()
    if user_folder is not None:
        for folder in (user_folder / dataset, user_folder):
            present = [file.name for file in files if folders.is_file(folder / file.name)]
            if not present or (folder == user_folder and sha256_of(folder / present[0]) in foreign):
                continue
            missing = [file.name for file in files if file.name not in present]
            if missing:
                raise ValueError(
                    f"{DATA_VARIABLE}: expected {', '.join(missing)} beside {', '.join(present)} in {folder}, "
                    "got no such file"
                )
            return Found(DATA_VARIABLE, tuple(folder / file.name for file in files))
    cache = cache_folder()
    if cache is not None and all(folders.is_file(cache / dataset / file.name) for file in files):
        return Found("cache", tuple(cache / dataset / file.name for file in files))
    return None


def obtain(
    dataset: str,
    files: Sequence[RemoteFile],
    *,
    foreign: Collection[str] = (),
    download: bool = True,
    instead: str = 'use the data set "digits", which needs no download',
) -> Found:
    """Finds ``files`` as :func:`find` does, else downloads what the cache lacks, and checks every SHA-256.

    Args:
        dataset: the data set's name.
        files: what is wanted.
        foreign: see :func:`find`.
        download: whether the network may be used.
        instead: what a user can do without the files, for the error.

    Raises:
        ValueError: as :func:`find`, or a file has another SHA-256 than published. It is never replaced unasked.
        DatasetUnavailableError: the files are not here, and the download is not allowed or failed.
        OSError: as :func:`find`, or a file may not be read.
        ImportError: a download is needed and pooch is not installed.
    """
    found = find(dataset, files, foreign)
    if found is None:
        ways_out = (
            f"set {DATA_VARIABLE} to a folder that holds {dataset}/, or {CACHE_VARIABLE} to a writable cache, "
            f"or {instead}"
        )
        if not download:
            raise DatasetUnavailableError(f"{dataset}: not on this machine, and download=False; {ways_out}")
        found = Found("download", _download_missing(dataset, files, ways_out))
    remedy = (
        f"replace it, or unset {DATA_VARIABLE}" if found.source == DATA_VARIABLE else "delete it to download it again"
    )
    for file, path in zip(files, found.paths, strict=True):
        digest = sha256_of(path)
        if digest != file.sha256:
            raise ValueError(
                f"{dataset}: {path}: expected SHA-256 {file.sha256}, got {digest} "
                f"({path.stat().st_size} bytes); {remedy}"
            )
    return found


def data_folder() -> Path | None:
    """The folder that ``SPIKEFUSE_DATA`` names; None where the variable is unset or empty.

    Raises:
        ValueError: it names no folder.
        OSError: it names a link to a path that does not exist, or a folder above it may not be entered.
    """
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser().absolute()
    if not folders.is_folder(folder):
        raise ValueError(f"{DATA_VARIABLE}: expected an existing folder, got {value!r} ({folder})")
    return folder


def cache_folder() -> Path | None:
    """The cache, which may not exist yet; None where neither ``SPIKEFUSE_CACHE`` nor pooch tells where it is."""
    value = os.environ.get(CACHE_VARIABLE)
    if value:
        return Path(value).expanduser().absolute()
    if find_spec("pooch") is None:
        return None
    return Path(require("pooch", "pooch", "the cache").os_cache("spikefuse")).expanduser().absolute()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content in lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with folders.open_file(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _download_missing(dataset: str, files: Sequence[RemoteFile], ways_out: str) -> tuple[Path, ...]:
    """Downloads the files that the cache lacks."""
    pooch = require("pooch", "pooch", f"downloading {dataset} ({ways_out})")
    folder = cache_folder()
    assert folder is not None, "pooch is here, so the cache has a place"
    paths = []
    for file in files:
        path = folder / dataset / file.name
        if not folders.is_file(path):
            _download(pooch, dataset, file, path, ways_out)
        paths.append(path)
    return tuple(paths)


def _download(pooch: Any, dataset: str, file: RemoteFile, path: Path, ways_out: str) -> None:
    """Downloads one file to ``path``, from the first of its addresses that delivers it whole."""
    failures = []
    for url in file.urls:
        try:
            with _progress(pooch, f"{dataset}/{file.name}") as progressbar:
                pooch.retrieve(
                    url,
                    known_hash=f"sha256:{file.sha256}",
                    fname=path.name,
                    path=path.parent,
                    downloader=_DurableDownloader(pooch, progressbar, file.repack),
                )
            return
        # pooch reports another checksum as ValueError; requests' errors are OSErrors.
        except (OSError, ValueError) as error:
            failures.append(error)
    reasons = "; ".join(f"{url}: {error}" for url, error in zip(file.urls, failures, strict=True))
    raise DatasetUnavailableError(
        f"{dataset}: could not download {file.name} to {path.parent} ({reasons}); {ways_out}"
    ) from failures[-1]


class _DurableDownloader:
    """pooch's download over HTTP, on disk before pooch checks it and renames it into place."""

    def __init__(self, pooch: Any, progressbar: Any, repack: Callable[[bytes], bytes] | None) -> None:
        self._repack = repack
        self._responses: list[Any] = []
        self._http = pooch.HTTPDownloader(
            progressbar=progressbar,
            chunk_size=_CHUNK_BYTES,
            # A server that compresses on its own account would hide the length that the progress bar needs.
            headers={"Accept-Encoding": "identity"},
            hooks={"response": lambda response, **_: self._responses.append(response)},
        )

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        try:
            self._http(url, output_file, pooch)
        finally:
            # pooch leaves the connection of a download that failed to the garbage collector.
            for response in self._responses:
                response.close()
        with open(output_file, "rb+") as file:
            if self._repack is not None:
                content = self._repack(file.read())
                file.seek(0)
                file.truncate()
                file.write(content)
                file.flush()
            os.fsync(file.fileno())


class _RichBar:
    """One bar of rich under the four names that pooch calls on a progress bar."""

    def __init__(self, progress: Any, description: str) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=None)

    @property
    def total(self) -> int | None:
        """Bytes to come; None while unknown."""
        total: int | None = self._progress.tasks[self._task].total
        return total

    @total.setter
    def total(self, size: int) -> None:
        self._progress.update(self._task, total=size or None)

    def update(self, advance: int) -> None:
        self._progress.update(self._task, advance=advance)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.refresh()


@contextmanager
def _progress(pooch: Any, description: str) -> Iterator[Any]:
    """Chooses pooch's progress bar: rich's, else tqdm's, else none; pooch then logs one line."""
    if find_spec("rich") is None:
        yield find_spec("tqdm") is not None
        return
    import rich.console
    import rich.progress as bars

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # its line would say what the bar says
    try:
        with bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.DownloadColumn(),
            bars.TransferSpeedColumn(),
            console=rich.console.Console(stderr=True),
        ) as progress:
            yield _RichBar(progress, description)
    finally:
        logger.setLevel(level)
