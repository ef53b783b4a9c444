"""Tables of sweeps from result files that are written here by hand; presets of sweeps."""

from __future__ import annotations

import csv
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure
from rich.console import Console
from support import ROOT

from runner.config.check import problems_of_config
from runner.config.compose import Composer, grid, loader_with
from runner.config.conf_files import CONF
from runner.summary.axis import are_log_spaced
from runner.summary.figure import caption, figure_of
from runner.summary.groups import summarize
from runner.summary.report import report
from runner.summary.rows import NothingToShow, Summary
from runner.summary.runs import RunRecord
from runner.summary.table import columns_of, groups_csv, markdown, show

PRESETS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
Write = Callable[..., Path]


def l2(weight: float) -> tuple[str, str]:
    return "penalty=l2", f"penalty.l2.weight={weight}"


def folder(tmp_path: Path, name: str = "a") -> Path:
    return tmp_path / "runs" / name


def printed(summary: Summary, metric: str | None = None, width: int = 100) -> str:
    console = Console(record=True, width=width, file=open("/dev/null", "w"))  # noqa: SIM115
    show(summary, Path("there"), metric or summary.metric, console)
    console.file.close()
    return console.export_text()


# ---- the numbers


def test_sizes_and_times_are_no_measurements() -> None:
    found = {"test/error": 0.1, "examples/test": 5000, "optimizer/lr": 0.1, "time/examples_per_second": 9, "epoch": 3}
    assert RunRecord(Path("run"), found, "done").numbers == {"test/error": 0.1}


def test_a_row_holds_mean_sample_deviation_and_median_over_the_seeds(write: Write, tmp_path: Path) -> None:
    errors = {0.01: [0.1, 0.2, 0.6], 0.0: [0.4, 0.4, 0.5]}
    for weight, values in errors.items():
        for seed, value in enumerate(values):
            write(*l2(weight), seed=seed, test_error=value, train_loss=2 * value, seconds=3.0)
    summary = summarize(folder(tmp_path))
    assert summary.columns == ["l2.weight"]
    assert [row.keys["l2.weight"] for row in summary.rows] == [0, 0.01]
    assert [len(row.done) for row in summary.rows] == [3, 3]
    spread = summary.rows[1].metrics["test/error"]
    assert spread.mean == pytest.approx(0.3)
    assert spread.deviation == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert spread.median == 0.2
    assert summary.rows[1].mean("train/loss") == pytest.approx(0.6)
    assert not summary.others


def test_one_run_has_no_deviation_and_infinite_numbers_do_not_raise(write: Write, tmp_path: Path) -> None:
    write(*l2(0), test_error=0.5)
    for seed, value in enumerate([math.inf, -math.inf, math.nan]):
        write(*l2(1), seed=seed, test_error=value)
    single, wild = summarize(folder(tmp_path)).rows
    assert single.mean("test/error") == 0.5
    assert math.isnan(single.metrics["test/error"].deviation)
    assert all(math.isnan(x) for x in (wild.mean("test/error"), wild.metrics["test/error"].deviation))
    report([folder(tmp_path)])


def test_runs_without_a_result_are_listed_and_diverged_ones_counted_but_in_no_mean(
    write: Write, tmp_path: Path
) -> None:
    write(*l2(0), test_error=0.5)
    for seed, (status, reason) in enumerate(
        {"diverged": "NaN [red]", "failed": "boom", "interrupted": "Ctrl-C"}.items()
    ):
        write(*l2(0), seed=seed + 1, status=status, reason=reason, test_error=9.0)
    path = write(*l2(0), seed=4, status="running", epoch=3, epochs=7, test_error=9.0)
    write(*l2(1), status="diverged", reason="became NaN")
    summary = summarize(folder(tmp_path))
    assert [(len(row.done), row.diverged) for row in summary.rows] == [(1, 1), (0, 1)]
    assert summary.rows[0].mean("test/error") == 0.5
    assert sorted(run.status for run in summary.others) == [
        "diverged",
        "diverged",
        "failed",
        "interrupted",
        "running",
    ]
    for text in (printed(summary), markdown(summary, "a", summary.metric)):
        assert "diverged (seed 1): NaN [red]" in text
        assert "failed (seed 2): boom" in text
        assert "running (seed 4): epoch 3 of 7" in text
        assert str(path / "train.log") in text


