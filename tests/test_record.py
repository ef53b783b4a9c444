"""The record of a run, read back by TensorBoard itself, over HTTP, with both of its readers."""

import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from support.board import READERS, Board, serving
from support.forked import Forks
from support.records import epochs, start, table, values
from torch import nn

from runner.recording.events import Events, scalars, shown, write_session
from runner.recording.recorder import Recorder

PENALTIES: dict[str, dict[str, object]] = {
    "none": {},
    "l2": {"penalty.l2.weight": 0.001},
    "jacobian": {"penalty.jacobian.weight": 0.1, "penalty.jacobian.exact": True, "penalty.jacobian.layers": None},
}


def small_model() -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("fc1", nn.Linear(3, 4))
    model.add_module("norm", nn.BatchNorm1d(4))
    model.add_module("relu", nn.ReLU())
    model.add_module("fc2", nn.Linear(4, 2))
    return model


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three penalties with two seeds each, one of them interrupted and resumed, and three runs that ended otherwise."""
    root = tmp_path_factory.mktemp("sweep")
    model = small_model()
    model(torch.randn(5, 3)).square().sum().backward()
    for name, penalty in PENALTIES.items():
        for seed in (0, 1):
            hparams = {"lr": 0.1, "augment": False, "model": "mlp", "widths": [5, 5], **penalty}
            recorder = Recorder(root / f"{name}_{seed}", hparams=hparams, group=name)
            epochs(recorder, 1, 3)
            recorder.record_scalars(3, {"test/loss": 2.0, "train/error": 0.5})
            recorder.record_layers(3, model)
            figure = Figure(figsize=(2, 1), dpi=100)
            figure.subplots().plot([0, 1])
            recorder.record_figure(3, "confusion/test", figure)
            recorder.record_best(3, {"validation/error": 0.25 + 0.5 * seed, "test/error": 0.5, "epoch": 2})
            recorder.finish("done")
            recorder.close()
    for status in ("diverged", "failed", "interrupted"):
        recorder = Recorder(root / status, hparams={"lr": float("nan")}, group=status)
        recorder.record_histogram(1, "losses/train", torch.tensor([float("nan"), float("inf")]))
        recorder.record_scalars(1, {"train/loss": float("nan")})
        recorder.finish(status)
        recorder.close()
    history = []
    recorder = start(root / "resumed")
    epochs(recorder, 1, 5, factor=7.0)
    history = recorder.history[:3]
    recorder.close()
    with max((root / "resumed").glob("*tfevents*")).open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 10)
    recorder = start(root / "resumed", 3, history)
    epochs(recorder, 4, 6)
    recorder.close()
    return root


@pytest.fixture(  # each reader is started once, in one of the processes that the tests run in
    scope="module", params=[pytest.param(reader, marks=pytest.mark.xdist_group(reader)) for reader in READERS]
)
def board(request: pytest.FixtureRequest, sweep: Path) -> Iterator[Board]:
    with serving(sweep, request.param) as board:
        for run in sorted(path.name for path in sweep.iterdir()):
            board.wait_for(run, "Train/loss", 1)
        board.wait_for("resumed", "Train/loss", 6)
        yield board


def test_tensorboard_shows_runs_scalars_histograms_and_images(board: Board) -> None:
    assert "l2_1" in board.get("runs")
    assert [point[1:] for point in board.get("plugin/scalars/scalars", run="l2_1", tag="Train/loss")] == [
        [1, pytest.approx(1)],
        [2, pytest.approx(1 / 2)],
        [3, pytest.approx(1 / 3)],
    ]
    tags = board.get("plugin/scalars/tags")["l2_1"]
    assert {"weights/fc1", "weights/norm", "gradients/fc2", "Validation/when_best/error"} <= tags.keys()
    histograms = board.get("plugin/histograms/histograms", run="l2_1", tag="losses/train")
    assert [step for _, step, _ in histograms] == [1, 2, 3]
    bins = np.array(histograms[0][2])
    assert bins[:, 2].sum() == 10
    assert (bins[0, 0], bins[-1, 1]) == (0, 9)
    assert board.get("plugin/histograms/histograms", run="l2_1", tag="weights/fc1/values")
    (image,) = board.get("plugin/images/images", run="l2_1", tag="confusion/test", sample="0")
    assert image["step"] == 3
    picture = board.get(f"plugin/images/individualImage?{image['query']}")
    assert matplotlib.image.imread(io.BytesIO(picture)).shape[:2] == (100, 200)


def session_groups(board: Board) -> dict[str, Any]:
    statuses = ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"]
    answer = board.post("plugin/hparams/session_groups", allowedStatuses=statuses, sliceSize=100, colParams=[])
    return {group["name"]: group for group in answer["sessionGroups"]}


def test_hyperparameters_of_mixed_penalties_are_all_columns(board: Board) -> None:
    experiment = board.post("plugin/hparams/experiment", hparamsLimit=0)
    kinds = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    assert kinds == {
        "lr": "DATA_TYPE_FLOAT64",
        "augment": "DATA_TYPE_BOOL",
        "model": "DATA_TYPE_STRING",
        "widths": "DATA_TYPE_STRING",
        "penalty.l2.weight": "DATA_TYPE_FLOAT64",
        "penalty.jacobian.weight": "DATA_TYPE_FLOAT64",
        "penalty.jacobian.exact": "DATA_TYPE_BOOL",
        "penalty.jacobian.layers": "DATA_TYPE_STRING",
    }
    groups = session_groups(board)
    assert groups["l2"]["hparams"]["penalty.l2.weight"] == 0.001
    assert groups["l2"]["hparams"]["augment"] is False
    assert "penalty.l2.weight" not in groups["jacobian"]["hparams"]
    assert groups["jacobian"]["hparams"]["penalty.jacobian.exact"] is True
    assert groups["jacobian"]["hparams"]["penalty.jacobian.layers"] == "null"
    assert groups["none"]["hparams"]["widths"] == "[5, 5]"


def test_losses_and_errors_stand_first_in_tensorboard(board: Board) -> None:
    """TensorBoard sorts by tag: its groups as characters, capitals first, its table's metrics as Python does."""
    tags = sorted(board.get("plugin/scalars/tags")["l2_1"])
    groups = list(dict.fromkeys(tag.partition("/")[0] for tag in tags))
    assert groups == ["Test", "Train", "Validation", "best", "gradients", "weights"]
    experiment = board.post("plugin/hparams/experiment", hparamsLimit=0)
    first = [info["name"]["tag"] for info in experiment["metricInfos"]][:5]  # as many as it shows
    assert {"Test/loss", "Test/when_best/error"} <= set(first)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("test/error", "Test/error"),
        ("train/penalty/l2/share", "Train/penalty/l2/share"),
        ("best/validation/loss", "Validation/when_best/loss"),
        ("best/epoch", "best/epoch"),
        ("time/examples_per_second", "time/examples_per_second"),
        ("probe/test/error", "probe/test/error"),
        ("testing/error", "testing/error"),
    ],
)
def test_tags_are_kept_but_for_the_first_groups(tag: str, expected: str) -> None:
    assert shown(tag) == expected


