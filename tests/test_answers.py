"""Tables and answers as a person sees them: numbers stay, words are cut, eight lines, one best, near names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from runner.config.objective import problems_of_choosing, problems_of_metric
from runner.config.text import near, shortened, wrapped
from runner.storage.members import Member
from runner.summary.answer import answer_of
from runner.summary.best import least
from runner.summary.columns import Column, fitting
from runner.summary.compare import detectable, differences_of, t_interval
from runner.summary.curves import curves
from runner.summary.figure import figure_of
from runner.summary.forest import figure_of as forest_of
from runner.summary.groups import summarize
from runner.summary.labels import short_folders, short_labels
from runner.summary.report import report
from runner.summary.rows import NothingToShow, Summary
from runner.summary.table import columns_of, markdown, notes_on_best, show

Write = Callable[..., Path]
NONE = [0.050, 0.048, 0.053, 0.049, 0.051]
LONG = "a_name_that_its_author_found_helpful_to_write_in_full_on_a_long_evening"


def l2(weight: float) -> tuple[str, str]:
    return "penalty=l2", f"penalty.l2.weight={weight}"


def write_rows(write: Write, rows: dict[tuple[str, ...], list[float]], **facts: Any) -> list[Path]:
    return [
        write(*overrides, seed=seed, test_error=value, validation_error=value, **facts)
        for overrides, values in rows.items()
        for seed, value in enumerate(values)
    ]


def lowered(by: float) -> list[float]:
    return [value - by - index / 1e4 for index, value in enumerate(NONE)]


def short(summary: Summary, metric: str = "test/error") -> list[str]:
    return answer_of(summary, differences_of(summary, metric), metric, is_short=True)


def printed(summary: Summary, metric: str, width: int) -> str:
    console = Console(record=True, width=width, file=open("/dev/null", "w"))  # noqa: SIM115
    show(summary, Path("there"), metric, console)
    console.file.close()
    return console.export_text()


# ---- words


def test_a_long_name_keeps_both_ends() -> None:
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened("abcdefghij", 6) == "abc…ij"
    assert [len(shortened("x" * 30, width)) for width in (1, 2, 3)] == [1, 2, 3]


def test_a_line_is_wrapped_and_a_path_in_it_stays_whole() -> None:
    path = "/" + "x" * 150
    lines = wrapped(f"failed: {'word ' * 40}; log in {path}").splitlines()
    assert all(len(line) <= 120 or line.strip() == path for line in lines)
    assert path in [line.strip() for line in lines]


def test_near_names_are_few_and_the_likeliest_first() -> None:
    names = [f"probe/pgd/{number}" for number in range(60)] + ["test/error"]
    assert near("probe/pgd", names) == ", ".join(names[:8]) + " (53 others)"
    assert near("tset/eror", names).startswith("test/error")
    assert near("nothing like it", ["a", "b"]) == "a, b"


# ---- labels


def test_labels_keep_what_tells_rows_apart() -> None:
    shared = "jacobian.weight=0.0123456"
    rows = [["penalty=l2+jacobian", f"l2.weight={weight}", shared] for weight in (1e-5, 0.00187)] + [["penalty=none"]]
    labels = short_labels(rows, ", ")
    assert labels == ["penalty=l2+jacobian, l2.weight=1e-05", "penalty=l2+jacobian, l2.weight=0.00187", "penalty=none"]


def test_labels_are_at_most_40_characters_and_all_different() -> None:
    rows = [[f"sweep={LONG}_{n}", f"optimizer={name}", f"train_size={size}"]
            for n in (1, 2) for name in ("sgd", "adam") for size in (100, 200)]  # fmt: skip
    labels = short_labels(rows, ", ")
    assert len({*labels}) == len(rows)
    assert max(map(len, labels)) <= 40
    double = short_labels([["x" * 30 + "a" + "x" * 30], ["x" * 30 + "b" + "x" * 30]], ", ")
    assert len({*double}) == 2  # rather long than one name for two rows


def test_folders_have_the_shortest_ends_that_differ() -> None:
    assert short_folders(["runs/a", "/x/runs/b"]) == {"runs/a": "a", "/x/runs/b": "b"}
    assert short_folders(["x/a", "y/a"]) == {"x/a": "x/a", "y/a": "y/a"}
    assert short_folders(["alone"]) == {"alone": ""}


# ---- the table


def column(title: str, cell: str, rank: int = 0, is_key: bool = False) -> Column:
    return Column(title, [cell], rank, is_key=is_key)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 250])
def test_words_are_cut_and_the_numbers_of_the_metric_stay(width: int) -> None:
    columns = [column("", "*"), column("sweep", LONG, is_key=True), column("init", LONG, is_key=True), column("n", "5"),
               column("diverged", "1"), column("train/error", "0.1 ± 0.1", 3), column("probe/x", "0.1 ± 0.1", 4),
               column("test/error", "0.0123 ± 0.0045", 0)]  # fmt: skip
    shown, left_out = fitting(columns, width)
    assert sum(one.width for one in shown) <= max(width, 38)
    titles = [one.title for one in shown]
    assert {"", "n", "diverged", "test/error"} <= {*titles}
    assert shown[titles.index("test/error")].cells == ["0.0123 ± 0.0045"]
    assert len(shown) + len(left_out) == len(columns)
    assert width < 80 or not left_out or {*left_out} <= {"train/error", "probe/x"}


def test_numbers_of_the_test_are_not_left_out_for_words() -> None:
    columns = [column("sweep", LONG, is_key=True), column("validation/error", "0.0123 ± 0.0045", 1),
               column("test/error", "0.0123 ± 0.0045", 0)]  # fmt: skip
    shown, left_out = fitting(columns, 52)
    assert not left_out
    assert shown[0].cells == [shortened(LONG, 12)]


def test_a_swept_number_is_never_cut() -> None:
    columns = [column("a.very.long.title.of.a.key", "0.0123456789", is_key=True), column("test/error", "0.1", 0)]
    shown, _ = fitting(columns, 26)
    assert shown[0].cells == ["0.0123456789"]
    assert len(shown[0].title) == 12


def test_two_folders_with_long_names_leave_room_for_the_numbers(write: Write, tmp_path: Path) -> None:
    for folder in (f"one_{LONG}", f"two_{LONG}"):
        for penalty in ((), l2(0.01)):
            for seed in (0, 1):
                write(*penalty, seed=seed, folder=folder, test_error=0.1 + seed, validation_error=0.2, train_error=0.3)
    folders = [tmp_path / "runs" / f"{name}_{LONG}" for name in ("one", "two")]
    summary = summarize(*folders)
    text = printed(summary, "test/error", 80)
    assert text.count("0.6000 ± 0.7071") == 4
    assert "validation/error" in text.splitlines()[0] + text.splitlines()[1]
    table = [line for line in text.splitlines() if "±" in line]
    assert max(map(len, table)) <= 80
    assert all(len(summary.short_label(row)) <= 40 for row in summary.rows)
    report(folders)
    (out,) = [path for path in (tmp_path / "runs").iterdir() if (path / "summary.md").exists()]
    assert len(out.name) <= 100
    assert f"one_{LONG}" in (out / "summary.md").read_text()


def test_the_axes_keep_their_room_beside_long_labels(write: Write, tmp_path: Path) -> None:
    for folder in (f"one_{LONG}", f"two_{LONG}"):
        for penalty in ((), l2(0.01), l2(0.1)):
            for seed in (0, 1):
                write(*penalty, seed=seed, folder=folder, test_error=0.1 + seed)
    summary = summarize(*(tmp_path / "runs" / f"{name}_{LONG}" for name in ("one", "two")))
    found = differences_of(summary, "test/error")
    for figure in (figure_of(summary, "test/error"), forest_of(summary, found, "test/error")):
        figure.draw_without_rendering()
        assert figure.axes[0].get_position().width > 0.4


def test_a_heat_map_keeps_its_room_beside_long_names(write: Write, tmp_path: Path) -> None:
    for folder in (f"one_{LONG}", f"two_{LONG}"):
        for lr in (1, 2):
            write(f"optimizer.lr={lr}", folder=folder, test_error=0.1)
    figure = figure_of(summarize(*(tmp_path / "runs" / f"{name}_{LONG}" for name in ("one", "two"))), "test/error")
    figure.draw_without_rendering()
    assert len(figure.axes[0].images) == 1
    assert figure.axes[0].get_position().width > 0.4


def test_curves_have_short_names_in_their_legend() -> None:
    import pandas as pd

    rows = [{"path": name, "setting": f"sweep={LONG} lr={name}", "epoch": epoch, "test/error": 0.1}
            for name in "ab" for epoch in (1, 2)]  # fmt: skip
    figure = curves(pd.DataFrame(rows), "test/error")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len({*names}) == 2
    assert max(map(len, names)) <= 40 + len(" (n = 1)")


def test_failed_runs_are_counted_beside_n(write: Write, tmp_path: Path) -> None:
    write(*l2(0), test_error=0.5)
    write(*l2(0), seed=1, status="failed", reason="boom")
    columns = {column.title: column.cells for column in columns_of(summarize(tmp_path), "test/error")}
    assert (columns["n"], columns["failed"]) == (["1"], ["1"])


# ---- the best


def test_one_rule_tells_the_best() -> None:
    assert least(["a", "bb", "cc"], len, lambda word: -ord(word[0])) == ["a"]
    assert least([0.1 + 0.2, 0.3, 0.4], float) == [0.1 + 0.2, 0.3]  # rounding
    assert least([math.nan, 1.0, math.inf], float) == [1.0]
    assert least([(1, 5.0), (1, 4.0), (2, 0.0)], lambda one: one[0], lambda one: one[1]) == [(1, 4.0)]
    assert least([], float) == []


def listed(paths: list[Path], **facts: Any) -> list[Member]:
    return [Member(path, **facts) for path in paths]


def test_the_best_row_is_the_least_of_the_sweeps_objective(write: Write, tmp_path: Path) -> None:
    paths = [write(*l2(0), validation_error=0.1, validation_loss=9.0, test_error=0.3),
             write(*l2(1), validation_error=0.2, validation_loss=1.0, test_error=0.2)]  # fmt: skip
    best = {}
    for objective in (None, "validation/loss", "test/error"):
        summary = summarize(tmp_path, members=listed(paths, objective=objective))
        best[objective] = [row.keys["l2.weight"] for row in summary.best]
    assert best == {None: [0], "validation/loss": [1], "test/error": [1]}
    assert "the test set has chosen" in notes_on_best(summary)[0]


def test_the_list_of_a_sweep_knows_its_objective(composed: Any, tmp_path: Path) -> None:
    from runner.storage.members import SweepIndex

    index = SweepIndex(tmp_path, ["x"])
    index.add([composed("objective_metric=validation/loss")])
    assert [member.objective for member in index.members()] == ["validation/loss"]


def test_the_best_of_many_rows_is_told_to_be_lucky(write: Write, tmp_path: Path) -> None:
    for weight in range(5):
        write(*l2(weight), test_error=0.1, validation_error=weight)
    assert "noisy" not in printed(summarize(tmp_path), "test/error", 100)
    write(*l2(9), test_error=0.1, validation_error=9.0)
    text = printed(summarize(tmp_path), "test/error", 100)
    assert "The best of 6 noisy rows looks better than it is; on fresh seeds:" in text
    assert re.search(r"^    uv run scripts/runs.py best .*runs/a --seeds 10$", text, re.MULTILINE)


# ---- the answer


def test_a_large_grid_has_an_answer_of_eight_short_lines(write: Write, tmp_path: Path) -> None:
    rows = {(): NONE} | {l2(weight): lowered(0.01 * weight) for weight in (1, 2, 3)}
    generator = np.random.default_rng(0)
    rows |= {(*l2(1), f"optimizer.lr={1 + n}"): list(0.05 + generator.normal(0, 0.01, 5)) for n in range(12)}
    rows |= {(f"optimizer.lr={1 + n}",): list(0.05 + generator.normal(0, 0.01, 5)) for n in range(12)}
    write_rows(write, rows)
    summary = summarize(tmp_path)
    lines = short(summary)
    assert len(lines) <= 8
    assert max(map(len, lines)) <= 120
    assert [line[:1] for line in lines[1:4]] == ["*"] * 3
    assert [float(re.search(r"by ([\d.]+)", line)[1]) for line in lines[1:4]] == sorted(  # type: ignore[index]
        (float(re.search(r"by ([\d.]+)", line)[1]) for line in lines[1:4]), reverse=True)  # type: ignore[index] # fmt: skip
    assert any(
        re.match(r"no difference found for \d+ others, see summary.md: differences below ", line) for line in lines
    )
    whole = "\n".join(answer_of(summary, differences_of(summary, "test/error"), "test/error"))
    assert all(summary.label(row) in whole for row in summary.rows if not row.is_baseline)


@pytest.mark.parametrize("status", ["done", "diverged"])
def test_a_long_answer_stays_within_eight_lines(status: str, write: Write, tmp_path: Path) -> None:
    """All kinds of rows at once, with long names."""
    paths = {"none": write_rows(write, {("optimizer=sgd",): NONE})}
    for arm in range(6):
        values = lowered(0.01) if arm % 2 else NONE[::-1] if arm else NONE[:1]
        paths[f"{LONG}_{arm}"] = write_rows(write, {(*l2(arm + 1), "optimizer=sgd"): values})
    paths[f"{LONG}_5"].append(write(*l2(6), "optimizer=sgd", seed=8, status=status, test_error=0.05))
    members = [member for arm, some in paths.items() for member in listed(some, arm=arm)]
    lines = short(summarize(tmp_path, members=members))
    assert len(lines) <= 8
    assert max(map(len, lines)) <= 120
    assert any(line.startswith("too few pairs of seeds to tell for 1") for line in lines)
    assert any("nothing can be said after divergence" in line for line in lines) == (status == "diverged")


def test_what_could_have_been_missed_is_found_in_nine_of_ten_comparisons() -> None:
    """Of differences whose standard deviation is 1, with 5 pairs and 3 rows."""
    shape = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    size = detectable(shape / shape.std(ddof=1), 3)
    samples = np.random.default_rng(0).normal(size, 1, (4000, 5))
    values = [t_interval(sample).p <= 0.05 / 3 for sample in samples]
    assert np.mean(values) == pytest.approx(0.9, abs=0.015)  # three standard errors
    assert detectable([1.0] * 5, 3) == 0
    assert math.isnan(detectable([1.0], 3))


def test_no_difference_says_what_could_have_been_missed(write: Write, tmp_path: Path) -> None:
    write_rows(write, {(): NONE, l2(1): NONE[::-1]})
    summary = summarize(tmp_path)
    (difference,) = differences_of(summary, "test/error")
    expected = detectable(np.array(NONE[::-1]) - np.array(NONE), 1)
    assert difference.detectable == pytest.approx(expected)
    assert f"differences below {expected:.2g} could have been missed (power 90%)" in "\n".join(short(summary))


def test_equal_pairs_have_nothing_that_could_have_been_missed(write: Write, tmp_path: Path) -> None:
    """No spread, no formula: as of a penalty whose weight does nothing."""
    write_rows(write, {(): NONE, l2(1): NONE})
    lines = short(summarize(tmp_path))
    assert lines[1] == "  penalty=l2, l2.weight=1  +0.000, 5 seeds, p=1: no difference found"
    assert "missed" not in "\n".join(lines)


def test_other_data_are_another_question(write: Write, tmp_path: Path) -> None:
    """Holm's correction within each data set; within one, other settings share it."""
    alone = {(): NONE, l2(1): lowered(0.001)}
    write_rows(write, alone)
    p = differences_of(summarize(tmp_path), "test/error")[0].p
    for size in (100, 200, 300):
        write_rows(write, {(f"data.train_size={size}", *penalty): values for penalty, values in alone.items()})
    found = differences_of(summarize(tmp_path), "test/error")
    assert [each.p for each in found] == pytest.approx([p] * 4)
    assert "p by Holm for each data set" in short(summarize(tmp_path))[0]
    write_rows(write, {(f"optimizer.lr={lr}", *penalty): values for penalty, values in alone.items() for lr in (1, 2)})
    found = differences_of(summarize(tmp_path), "test/error")
    assert sorted(each.p for each in found) == pytest.approx([p] * 3 + [3 * p] * 3)


