"""What TensorBoard shows of a sweep: means over seeds, and a row for each group of what differs; read back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.board import READERS, Board, serving
from support.records import values
from tensorboard.plugins.hparams import metadata

from runner.recording.events import SESSION, rows_of
from runner.recording.recorder import Recorder
from runner.storage.directory import Run
from runner.storage.members import Member
from runner.summary.groups import summarize
from runner.summary.runs import directories
from runner.summary.settings import changed, group_name
from runner.sweep.board import write_groups

Composed = Callable[..., Run]
ERRORS = {0: [0.5, 0.2], 1: [0.7, 0.3], 2: [0.9, 0.1]}  # seed -> test error by epoch


@pytest.fixture
def trained(composed: Composed) -> Callable[..., Run]:
    """Return a function of overrides that records a run as if it had been trained."""

    def recorded(*overrides: str, errors: list[float] = ERRORS[0], status: str = "done") -> Run:
        run = composed(*overrides)
        run.write_config()
        hparams = changed(run.config)
        recorder = Recorder(run.path, hparams=hparams, group=group_name(hparams, run.group_id))
        for epoch, error in enumerate(errors, 1):
            recorder.record_scalars(epoch, {"test/error": error, "train/objective": 2 * error})
        recorder.record_scalars(len(errors), {"probe/zeros/count": 7.0})
        recorder.record_best(len(errors), {"test/error": min(errors)})
        recorder.finish(status)
        recorder.close()
        best = {"best/test/error": min(errors)} if status == "done" else {}
        run.write_result({"status": status, "seed": run.config["seed"], "test/error": errors[-1], **best})
        return run

    return recorded


def listed(runs: list[Run], name: str = "one") -> list[Member]:
    """Write the list of a sweep, and return its members."""
    listing = runs[0].path.parent / ".sweeps" / name
    listing.parent.mkdir(exist_ok=True)
    listing.write_text("".join(json.dumps({"run": run.path.name}) + "\n" for run in runs))
    return [Member(run.path) for run in runs]


def conclude(runs: list[Run], name: str = "one") -> Path:
    folder = runs[0].path.parent
    write_groups(folder, listed(runs, name))
    return folder


def mean_of(run: Run) -> Path:
    """Return the directory of the mean that a run is in."""
    (directory,) = run.path.parent.glob(f"mean/*_{run.group_id}")
    return directory


def row(directory: Path) -> dict[str, Any]:
    """Return the hyperparameters that TensorBoard shows of a run, or of a mean."""
    (value,) = rows_of(directory / SESSION)
    start = metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}


# ---- means


def test_a_group_has_the_mean_of_its_seeds(trained: Callable[..., Run]) -> None:
    l2 = ("penalty=l2", "penalty.l2.weight=0.5")
    runs = [trained(*l2, f"seed={seed}", errors=errors) for seed, errors in ERRORS.items()]
    other = trained("penalty=jacobian", errors=[0.25, 0.125])
    folder = conclude([*runs, other])
    assert sorted((folder / "mean").iterdir()) == sorted([mean_of(runs[0]), mean_of(other)])
    means = values(mean_of(runs[0]))
    assert means["Test/error"] == [(1, pytest.approx(0.7)), (2, pytest.approx(0.2))]
    assert means["Train/objective"] == [(1, pytest.approx(1.4)), (2, pytest.approx(0.4))]
    assert means["Test/when_best/error"] == [(2, pytest.approx(0.2))]
    assert means["probe/zeros/count"] == [(2, 7)]
    assert values(mean_of(other))["Test/error"] == [(1, 0.25), (2, 0.125)]


def test_only_what_ended_well_and_what_all_seeds_have_is_in_a_mean(trained: Callable[..., Run]) -> None:
    runs = [
        trained("seed=0", errors=[0.5, 0.3, 0.1]),
        trained("seed=1", errors=[0.7, 0.5]),
        trained("seed=2", errors=[9.0, math.nan], status="diverged"),
    ]
    conclude(runs)
    assert values(mean_of(runs[0]))["Test/error"] == [(1, pytest.approx(0.6)), (2, pytest.approx(0.4))]
    assert row(mean_of(runs[0]))["n"] == 2


@pytest.mark.parametrize("status", ["failed", "diverged", "pruned"])
def test_a_group_of_which_nothing_ended_well_has_its_row_and_no_numbers(
    trained: Callable[..., Run], status: str
) -> None:
    well, other = trained(), trained("penalty=l2", errors=[0.9], status=status)
    folder = conclude([well, other])
    assert values(mean_of(other)).keys() == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    assert row(mean_of(other)) == {"penalty": "l2", "n": 0}
    assert row(mean_of(well)) == {"penalty": "none", "n": 1}
    assert write_groups(folder, [Member(other.path)]) is False
    assert write_groups(folder, [Member(other.path), Member(well.path)]) is True


def test_a_trial_is_in_no_mean_and_in_no_row(trained: Callable[..., Run]) -> None:
    runs = [trained(f"seed={seed}", errors=errors) for seed, errors in ERRORS.items()]
    other, tried = (trained("penalty=l2", f"penalty.l2.weight={weight}") for weight in (0.5, 0.1))
    members = listed([*runs, other, tried])
    members[2] = members[2]._replace(arm="none", stage="trial")
    members[4] = members[4]._replace(arm="decay", stage="trial")
    arms = [member._replace(arm=arm) for member, arm in zip(members, ["none"] * 3 + ["decay"] * 2, strict=True)]
    write_groups(runs[0].path.parent, arms)
    means = values(mean_of(runs[0]))["Test/error"]
    assert means[0] == (1, pytest.approx((ERRORS[0][0] + ERRORS[1][0]) / 2))
    assert row(mean_of(runs[0])) == {"arm": "none", "penalty": "none", "n": 2}
    assert row(mean_of(other)) == {"arm": "decay", "penalty": "l2", "l2.weight": 0.5, "n": 1}
    assert {path.parent.name for path in runs[0].path.parent.rglob(SESSION)} == {
        f"none_{runs[0].group_id}",
        f"decay,l2.weight=0.5_{other.group_id}",
    }


def test_a_repeated_sweep_doubles_nothing_and_a_summary_sees_no_more_runs(trained: Callable[..., Run]) -> None:
    runs = [trained(f"seed={seed}", errors=errors) for seed, errors in ERRORS.items()]
    folder = conclude(runs)
    once, rows = values(mean_of(runs[0])), summarize(folder).rows
    conclude(runs)
    again = values(mean_of(runs[0]))
    assert {tag: points for tag, points in again.items() if "_hparams_" not in tag} == {
        tag: points for tag, points in once.items() if "_hparams_" not in tag
    }
    assert again.keys() == once.keys()
    assert len(list(mean_of(runs[0]).iterdir())) == 2, "numbers, and the row"
    assert directories([folder]) == sorted(run.path for run in runs)
    assert [len(row.runs) for row in rows] == [3]


def test_a_mean_follows_the_seeds_and_the_keys_that_there_are(trained: Callable[..., Run]) -> None:
    runs = [trained(f"seed={seed}", errors=errors) for seed, errors in ERRORS.items()]
    conclude(runs[:2], "two")
    assert mean_of(runs[0]).name == f"none_{runs[0].group_id}"
    conclude(runs, "three")
    assert values(mean_of(runs[0]))["Test/error"][0] == (1, pytest.approx(0.7))
    conclude([*runs, trained("optimizer.lr=0.01")], "rates")
    assert mean_of(runs[0]).name == f"lr=0.1_{runs[0].group_id}"  # and no mean of the old name is left


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ((), "none"),
        (("seed=4",), "none"),
        (("penalty=l2", "penalty.l2.weight=0.5"), "l2,l2.weight=0.5"),
        (("penalty=[l1,l2]", "epochs=3"), "l1+l2,epochs=3"),
        (("model=mlp", "model.widths=[3,4]"), "none,model=mlp,widths=3-4"),
        (("penalty=l2", "model=mlp", f"model.widths={[7] * 60}".replace(" ", "")), "l2,model=mlp,widths=7-7"),
    ],
)
def test_a_name_begins_with_the_penalty_and_is_never_a_bare_hash(
    composed: Composed, line: tuple[str, ...], name: str
) -> None:
    run = composed(*line)
    named = group_name(changed(run.config), run.group_id)
    assert named.startswith(name)
    assert named.endswith(f"_{run.group_id}")
    assert len(named) < 128
    assert not set(named) & set("[] /:'\"")


# ---- hyperparameters


def test_a_run_alone_shows_what_differs_from_the_defaults(composed: Composed) -> None:
    assert changed(composed("seed=3").config) == {"penalty": "none"}
    line = ("penalty=[l2,jacobian]", "penalty.l2.weight=0.5", "optimizer=adam", "epochs=7", "model=mlp")
    found = changed(composed(*line, "model.widths=[3,4]").config)
    assert found == {
        "penalty": "l2+jacobian",
        "optimizer": "adam",
        "model": "mlp",
        "l2.weight": 0.5,
        "epochs": 7,
        "widths": [3, 4],
    }


def test_a_sweep_shows_what_differs_in_it_and_nothing_else(trained: Callable[..., Run]) -> None:
    shared = ("epochs=7", "optimizer.lr=0.05")
    arms = {
        (): {"penalty": "none"},
        ("penalty=l2", "penalty.l2.weight=0.001"): {"penalty": "l2", "l2.weight": 0.001},  # the default
        ("penalty=l2", "penalty.l2.weight=0.1"): {"penalty": "l2", "l2.weight": 0.1},
        ("penalty=jacobian", "penalty.jacobian.weight=0.1"): {"penalty": "jacobian", "jacobian.weight": 0.1},
    }
    runs = {(arm, seed): trained(*shared, *arm, f"seed={seed}") for arm in arms for seed in (0, 1)}
    alone = runs[(), 0].path
    assert row(alone) == {"penalty": "none", "epochs": 7, "lr": 0.05}, "before the end of the sweep"
    conclude(list(runs.values()))
    assert not (alone / SESSION).exists(), "it would be a row of its own beside that of its group"
    for (arm, _), run in runs.items():
        assert row(mean_of(run)) == {**arms[arm], "n": 2}


def test_a_group_in_several_sweeps_has_the_columns_of_all(trained: Callable[..., Run]) -> None:
    alone = trained()
    conclude([alone, trained("optimizer.lr=0.01")], "rates")
    assert row(mean_of(alone)) == {"lr": 0.1, "n": 1}
    conclude([alone, trained("epochs=3"), trained("epochs=5")], "epochs")
    assert row(mean_of(alone)) == {"lr": 0.1, "epochs": 20, "n": 1}
    conclude([alone, trained("seed=1")], "seeds")
    assert row(mean_of(alone)) == {"lr": 0.1, "epochs": 20, "n": 2}


def test_a_sweep_of_seeds_alone_shows_what_differs_from_the_defaults(trained: Callable[..., Run]) -> None:
    runs = [trained("epochs=3", f"seed={seed}") for seed in (0, 1)]
    conclude(runs)
    assert row(mean_of(runs[0])) == {"penalty": "none", "epochs": 3, "n": 2}


# ---- as TensorBoard shows it


@pytest.fixture(params=[pytest.param(reader, marks=pytest.mark.xdist_group(reader)) for reader in READERS])
def board(request: pytest.FixtureRequest, trained: Callable[..., Run]) -> Iterator[Board]:
    arms = [("penalty=l2", "penalty.l2.weight=0.5"), ("penalty=jacobian",)]
    runs = [trained(*arm, f"seed={seed}", errors=errors) for arm in arms for seed, errors in ERRORS.items()]
    folder = conclude(runs)
    with serving(folder, request.param) as board:
        for path in directories([folder]):
            board.wait_for(path.name, "Test/error", 2)
        for run in runs:
            board.wait_for(f"mean/{mean_of(run).name}", "Test/error", 2)
        yield board


def test_tensorboard_shows_a_row_for_each_group_with_the_means_of_its_seeds(board: Board) -> None:
    experiment = board.post("plugin/hparams/experiment", hparamsLimit=0)
    assert {info["name"] for info in experiment["hparamInfos"]} == {"penalty", "l2.weight", "n"}
    assert experiment["metricInfos"][0]["name"]["tag"] == "Test/error", "of the first five columns, which are ticked"
    statuses = ["STATUS_SUCCESS"]
    answer = board.post("plugin/hparams/session_groups", allowedStatuses=statuses, sliceSize=100, colParams=[])
    rows = {group["hparams"]["penalty"]: group for group in answer["sessionGroups"]}
    assert rows["l2"]["hparams"] == {"penalty": "l2", "l2.weight": 0.5, "n": 3}
    assert rows["jacobian"]["hparams"] == {"penalty": "jacobian", "n": 3}
    metrics = {metric["name"]["tag"]: metric["value"] for metric in rows["l2"]["metricValues"]}
    assert metrics["Test/error"] == metrics["Test/when_best/error"] == pytest.approx(0.2)