def test_seeds_are_averaged_in_one_row_and_statuses_are_true(board: Board) -> None:
    groups = session_groups(board)
    for name in PENALTIES:
        assert [session["name"] for session in groups[name]["sessions"]] == [f"{name}_0", f"{name}_1"]
        metrics = {metric["name"]["tag"]: metric["value"] for metric in groups[name]["metricValues"]}
        assert metrics["Validation/when_best/error"] == pytest.approx(0.5)
    status = {name: group["sessions"][0].get("status", "STATUS_UNKNOWN") for name, group in groups.items()}
    assert status["l2"] == "STATUS_SUCCESS"
    assert status["diverged"] == status["failed"] == "STATUS_FAILURE"
    assert status["interrupted"] == status["g"] == "STATUS_UNKNOWN"


def test_a_resumed_run_shows_each_step_once_with_the_new_values(board: Board) -> None:
    points = board.get("plugin/scalars/scalars", run="resumed", tag="Validation/error")
    assert [point[1:] for point in points] == [[1, 7], [2, 14], [3, 21], [4, 4], [5, 5], [6, 6]]
    histograms = board.get("plugin/histograms/histograms", run="resumed", tag="losses/train")
    assert [step for _, step, _ in histograms] == [1, 2, 3, 4, 5, 6]


