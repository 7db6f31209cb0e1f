"""Sound files written byte by byte, for the tests of what reads them."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import numpy as np

SAMPLES = np.array([0, 1, -2, 300, -300, 32767, -32768], dtype=np.int16)


def sphere(
    samples: np.ndarray = SAMPLES,
    *,
    rate: int = 12_500,
    byte_format: str = "01",
    coding: str | None = "pcm",
    count: int | None = None,
    channels: int = 1,
) -> bytes:
    """A NIST SPHERE file of 16-bit samples, its header as on LDC's discs."""
    lines = [
        "NIST_1A",
        "   1024",
        "database_id -s4 TI46",
        f"sample_count -i {len(samples) // channels if count is None else count}",
        "sample_n_bytes -i 2",
        f"channel_count -i {channels}",
        f"sample_byte_format -s2 {byte_format}",
        f"sample_rate -i {rate}",
        *([] if coding is None else [f"sample_coding -s{len(coding)} {coding}"]),
        "sample_sig_bits -i 12",
        "end_head",
    ]
    header = "".join(f"{line}\n" for line in lines).encode().ljust(1024, b" ")
    return header + samples.astype("<i2" if byte_format == "01" else ">i2").tobytes()


def wav(samples: np.ndarray = SAMPLES, *, rate: int = 8000, channels: int = 1, size: int | None = None) -> bytes:
    """A RIFF file of 16-bit samples, with a chunk before the data; ``size`` is what its header claims."""
    data = samples.astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    note = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    body = b"WAVE" + b"fmt " + struct.pack("<I", 16) + form + note
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def archive(files: dict[str, bytes], *, top: str = "", mode: str = "w") -> bytes:
    """A tar of files in the order given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(top + name)
            info.size, info.mtime, info.uname = len(content), 1, "someone"
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