def test_a_measure_that_tuned_nothing_is_told_above_the_answer(write: Write, tmp_path: Path) -> None:
    """Of the same kind, the error of another split, it is not."""
    facts = {"probe_pgd_0.1": 0.5, "test_loss": 0.7}
    trials = [write(*l2(w), seed=100, validation_error=w, validation_loss=w, test_error=w) for w in (0.1, 1)]
    rows = [write(*penalty, seed=seed, validation_error=0.1, validation_loss=0.1, test_error=0.1, **facts)
            for penalty in ((), l2(0.1)) for seed in (0, 1)]  # fmt: skip
    members = listed(trials, arm="l2", stage="trial") + listed(rows[:2], arm="none") + listed(rows[2:], arm="l2")
    summary = summarize(tmp_path, members=members)
    assert not short(summary)[0].startswith("The weights were")
    assert short(summary, "probe/pgd/0.1")[0] == "The weights were tuned on validation/error, not on probe/pgd/0.1."
    assert short(summary, "test/loss")[0] == "The weights were tuned on validation/error, not on test/loss."
    members = [member._replace(objective="validation/loss") for member in members]
    assert short(summarize(tmp_path, members=members))[0].endswith("tuned on validation/loss, not on test/error.")


@pytest.mark.parametrize(("chosen", "mark", "word"), [(0.001, "↓", "least"), (0.1, "↑", "largest"), (0.01, "", "")])
def test_a_choice_at_an_end_is_marked(write: Write, tmp_path: Path, chosen: float, mark: str, word: str) -> None:
    """.001 is also the usual weight, which a table leaves out elsewhere."""
    trials = [write(*l2(w), seed=100, validation_error=w, test_error=w) for w in (0.001, 0.01, 0.1)]
    rows = {arm: [write(*lines, seed=seed, validation_error=0.1, test_error=0.1 + seed) for seed in (0, 1)]
            for arm, lines in {"none": (), "l2": l2(chosen)}.items()}  # fmt: skip
    members = listed(trials, arm="l2", stage="trial")
    members += [member for arm, paths in rows.items() for member in listed(paths, arm=arm)]
    summary = summarize(tmp_path, members=members)
    cells = next(column.cells for column in columns_of(summary, "test/error") if column.title == "chosen")
    assert cells == [f"l2.weight={chosen:g} {mark}".strip(), ""]
    line = f"Chosen at an end of what was tried: l2 ({word})."
    assert (line in short(summary)) == bool(word)
    assert (line in markdown(summary, "a", "test/error", short(summary))) == bool(word)


