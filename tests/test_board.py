"""What TensorBoard shows of a sweep: means over seeds with bands, the hyperparameters that differ; read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.board import READERS, Board, serving
from support.records import values
from tensorboard.plugins.hparams import metadata

from runner.recording.events import SESSION, _rows_of
from runner.recording.recorder import Recorder
from runner.storage.directory import Run
from runner.storage.members import Member
from runner.summary.groups import summarize
from runner.summary.runs import directories
from runner.summary.settings import changed
from runner.sweep.board import write_groups

Composed = Callable[..., Run]
ERRORS = {0: [0.5, 0.2], 1: [0.7, 0.3], 2: [0.9, 0.1]}  # seed -> test error by epoch


@pytest.fixture
def trained(composed: Composed) -> Callable[..., Run]:
    """Return a function of overrides that records a run as if it had been trained."""

    def recorded(*overrides: str, errors: list[float] = ERRORS[0], status: str = "done") -> Run:
        run = composed(*overrides)
        run.write_config()
        recorder = Recorder(run.path, hparams=changed(run.config), group=run.group_name)
        for epoch, error in enumerate(errors, 1):
            recorder.record_scalars(epoch, {"test/error": error, "train/objective": 2 * error})
        recorder.record_scalars(len(errors), {"probe/zeros/count": 7.0})
        recorder.record_best(len(errors), {"test/error": min(errors)})
        recorder.finish(status)
        recorder.close()
        run.write_result({"status": status, "seed": run.config["seed"], "test/error": errors[-1]})
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


def row(run: Run) -> dict[str, Any]:
    """Return the hyperparameters that TensorBoard shows of a run."""
    (value,) = _rows_of(run.path / SESSION)
    start = metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}


# ---- means and bands


def test_a_group_has_the_mean_and_the_band_of_its_seeds(trained: Callable[..., Run]) -> None:
    l2 = ("penalty=l2", "penalty.l2.weight=0.5")
    runs = [trained(*l2, f"seed={seed}", errors=errors) for seed, errors in ERRORS.items()]
    other = trained("penalty=jacobian", errors=[0.25, 0.125])
    folder = conclude([*runs, other])
    assert sorted(path.name for path in (folder / "mean").iterdir()) == sorted([runs[0].group_name, other.group_name])
    found = values(folder / "mean" / runs[0].group_name)
    assert found["Test/error"] == [(1, pytest.approx(0.7)), (2, pytest.approx(0.2))]
    assert found["Train/objective"] == [(1, pytest.approx(1.4)), (2, pytest.approx(0.4))]
    assert found["spread/test/error/low"] == [(1, pytest.approx(0.5)), (2, pytest.approx(0.1))]
    assert found["spread/test/error/high"] == [(1, pytest.approx(0.9)), (2, pytest.approx(0.3))]
    assert found["probe/zeros/count"] == [(2, 7)]
    assert "spread/train/objective/low" not in found
    single = values(folder / "mean" / other.group_name)
    assert single["Test/error"] == single["spread/test/error/low"] == single["spread/test/error/high"]


def test_only_what_ended_well_and_what_all_seeds_have_is_in_a_mean(trained: Callable[..., Run]) -> None:
    runs = [
        trained("seed=0", errors=[0.5, 0.3, 0.1]),
        trained("seed=1", errors=[0.7, 0.5]),
        trained("seed=2", errors=[9.0, 9.0], status="diverged"),
    ]
    folder = conclude(runs)
    found = values(folder / "mean" / runs[0].group_name)
    assert found["Test/error"] == [(1, pytest.approx(0.6)), (2, pytest.approx(0.4))]
    assert "_hparams_/session_start_info" not in found, "a mean is no row among the runs"


def test_a_trial_has_its_row_but_is_in_no_mean(trained: Callable[..., Run]) -> None:
    runs = [trained(f"seed={seed}", errors=errors) for seed, errors in ERRORS.items()]
    other = trained("penalty=l2", "penalty.l2.weight=0.5")
    members = listed([*runs, other])
    trial = members[2]._replace(arm="none", stage="trial")
    write_groups(runs[0].path.parent, [*members[:2], trial, members[3]])
    means = values(runs[0].path.parent / "mean" / runs[0].group_name)["Test/error"]
    assert means[0] == (1, pytest.approx((ERRORS[0][0] + ERRORS[1][0]) / 2))
    assert row(runs[0]) == row(runs[2]) == {"penalty": "none"}  # TensorBoard takes those of a group to be the same


def test_a_repeated_sweep_doubles_nothing_and_a_summary_sees_no_more_runs(trained: Callable[..., Run]) -> None:
    runs = [trained(f"seed={seed}", errors=errors) for seed, errors in ERRORS.items()]
    folder = conclude(runs)
    once, rows = values(folder / "mean" / runs[0].group_name), summarize(folder).rows
    assert values(conclude(runs) / "mean" / runs[0].group_name) == once
    assert len(list((folder / "mean" / runs[0].group_name).iterdir())) == 1
    assert directories([folder]) == sorted(run.path for run in runs)
    assert [len(row.runs) for row in rows] == [3]


def test_a_mean_follows_the_seeds_that_there_are(trained: Callable[..., Run]) -> None:
    runs = [trained(f"seed={seed}", errors=errors) for seed, errors in ERRORS.items()]
    conclude(runs[:2], "two")
    folder = conclude(runs, "three")
    assert values(folder / "mean" / runs[0].group_name)["Test/error"][0] == (1, pytest.approx(0.7))


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
    assert row(runs[(), 0]) == {"penalty": "none", "epochs": 7, "lr": 0.05}, "before the end of the sweep"
    conclude(list(runs.values()))
    for (arm, _), run in runs.items():
        assert row(run) == arms[arm]


def test_a_run_trained_alone_gets_the_columns_of_its_sweeps(trained: Callable[..., Run]) -> None:
    alone = trained()
    assert row(alone) == {"penalty": "none"}
    conclude([alone, trained("optimizer.lr=0.01")], "rates")
    assert row(alone) == {"lr": 0.1}
    conclude([alone, trained("epochs=3"), trained("epochs=5")], "epochs")
    assert row(alone) == {"lr": 0.1, "epochs": 20}
    conclude([alone, trained("seed=1")], "seeds")
    assert row(alone) == {"lr": 0.1, "epochs": 20}


def test_a_sweep_of_seeds_alone_leaves_what_differs_from_the_defaults(trained: Callable[..., Run]) -> None:
    runs = [trained("epochs=3", f"seed={seed}") for seed in (0, 1)]
    conclude(runs)
    assert [row(run) for run in runs] == [{"penalty": "none", "epochs": 3}] * 2


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
            board.wait_for(f"mean/{run.group_name}", "Test/error", 2)
        yield board


def test_tensorboard_shows_bands_and_a_row_for_each_group(board: Board) -> None:
    layout = board.get("plugin/custom_scalars/layout")
    titles = {category["title"]: [chart["title"] for chart in category["chart"]] for category in layout["category"]}
    assert set(titles) == {"mean and standard deviation over seeds", "train against test"}
    assert "test/error" in titles["mean and standard deviation over seeds"]
    experiment = board.post("plugin/hparams/experiment", hparamsLimit=0)
    assert {info["name"] for info in experiment["hparamInfos"]} == {"penalty", "l2.weight"}
    statuses = ["STATUS_SUCCESS", "STATUS_UNKNOWN"]
    answer = board.post("plugin/hparams/session_groups", allowedStatuses=statuses, sliceSize=100, colParams=[])
    rows = {group["hparams"]["penalty"]: group for group in answer["sessionGroups"]}
    assert rows["l2"]["hparams"] == {"penalty": "l2", "l2.weight": 0.5}
    assert rows["jacobian"]["hparams"] == {"penalty": "jacobian"}
    assert all(len(group["sessions"]) == 3 for group in rows.values())
    metrics = {metric["name"]["tag"]: metric["value"] for metric in rows["l2"]["metricValues"]}
    assert metrics["Test/when_best/error"] == pytest.approx(0.2)
