"""A run's identity: one config, one id, whatever its spelling; and ids that stay when keys are added."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, ids

from runner.config.compose import combinations, parsed, project_composer
from runner.storage import identity
from runner.storage.directory import Run

Composed = Callable[..., Run]
MARGIN = ("penalty=large_margin", "penalty.large_margin.norm={}")
NOISE = ("probe=shift", "probe.shift.sizes={}")
OWN = ("model=module", "model.network={_target_: mine.Net, hidden: {}}", "allow_targets=[mine]")


def composed_id(*overrides: str) -> str:
    return identity.ids(project_composer().compose(overrides).values)[0]


# ---- one config, one id


@pytest.mark.parametrize(
    ("overrides", "spellings"),
    [
        (("optimizer.lr={}",), ("0.001", ".001", "1e-3", "1E-03", "+0.001", "1_0e-4", '"0.001"', "'1e-3'")),
        (("epochs={}",), ("1000", "1_000", '"1000"', "'1_000'", "1000.0")),
        (("penalty=l2", "penalty.l2.weight={}"), ("0", "-0.0", "0.0", "0e5", "-0")),
        (MARGIN, ("inf", '"inf"', ".inf", "Inf", "+inf", "'.inf'", '"+.inf"', "1e999")),
        (NOISE, ("[1,2]", "[1.0,2]", "[1.,2.0]", '["1","2.0"]')),
        (("shuffle={}",), ("true", "True", '"true"')),
        (("optimizer.clip={}",), ("null", "Null", '"null"')),
        (("optimizer.groups={}",), ("null", "{}")),
        (("penalty={}",), ("l2", "[l2]", '"l2"', "[l2,l2]", "[none,l2]")),
        (("penalty={}",), ("[l2,jacobian]", "[jacobian,l2]")),
        (("penalty={}",), ("none", "[]", "[none]")),
        (("optimizer={}",), ("adam", "[adam]")),
        (("optimizer.groups={}",), ("{fc1: {lr: 1}, fc2: {lr: 2}}", "{fc2: {lr: 2.0}, fc1: {lr: '1'}}")),
    ],
)
def test_a_value_has_one_id_however_it_is_spelled(overrides: tuple[str, ...], spellings: tuple[str, ...]) -> None:
    found = {composed_id(*(line.replace("{}", spelling) for line in overrides)) for spelling in spellings}
    assert len(found) == 1


@pytest.mark.parametrize(
    ("overrides", "values"),
    [
        (("optimizer.lr={}",), ("0.1", "0.11", "1")),
        (MARGIN, ("inf", "1", "2")),
        (("shuffle={}",), ("true", "1", "false", "0")),
        (("optimizer.clip={}",), ("null", "0", "1")),
        (NOISE, ("[1,2]", "[2,1]", "[1]")),
        (OWN, ("32", "'32'", "[32]")),  # a user's own class may tell a text from a number
        (("model=mlp", "model.activation={}"), ("tanh", "relu")),
    ],
)
def test_other_values_have_other_ids(overrides: tuple[str, ...], values: tuple[str, ...]) -> None:
    found = {composed_id(*(line.replace("{}", value) for line in overrides)) for value in values}
    assert len(found) == len(values)


def test_where_and_how_a_run_is_recorded_does_not_count() -> None:
    others = (
        "device=cpu threads=3 runs_dir=x name=y force=true histograms=false pictures=false checkpoint_seconds=5 "
        "objective_metric=test/loss resources.gpus=1 +resources.hours=3 sweep.trials=4 +sweep.arms.l2.penalty=l2 "
        "sweep.arm=l2 sweep.stage=trial penalty.l2.weight_range=[1,2]"
    )
    assert composed_id("penalty=l2", *others.split()) == composed_id("penalty=l2")
    assert composed_id("penalty=l2", "evaluate_every=3") != composed_id("penalty=l2")


def test_tuples_and_the_order_of_keys_change_nothing() -> None:
    config = project_composer().compose(["optimizer=adam"]).values
    turned = {key: config[key] for key in reversed(config)}
    turned["optimizer"] = {**config["optimizer"], "betas": tuple(config["optimizer"]["betas"])}
    assert identity.ids(turned) == identity.ids(config)


def test_a_file_that_leaves_out_what_changes_nothing_gives_the_same_id() -> None:
    config = project_composer().compose(["penalty=l2", "penalty.l2.weight=1"]).values
    bare = {**config, "penalty": {"l2": {"_target_": "losses.L2", "biases": True}}}
    assert identity.ids(bare) == identity.ids(config)


def test_a_class_of_ours_counts_by_its_name_and_a_users_own_by_its_path() -> None:
    config = project_composer().compose(["penalty=l2"]).values

    def named(target: str) -> tuple[str, str]:
        return identity.ids({**config, "penalty": {"l2": {**config["penalty"]["l2"], "_target_": target}}})

    assert named("losses.weights.L2") == named("losses.L2")  # a module may move
    assert len({named(target) for target in ("losses.L2", "losses.L1", "mine.L2", "mine.deeper.L2")}) == 4


def test_the_folder_of_data_counts_unless_their_contents_are_known() -> None:
    assert composed_id("data=mnist", "data.root=a") == composed_id("data=mnist", "data.root=b")
    own = ["data._target_=mine.Faces", "allow_targets=[mine]"]
    assert composed_id(*own, "+data.root=a") != composed_id(*own, "+data.root=b")


# ---- values of sweeps


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("optimizer.lr=range(0.1,0.5,0.1)", ["0.1", "0.2", "0.3", "0.4"]),
        ("optimizer.lr=range(0.3,0,-0.1)", ["0.3", "0.2", "0.1"]),  # Hydra adds 2.8e-17
        ("optimizer.lr=sort(range(0.1,0.5,0.1),reverse=true)", ["0.4", "0.3", "0.2", "0.1"]),
        ("optimizer.lr=range(0,0.7,0.1)", ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]),
        ("optimizer.lr=range(1e-3,4e-3,1e-3)", ["0.001", "0.002", "0.003"]),
        ("optimizer.lr=range(0.5)", ["0.0"]),
        ("optimizer.lr=range(1.5,1,0.1)", []),
        ("seed=range(0,6,2)", ["0", "2", "4"]),
        ("optimizer.lr=0.1,.2", ["0.1", "0.2"]),
    ],
)
def test_a_range_has_the_values_that_a_person_reads(line: str, values: list[str]) -> None:
    assert combinations([parsed(line)]) == [[f"{line.partition('=')[0]}={value}"] for value in values]


def test_a_shuffled_range_has_the_same_values() -> None:
    (values,) = zip(*combinations([parsed("optimizer.lr=shuffle(range(0.1,2.1,0.1))")]), strict=True)
    assert sorted(values, key=lambda line: float(line.partition("=")[2])) == [
        f"optimizer.lr={number / 10}" for number in range(1, 21)
    ]


# ---- files


def data_file(path: Path, value: float = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.full((4, 2), value, np.float32)
    np.savez(path, train_images=x, train_labels=np.arange(4), test_images=x, test_labels=np.arange(4))
    return path


def test_a_file_of_data_is_the_same_run_at_any_path(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data_file(tmp_path / "a very long folder" / "mine.npz")
    same = shutil.copy(first, tmp_path / "mine.npz")
    (tmp_path / "link.npz").symlink_to(first)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [str(first), str(same), "mine.npz", "./mine.npz", "~/mine.npz", "link.npz"]
    runs = [composed("data=npz", f'data.path="{path}"', "model=mlp") for path in paths]
    assert len({run.run_id for run in runs}) == 1
    assert len({run.path for run in runs[:5]}) == 1
    assert re.fullmatch(r"none,model=mlp,data=npz,path=mine_[0-9a-f]{8}", runs[0].path.name)


def test_a_copy_under_another_name_finds_the_directory(composed: Composed, tmp_path: Path) -> None:
    first, copy = data_file(tmp_path / "faces.npz"), tmp_path / "copy.npz"
    shutil.copy(first, copy)
    before, begun = (composed("data=npz", f"data.path={first}", "model=mlp", f"seed={seed}") for seed in (2, 0))
    before.write_result({"status": "done"})
    assert composed("data=npz", f"data.path={copy}", "model=mlp", "seed=2").path == before.path  # the folder was read
    begun.write_result({"status": "done"})
    again, other = (composed("data=npz", f"data.path={copy}", "model=mlp", f"seed={seed}") for seed in (0, 1))
    assert again.path == begun.path
    assert again.result()["status"] == "done"
    assert "path=copy" in other.path.name
    data_file(copy, value=2)  # other contents
    assert composed("data=npz", f"data.path={copy}", "model=mlp").path != begun.path


def test_a_folder_is_read_once_for_many_runs(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, listed = data_file(tmp_path / "mine.npz"), []
    composed("data=npz", f"data.path={path}", "model=mlp").write_result({"status": "done"})
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    for seed in range(20):
        composed("data=npz", f"data.path={path}", "model=mlp", f"seed={seed}")
        composed(f"seed={seed}")  # whose name is known without a look
    assert len(listed) <= 1


def test_a_name_is_short_in_bytes_and_holds_no_path(composed: Composed) -> None:
    own = ("data._target_=mine.Faces", "allow_targets=[mine]")
    run = composed(*own, "+data.root=/a/very/long/path/of/faces")
    assert "root=faces_" in run.path.name
    assert len(composed(*own, f"+data.root='{'顔' * 90}'").path.name.encode()) <= identity.LONGEST_NAME


# ---- ids that stay

CHANGED = """The ids of these configs have changed, so that finished runs of them would be trained again:
{}
If you have added a key: give it a row in NEUTRAL (runner/storage/identity.py), its pattern and the value that changes
nothing. If ids must change, write the list anew and say so in CHANGELOG.md: uv run python tests/support/ids.py"""


def test_ids_stay() -> None:
    lines = ids.lines()
    before = ids.FILE.read_text().splitlines()
    assert lines == before, CHANGED.format("\n".join(line for line in before if line not in lines))


def copy_with_keys(folder: Path, rows: str, value: str = "0") -> list[str]:
    """Return the lines of ids of a copy of the project that has new keys in each group, and rows in its table."""
    for name in ("runner", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    script = folder / "tests" / "support" / "ids.py"
    script.parent.mkdir(parents=True)
    shutil.copy(ids.__file__, script)
    code = folder / "runner" / "storage" / "identity.py"
    code.write_text(re.sub(r"^NEUTRAL.* = \(\n", lambda begin: begin[0] + rows, code.read_text(), count=1, flags=re.M))
    for file in (folder / "conf").glob("[!hpse]*/*.yaml"):
        file.write_text(f"{file.read_text()}newkey: {value}\n")
    for file in (folder / "conf" / "penalty").glob("[!n]*.yaml"):
        file.write_text(f"{file.read_text()}  newkey: {value}\n")
    config = folder / "conf" / "config.yaml"
    config.write_text(f"newkey: {value}\n{config.read_text()}")
    subprocess.run([sys.executable, str(script)], check=True, env={**os.environ, "PYTHONPATH": ""})
    return (folder / "tests" / "ids.txt").read_text().splitlines()


@pytest.mark.process
def test_a_key_that_is_added_later_changes_no_id(tmp_path: Path) -> None:
    before = ids.FILE.read_text().splitlines()
    groups = ("data", "model", "init", "loss", "optimizer", "augment", "penalty.*")
    rows = "".join(f'    ("{path}", 0),\n' for path in ("newkey", *(f"{group}.newkey" for group in groups)))
    assert copy_with_keys(tmp_path / "neutral", rows) == before
    assert not set(copy_with_keys(tmp_path / "other", rows, value="1")) & set(before)