# ---- baselines and metrics that are typed


def test_a_baseline_is_accepted_as_its_column_says(write: Write, tmp_path: Path) -> None:
    write_rows(write, {(f"optimizer.lr={lr}",): NONE for lr in (0.1, 0.2)})
    for typed in ("optimizer.lr=0.1", "lr=0.1", "lr=0.10", "lr=1e-1"):
        (difference,) = differences_of(summarize(tmp_path, baseline=typed), "test/error")
        assert difference.baseline.keys["lr"] == 0.1


@pytest.mark.parametrize(
    ("typed", "near_ones"), [("lr=0.3", "lr=0.2, lr=0.1"), ("l=0.1", "lr=0.1, lr=0.2"), ("adam", "lr=0.1, lr=0.2")]
)
def test_a_baseline_that_is_not_there_has_near_ones(write: Write, tmp_path: Path, typed: str, near_ones: str) -> None:
    write_rows(write, {(f"optimizer.lr={lr}",): NONE for lr in (0.1, 0.2)})
    with pytest.raises(NothingToShow, match=rf"baseline must be one of {near_ones}, got '{typed}'"):
        summarize(tmp_path, baseline=typed)


def test_a_baseline_that_several_keys_may_mean_is_refused(write: Write, tmp_path: Path) -> None:
    for own in (("penalty.l2.weight=0.1", "penalty.l1.weight=0.1"), ("penalty.l2.weight=1", "penalty.l1.weight=2")):
        write_rows(write, {("penalty=[l2,l1]", *own): NONE})
    with pytest.raises(NothingToShow, match=r"baseline must be one of .*l\d.weight=0.1, .*, got 'weight=0.1'"):
        summarize(tmp_path, baseline="weight=0.1")


