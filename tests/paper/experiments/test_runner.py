"""Small runs: what is written, and that being killed changes no number."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import rich.console
import torch
from permissions import forbidden

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("safetensors")
pytest.importorskip("scipy")
pytest.importorskip("soundfile")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("sklearn")

from spikefuse import reference
from spikefuse.audio import corpora
from spikefuse.cli import main
from spikefuse.online import OnlineRule
from spikefuse.paper.experiments import claims, execute, report, runner
from spikefuse.paper.experiments.cases import Case, Chart, Entry, Sizes
from spikefuse.paper.experiments.jobs import ImageJob, SoundJob
from spikefuse.paper.models import preset

SIZES = Sizes("tiny", None, None, None, None, 8, 2, 1e-3, 2, 1)
IMAGES = {
    name: ImageJob("digits", name, 16, max_rate=0.7, lr=1e-3, batch_size=20, limit=200, test_limit=50)
    for name in ("shared", "gated", "ann")
}
SOUNDS = {
    name: SoundJob(job, "A", 5, 8, steps=20, max_rate=0.1, lr=1e-3, epochs=3, batch_size=10, limit=30)
    for name, job in IMAGES.items()
}


def entry(*names: str) -> Entry:
    cases = [Case(f"image {name}", IMAGES[name], i) for i, name in enumerate(names)]
    cases += [Case(f"sound {name}", SOUNDS[name], i) for i, name in enumerate(names)]
    images = tuple(f"image {name}" for name in names)
    charts = (
        Chart("bars", "All", tuple(case.name for case in cases), "MSE"),
        Chart("curve", "Images", images, "batch", "error"),
        Chart("curve", "Sounds", tuple(f"sound {name}" for name in names), "epoch", "MSE"),
        Chart("pictures", "Drawn", tuple(case.name for case in cases)),
        Chart("lines", "Over x", (), "x", "MSE", groups=(("images", images),)),
    )
    said = (claims.Claim("One is better.", "", (claims.lower("image shared", f"image {names[-1]}", "test.mse"),)),)
    return Entry("F0", "Small", "", tuple(cases), charts, said)


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up cochleagrams in place of a corpus."""
    generator = torch.Generator().manual_seed(0)
    patterns = (torch.rand(10, 90, generator=generator) < 0.3).float()

    def hear(corpus: str, folder: Path | None, limit: int | None) -> corpora.Sounds:
        labels = torch.arange(limit or 30) % 10
        test = torch.arange(20) % 10
        return corpora.Sounds(patterns[labels], labels, patterns[test], test, tuple("0123456789"))

    monkeypatch.setattr(corpora, "hear", hear)
    execute._heard.cache_clear()


def quiet() -> rich.console.Console:
    return rich.console.Console(file=io.StringIO(), width=200)


def numbers(out: Path) -> dict[str, Any]:
    """The measurements, without fields that depend on the machine and the day."""
    document = json.loads((out / runner.RESULTS).read_text())
    return {result["key"]: (result["results"], result["curves"], result["settings"]) for result in document["results"]}


def test_results_say_what_it_takes_to_have_them_again(tmp_path: Path) -> None:
    console = quiet()
    assert runner.run_all([entry("shared", "ann")], SIZES, tmp_path, console) is None
    document = json.loads((tmp_path / runner.RESULTS).read_text())
    assert document["sizes"] == "tiny"
    assert len(document["results"]) == 2 * 2 + 2, "two seeds of images, one of sounds"
    for result in document["results"]:
        assert set(result) == {
            "schema", "key", "kind", "settings", "seed", "provenance", "seconds", "results", "curves",
        }  # fmt: skip
        assert set(result["provenance"]) == {"commit", "versions", "device"}
        assert result["seed"] == result["settings"]["seed"]
        assert 0 < result["results"]["test"]["mse"] < 3
    assert not list((tmp_path / runner.JOBS).glob("*.part*")), "nothing is left of what was under way"
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "6/6 sound A ann, 8 hidden, 5 bits, adam, seed 0" in output
    assert "min left" in output
    page = report.write([entry("shared", "ann")], SIZES, tmp_path).read_text()
    assert "One is better." in page
    assert page.count("<img") == 4 + 4, "four charts, and a picture of each case"
    for case in ("image shared", "image ann", "sound shared", "sound ann"):
        assert f"Drawn: {case} (tiny)" in page


