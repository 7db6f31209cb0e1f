"""Each benchmark runs, in small, and leaves its numbers and its plot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks lie in the source tree only")


@pytest.mark.parametrize(
    ("script", "options", "benchmark", "results"),
    [
        ("throughput.py", ["--shapes", "40-30-20", "--rounds", "1"], "throughput", 1),
        ("throughput.py", ["--shapes", "40-30-20", "--rounds", "1", "--forward"], "throughput", 1),
        ("spike_product.py", ["--shape", "70", "50", "20", "--densities", "0.1", "0.9", "--rounds", "1"], None, 6),
        ("online.py", ["--shape", "smoke", "--materialised"], "online", 2),
        ("lif.py", ["--neuron-steps", "20480", "--steps", "4", "--rounds", "1"], "lif", 2),
        (
            *("open_neuromorphic.py", ["--sizes", "40", "--steps", "5", "--samples", "2", "--rounds", "1"]),
            *("open_neuromorphic", 1),
        ),
        ("scaling.py", ["--quantities", "density", "--points", "2", "--rounds", "1"], "scaling", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_benchmark(script: str, options: list[str], benchmark: str | None, results: int, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / script), "--json", str(path), "--quick-peaks", *options]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("written: ") == 2
    content = json.loads(path.read_text())
    assert content["benchmark"] == (benchmark or script.removesuffix(".py"))
    assert len(content["results"]) == results
    assert content["environment"]["torch"] and content["environment"]["commit"]
    for result in content["results"]:
        # what is compared must compute the same thing
        assert all(d < 1e-6 for d in result.get("largest_weight_difference_after_one_step", {}).values())
    assert content["machine"]["product_gflop_per_s"] > 0 and content["machine"]["copy_gb_per_s"] > 0
    assert path.with_suffix(".png").read_bytes().startswith(PNG)


def test_unknown_options_are_refused() -> None:
    command = [sys.executable, str(BENCHMARKS / "online.py"), "--shape", "imagenet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "imagenet" in done.stderr


def test_the_scaling_tables_are_those_of_the_model() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "scaling_model.py")], capture_output=True, text=True, check=True
    )
    document = (BENCHMARKS.parent / "docs" / "scaling.md").read_text()
    tables = done.stdout.strip().split("\n\n")
    assert len(tables) == 2 and all(len(lines.splitlines()) > 10 and lines in document for lines in tables)