def test_a_number_is_compared_with_the_same_other_choices(write: Write, tmp_path: Path) -> None:
    for name, lr in ((name, lr) for name in ("sgd", "adam") for lr in (0.1, 0.2)):
        write_rows(write, {(f"optimizer={name}", f"optimizer.lr={lr}"): NONE})
    found = differences_of(summarize(tmp_path, baseline="lr=0.1"), "test/error")
    assert [each.row.keys["optimizer"] for each in found] == [each.baseline.keys["optimizer"] for each in found]
    assert len(found) == 2


def test_a_metric_that_is_not_there_has_at_most_eight_near_ones(write: Write, tmp_path: Path) -> None:
    write(test_error=0.1, **{f"probe_pgd_{number}": 0.1 for number in range(60)})
    with pytest.raises(NothingToShow) as raised:
        report([tmp_path], "probe/pgd")
    assert str(raised.value).count("probe/pgd/") == 8
    assert "(53 others)" in str(raised.value)


# ---- half a table


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_half_a_table_has_no_answer(status: str, write: Write, tmp_path: Path, capsys: Any) -> None:
    paths = write_rows(write, {(): NONE, l2(1): lowered(0.01)})
    report(paths, out=tmp_path, members=listed(paths))
    assert "Difference to" in capsys.readouterr().out
    begun = write(*l2(2), status=status, epoch=1, epochs=2, reason="SIGINT")
    members = listed([*paths, begun, tmp_path / "runs" / "a" / "never"])
    report([*paths, begun], out=tmp_path, members=members)
    said = capsys.readouterr().out
    assert "Difference to" not in said
    assert f"2 of 12 runs have not ended (1 {status}, 1 not started): no answer before; the same command" in said
    assert "Difference to" not in (tmp_path / "summary.md").read_text()