def test_done_jobs_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner.run_all([entry("shared")], SIZES, tmp_path, quiet())
    before = numbers(tmp_path)
    monkeypatch.setattr(execute, "run", lambda *_: pytest.fail("ran again"))
    assert runner.run_all([entry("shared")], SIZES, tmp_path, quiet()) is None
    assert numbers(tmp_path) == before


def test_what_is_done_but_cannot_be_looked_at_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [entry("shared")]
    runner.run_all(chosen, SIZES, tmp_path, quiet())
    before, jobs = numbers(tmp_path), tmp_path / runner.JOBS
    monkeypatch.setattr(execute, "run", lambda *_: pytest.fail("ran again"))
    result = execute.result_path(jobs, SOUNDS["shared"])
    for path, mode in ((jobs, 0o000), (jobs, 0o600), (result, 0o000)):
        with forbidden(path, mode), pytest.raises(PermissionError, match=f"'{jobs}/"):
            runner.run_all(chosen, SIZES, tmp_path, quiet())
    result.rename(tmp_path / "elsewhere")
    result.symlink_to("../elsewhere")
    assert runner.run_all(chosen, SIZES, tmp_path, quiet()) is None
    assert numbers(tmp_path) == before
    result.unlink()
    result.symlink_to("../gone")
    with pytest.raises(FileNotFoundError, match=f"'{result}' -> '../gone'"):
        runner.run_all(chosen, SIZES, tmp_path, quiet())
    picture = execute.picture_path(jobs, SOUNDS["shared"])
    result.unlink()
    (tmp_path / "elsewhere").rename(result)
    with forbidden(picture), pytest.raises(PermissionError, match=f"'{picture}'"):
        report.write(chosen, SIZES, tmp_path)


@pytest.mark.parametrize("how", ["unreadable", "dangling", "removed"])
def test_a_sound_whose_autoencoder_cannot_be_read_has_not_diverged(tmp_path: Path, how: str) -> None:
    image, folder = IMAGES["ann"], tmp_path / runner.JOBS
    execute.result_path(folder, image).parent.mkdir()
    execute.result_path(folder, image).write_text(json.dumps(execute.run(image, folder, lambda _: False)))
    path = execute.model_path(folder, image)
    if how == "unreadable":
        with forbidden(path), pytest.raises(PermissionError, match=f"'{path}'"):
            execute.run(SOUNDS["ann"], folder, lambda _: False)
        return
    path.unlink()
    if how == "dangling":
        path.symlink_to("gone")
    message = f"'{path}' -> 'gone'" if how == "dangling" else r"no trained autoencoder; delete .*json to train it again"
    with pytest.raises(FileNotFoundError, match=message):
        execute.run(SOUNDS["ann"], folder, lambda _: False)


@pytest.mark.parametrize("method", ["shared", "gated", "ann"])
def test_killed_at_any_batch_it_ends_with_the_same_numbers(method: str, tmp_path: Path) -> None:
    chosen = [entry("shared", method)] if method != "shared" else [entry("shared")]
    runner.run_all(chosen, SIZES, tmp_path / "straight", quiet())
    out, folder = tmp_path / "killed", tmp_path / "killed" / runner.JOBS
    for job in runner.jobs_of(chosen, SIZES):
        # Killed first in the middle of the second epoch of sounds, or of the first and only one of images; a process
        # that is gone leaves what it has written, and so does this.
        batches = 0

        def kill(share: float) -> bool:
            nonlocal batches
            batches += 1
            return batches == 4

        if job.method == method:
            with pytest.raises(execute.InterruptedJobError):
                execute.run(job, folder, kill)
            assert not execute.result_path(folder, job).exists()
            assert execute.part_path(folder, job).exists() == isinstance(job, SoundJob)
        result = execute.run(job, folder, lambda share: False)
        execute.result_path(folder, job).write_text(json.dumps(result))
    assert runner.run_all(chosen, SIZES, out, quiet()) is None
    assert numbers(out) == numbers(tmp_path / "straight")


