"""Reader of the IDX format, in which MNIST and Fashion-MNIST are published.

A file is two zero bytes, a type code, the number of dimensions, one big-endian uint32 per dimension, and the elements,
big-endian, last dimension fastest; usually inside gzip.
"""

from __future__ import annotations

import gzip
import math
import zlib
from io import BufferedIOBase
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spikefuse._io import folders

IDX_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
"""Element type of each type code, in the file's byte order."""

MAX_DIMS: Final = 32
"""Most dimensions a numpy array can have in every numpy supported here."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_CHUNK_BYTES: Final = 1 << 20


def read_idx(path: str | PathLike[str]) -> NDArray[Any]:
    """Reads one IDX file, plain or inside gzip (told by its content, whatever its name).

    Memory grows with what the file holds, never with what its header claims.

    Args:
        path: the file.

    Returns:
        An array of the header's shape; uint8, int8, int16, int32, float32 or float64 in native byte order; writable.

    Raises:
        ValueError: the content is no IDX file: empty, cut short (also inside gzip), a damaged gzip stream, another
            magic number, an unknown type code, no or too many dimensions, or fewer or more elements than the header
            says.
        OSError: the file cannot be opened or read.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
        ...     _ = path.write_bytes(bytes([0, 0, 0x08, 1, 0, 0, 0, 3, 5, 0, 4]))
        ...     read_idx(path)
        array([5, 0, 4], dtype=uint8)
    """
    path = Path(path)
    with folders.open_file(path) as file:
        if file.peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)] != _GZIP_MAGIC:
            return _parse(file, path)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _parse(stream, path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"read_idx: {path}: expected one whole gzip stream, got a damaged one: {error}") from error


def _parse(stream: BufferedIOBase, path: Path) -> NDArray[Any]:
    """Reads the header and exactly the elements it announces."""
    magic = _read_up_to(stream, 4)
    if not magic:
        raise ValueError(f"read_idx: {path}: expected an IDX header, got no content")
    if len(magic) < 4:
        raise ValueError(f"read_idx: {path}: expected an IDX header of 4 bytes, got {len(magic)}")
    if magic[:2] != b"\0\0":
        raise ValueError(f"read_idx: {path}: expected an IDX file to start with bytes 00 00, got {magic[:2].hex(' ')}")
    code, num_dims = magic[2], magic[3]
    if code not in IDX_DTYPES:
        allowed = ", ".join(f"0x{known:02x} ({dtype.name})" for known, dtype in IDX_DTYPES.items())
        raise ValueError(f"read_idx: {path}: expected an IDX type code of {allowed}, got 0x{code:02x}")
    if not 1 <= num_dims <= MAX_DIMS:
        raise ValueError(f"read_idx: {path}: expected 1 to {MAX_DIMS} dimensions, got {num_dims}")

    sizes = _read_up_to(stream, 4 * num_dims)
    if len(sizes) < 4 * num_dims:
        raise ValueError(
            f"read_idx: {path}: expected {4 * num_dims} bytes of sizes for {num_dims} dimensions, got {len(sizes)}"
        )
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    dtype = IDX_DTYPES[code]
    expected = math.prod(shape) * dtype.itemsize
    announced = f"{expected} bytes of {dtype.name} for the header's shape {list(shape)}"

    payload = _read_up_to(stream, expected)
    if len(payload) < expected:
        raise ValueError(f"read_idx: {path}: expected {announced}, got {len(payload)}")
    # Reaching the end is also what makes gzip compare its checksum.
    if stream.read(1):
        raise ValueError(f"read_idx: {path}: expected {announced}, got more")
    try:
        elements = np.frombuffer(payload, dtype=dtype).reshape(shape)
    except ValueError as error:  # one size is 0 and the others together exceed the address space
        raise ValueError(f"read_idx: {path}: no array can have the header's shape {list(shape)}: {error}") from error
    return elements.astype(dtype.newbyteorder("="), copy=False)


def _read_up_to(stream: BufferedIOBase, size: int) -> bytearray:
    """Reads up to ``size`` bytes, in chunks, since ``read(size)`` may allocate a size that is a lie."""
    content = bytearray()
    while len(content) < size:
        chunk = stream.read(min(size - len(content), _CHUNK_BYTES))
        if not chunk:
            break
        content += chunk
    return content