def test_a_failed_run_has_ended(write: Write, tmp_path: Path, capsys: Any) -> None:
    paths = write_rows(write, {(): NONE, l2(1): lowered(0.01)})
    paths.append(write(*l2(2), status="failed", reason="boom"))
    report(paths, out=tmp_path, members=listed(paths))
    assert "Difference to" in capsys.readouterr().out


# ---- what may be minimised, and by what trials may choose


@pytest.mark.parametrize(
    ("metric", "near_ones"),
    [
        ("test/eror", "test/error, best/test/error, "),
        ("validation", "validation/loss, validation/error, best/validation/loss, best/validation/error ("),
        ("probe/noise/0.1", "probe/zeros/... "),
        ("train/penalty/l1", "train/penalty/l2, "),
    ],
)
def test_a_metric_that_no_run_has_is_told_with_near_ones(metric: str, near_ones: str) -> None:
    config = {"penalty": {"l2": {}}, "probe": {"zeros": {}}}
    (problem,) = problems_of_metric("objective_metric", metric, config)
    assert problem.startswith(f"objective_metric must be one of {near_ones}")
    assert problem.endswith(f"got {metric!r}")
    for known in ("best/test/error", "train/penalty/l2", "seconds", "probe/zeros/all"):
        assert problems_of_metric("objective_metric", known, config) == []


@pytest.mark.parametrize("metric", ["test/error", "best/test/loss", "probe/pgd/0.1", "seconds"])
def test_test_numbers_choose_nothing(metric: str) -> None:
    (problem,) = problems_of_choosing(metric)
    assert f"got {metric}" in problem
    assert "objective_metric=validation/loss" in problem


@pytest.mark.parametrize("metric", [None, "validation/loss", "train/loss", "best/validation/error"])
def test_validation_and_training_may_choose(metric: str | None) -> None:
    assert problems_of_choosing(metric) == []


def test_names_in_any_script_are_drawn_without_a_word(write: Write, tmp_path: Path, recwarn: Any) -> None:
    paths = {arm: write_rows(write, {lines: NONE}) for arm, lines in {"none": (), "权重": l2(1)}.items()}
    report(
        tmp_path.glob("runs/a/*"), out=tmp_path, members=[Member(p, arm) for arm, some in paths.items() for p in some]
    )  # type: ignore[arg-type]
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert "权重" in (tmp_path / "summary.md").read_text()
