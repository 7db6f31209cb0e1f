"""The command line: what it writes, what it says, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from permissions import forbidden

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("safetensors")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

import rich.console

import spikefuse
from spikefuse import _load, data
from spikefuse.cli import doctor, main
from spikefuse.paper.models import SpikingAutoencoder, preset
from spikefuse.paper.training import autoencoder_runs, checkpoint, progress, recipes
from spikefuse.paper.training.autoencoder import Trainer
from spikefuse.paper.training.loop import TrainSettings

SMALL = ["--dataset", "digits", "--limit", "60", "--epochs", "2"]
FILES = ["checkpoint.safetensors", "filters.png", "loss.png", "metrics.json", "reconstructions.png"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command line in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("SPIKEFUSE_DATA", "SPIKEFUSE_TRACEBACK", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    threads = torch.get_num_threads()

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spikefuse", *arguments])
        code = 0
        try:
            main.main()
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1 if leave.code else 0
        output = capsys.readouterr()
        return code, output.out, output.err

    yield call
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "r"
    console = rich.console.Console(file=io.StringIO())
    options = recipes.Options(dataset="digits", limit=60, epochs=2)
    assert (
        autoencoder_runs.train(options, folder, resume=False, overwrite=False, save_every=100, console=console) is None
    )
    return folder


@pytest.fixture
def trained(trained_once: Path, run: Run) -> None:
    """A copy of it, in the current folder."""
    shutil.copytree(trained_once, "r")


def train(run: Run, *arguments: str) -> str:
    code, out, err = run("train", "autoencoder", *SMALL, *arguments)
    assert (code, err) == (0, "")
    return out


def test_training_fills_its_folder_and_reports(run: Run) -> None:
    out = train(run, "--out", "r", "--seed", "3")
    assert sorted(file.name for file in Path("r").iterdir()) == FILES
    for text in ("64-32-64", "shared trace", "seed 3", "batch 12/12", "Spike-MSE", "zeros in E", "firing rate, hidden"):
        assert text in out
    written = json.loads(Path("r/metrics.json").read_text())
    assert written["run"] == {"dataset": "digits", "limit": 60}
    assert written["settings"] == {"epochs": 2, "batch_size": 10, "steps": 15, "max_rate": 0.7, "seed": 3}
    assert written["model"]["rule"]["trace_divisor"] == 64
    assert written["provenance"]["versions"]["torch"] == torch.__version__
    assert set(written["results"]) == {"train", "test"}
    assert 0 < written["results"]["test"]["spike_mse"] < 2
    assert len(written["training"]["history"]["spike_mse"]) == 12
    assert f"{written['results']['test']['mse']:.3f}" in out


def test_options_reach_the_run(run: Run) -> None:
    options = {"hidden": "9", "steps": "4", "batch-size": "7", "lr": "0.002", "leak": "0.2", "rate": "0.9"}
    options |= {"weight-decay": "0.01", "trace": "gated", "optimizer": "sgd", "threads": "1", "checkpoint-every": "1"}
    train(run, "--out", "r", *(part for name, value in options.items() for part in (f"--{name}", value)))
    kept = checkpoint.load("r/checkpoint.safetensors")
    assert isinstance(kept.model, SpikingAutoencoder)
    rule = kept.model.rule
    assert kept.settings == TrainSettings(epochs=2, batch_size=7, steps=4, max_rate=0.9, seed=0)
    assert (rule.lr, rule.leak, rule.weight_decay, rule.trace, rule.optimizer) == (0.002, 0.2, 0.01, "gated", "sgd")
    assert (kept.model.hidden_features, rule.eps, rule.clamps) == (9, 1e-8, False)
    assert torch.get_num_threads() == 1


def test_same_seed_same_result_for_any_number_of_threads(run: Run) -> None:
    for threads in ("1", "2"):
        train(run, "--out", f"r{threads}", "--threads", threads)
    one, two = (checkpoint.load(f"r{threads}/checkpoint.safetensors") for threads in ("1", "2"))
    assert torch.equal(one.model.encoder_weight, two.model.encoder_weight)
    assert one.history == two.history
    pictures = [Path(f"r{threads}/reconstructions.png").read_bytes() for threads in ("1", "2")]
    assert pictures[0] == pictures[1]


def test_artificial_network(run: Run) -> None:
    out = train(run, "--out", "r", "--ann")
    assert "artificial autoencoder 64-32-64" in out
    assert "Spike-MSE" not in out
    code, out, _ = run("evaluate", "r")
    assert code == 0
    assert "MSE (output - image)" in out
    assert run("reconstruct", "r", "-o", "r/x.png")[0] == 0


def test_resume_goes_on_bit_for_bit(run: Run) -> None:
    train(run, "--out", "straight")
    code, _, _ = run("train", "autoencoder", "--dataset", "digits", "--limit", "60", "--epochs", "1", "--out", "r")
    assert code == 0
    code, out, _ = run("train", "autoencoder", "--out", "r", "--resume", "--epochs", "2")
    assert code == 0
    assert "Resumed after batch 6 of 12." in out
    straight, resumed = (checkpoint.load(f"{name}/checkpoint.safetensors") for name in ("straight", "r"))
    assert torch.equal(straight.model.decoder_weight, resumed.model.decoder_weight)
    assert straight.history == resumed.history


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "--lr", "0.1"], "--lr: expected 0.0005, which the run to resume has, got 0.1"),
        (["--resume", "--batch-size", "3"], "--batch-size: expected 10, which the run to resume has, got 3"),
        (["--resume", "--ann"], "--ann: expected False, which the run to resume has, got True"),
        (["--resume", "--dataset", "mnist"], "--dataset: expected digits, which the run to resume has, got mnist"),
        (["--resume", "--epochs", "1"], "epochs >= 2 for 12 batches done, got 1"),
        (["--dataset", "digits"], "is there already: --resume goes on with it"),
    ],
)
def test_a_run_is_neither_changed_nor_overwritten_unasked(run: Run, arguments: list[str], message: str) -> None:
    before = Path("r/checkpoint.safetensors").read_bytes()
    code, _, err = run("train", "autoencoder", "--out", "r", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1, "one line"
    assert Path("r/checkpoint.safetensors").read_bytes() == before


@pytest.mark.usefixtures("trained")
def test_overwrite(run: Run) -> None:
    train(run, "--out", "r", "--overwrite", "--seed", "1")
    assert checkpoint.load("r/checkpoint.safetensors").settings.seed == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "autoencoder", "--rate", "0", *SMALL], "0 < max_rate <= 1"),
        (["train", "autoencoder", "--ann", "--trace", "gated", *SMALL], "--trace has no meaning with --ann"),
        (["train", "autoencoder", "--lr", "1e30", *SMALL], "NaN or infinite at lr = 1e+30"),
        (["train", "autoencoder", "--resume", "--out", "none"], "none/checkpoint.safetensors is not there"),
        (["train", "autoencoder", "--hidden", "1000000000000", *SMALL], "not enough memory"),
        (["evaluate", "note.txt"], "note.txt: not a checkpoint"),
        (["evaluate", "r"], "cut short"),
        (["reconstruct", "r", "-o", "x.png"], "cut short"),
        (["reconstruct", "whole.safetensors", "-o", "note.txt/x.png"], "note.txt"),
        (["evaluate", "whole.safetensors", "--dataset", "digits"], "images of 30 pixels, which the checkpoint takes"),
        (["evaluate", "whole.safetensors"], "the checkpoint names no data set"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run: Run, arguments: list[str], message: str) -> None:
    Path("note.txt").write_text("a note, no checkpoint")
    model = SpikingAutoencoder(30, 4, preset("shared", 30).rule)
    whole = checkpoint.save("whole.safetensors", Trainer(model, torch.rand(3, 30), TrainSettings()))
    Path("r").mkdir()
    Path("r/checkpoint.safetensors").write_bytes(whole.read_bytes()[:-5])
    if arguments[0] == "reconstruct" and "whole.safetensors" in arguments:
        arguments = [*arguments, "--dataset", "digits"]
        message = "images of 30 pixels"
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("spikefuse: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["train", "autoencoder", "--rate", "2"],
        ["train", "autoencoder", "--hidden", "0"],
        ["train", "autoencoder", "--dataset", "cifar"],
        ["train", "autoencoder", "--resume", "--overwrite"],
        ["evaluate", "nowhere"],
        ["evaluate"],
        ["reconstruct", "."],
    ],
)
def test_wrong_usage_is_exit_2_without_a_traceback(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert "Traceback" not in out + err
    assert err


@pytest.mark.usefixtures("trained")
def test_unwritable_picture(run: Run) -> None:
    Path("file").write_text("")
    code, _, err = run("reconstruct", "r", "-o", "file/x.png")
    assert code == 2
    assert "file" in err


@pytest.mark.usefixtures("trained")
def test_evaluate_measures_the_same_again_and_other_draws_with_another_seed(run: Run) -> None:
    trained = json.loads(Path("r/metrics.json").read_text())["results"]["test"]
    assert run("evaluate", "r", "--json", "again.json")[0] == 0
    assert run("evaluate", "r/checkpoint.safetensors", "--seed", "9", "--json", "other.json")[0] == 0
    again, other = (json.loads(Path(name).read_text())["results"]["test"] for name in ("again.json", "other.json"))
    assert again == trained
    assert other != trained
    assert abs(other["mse"] - trained["mse"]) < 0.1
    code, out, _ = run("evaluate", "r", "--limit", "7")
    assert code == 0
    assert " 7 " in out


@pytest.mark.usefixtures("trained")
def test_reconstruct_writes_a_picture(run: Run) -> None:
    code, out, _ = run("reconstruct", "r", "--output", "new/x.png", "--count", "3", "--split", "train")
    assert code == 0
    assert "new/x.png" in out
    assert Path("new/x.png").read_bytes().startswith(b"\x89PNG")


def test_demo_is_the_default_recipe_and_overwrites_its_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes._DIGITS, "shared", recipes.Recipe(8, 1, 200, 0.7))
    for _ in range(2):
        code, out, _ = run("demo", "--dataset", "digits", "--out", "d")
        assert code == 0
        assert "64-8-64" in out
    assert sorted(file.name for file in Path("d").iterdir()) == FILES


def test_recipe_of_mnist_is_the_papers() -> None:
    model, settings = recipes.build(recipes.Options(), "mnist", 784)
    assert isinstance(model, SpikingAutoencoder)
    assert (model.hidden_features, model.rule, model.init_bound) == (196, preset("shared", 784).rule, 0.1)
    assert settings == TrainSettings(epochs=1, batch_size=100, steps=15, max_rate=0.5, seed=0)
    model, settings = recipes.build(recipes.Options(trace="gated"), "mnist", 784)
    assert isinstance(model, SpikingAutoencoder)
    assert (model.rule, model.init_bound, settings.max_rate) == (preset("gated").rule, None, 1.0)


def test_auto_takes_mnist_where_it_can_and_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def nothing(name: str, split: str) -> None:
        asked.append(name)
        raise data.DatasetUnavailableError("no network")

    monkeypatch.setattr(data, "available", lambda name: True)
    assert recipes.find_dataset("auto") == ("mnist", "Data set: MNIST, which is on this machine.")
    monkeypatch.setattr(data, "available", lambda name: False)
    monkeypatch.setattr(data, "load", nothing)
    name, note = recipes.find_dataset("auto")
    assert name == "digits"
    assert "could not be downloaded" in note
    assert asked == ["mnist"]
    assert recipes.find_dataset("fashion-mnist") == ("fashion-mnist", "")
    monkeypatch.setattr(data, "load", lambda name, split: None)
    assert recipes.find_dataset("auto") == ("mnist", "Data set: MNIST, downloaded.")


def test_wrong_data_folder_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKEFUSE_DATA", "/nowhere/at/all")
    code, _, err = run("demo")
    assert code == 2
    assert "SPIKEFUSE_DATA" in err
    code, out, _ = run("doctor")
    assert code == 0, "the doctor is there for this"
    assert "not usable" in out


@pytest.mark.parametrize(
    "command", [["evaluate"], ["reconstruct", "-o", "x.png"], ["train", "autoencoder", "--resume", "--out"]]
)
@pytest.mark.parametrize("name", ["r", "r/checkpoint.safetensors"])
def test_a_run_behind_a_broken_link_or_without_permission_is_named(
    run: Run, trained: None, command: list[str], name: str
) -> None:
    with forbidden(Path(name)):
        code, _, err = run(*command, "r")
    assert code == 2
    assert ("ermission denied" in err or "not readable" in err) and f"'{name}" in err
    Path(name).rename("x")
    Path(name).symlink_to("/disk/gone")
    code, _, err = run(*command, "r")
    assert (code, err.count("\n")) == (2, 1)
    assert f"a link to a path that does not exist; put it back or remove the link: '{name}' -> '/disk/gone'" in err


def test_a_linked_run_is_read(run: Run, trained: None) -> None:
    Path("r").rename("disk")
    Path("r").mkdir()
    Path("r/checkpoint.safetensors").symlink_to("../disk/checkpoint.safetensors")
    Path("s").symlink_to("r")
    assert run("reconstruct", "s", "-o", "x.png")[0] == 0


@pytest.mark.parametrize("name", ["r", "r/checkpoint.safetensors"])
def test_a_new_run_does_not_begin_where_an_old_one_cannot_be_looked_at(run: Run, trained: None, name: str) -> None:
    Path(name).rename("x")
    Path(name).symlink_to("x" if name == "r" else "../gone")
    Path("x").rename("y")
    code, out, err = run("train", "autoencoder", *SMALL, "--out", "r")
    assert (code, out) == (2, "")
    assert f"a link to a path that does not exist; put it back or remove the link: '{name}' -> " in err


def test_a_missing_checkpoint_is_a_usage_error(run: Run) -> None:
    code, _, err = run("evaluate", "nowhere")
    assert code == 2
    assert "Path 'nowhere' does not exist." in err


def test_the_doctor_names_a_folder_that_cannot_be_looked_at(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    monkeypatch.setenv("SPIKEFUSE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "400")
    with forbidden(tmp_path / "data" / "mnist"):
        code, out, _ = run("doctor")
    assert code == 0
    assert "not usable: [Errno 13] this path cannot be looked at" in out


class TestGPU:
    """The doctor's line on GPUs, on a machine that torch is told has one."""

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA X")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))

    def nvml(self, **changes: object) -> SimpleNamespace:
        functions = {
            "nvmlInit": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetHandleByUUID": lambda uuid: {"GPU-1-2": 7}[uuid],
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80 * 2**30),
            "nvmlDeviceGetMaxClockInfo": lambda handle, clock: 1980,
            "NVML_CLOCK_SM": 1,
            "NVMLError": OSError,
        }
        return SimpleNamespace(**{**functions, **changes})

    def test_named_in_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", self.nvml())
        assert doctor._gpu() == "NVIDIA X, 80 GiB, at most 1980 MHz; driver 580.1"

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)
        assert doctor._gpu() == 'NVIDIA X (memory, clocks and driver: pip install "spikefuse[bench]")'

    def test_without_the_driver_s_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise OSError("library not found")

        monkeypatch.setitem(sys.modules, "pynvml", self.nvml(nvmlInit=fail))
        assert doctor._gpu() == "NVIDIA X (memory, clocks and driver not known: library not found)"


