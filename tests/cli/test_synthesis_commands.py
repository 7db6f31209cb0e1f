"""The commands that train a net to make images of sound, and use one."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("safetensors")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
pytest.importorskip("soundfile")

import rich.console
import soundfile

from spikefuse.audio import corpora
from spikefuse.cli import main
from spikefuse.paper.models import AudioToImage
from spikefuse.paper.training import audio_to_image_runs, autoencoder_runs, checkpoint, recipes
from spikefuse.paper.training.audio_to_image_runs import SynthesisOptions

FILES = ["checkpoint.safetensors", "images.png", "metrics.json", "mse.png"]
SMALL = [
    "--corpus",
    "folder",
    "--folder",
    "sounds",
    "--hidden",
    "8",
    "--batch-size",
    "10",
    "--steps",
    "20",
    "--th",
    "3",
]

Run = Callable[..., tuple[int, str, str]]


def quiet() -> rich.console.Console:
    return rich.console.Console(file=io.StringIO())


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones of three pitches as spoken "digits", and an autoencoder of the 8x8 digits."""
    folder = tmp_path_factory.mktemp("material")
    random = np.random.default_rng(0)
    for label, pitch in enumerate((300, 900, 2500)):
        for take in range(8):
            split = "test" if take < 2 else "train"
            path = folder / "sounds" / split / str(label) / f"{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            time = np.arange(4000) / 8000
            soundfile.write(path, 0.5 * np.sin(2 * np.pi * pitch * time) + 0.01 * random.standard_normal(4000), 8000)
    options = recipes.Options(dataset="digits", limit=300, epochs=2)
    autoencoder_runs.train(options, folder / "ae", resume=False, overwrite=False, save_every=100, console=quiet())
    return folder