def test_a_training_that_diverges_is_reported_and_stops_nothing_else(tmp_path: Path) -> None:
    bad = dataclasses.replace(IMAGES["ann"], optimizer="sgd", lr=1e20)
    builds_on_it = dataclasses.replace(SOUNDS["ann"], autoencoder=bad)
    whole = entry("shared", "ann")
    cases = (*whole.cases, Case("bad image", bad), Case("bad sound", builds_on_it))
    charts = (
        *whole.charts,
        Chart("bars", "Bad", ("bad image", "image ann"), "MSE"),
        Chart("bars", "x", ("bad sound",), "MSE"),
    )
    said = (*whole.claims, claims.Claim("Bad is worse.", "", (claims.lower("image ann", "bad image", "test.mse"),)))
    chosen = [dataclasses.replace(whole, cases=cases, charts=charts, claims=said)]
    assert runner.run_all(chosen, SIZES, tmp_path, quiet()) is None
    page = report.write(chosen, SIZES, tmp_path).read_text()
    assert "not measured" in page
    assert "bad image diverged" in page
    assert page.count("<img") == len(charts) - 2 + 4, "nothing is left to draw in the last"
    results = json.loads((tmp_path / runner.RESULTS).read_text())["results"]
    assert sum("lr = 1e+20" in result.get("diverged", "") for result in results) == 2, "two seeds"


def test_without_the_mask_every_output_is_corrected() -> None:
    # One layer, one step, SGD: W <- W + lr * mean over b of (O - v) x^T, for right and wrong spikes (eqs 5, 7, 11).
    weight = torch.rand(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (torch.rand(1, 3, 6, generator=torch.Generator().manual_seed(2)) < 0.5).double()
    y = (torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(3)) < 0.5).double()
    rule = OnlineRule(trace="gated", optimizer="sgd", lr=0.1)
    v = x[0] @ weight.T
    (learned,), loss, _, zeros = reference.online_step([weight], x, y, rule, masked=False)
    torch.testing.assert_close(learned, weight + 0.1 * (y[0] - v).T @ x[0] / 3)
    assert loss == pytest.approx(0.5 * float((y[0] - v).square().sum()) / 3)
    assert zeros == pytest.approx(float((y[0] == v).double().mean()))
    masked = reference.online_step([weight], x, y, rule)[0][0]
    assert not torch.equal(masked, learned)


def test_the_unmasked_autoencoder_learns_by_that_rule() -> None:
    model = execute.UnmaskedAutoencoder(6, 4, preset("shared", 6).rule, init_bound=0.5)
    x = (torch.rand(5, 3, 6, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    expected = reference.online_step(model.weights, x, x, model.rule, masked=False)[0]
    model.learn_(x)
    for weight, new in zip(model.weights, expected, strict=True):
        assert torch.equal(weight, new)
        assert weight.stride() == (1, weight.shape[0]), "still input-major"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from spikefuse.paper.experiments import entries

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(entries, "entries", lambda sizes: (entry("shared"),))
    monkeypatch.setattr(entries, "QUICK", SIZES)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spikefuse", "reproduce", *arguments])
        with pytest.raises(SystemExit) as leave:
            main.main()
        output = capsys.readouterr()
        return int(leave.value.code or 0), output.out, output.err

    code, out, err = run("--quick", "--only", "f0", "--seeds", "1", "--out", str(tmp_path))
    assert (code, err) == (0, "")
    assert "report.html" in out
    assert len(numbers(tmp_path)) == 2
    code, _, err = run("--quick", "--only", "F99", "--out", str(tmp_path))
    assert code == 2
    assert "--only: expected one of F0, got 'F99'" in err