@pytest.mark.parametrize("name", ["result.json", "config.yaml"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe", b"3", b'{"status": 3}', b"{a: [", b"null"])
def test_a_missing_or_damaged_file_is_listed_and_never_raises(
    write: Write, tmp_path: Path, name: str, content: bytes | None
) -> None:
    write(*l2(0), test_error=0.5)
    path = write(*l2(1), test_error=0.6) / name
    path.unlink() if content is None else path.write_bytes(content)
    summary = report([folder(tmp_path)])
    if name == "config.yaml" and content == b'{"status": 3}':  # a mapping, if a strange one: it is shown as such
        assert len(summary.rows) == 2
    else:
        assert [row.mean("test/error") for row in summary.rows] == [0.5]
        assert [(run.status, run.path) for run in summary.others] == [("unreadable", path.parent)]
        assert name in summary.others[0].reason


def test_one_readable_config_of_a_group_is_enough(write: Write, tmp_path: Path) -> None:
    paths = [write(*l2(weight), seed=seed, test_error=0.5) for weight in (0, 1) for seed in (0, 1)]
    (paths[0] / "config.yaml").unlink()
    assert [(row.keys["l2.weight"], len(row.done)) for row in summarize(folder(tmp_path)).rows] == [
        (0, 2),
        (1, 2),
    ]


# ---- the columns


def test_rows_are_in_the_order_of_numbers(write: Write, tmp_path: Path) -> None:
    for weight in ("0.01", "1.0e-05", "10", "0", "0.002", "9.0"):
        write("penalty=l2", f"penalty.l2.weight={weight}", test_error=0.5)
    rows = summarize(folder(tmp_path)).rows
    assert [row.keys["l2.weight"] for row in rows] == [0, 1e-5, 0.002, 0.01, 9, 10]


def test_a_choice_is_one_column_and_its_options_only_where_they_were_set(write: Write, tmp_path: Path) -> None:
    names = ["adam", "lbfgs", "momentum", "nesterov", "sgd"]
    for name in names:
        write(f"optimizer={name}", test_error=0.5)
    summary = summarize(folder(tmp_path))
    assert [row.keys for row in summary.rows] == [{"optimizer": name} for name in names]
    write("optimizer=adam", "optimizer.lr=0.5", test_error=0.5)
    summary = summarize(folder(tmp_path))
    assert summary.columns == ["optimizer", "lr"]
    assert [row.keys.get("lr") for row in summary.rows][:2] == [0.001, 0.5]


def test_penalties_that_a_group_lacks_are_blank(write: Write, tmp_path: Path) -> None:
    write(test_error=0.5)
    for weight in (0.001, 0.1):
        write(*l2(weight), test_error=0.5)
        write("penalty=[l2,jacobian]", f"penalty.jacobian.weight={weight}", test_error=0.5)
    columns = {column.title: column.cells for column in columns_of(summarize(folder(tmp_path)), "test/error")}
    table = list(zip(columns["penalty"], columns["l2.weight"], columns["jacobian.weight"], strict=True))
    assert table == [
        ("l2", "0.001", ""), ("l2", "0.1", ""),
        ("l2+jacobian", "0.001", "0.001"), ("l2+jacobian", "0.001", "0.1"),
        ("none", "", ""),
    ]  # fmt: skip


def test_lists_and_names_that_the_table_uses_itself(write: Write, tmp_path: Path) -> None:
    for widths in ("[100,100]", "[50]", "[]"):
        for n in (20, 30):
            write("data=sine", "model=mlp", "loss=mse", f"model.widths={widths}", f"data.n={n}", test_loss=0.5)
    summary = summarize(folder(tmp_path))
    assert set(summary.columns) == {"widths", "data.n"}
    assert [row.keys["widths"] for row in summary.rows if row.keys["data.n"] == 20] == [[], [50], [100, 100]]


def test_folders_are_pooled_unless_they_hold_the_same_run(write: Write, tmp_path: Path) -> None:
    write(*l2(0), seed=0, test_error=0.5)
    write(*l2(0), seed=1, folder="b", test_error=0.7)
    pooled = summarize(folder(tmp_path, "a"), folder(tmp_path, "b"))
    assert [(row.keys, len(row.done)) for row in pooled.rows] == [({}, 2)]
    write(*l2(0), seed=0, folder="b", test_error=0.7)
    compared = summarize(folder(tmp_path, "a"), folder(tmp_path, "b"))
    assert [(row.keys["sweep"], len(row.done)) for row in compared.rows] == [("a", 1), ("b", 2)]
    assert len(summarize(tmp_path / "runs").rows) == 2


# ---- the best row


def test_the_best_row_is_told_by_validation_and_never_by_the_test_set(write: Write, tmp_path: Path) -> None:
    for weight, validation, test in [(0, 0.3, 0.1), (1, 0.2, 0.9), (2, 0.25, 0.0)]:
        write(*l2(weight), validation_error=validation, test_error=test, train_error=0.0)
    summary = summarize(folder(tmp_path))
    assert (summary.monitor, [row.keys for row in summary.best]) == ("validation/error", [{"l2.weight": 1}])
    line = next(line for line in printed(summary).splitlines() if line.startswith("*"))
    assert line.split()[:3] == ["*", "1", "1"]


def test_without_validation_the_training_part_tells_and_ties_go_by_its_loss(write: Write, tmp_path: Path) -> None:
    for weight, error, loss, test in [(0, 0.0, 0.2, 0.1), (1, 0.0, 0.1, 0.2), (2, 0.5, 0.0, 0.0)]:
        write(*l2(weight), train_error=error, train_loss=loss, test_error=test)
    summary = summarize(folder(tmp_path))
    assert (summary.monitor, [row.keys["l2.weight"] for row in summary.best]) == ("train/error", [1])


def test_a_row_that_diverges_is_not_the_best(write: Write, tmp_path: Path) -> None:
    write(*l2(0), validation_error=0.1)
    write(*l2(0), seed=1, status="diverged", reason="became NaN")
    write(*l2(1), validation_error=0.2)
    assert [row.keys["l2.weight"] for row in summarize(folder(tmp_path)).best] == [1]


def test_losses_are_ranked_within_each_criterion(write: Write, tmp_path: Path) -> None:
    """|e| of .04 is no better than e^2 of .01, and the weight of the data loss is no part of what it means."""
    for criterion, lr, weight, loss in [
        ("mse", 1, 1, 0.010), ("mse", 2, 3, 0.009), ("l1", 1, 1, 0.04), ("l1", 2, 1, 0.05),
        ("sum_of_squares", 1, 1, 9.0),
    ]:  # fmt: skip
        options = (f"loss={criterion}", f"optimizer.lr={lr}", f"loss.weight={weight}")
        write("data=line", "model=mlp", *options, validation_loss=loss, test_loss=loss)
    summary = summarize(folder(tmp_path))
    marked = [(row.keys["loss"], row.keys["lr"]) for row in summary.best]
    assert sorted(marked) == [("l1", 1), ("mse", 2), ("sum_of_squares", 1)]
    for text in (printed(summary), markdown(summary, "a", "test/loss").replace("\\*", "*")):
        text = " ".join(text.split())
        assert (
            "* least validation/loss among the rows of each criterion. Losses of different criteria cannot be" in text
        )
        assert " tie " not in text
    assert "least validation/loss of each criterion" in caption(summary)
    assert "tie" not in caption(summary)


def test_errors_are_ranked_across_criteria_and_their_ties_by_the_loss_within_one(write: Write, tmp_path: Path) -> None:
    for criterion, lr, error, loss in [
        ("cross_entropy", 1, 0.1, 0.5), ("cross_entropy", 2, 0.1, 0.4), ("mse_one_hot", 1, 0.1, 0.09),
        ("mse_one_hot", 2, 0.2, 0.01),
    ]:  # fmt: skip
        write(f"loss={criterion}", f"optimizer.lr={lr}", validation_error=error, validation_loss=loss)
    summary = summarize(folder(tmp_path))
    assert [(row.keys["loss"], row.keys["lr"]) for row in summary.best] == [("cross_entropy", 2), ("mse_one_hot", 1)]
    text = " ".join(printed(summary).split())
    assert (
        "* least validation/error. Losses of different criteria cannot be compared. 3 rows tie in validation/error: "
        in text
    )
    assert "those with the least validation/loss of their criterion are marked." in text
    assert "least validation/error, a tie" in caption(summary)


def test_options_of_a_criterion_make_another_one(write: Write, tmp_path: Path) -> None:
    """Label smoothing changes what the loss means: equal errors are not ranked by it."""
    for smoothing, loss in [(0, 0.1), (0.1, 0.6)]:
        write(f"loss.label_smoothing={smoothing}", validation_error=0.2, validation_loss=loss)
    summary = summarize(folder(tmp_path))
    assert len(summary.best) == 2
    assert "2 rows tie in validation/error: all of them are marked." in printed(summary)


def test_means_that_differ_by_rounding_tie(write: Write, tmp_path: Path) -> None:
    errors = {0: (0.1, 0.2, 0.3), 1: (0.3, 0.2, 0.1), 2: (0.3, 0.3, 0.3)}
    assert sum(errors[0]) != sum(errors[1])
    for weight, values in errors.items():
        for seed, error in enumerate(values):
            write(*l2(weight), seed=seed, validation_error=error, validation_loss=1.0 - weight / 4)
    summary = summarize(folder(tmp_path))
    assert [row.keys["l2.weight"] for row in summary.best] == [1]
    assert "2 rows tie in validation/error: those with the least validation/loss are marked." in printed(summary)
    assert "tie" not in caption(summary)


def test_means_that_differ_by_more_than_rounding_do_not_tie(write: Write, tmp_path: Path) -> None:
    """One example of 10,000 more is a difference, whatever the losses are."""
    for weight, error in ((0.0, 0.0500), (0.1, 0.0501)):
        write(*l2(weight), validation_error=error, validation_loss=1.0 - weight)
    summary = summarize(folder(tmp_path))
    assert [row.keys["l2.weight"] for row in summary.best] == [0]
    assert "tie" not in printed(summary)


# ---- what is written


@pytest.fixture
def large(write: Write, tmp_path: Path) -> Path:
    """A sweep over three keys with long names, with all kinds of metrics."""
    for index in range(4):
        overrides = ("penalty=jacobian", f"penalty.jacobian.weight={index}", f"optimizer.lr={1 + index % 2}")
        for seed in range(2):
            value = 0.1234567 + 0.01 * index + 0.001 * seed
            parts = {f"{part}_{kind}": value for part in ("train", "validation", "test") for kind in ("error", "loss")}
            probes = {f"probe_zeros_layer{k}": 1e4 * value for k in range(5)}
            facts = {
                "best_test_error": value,
                "best_epoch": 3,
                "optimizer_lr": 0.1,
                "seconds": 10.0,
                "device": "cpu",
            }
            write(
                *overrides,
                "data.train_size=100",
                f"epochs={1 + index // 2}",
                seed=seed,
                **parts,
                **probes,
                **facts,
            )
    return folder(tmp_path)


def test_the_terminal_shows_at_most_its_width_and_says_what_it_leaves_out(large: Path) -> None:
    text = printed(summarize(large))
    assert max(map(len, text.splitlines())) <= 100
    assert "0.1240 ± 0.0007" in text
    assert "No room here, but in summary.md: best/test/error, probe/zeros/layer0," in " ".join(text.split())
    narrow = printed(summarize(large), "probe/zeros/layer3", width=60)
    assert "1240" in narrow
    assert max(map(len, narrow.splitlines())) <= 60


def test_the_csv_holds_all_metrics_with_all_digits(large: Path) -> None:
    summary = summarize(large)
    rows = list(csv.DictReader(groups_csv(summary).splitlines()))
    assert [row["jacobian.weight"] for row in rows] != []
    values = [0.1234567, 0.1234567 + 0.001]
    first = next(row for row in rows if row["jacobian.weight"] == "0")
    assert float(first["probe/zeros/layer4 mean"]) == pytest.approx(1e4 * statistics.mean(values), rel=1e-12)
    assert float(first["test/error sd"]) == pytest.approx(statistics.stdev(values), rel=1e-9)
    assert float(first["test/error median"]) == pytest.approx(statistics.median(values), rel=1e-12)
    assert not [name for name in first if name.startswith(("optimizer/", "best/epoch", "device", "seed"))]


def test_the_markdown_is_one_table_whatever_the_reasons_hold(write: Write, tmp_path: Path) -> None:
    write(*l2(0), test_error=0.5)
    write(*l2(1), status="failed", reason="a | b\n<c> *d*")
    text = markdown(summarize(folder(tmp_path)), "a", "test/error")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert r"failed (seed 0): a \| b &lt;c> \*d\*" in text


def test_the_report_writes_three_files_and_refuses_what_is_not_there(large: Path, tmp_path: Path) -> None:
    report([large])
    assert (large / "summary.png").read_bytes().startswith(b"\x89PNG")
    assert (large / "summary.md").read_text().count("\n| ") == 6
    assert len((large / "groups.csv").read_text().splitlines()) == 5
    report([large], "probe/zeros/layer1", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "summary.png",
        "summary.md",
        "groups.csv",
        "summary.csv",
    }
    with pytest.raises(NothingToShow, match=r"metric must be one of test/error, .*others\), got 'tset/error'"):
        report([large], "tset/error")
    with pytest.raises(NothingToShow, match="there are no runs in"):
        report([tmp_path / "nowhere"])


def test_several_folders_are_reported_in_a_folder_of_their_own(write: Write, tmp_path: Path) -> None:
    write(*l2(0), test_error=0.5)
    write(*l2(1), folder="b", test_error=0.5)
    report([folder(tmp_path, "a"), folder(tmp_path, "b")])
    assert (folder(tmp_path, "a+b") / "summary.csv").exists()
    assert not (folder(tmp_path, "a") / "summary.csv").exists()


@pytest.mark.process
def test_the_script_needs_no_torch_and_ends_with_a_sentence(large: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts/summarize.py")]
    done = subprocess.run([*script, str(large), "--metric", "test/loss"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "jacobi…eight" in done.stdout  # in 80 columns words make room for numbers
    nothing = subprocess.run([*script, str(tmp_path / "no")], capture_output=True, text=True, check=False)
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1)
    late = "import sys, runner.summary; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", late], cwd=ROOT, check=True)


# ---- the picture


def drawn(summary: Summary, metric: str = "test/error") -> Figure:
    """Return the picture, once it has been drawn, which would raise."""
    figure = figure_of(summary, metric)
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize(
    ("numbers", "logarithmic"),
    [
        ([0, 0.001, 0.002, 0.004, 0.01, 0.02], True),
        ([0, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4], True),
        ([16, 32, 64, 128], True),
        ([0, 0.001, 0.01], True),
        (list(range(0, 110, 10)), False),
        ([1, 2, 3], False),
        ([-1, 1, 10, 100], False),
        ([5], False),
        ([], False),
    ],
)
def test_values_are_taken_for_log_spaced(numbers: list[float], logarithmic: bool) -> None:
    assert are_log_spaced(numbers) is logarithmic


def test_one_number_is_drawn_as_lines_with_zero_left_of_the_logarithms(write: Write, tmp_path: Path) -> None:
    for weight in (0, 0.001, 0.01, 0.1):
        for seed in range(3):
            write(*l2(weight), seed=seed, test_error=weight + 0.1 * seed, train_error=0.0, validation_error=0.5)
    write(*l2(0.1), seed=9, status="diverged", reason="became NaN")
    (axes,) = drawn(summarize(folder(tmp_path))).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.001", "0.01", "0.1\n1 diverged"]
    assert list(axes.get_xticks()) == pytest.approx([-4, -3, -2, -1])
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["test/error"].get_ydata() == pytest.approx([0.1, 0.101, 0.11, 0.2])
    assert {"train/error", "validation/error"} <= set(lines)
    dots = [line for line in axes.get_lines() if line.get_marker() == "." and len(line.get_xdata()) == 12]
    assert len(dots) == 3


def test_two_keys_are_drawn_as_a_heat_map(write: Write, tmp_path: Path) -> None:
    for weight in (0, 0.1, 1):
        for lr in (1, 2):
            write(*l2(weight), f"optimizer.lr={lr}", test_error=weight + 10 * lr, validation_error=weight + lr)
    axes = drawn(summarize(folder(tmp_path))).axes[0]
    assert axes.images[0].get_array().tolist() == [[10, 10.1, 11], [20, 20.1, 21]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("l2.weight", "lr")
    (frame,) = axes.patches
    assert (round(frame.get_x()), round(frame.get_y())) == (0, 0)


def test_words_are_drawn_as_rows(write: Write, tmp_path: Path) -> None:
    for name in ("adam", "sgd"):
        for seed in range(2):
            write(f"optimizer={name}", seed=seed, test_error=0.1 + seed)
    (axes,) = drawn(summarize(folder(tmp_path))).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["adam", "sgd"]


def test_there_is_a_picture_of_anything(write: Write, large: Path, tmp_path: Path) -> None:
    drawn(summarize(large))
    drawn(summarize(large), "probe/zeros/layer1")
    write(folder="alone", test_error=0.5)
    drawn(summarize(folder(tmp_path, "alone")))
    for weight in (-0.0, 1):
        write(*l2(weight), folder="nan", test_error=math.nan)
    drawn(summarize(folder(tmp_path, "nan")))
    write(folder="failed", status="failed", reason="boom")
    summary = report([folder(tmp_path, "failed")])
    assert summary.metric is None


# ---- presets of sweeps


@pytest.mark.parametrize("name", PRESETS)
def test_every_grid_point_of_a_preset_passes_the_check(name: str) -> None:
    composer = Composer(loader_with(), [f"sweep={name}"])
    hydra = composer.compose([]).hydra
    swept = [f"{key}={value}" for key, value in hydra["sweeper"]["params"].items()]
    points = grid(swept)
    configs = [composer.compose(point).values for point in points]
    assert hydra["mode"].name == "MULTIRUN"
    assert len(points) * len(configs[0]["sweep"]["arms"] or [0]) >= 15
    assert not [problem for config in configs for problem in problems_of_config(config)]
    assert len({json.dumps(config) for config in configs}) == len(points)
    assert {config["name"] for config in configs} == {name}
    text = (CONF / "sweep" / f"{name}.yaml").read_text()
    assert f"#   uv run train.py -m sweep={name}" in text


def test_the_lectures_tables_have_the_lectures_settings() -> None:
    for name in ("lecture_l2", "lecture_l1"):
        preset = yaml.safe_load((CONF / "sweep" / f"{name}.yaml").read_text())
        settings = (preset["epochs"], preset["batch_size"], preset["shuffle"], preset["optimizer"]["lr"])
        assert settings == (25, 100, False, 0.1)
        assert preset["data"] == {"train_size": 1000, "validation_size": 0}
        assert preset["hydra"]["sweeper"]["params"]["seed"] == "range(5)"