def test_doctor(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    for text in (
        spikefuse.__version__,
        torch.__version__,
        spikefuse.ops.cpu_instruction_set(),
        "data set mnist",
        "typer",
    ):
        assert text in out
    assert _load.TESTED_TORCH["2.13"] in doctor._tested("2.13.0+cpu")
    assert doctor._tested("3.0.0") == f"3.0: not tested; tested are {', '.join(_load.TESTED_TORCH)}"
    names = [name for name, _ in doctor.facts()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "arguments", [[], ["train"], ["train", "autoencoder"], ["demo"], ["evaluate"], ["reconstruct"]]
)
@pytest.mark.parametrize("columns", ["40", "120"])
def test_help(run: Run, arguments: list[str], columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = run(*arguments, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= int(columns)
    assert "spikefuse" in out


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"spikefuse {spikefuse.__version__}\n", "")


def test_missing_extras_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "find_spec", lambda name: None)
    code, out, err = run("doctor")
    assert (code, out) == (2, "")
    assert err == 'spikefuse: the command line needs typer and rich: pip install "spikefuse[app]"\n'


def test_traceback_on_demand(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKEFUSE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="max_rate"):
        run("train", "autoencoder", "--rate", "0", *SMALL)


@pytest.mark.parametrize("width", [30, 55, 120])
def test_progress_fits_the_terminal(width: int) -> None:
    written = io.StringIO()
    console = rich.console.Console(force_terminal=True, width=width, file=written)
    model = SpikingAutoencoder(20, 4, preset("shared", 20).rule)
    trainer = Trainer(model, torch.rand(20, 20), TrainSettings(batch_size=5))
    with progress.training_progress(console, trainer) as on_batch:
        trainer.run(on_batch=on_batch)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    shown = [line for line in re.split(r"[\r\n]", text) if "epoch" in line]
    assert shown
    assert max(map(len, shown)) <= width
    assert ("4/4" in shown[-1]) == (width == 120)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(number: signal.Signals, tmp_path: Path, run: Run) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(spikefuse.__file__).parents[1])}
    command = [sys.executable, "-m", "spikefuse.cli", "train", "autoencoder", "--dataset", "digits", "--limit", "20"]
    command += ["--epochs", "1000000", "--checkpoint-every", "5", "--out", "r"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        path = tmp_path / "r" / "checkpoint.safetensors"
        deadline = time.monotonic() + 120
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "spikefuse train autoencoder --out r --resume" in out
    kept = checkpoint.load(path)
    assert kept.batch > 0
    assert f"Stopped after batch {kept.batch} of 2000000" in out
    code, _, _ = run("train", "autoencoder", "--out", "r", "--resume", "--epochs", str(kept.batch // 2 + 1))
    assert code == 0
    assert checkpoint.load(path).batch == 2 * (kept.batch // 2 + 1)
