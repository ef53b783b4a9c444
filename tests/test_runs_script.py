"""scripts/runs.py: many runs in words and pictures, from files that are written here by hand."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT

from runner.config.compose import project_composer
from runner.results import load_epochs
from runner.storage import checkpoint
from runner.storage.directory import Run
from runner.storage.identity import ids
from runner.storage.lock import locked
from runner.summary.curves import MOST_CURVES, curves

Forge = Callable[..., Run]
Called = Callable[..., str]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Called:
    """Return a function of arguments that returns what the script prints. `says` is the answer to its question."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.delitem(sys.modules, "runs", raising=False)
    monkeypatch.chdir(tmp_path)
    import runs

    def called(*arguments: str | Path, code: int = 0, says: str = "") -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(says))
        if not code:
            runs.main(list(map(str, arguments)))
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as leaving:
            runs.main(list(map(str, arguments)))
        assert leaving.value.code == code
        return capsys.readouterr().err

    return called


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    """Return a function of overrides and metrics that writes the files of a run below runs/, without training."""

    def write(*overrides: str, status: str = "done", errors: tuple[float, ...] = (), **metrics: Any) -> Run:
        composed = project_composer().compose([f"runs_dir={tmp_path / 'runs'}", *overrides])
        run = Run(composed.values, composed.overrides)
        run.write_config()
        numbers = {key.replace("__", "/"): value for key, value in metrics.items()}
        facts = {"status": status, "seed": run.config["seed"], "epoch": len(errors), "best/by": "validation/error"}
        run.write_result({**facts, **numbers})
        rows = [f"{number},{value},{value}\n" for number, value in enumerate(errors, 1)]
        (run.path / "metrics.csv").write_text("epoch,test/error,train/loss\n" + "".join(rows))
        return run

    return write


@pytest.fixture
def sweep(forge: Forge) -> dict[tuple[float, int], Run]:
    """A sweep in which the least validation error and the least test error are of different weights."""
    found = {}
    for weight, validation, test in ((0.0, 0.3, 0.2), (0.01, 0.1, 0.25), (0.02, 0.2, 0.1)):
        for seed in (0, 1):
            off = 0.01 * seed
            numbers = {"validation__error": validation + off, "test__error": test + off, "seconds": 1.0}
            lines = ("penalty=l2", f"penalty.l2.weight={weight}", f"seed={seed}", "epochs=3")
            found[weight, seed] = forge(*lines, errors=(0.9, 0.5 + off, test + off), **numbers)
    return found


def test_list_has_a_line_for_each_run(call: Called, forge: Forge, sweep: dict[tuple[float, int], Run]) -> None:
    forge("epochs=9", status="failed", reason="boom")
    lines = call("list", "runs").splitlines()
    assert len(lines) == 1 + 6 + 1
    (line,) = (line for line in lines if sweep[0.01, 1].run_id in line)
    assert {"done", "0.11", "0.26"} <= set(line.split())
    assert "l2.weight=0.01" in line
    assert any("failed" in line for line in lines)
    assert call("list", "absent", code=2) == "there are no runs in absent: give a folder such as runs/<name>\n"


def test_show_finds_a_run_by_its_id(call: Called, forge: Forge, sweep: dict[tuple[float, int], Run]) -> None:
    run = forge("seed=7", status="failed", reason="boom", test__error=0.5)
    for name in (run.run_id, str(run.path)):
        shown = call("show", name)
        assert "failed: boom" in shown
        assert re.search(r"^test/error +0\.5$", shown, re.M)
        assert f"uv run train.py runs_dir={run.config['runs_dir']} seed=7\n" in shown
    assert "RUN must be the directory of one run, or its id" in call("show", "zzzzzzzz", code=2)


def test_compare_shows_what_differs_and_nothing_else(call: Called, sweep: dict[tuple[float, int], Run]) -> None:
    shown = call("compare", sweep[0.0, 0].run_id, sweep[0.01, 1].run_id)
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}
    assert rows["penalty.l2.weight"] == ["0.0", "0.01"]
    assert rows["seed"] == ["0", "1"]
    assert rows["test/error"] == ["0.2", "0.26"]
    assert not {"epochs", "model", "optimizer.lr", "path"} & set(rows)
    assert "compare needs at least two runs" in call("compare", sweep[0.0, 0].run_id, code=2)