@pytest.fixture
def run(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in a folder with the material: exit code, stdout, stderr."""
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("SPIKEFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SPIKEFUSE_TRACEBACK", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spikefuse", *arguments])
        code = 0
        try:
            main.main()
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1 if leave.code else 0
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def train(run: Run, *arguments: str) -> str:
    code, out, err = run("train", "audio-to-image", *SMALL, "--autoencoder", "ae", *arguments)
    assert (code, err) == (0, "")
    return out


def test_training_fills_its_folder_and_reports(run: Run) -> None:
    out = train(run, "--epochs", "2", "--out", "r", "--dataset", "B", "--seed", "4")
    assert sorted(file.name for file in Path("r").iterdir()) == FILES
    for text in ("58500-8-32-64", "Th 3", "20 steps", "seed 4", "lr 0.0005", "after epoch 2: test MSE", "batch 4/4"):
        assert text in out
    written = json.loads(Path("r/metrics.json").read_text())
    assert written["run"] == {
        "corpus": "folder",
        "folder": "sounds",
        "dataset": "B",
        "limit": None,
        "images": "digits",
    }
    assert [entry["epoch"] for entry in written["training"]["epochs"]] == [1, 2]
    assert written["results"]["test"] == written["training"]["epochs"][-1]
    assert written["results"]["test"]["samples"] == 6
    assert f"{written['results']['baselines']['mean_image']:.3f}" in out


def test_options_reach_the_run(run: Run) -> None:
    options = {"rate": "0.05", "image-rate": "0.6", "lr": "0.002", "leak": "0.2", "weight-decay": "0.01"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    train(run, "--epochs", "1", "--out", "r", "--trace", "gated", "--limit", "12", *arguments)
    kept = checkpoint.load_audio_to_image("r/checkpoint.safetensors")
    assert isinstance(kept.model, AudioToImage)
    rule = kept.model.audiocoder.rule
    assert (rule.lr, rule.leak, rule.weight_decay, rule.trace, rule.eps) == (0.002, 0.2, 0.01, "gated", 1e-8)
    assert (kept.settings.max_rate, kept.settings.steps, kept.settings.batch_size) == (0.05, 20, 10)
    assert (kept.model.duration, kept.model.image_rate, kept.samples) == (3, 0.6, 12)


def test_defaults_are_the_papers_at_its_size(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(material)
    made: list[tuple[object, ...]] = []

    def coder(*arguments: object, **_: object) -> None:
        made.append(arguments)
        raise KeyboardInterrupt  # the default holds 480 MB

    monkeypatch.setattr(audio_to_image_runs, "Audiocoder", coder)
    options = SynthesisOptions(autoencoder=Path("ae"), corpus="folder", folder=Path("sounds"))
    with pytest.raises(KeyboardInterrupt):
        audio_to_image_runs.train(options, Path("x"), resume=False, overwrite=False, save_every=None, console=quiet())
    ((inputs, hidden, outputs, rule),) = made
    assert (inputs, hidden, outputs, rule) == (58_500, 2_048, 32, audio_to_image_runs.audiocoder_preset("shared").rule)


def test_resume_goes_on_bit_for_bit(run: Run) -> None:
    train(run, "--epochs", "2", "--out", "straight")
    train(run, "--epochs", "1", "--out", "r", "--checkpoint-every", "1")
    code, out, _ = run("train", "audio-to-image", "--out", "r", "--resume", "--epochs", "2")
    assert code == 0
    assert "Resumed after batch 2 of 4." in out
    straight, resumed = (checkpoint.load_audio_to_image(f"{name}/checkpoint.safetensors") for name in ("straight", "r"))
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name])
    assert straight.measured == resumed.measured
    assert straight.history == resumed.history


def test_bad_input_is_one_line_and_exit_2(run: Run) -> None:
    train(run, "--epochs", "1", "--out", "r")
    again = ["train", "audio-to-image", "--out", "r"]
    for arguments, message in (
        (["--resume", "--hidden", "9"], "--hidden: expected 8, which the run to resume has, got 9"),
        (["--resume", "--dataset", "B"], "--dataset: expected A, which the run to resume has, got B"),
        ([], "is there already: --resume goes on with it"),
        (["--overwrite", "--autoencoder", "ae", "--corpus", "folder"], "folder: expected the folder"),
        (["--overwrite", "--autoencoder", "ae", "--corpus", "fsdd", "--folder", "sounds"], "no meaning with"),
        (["--out", "none", "--resume"], "none/checkpoint.safetensors is not there"),
        (["--overwrite", "--autoencoder", "r", *SMALL], "not a checkpoint of spikefuse-autoencoder"),
    ):
        before = Path("r/checkpoint.safetensors").read_bytes()
        code, _, err = run(*again, *arguments)
        assert code == 2, message
        assert message in err
        assert err.count("\n") == 1
        assert Path("r/checkpoint.safetensors").read_bytes() == before


def test_synthesize_draws_images_of_sounds(run: Run) -> None:
    train(run, "--epochs", "1", "--out", "r")
    files = ["sounds/test/0/0.wav", "sounds/test/2/1.wav"]
    code, out, err = run("synthesize", *files, "-o", "new/x.png", "--model", "r")
    assert (code, err) == (0, "")
    assert "new/x.png" in out
    first = Path("new/x.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    run("synthesize", *files, "-o", "new/y.png", "--model", "r/checkpoint.safetensors")
    assert Path("new/y.png").read_bytes() == first, "one seed, one picture"


def test_synthesize_without_a_trained_net_says_how_to_train_one(run: Run) -> None:
    code, _, err = run("synthesize", "sounds/test/0/0.wav", "-o", "x.png")
    assert code == 2
    assert "`spikefuse train audio-to-image --out runs/audio-to-image` trains one" in err
    assert err.count("\n") == 1
    Path("note.wav").write_text("no sound")
    train(run, "--epochs", "0", "--out", "r")
    code, _, err = run("synthesize", "note.wav", "-o", "x.png", "--model", "r")
    assert code == 2
    assert "note.wav" in err
    assert not Path("x.png").exists()


def test_paths_behind_broken_links_are_named(run: Run) -> None:
    train(run, "--epochs", "0", "--out", "r")
    Path("gone").symlink_to("/disk/gone")
    for arguments in (
        ["synthesize", "gone", "-o", "x.png", "--model", "r"],
        ["synthesize", "sounds/test/0/0.wav", "-o", "x.png", "--model", "gone"],
        ["train", "audio-to-image", *SMALL, "--autoencoder", "gone", "--out", "s"],
        ["train", "audio-to-image", "--out", "gone"],
        ["train", "audio-to-image", "--out", "gone", "--resume"],
    ):
        code, _, err = run(*arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert "a link to a path that does not exist; put it back or remove the link: 'gone' -> '/disk/gone'" in err


def test_a_folder_without_splits_is_divided_once_and_for_all(material: Path) -> None:
    train_part, test_part = corpora.divided("folder", material / "sounds" / "train")
    assert (len(train_part), len(test_part)) == (15, 3)
    again = corpora.divided("folder", material / "sounds" / "train")[1]
    assert [recording.name for recording in again] == [recording.name for recording in test_part]
    with pytest.raises(ValueError, match="corpus: expected one of fsdd, ti46, folder, got 'x'"):
        corpora.divided("x")


@pytest.mark.parametrize("arguments", [["train", "audio-to-image"], ["synthesize"]])
@pytest.mark.parametrize("columns", ["40", "120"])
def test_help(run: Run, arguments: list[str], columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = run(*arguments, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= int(columns)
