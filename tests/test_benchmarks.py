"""Each benchmark runs, in small, and leaves its numbers and its plot."""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spikefuse import OnlineRule, PackedSpikes

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


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


class OnOneDevice(TorchDispatchMode):
    """Raises where an op is given tensors of several devices, as a GPU does; numbers of the CPU and copies may mix.

    The meta device stands for the GPU: not all ops compare devices there.
    """

    COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dim()]
        if func not in self.COPIES and len({t.device for t in tensors}) > 1:
            raise AssertionError(f"{func} of tensors on {[str(t.device) for t in tensors]}")
        return func(*args, **(kwargs or {}))


def on_meta(*shape: int) -> Tensor:
    return torch.rand(*shape, device="meta")


def autoencoder() -> tuple[list[Tensor], Tensor, Tensor]:
    """Weights, inputs and targets."""
    return [on_meta(5, 7).requires_grad_(), on_meta(4, 5).requires_grad_()], on_meta(6, 3, 7), on_meta(6, 3, 4)


PEERS = {"snnTorch": "snntorch", "SpikingJelly": "spikingjelly", "Norse": "norse", "sinabs": "sinabs"}


class TestOnOneDevice:
    """A benchmark's baselines run on a GPU: none of their tensors is left on the CPU."""

    def test_mixed_devices_are_found(self) -> None:
        with OnOneDevice(), pytest.raises(AssertionError, match=r"mul.Tensor of tensors on \['meta', 'cpu'\]"):
            on_meta(3) * torch.ones(3)

    @pytest.mark.parametrize("rule", ["shared", "gated_window", "gated_materialised", "gated_materialised in place"])
    def test_online_baselines(
        self, rule: str, module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        eager = module("eager")
        # fused Adam refuses the meta device; it makes no tensor on another one
        monkeypatch.setattr(eager, "_reset_adam", lambda weights, _: torch.optim.Adam(weights))
        run = getattr(eager, f"online_{rule.split()[0]}")
        if "materialised" in rule:
            run = functools.partial(run, in_place=rule.endswith("in place"))
        with OnOneDevice(), torch.no_grad():
            run(*autoencoder(), OnlineRule())

    def test_loops(self, module: Callable[[str], ModuleType]) -> None:
        with OnOneDevice():
            module("eager").masked_autoencoder_loss(*autoencoder(), 0.1).backward()
            module("lif").loop(on_meta(6, 3, 7).requires_grad_()).sum().backward()

    def test_our_layers(self, module: Callable[[str], ModuleType]) -> None:
        weights, _, _ = autoencoder()
        x, target = (PackedSpikes(torch.zeros(6, 3, 1, dtype=torch.int32, device="meta"), n) for n in (7, 4))
        with OnOneDevice():
            module("throughput").spikefuse_model(
                [w.detach() for w in weights], x, target, one_kernel=True
            ).loss().backward()

    @pytest.mark.parametrize("benchmark", ["peers", "open_neuromorphic"])
    @pytest.mark.parametrize("peer", list(PEERS))
    def test_peers(self, peer: str, benchmark: str, module: Callable[[str], ModuleType]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip(PEERS[peer], exc_type=ImportError)
            make, (weights, x, target) = module(benchmark).PEERS[peer], autoencoder()
            with OnOneDevice():
                if benchmark == "peers":
                    make(weights, x, target, 0.1)().backward()
                else:
                    make(weights[0], x)().sum().backward()

    def test_every_peer_is_here(self, module: Callable[[str], ModuleType]) -> None:
        assert set(module("peers").PEERS) == set(PEERS)
        assert set(module("open_neuromorphic").PEERS) == {*PEERS, "EXODUS"}  # a layer of sinabs, with its own kernels


class TestCompiledLoops:
    """torch.compile unrolls a loop over time: of many steps the compilation would not end."""

    # torch's own: Dynamo looks at .grad of whatever it is given
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
    @pytest.mark.parametrize("steps", [3, 16])
    def test_equal_the_plain_loop(self, steps: int, module: Callable[[str], ModuleType]) -> None:
        throughput = module("throughput")
        weights = [torch.rand(5, 7).sub_(0.3).requires_grad_(), torch.rand(4, 5).sub_(0.3).requires_grad_()]
        x, target = ((torch.rand(steps, 3, n) < 0.4).float() for n in (7, 4))
        cases, not_run = throughput.compiled_losses(weights, x, target, backend="aot_eager")
        assert list(cases) == ["torch.compile of a step", "torch.compile of the loop"] and not_run == {}
        wanted = throughput.plain_loop(weights, x, target, throughput.LEAK)()
        grads = torch.autograd.grad(wanted, weights)
        for case in cases.values():
            loss = case()
            torch.testing.assert_close(loss, wanted)
            torch.testing.assert_close(torch.autograd.grad(loss, weights), grads)

    def test_of_many_steps_only_one_is_compiled(
        self, module: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
    ) -> None:
        harness, lif = module("harness"), module("lif")
        z = torch.rand(17, 3, 4)

        def whole() -> Tensor:
            pytest.fail("run")

        cases, not_run = harness.compiled_loops(
            whole, lambda step: lambda: lif.loop(z, step), lif.lif_step, len(z), backend="aot_eager"
        )
        assert list(cases) == ["torch.compile of a step"]
        assert torch.equal(cases["torch.compile of a step"](), lif.loop(z))
        assert not_run == {"torch.compile of the loop": "17 unrolled steps take minutes to compile; at most 16 are"}
        harness.print_table("title", ["", "ms", "MB"], [["short", "1.00", "-"], *harness.rows_not_run(not_run)])
        assert capsys.readouterr().out.splitlines()[1:] == [
            "title",
            "                           ms    MB",
            "-------------------------  ----  --",
            "short                      1.00  -",
            "torch.compile of the loop  not run: 17 unrolled steps take minutes to compile; at most 16 are",
        ]
