"""The IDX reader: every element type, and every way a file can be cut short, damaged, or lie."""

from __future__ import annotations

import gzip
import math
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikefuse.data.idx import IDX_DTYPES, read_idx


def idx_bytes(array: np.ndarray, code: int, shape: tuple[int, ...] | None = None) -> bytes:
    """An IDX file of ``array``, whose header may claim another shape."""
    shape = array.shape if shape is None else shape
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)
    return header + array.astype(IDX_DTYPES[code]).tobytes()


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
WHOLE = idx_bytes(IMAGES, 0x08)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 28, 28), (1,) * 32], ids=str)
@pytest.mark.parametrize("code", sorted(IDX_DTYPES), ids=hex)
def test_round_trip(tmp_path: Path, code: int, shape: tuple[int, ...], compress: bool) -> None:
    native = IDX_DTYPES[code].newbyteorder("=")
    limits = np.finfo(native) if native.kind == "f" else np.iinfo(native)
    array = np.resize(np.array([limits.min, limits.max, 0, 1, 100], dtype=native), math.prod(shape)).reshape(shape)
    path = tmp_path / "file"
    content = idx_bytes(array, code)
    path.write_bytes(gzip.compress(content) if compress else content)

    read = read_idx(path)

    assert read.dtype == native
    assert read.dtype.isnative
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array)


def test_bytes_are_big_endian_and_the_last_dimension_is_fastest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes([0, 0, 0x0B, 2, 0, 0, 0, 2, 0, 0, 0, 2, 0x01, 0x02, 0xFF, 0xFE, 0, 3, 0, 4]))
    assert read_idx(str(path)).tolist() == [[258, -2], [3, 4]]


def test_gzip_members_are_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(WHOLE[:10]) + gzip.compress(WHOLE[10:]))
    np.testing.assert_array_equal(read_idx(path), IMAGES)


DAMAGED = {
    "empty": (b"", "expected an IDX header, got no content"),
    "magic cut short": (WHOLE[:3], "expected an IDX header of 4 bytes, got 3"),
    "sizes cut short": (WHOLE[:11], "expected 12 bytes of sizes for 3 dimensions, got 7"),
    "payload missing": (WHOLE[:16], r"expected 24 bytes of uint8 for the header's shape \[2, 3, 4\], got 0"),
    "payload cut short": (WHOLE[:-1], r"expected 24 bytes of uint8 for the header's shape \[2, 3, 4\], got 23"),
    "trailing byte": (WHOLE + b"\0", r"expected 24 bytes of uint8 for the header's shape \[2, 3, 4\], got more"),
    "header claims less": (idx_bytes(IMAGES, 0x08, (1, 3, 4)), "expected 12 bytes .* got more"),
    "header claims more": (idx_bytes(IMAGES, 0x08, (3, 3, 4)), "expected 36 bytes .* got 24"),
    "another element size": (
        idx_bytes(IMAGES, 0x08)[:2] + b"\x0e" + WHOLE[3:],
        "expected 192 bytes of float64 .* got 24",
    ),
    "wrong magic": (b"\x89PNG" + WHOLE[4:], "expected an IDX file to start with bytes 00 00, got 89 50"),
    "unknown type": (b"\0\0\x0a\x01" + WHOLE[4:], r"expected an IDX type code of 0x08 \(uint8\), .*, got 0x0a"),
    "no dimensions": (b"\0\0\x08\x00\x07", "expected 1 to 32 dimensions, got 0"),
    "too many dimensions": (b"\0\0\x08\xff" + bytes(2000), "expected 1 to 32 dimensions, got 255"),
    "zero elements in an impossible shape": (
        idx_bytes(IMAGES[:0], 0x0E, (2**32 - 1, 2**32 - 1, 2**32 - 1, 0)),
        "no array can have the header's shape",
    ),
}


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("case", sorted(DAMAGED))
def test_damaged_content_is_refused(tmp_path: Path, case: str, compress: bool) -> None:
    content, message = DAMAGED[case]
    path = tmp_path / "damaged-idx"
    path.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(ValueError, match=f"read_idx: .*damaged-idx: {message}"):
        read_idx(path)


def test_every_cut_of_a_gzip_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(WHOLE)
    path = tmp_path / "cut.gz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"read_idx: .*cut\.gz: expected"):
            read_idx(path)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(WHOLE))
    path = tmp_path / "damaged.gz"
    checksum = len(whole) - 8
    for content in (
        whole[:checksum] + bytes([whole[checksum] ^ 1]) + whole[checksum + 1 :],
        whole[:12] + b"\xff" * 4 + whole[16:],
        whole + b"no gzip member",
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.gz: expected one whole gzip stream"):
            read_idx(path)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(2**32 - 1,), (60_000, 2**16, 2**16), (2**32 - 1,) * 32], ids=["1", "3", "32"])
def test_absurd_sizes_allocate_nothing(tmp_path: Path, shape: tuple[int, ...], compress: bool) -> None:
    content = idx_bytes(IMAGES, 0x08, shape)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if compress else content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"expected {math.prod(shape)} bytes .* got 24"):
            read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_trailing_gigabytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(WHOLE + bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="got more"):
            read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_missing_file_stays_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "absent")


@given(
    position=st.integers(0, len(WHOLE) - 1),
    value=st.integers(0, 255),
    cut=st.integers(0, len(WHOLE)),
    compress=st.booleans(),
)
def test_any_change_of_one_byte_and_any_cut_reads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: int, compress: bool
) -> None:
    content = bytearray(WHOLE)
    content[position] = value
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(gzip.compress(content[:cut]) if compress else content[:cut])
    outcome: np.ndarray | str
    try:
        outcome = read_idx(path)
    except ValueError as error:
        outcome = str(error)
    if isinstance(outcome, str):
        assert str(path) in outcome
    else:
        assert 4 + 4 * outcome.ndim + outcome.nbytes == cut