def test_best_is_by_validation_and_never_by_the_test(call: Called, sweep: dict[tuple[float, int], Run]) -> None:
    first, command = call("best", "runs").splitlines()
    assert first == "validation/error 0.105, mean of n = 2: l2.weight=0.01"
    assert command.startswith("uv run train.py runs_dir=")
    again = project_composer().compose(command.split()[3:])
    assert ids(again.values) == (sweep[0.01, 0].run_id, sweep[0.01, 0].group_id)
    assert Run(again.values).path == sweep[0.01, 0].path
    swept = call("best", "runs", "--seeds", "5").splitlines()[1]
    assert swept.startswith("uv run train.py -m runs_dir=")
    assert swept.endswith("'seed=range(2,7)'")  # fresh ones: those before have chosen the setting
    assert "seed=0" not in swept
    assert "has ended well" in call("best", "absent", code=2)


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        ("", ""),
        ("penalty=[jacobian,l2] penalty.jacobian.projections=null seed=3 force=true", None),
        ("+optimizer.momentum=0.9 model=mlp model.widths=[5,6] threads=1 name=a/b", None),
        ("penalty=l2 sweep.trials=2 sweep.arm=l2 sweep.stage=comparison", "penalty=l2"),
        ("data=npz \"data.path='a b,c=d.npz'\" model=mlp ++epochs=3", None),
        ("'optimizer.groups={fc2: {lr: 0.01}}' 'data.seed=${seed}' 'init_from=runs/x*'", None),
    ],
)
def test_the_command_is_what_was_typed(call: Called, forge: Forge, typed: str, printed: str | None) -> None:
    run = forge(*shlex.split(typed), status="failed", reason="boom")
    line = call("show", run.run_id).partition("command       ")[2].splitlines()[0]
    words = shlex.split(line)
    assert words[:3] == ["uv", "run", "train.py"]
    wanted = typed if printed is None else printed
    assert words[4:] == [word for word in shlex.split(wanted) if word != "force=true"]
    again = Run(project_composer().compose(words[3:]).values)
    assert (again.run_id, again.path) == (run.run_id, run.path)


def test_without_its_record_the_command_is_unknown(call: Called, forge: Forge) -> None:
    run = forge("seed=3", status="failed", reason="boom")
    for text in ("[1, 2]", "[", "", "3"):
        (run.path / "overrides.yaml").write_text(text)
        assert "command       unknown: overrides.yaml is missing or no list of words" in call("show", run.run_id)


FOLDERS = {
    "flag": ["--config-dir", "myconf"],
    "search path": ["hydra.searchpath=[file://{}/myconf]"],
}
SHORT = ("data=line", "model=mlp", "loss=mse", "epochs=1", "histograms=false", "pictures=false")


@pytest.mark.parametrize("how", FOLDERS)
def test_the_command_of_a_users_own_option_names_its_folder(
    call: Called, command: Callable[..., Any], tmp_path: Path, how: str
) -> None:
    file = tmp_path / "myconf" / "penalty" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("mine: {_target_: losses.L2, weight: 0.25}")
    folder = [word.format(tmp_path) for word in FOLDERS[how]]
    flags, words = (folder, []) if how != "search path" else ([], folder)
    done = command("-m", *flags, *SHORT, *words, "penalty=mine", "seed=1,2")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs" / "train").glob("*seed=1*")
    printed = call("show", path).partition("command       ")[2].splitlines()[0]
    assert ("--config-dir=myconf" in printed) == (how != "search path")
    again = command(*shlex.split(printed)[3:])
    assert again.returncode == 0, again.stderr
    assert "trained before" in again.stdout
    assert path.name in again.stdout


PRESET = """# @package _global_
defaults:
  - override /data: line
  - override /model: mlp
  - override /loss: mse

name: tuned
epochs: 1
histograms: false
pictures: false
data: {seed: "${seed}", validation_size: 2}
sweep:
  trials: 2
  baseline: plain
  arms: {plain: {penalty: none, sweep.ranges: {optimizer.lr: [0.01, 0.1]}}, l2: {penalty: l2}}
hydra:
  mode: MULTIRUN
  sweeper:
    params: {seed: "range(2)"}
"""