def test_a_tensorboard_that_reads_along_sees_the_new_values_after_a_resume(board: Board, sweep: Path) -> None:
    run = sweep / f"along_{time.time_ns()}"  # of this reader alone
    recorder = start(run)
    epochs(recorder, 1, 5, factor=7.0)
    board.wait_for(run.name, "Validation/error", 5)
    recorder.close()
    recorder = start(run, 3, recorder.history[:3])
    epochs(recorder, 4, 6)
    recorder.close()
    points = board.wait_for(run.name, "Validation/error", 6)
    assert [point[1:] for point in points] == [[1, 7], [2, 14], [3, 21], [4, 4], [5, 5], [6, 6]]


# ---- resume, by the files alone


HOUR = 3600.0
CLOCKS = {  # hours of the clock in four sessions
    "right": (0, 1, 2, 3),
    "an hour back": (1, 0, -1, -2),
    "of another year": (9000, 0, 9000, 1),
    "stopped": (0, 0, 0, 0),
}


def resumed_by(clock: tuple[float, ...], directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record ten epochs in four sessions, by clocks that differ; the third one is killed as it writes epoch 8."""
    history: list[dict[str, float]] = []
    now = time.time()
    for hours, resume_at, last in zip(clock, (None, 3, 5, 7), (4, 5, 8, 10), strict=True):
        monkeypatch.setattr("time.time", lambda hours=hours: now + hours * HOUR)
        monkeypatch.setattr("time.time_ns", lambda hours=hours: int(1e9 * (now + hours * HOUR)))
        recorder = start(directory, resume_at, history[:resume_at])
        epochs(recorder, (resume_at or 0) + 1, last, factor=last)
        history = recorder.history
        recorder.close()
        if last == 8:
            with max(directory.glob("*tfevents*")).open("r+b") as file:
                file.truncate(file.seek(0, os.SEEK_END) - 10)
    monkeypatch.undo()


EXPECTED = [[1, 4], [2, 8], [3, 12], [4, 20], [5, 25], [6, 48], [7, 56], [8, 80], [9, 90], [10, 100]]


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clocks")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, clock in CLOCKS.items():
            resumed_by(clock, root / name, monkeypatch)
    return root


@pytest.mark.parametrize("reader", [pytest.param(reader, marks=pytest.mark.xdist_group(reader)) for reader in READERS])
def test_a_resumed_run_loses_no_step_whatever_the_clock(clocks: Path, reader: str) -> None:
    with serving(clocks, reader) as board:
        for name in CLOCKS:
            points = board.wait_for(name, "Validation/error", 10)
            assert [point[1:] for point in points] == EXPECTED, name
            times = [point[0] for point in points]
            assert times == sorted(times), f"{name}: the curve by relative time runs backwards"


@pytest.mark.parametrize("name", CLOCKS)
def test_a_script_that_reads_the_events_loses_no_step_whatever_the_clock(clocks: Path, name: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(clocks / name)).Reload().Scalars("Validation/error")
    assert [[event.step, event.value] for event in events] == EXPECTED


def test_a_run_trained_again_does_not_use_the_name_of_a_file_that_tensorboard_has_open(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        start(tmp_path).close()
        names += [path.name for path in tmp_path.glob("*tfevents.[!0]*")] or [max(tmp_path.glob("*tfevents*")).name]
    assert names == sorted(set(names))


def test_event_files_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "events.out.tfevents.1764000000.host.12.0"
    other.write_bytes(b"")
    for resume_at in (None, 0):
        start(tmp_path, resume_at).close()
    assert other.exists()


def test_a_fresh_run_removes_the_record_of_an_earlier_attempt(tmp_path: Path) -> None:
    recorder = start(tmp_path)
    epochs(recorder, 1, 5)
    recorder.close()
    (tmp_path / "config.yaml").write_text("kept")
    recorder = start(tmp_path, history=[{"epoch": 9, "train/loss": 1.0}])
    assert table(tmp_path) == []
    epochs(recorder, 1, 2)
    recorder.close()
    assert [step for step, _ in values(tmp_path)["Train/loss"]] == [1, 2]
    assert [row["epoch"] for row in table(tmp_path)] == ["1", "2"]
    assert (tmp_path / "config.yaml").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 4, "no temporary file is left"


def test_resuming_twice_and_from_a_finished_run_keeps_steps_strictly_increasing(tmp_path: Path) -> None:
    recorder = start(tmp_path)
    epochs(recorder, 1, 4)
    recorder.close()
    for resume_at, last in ((2, 5), (4, 6), (6, 6)):
        recorder = start(tmp_path, resume_at, recorder.history[:resume_at])
        epochs(recorder, resume_at + 1, last)
        recorder.record_best(last, {"validation/error": 0.5})
        recorder.finish("done")
        recorder.close()
    found = values(tmp_path)
    assert [step for step, _ in found["Train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert len(found["_hparams_/session_start_info"]) == len(found["_hparams_/session_end_info"]) == 1
    for tag, points in found.items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), tag
    assert [row["epoch"] for row in table(tmp_path)] == list("123456")


def test_a_run_that_goes_on_takes_back_how_it_ended(tmp_path: Path) -> None:
    recorder = start(tmp_path)
    epochs(recorder, 1, 2)
    recorder.finish("failed")
    recorder.close()
    assert "_hparams_/session_end_info" in values(tmp_path)
    start(tmp_path, 2, recorder.history).close()
    assert "_hparams_/session_end_info" not in values(tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 11, 24, 100])
def test_a_torn_event_file_is_mended(tmp_path: Path, cut: int) -> None:
    recorder = start(tmp_path)
    epochs(recorder, 1, 3)
    recorder.close()
    for path in tmp_path.glob("*tfevents*"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - cut] if cut else b"")
    recorder = start(tmp_path, 3, recorder.history)
    epochs(recorder, 4, 5)
    recorder.close()
    steps = [step for step, _ in values(tmp_path)["Train/loss"]]
    assert steps == sorted(set(steps))
    assert steps[-2:] == [4, 5]
    assert "_hparams_/session_start_info" in values(tmp_path)


def test_what_stands_there_already_is_not_written_twice(tmp_path: Path) -> None:
    events = Events(tmp_path, None)
    for step in (1, 2, 2, 1, 3):
        events.add(step, scalars({"a": float(step)}))
    events.add(3, scalars({"a": 9.0, "b": 9.0}))
    events.close()
    assert values(tmp_path)["a"] == [(1, 1), (2, 2), (3, 3)]
    assert values(tmp_path)["b"] == [(3, 9)]


def test_a_killed_process_loses_nothing_that_was_recorded(forks: Forks, tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from runner.recording.recorder import Recorder\n"
        "r = Recorder(Path(), hparams={}, group='g')\n"
        "for e in (1, 2): r.record_scalars(e, {'train/loss': 1 / e})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert forks.wait(forks.python(code)) == -signal.SIGKILL
    assert [row["train/loss"] for row in table(tmp_path)] == ["1.0", "0.5"]
    assert values(tmp_path)["Train/loss"] == [(1, 1.0), (2, 0.5)]


def test_a_row_of_hyperparameters_can_be_written_anew_and_is_left_alone_if_it_is_the_same(tmp_path: Path) -> None:
    recorder = start(tmp_path)
    epochs(recorder, 1, 2)
    recorder.close()
    for hparams, is_written in (({"lr": 0.1}, False), ({"lr": 0.1, "l2.weight": 0.5}, True)):
        before = {path: path.stat().st_ino for path in tmp_path.glob("*tfevents*")}
        write_session(tmp_path, hparams, "g")
        changed = {path.name for path, inode in before.items() if path.stat().st_ino != inode}
        assert changed == ({"events.out.tfevents.0.hparams"} if is_written else set())
        assert len(values(tmp_path)["_hparams_/session_start_info"]) == 1
        assert [step for step, _ in values(tmp_path)["Train/loss"]] == [1, 2]


# ---- metrics.csv


def test_the_table_grows_new_columns_and_joins_what_belongs_to_one_epoch(tmp_path: Path) -> None:
    recorder = start(tmp_path)
    recorder.record_scalars(1, {"train/loss": 0.1})
    recorder.record_scalars(2, {"train/loss": float("nan")})
    recorder.record_scalars(3, {"train/loss": 0.3, "probe/norm": 1e-17})
    recorder.record_scalars(3, {"test/error": np.float64(0.25)})
    recorder.record_scalars(4, {"train/loss": float("inf")})
    assert recorder.history[2] == {"epoch": 3, "train/loss": 0.3, "probe/norm": 1e-17, "test/error": 0.25}
    assert all(type(value) in (int, float) for row in recorder.history for value in row.values())
    assert list(table(tmp_path)[0]) == ["epoch", "train/loss", "probe/norm", "test/error"]
    assert [list(row.values()) for row in table(tmp_path)] == [
        ["1", "0.1", "", ""],
        ["2", "nan", "", ""],
        ["3", "0.3", "1e-17", "0.25"],
        ["4", "inf", "", ""],
    ]
    recorder.close()


# ---- layers and histograms


def test_norms_of_weights_and_gradients_are_per_layer_without_biases(tmp_path: Path) -> None:
    model = small_model()
    nn.init.constant_(model.fc1.weight, 2.0)
    nn.init.constant_(model.fc1.bias, 1000.0)
    model.fc1.weight.grad = torch.full((4, 3), -3.0)
    model.fc1.bias.grad = torch.full((4,), 1000.0)
    model.register_parameter("own", nn.Parameter(torch.tensor([3.0, 4.0])))
    model.fc2.requires_grad_(False)
    recorder = start(tmp_path)
    recorder.record_layers(1, model)
    recorder.close()
    found = {tag: points[0][1] for tag, points in values(tmp_path).items() if not tag.startswith("_hparams_")}
    norms = {tag: value for tag, value in found.items() if not tag.endswith("/values")}
    assert norms == {
        "weights/model": 5,
        "weights/fc1": pytest.approx(np.sqrt(12 * 4)),
        "weights/norm": 2,
        "weights/fc2": pytest.approx(float(model.fc2.weight.norm())),
        "gradients/fc1": pytest.approx(np.sqrt(12 * 9)),
    }
    assert (found["weights/model/values"].min, found["weights/model/values"].max) == (3, 4)
    assert found["weights/fc1/values"].num == 12


def test_a_model_without_parameters_has_no_layers(tmp_path: Path) -> None:
    recorder = start(tmp_path)
    recorder.record_layers(1, nn.ReLU())
    recorder.close()
    assert list(values(tmp_path)) == ["_hparams_/session_start_info"]


@pytest.mark.parametrize(
    ("losses", "count"),
    [
        ([float("nan"), 1.0, 2.0, float("inf"), -float("inf")], 2),
        ([float("nan")], 0),
        ([], 0),
        ([3.0, 3.0, 3.0], 3),
        ([1e30, 1e30], 2),
        ([-3e38, 3e38, 0.0], 3),
        ([1.0, 1.0 + 1.2e-7], 2),
    ],
)
def test_histograms_never_raise_and_count_what_is_finite(tmp_path: Path, losses: list[float], count: int) -> None:
    recorder = start(tmp_path)
    recorder.record_histogram(1, "losses/train", torch.tensor(losses, requires_grad=True))
    recorder.close()
    points = values(tmp_path).get("losses/train", [])
    assert sum(sum(histogram.bucket) for _, histogram in points) == count


def test_diverged_weights_are_recorded_without_an_error(tmp_path: Path) -> None:
    model = small_model()
    nn.init.constant_(model.fc1.weight, float("nan"))
    nn.init.constant_(model.fc2.weight, 1e38)
    model.fc1.weight.grad = torch.full((4, 3), float("inf"))
    recorder = start(tmp_path)
    recorder.record_layers(1, model)
    recorder.close()
    assert np.isnan(values(tmp_path)["weights/fc1"][0][1])
    assert "weights/fc1/values" not in values(tmp_path)
    assert values(tmp_path)["gradients/fc1"][0][1] == np.inf