def test_the_best_of_a_sweep_is_repeated_by_the_command_that_is_printed(
    call: Called, command: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "myconf" / "sweep" / "tuned.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(PRESET)
    done = command("--config-dir", "myconf", "sweep=tuned")
    assert done.returncode == 0, done.stderr
    one, swept = (call("best", "runs", *words).splitlines()[1] for words in ((), ("--seeds", "2")))
    again = command(*shlex.split(one)[3:])
    assert again.returncode == 0, again.stderr
    assert "trained before" in again.stdout
    before = set((tmp_path / "runs" / "tuned").glob("*seed=*_*"))
    assert "-m --config-dir=myconf" in swept
    fresh = command(*shlex.split(swept)[3:])
    assert fresh.returncode == 0, fresh.stderr
    new = set((tmp_path / "runs" / "tuned").glob("*seed=*_*")) - before
    configs = [yaml.safe_load((path / "config.yaml").read_text()) for path in new]
    assert sorted((config["seed"], config["data"]["seed"]) for config in configs) == [(2, 2), (3, 3)]


def test_delete_asks(call: Called, forge: Forge, sweep: dict[tuple[float, int], Run]) -> None:
    failed = forge("epochs=9", status="failed", reason="boom")
    for answer in ("", "n\n", "no\n"):
        assert call("delete", "runs", says=answer, code=2) == "nothing is deleted\n"
    assert call("delete", "runs", "--status", "failed", says="y\n").endswith("deleted 1 runs\n")
    assert not failed.path.exists()
    assert all(run.path.exists() for run in sweep.values())
    busy, free = sweep[0.0, 0], sweep[0.0, 1]
    with locked(busy.path):
        assert "another process is training" in call("delete", busy.run_id, "--yes", code=2)
    call("delete", free.run_id, "--yes")
    assert (busy.path.exists(), free.path.exists()) == (True, False)
    assert "there is no such run" in call("delete", "runs", "--status", "diverged", "--yes", code=2)


def test_export_writes_the_files(call: Called, composed: Callable[..., Run], tmp_path: Path) -> None:
    from runner.run import train_run

    run = composed("epochs=1", "data.train_size=50", "model=mlp", "model.widths=[4]", "histograms=false")
    train_run(run, io.StringIO())
    assert call("export", run.run_id, "out", "--epoch", "best") == "out/model.safetensors\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "config.yaml"}
    for path in checkpoint.checkpoints(run.path):
        path.unlink()
    assert "has no weights of its last epoch" in call("export", run.path, "out", code=2)


# ---- curves


def test_curves_are_means_with_bands_over_seeds(call: Called, sweep: dict[tuple[float, int], Run]) -> None:
    out = call("curves", "runs", "--metric", "test/error").strip()
    assert out == "runs/curves_test_error.png"
    assert Path(out).stat().st_size > 10_000
    epochs = load_epochs("runs")
    axes = curves(epochs, "test/error").axes[0]
    assert len(axes.lines) == len(axes.collections) == 3
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["l2.weight=0.01 (n = 2)"].get_ydata() == pytest.approx([0.9, 0.505, 0.255])
    assert list(lines["l2.weight=0.01 (n = 2)"].get_xdata()) == [1, 2, 3]
    order = [line.get_label() for line in axes.lines]
    assert order == [f"l2.weight={weight} (n = 2)" for weight in ("0.01", "0", "0.02")]  # as they end
    styles = {(line.get_linestyle(), line.get_marker()) for line in axes.lines}
    assert len(styles) == 3  # in grey too
    (band,) = {path.get_extents().y1 for path in axes.collections[0].get_paths()}
    assert band == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("band", "low", "high"), [("range", 0.5, 0.51), ("sd", 0.505 - 0.00707107, 0.505 + 0.00707107)]
)
def test_the_band_is_what_it_says(forge: Forge, tmp_path: Path, band: Any, low: float, high: float) -> None:
    for seed in (0, 1):
        forge(f"seed={seed}", errors=(0.5 + 0.01 * seed,) * 2)
    axes = curves(load_epochs(tmp_path / "runs"), "test/error", band=band).axes[0]
    (path,) = axes.collections[0].get_paths()
    assert (path.get_extents().y0, path.get_extents().y1) == pytest.approx((low, high))
    assert band == "range" or "standard deviation" in axes.get_title()


def test_curves_over_decades_have_a_logarithmic_scale(forge: Forge, tmp_path: Path) -> None:
    forge("seed=1", errors=(10.0, 1.0, 0.01))
    assert curves(load_epochs(tmp_path / "runs"), "train/loss").axes[0].get_yscale() == "log"
    forge("seed=2", errors=(10.0, 1.0, -0.01))
    assert curves(load_epochs(tmp_path / "runs"), "train/loss").axes[0].get_yscale() == "linear"


def test_curves_by_another_column(call: Called, forge: Forge, tmp_path: Path) -> None:
    forge("penalty=l2", "seed=1", errors=(0.5, 0.4))
    forge("penalty=l1", "seed=1", errors=(0.5, 0.3))
    forge("penalty=l1", "seed=2", "epochs=5", errors=(0.5, float("nan")))
    axes = curves(load_epochs(tmp_path / "runs"), "test/error", "penalty").axes[0]
    assert {line.get_label() for line in axes.lines} == {"l2 (n = 1)", "l1 (n = 2)"}
    assert "the column of the groups must be one of" in call("curves", "runs", "--by", "x", code=2)
    assert "metric must be one of test/error, train/loss, got 'x'" in call("curves", "runs", "--metric", "x", code=2)


def test_more_curves_than_can_be_told_apart(forge: Forge, tmp_path: Path) -> None:
    for number in range(MOST_CURVES + 1):
        forge(f"epochs={number + 1}", errors=(0.5,))
    with pytest.raises(ValueError, match=rf"at most {MOST_CURVES} curves to tell them apart, got {MOST_CURVES + 1}"):
        curves(load_epochs(tmp_path / "runs"), "test/error")
