"""Is a penalty better than none, by how much, and is it real: differences, intervals, arms, and the answer in words."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.sweeps import TINY, Sweeps

from runner.config.compose import project_composer
from runner.results import load_runs
from runner.storage.members import Member
from runner.summary.answer import answer_of
from runner.summary.compare import bootstrap_interval, differences_of, holm, t_interval
from runner.summary.forest import figure_of
from runner.summary.groups import summarize
from runner.summary.report import report
from runner.summary.table import values_csv, values_of
from runner.sweep.arms import _hint, _ties_with, best_of, points, points_of, validated

Write = Callable[..., Path]
NONE = [0.050, 0.048, 0.053, 0.049, 0.051]


def l2(weight: float) -> tuple[str, str]:
    return "penalty=l2", f"penalty.l2.weight={weight}"


def write_rows(write: Write, rows: dict[tuple[str, ...], list[float]], **facts: Any) -> None:
    for overrides, values in rows.items():
        for seed, value in enumerate(values):
            write(*overrides, seed=seed, test_error=value, **facts)


# ---- intervals and p-values


@pytest.mark.parametrize("n", [2, 5, 12])
def test_the_interval_is_that_of_scipys_paired_t_test(n: int) -> None:
    first, second = np.random.default_rng(n).normal(size=(2, n))
    found, expected = t_interval(first - second), stats.ttest_rel(first, second)
    ends = expected.confidence_interval()
    assert found.mean == pytest.approx(np.mean(first - second), abs=1e-15)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-12)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)


def test_equal_differences_have_no_interval_and_the_p_value_of_the_sign_test() -> None:
    interval = t_interval([-0.01] * 5)
    assert interval.mean == -0.01
    assert math.isnan(interval.low)
    assert interval.p == stats.binomtest(5, 5).pvalue  # 2 / 32, which no correction makes less
    assert t_interval([0.0] * 5).p == 1.0
    assert math.isnan(t_interval([0.1]).p)
    assert math.isnan(t_interval([]).mean)


def test_the_bootstrap_stands_beside_it_from_ten_pairs_on_and_repeats_itself() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, size=40)
    ends = bootstrap_interval(values)
    assert ends == bootstrap_interval(values)
    assert ends == pytest.approx(t_interval(values)[1:3], abs=0.05)  # of a normal sample both are about the same
    assert bootstrap_interval(values[:9]) is None
    assert bootstrap_interval(np.ones(20)) is None


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def wrongly_called(comparisons: int, arms: int = 10, n: int = 5) -> float:
    """Return the fraction of comparisons of arms without an effect in which any arm is called different."""
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(comparisons):
        runs = generator.normal(size=(arms, n))  # the first one is the baseline of all others
        wrong += min(holm([t_interval(runs[0] - other).p for other in runs[1:]])) <= 0.05
    return wrong / comparisons


def test_arms_without_an_effect_are_seldom_called_different() -> None:
    assert wrongly_called(1000) <= 0.065  # .05, and two standard errors of 1,000 comparisons


@pytest.mark.slow
def test_ten_thousand_comparisons_without_an_effect() -> None:
    assert wrongly_called(10_000) <= 0.055


# ---- pairs, baselines, words


def test_rows_are_paired_with_the_baseline_by_seed(write: Write, tmp_path: Path) -> None:
    better = [value - shift for value, shift in zip(NONE, (0.010, 0.012, 0.011, 0.009, 0.010), strict=True)]
    write_rows(write, {(): NONE, l2(0.01): better, l2(0.1): NONE[::-1]})
    write(*l2(0.01), seed=9, test_error=5.0)  # has no partner
    summary = summarize(tmp_path)
    found = differences_of(summary, "test/error")
    assert [(each.row.keys["l2.weight"], each.n, each.is_different) for each in found] == [
        (0.01, 5, True),
        (0.1, 5, False),
    ]
    expected = stats.ttest_rel(better, NONE)
    assert found[0].interval.mean == pytest.approx(-0.0104)
    assert found[0].interval[1:3] == pytest.approx(tuple(expected.confidence_interval()), rel=1e-9)
    assert found[0].p == pytest.approx(2 * expected.pvalue)
    text = "\n".join(answer_of(summary, found, "test/error"))
    assert "* penalty=l2, l2.weight=0.01  lowers test/error by 0.0104 [0.0090, 0.0118], 5 seeds, p=" in text
    assert "no difference found for 1 row: differences below " in text
    assert "The intervals cover the seeds, not other splits of the data" in text


def test_a_weight_of_zero_is_the_baseline_and_a_named_one_wins(write: Write, tmp_path: Path) -> None:
    write_rows(write, {l2(0): NONE, l2(0.01): NONE})
    assert [each.baseline.keys["l2.weight"] for each in differences_of(summarize(tmp_path), "test/error")] == [0]
    named = differences_of(summarize(tmp_path, baseline="penalty.l2.weight=0.01"), "test/error")
    assert [each.row.keys["l2.weight"] for each in named] == [0]


def test_rows_are_compared_within_the_same_other_keys(write: Write, tmp_path: Path) -> None:
    for size, penalty in itertools.product((100, 200), ((), l2(0.01))):
        write_rows(write, {(f"data.train_size={size}", *penalty): [size + value for value in NONE]})
    found = differences_of(summarize(tmp_path), "test/error")
    assert len(found) == 2
    assert all(each.row.keys["train_size"] == each.baseline.keys["train_size"] for each in found)
    assert all(abs(each.interval.mean) < 1e-9 for each in found)


def test_without_a_baseline_there_is_no_answer(write: Write, tmp_path: Path, capsys: Any) -> None:
    write_rows(write, {("optimizer=sgd", "penalty=l2"): NONE, ("optimizer=adam", "penalty=l2"): NONE})
    assert differences_of(summarize(tmp_path), "test/error") == []
    report([tmp_path])
    assert "Difference" not in capsys.readouterr().out
    report([tmp_path], baseline="optimizer=sgd")
    assert "Difference to sgd in test/error" in capsys.readouterr().out


def test_the_sweep_itself_names_a_baseline_of_a_grid(composed: Callable[..., Any], tmp_path: Path) -> None:
    paths = {}
    for optimizer, errors in {"sgd": NONE, "adam": NONE[::-1]}.items():
        for seed, error in enumerate(errors):
            run = composed(f"optimizer={optimizer}", f"seed={seed}", 'sweep.baseline="optimizer=sgd"')
            run.write_config()
            run.write_result({"status": "done", "seed": seed, "data_seed": 0, "test/error": error})
            paths[run.path] = Member(run.path, baseline=run.config["sweep"]["baseline"])
    found = differences_of(summarize(tmp_path, members=list(paths.values())), "test/error")
    assert [(each.row.keys["optimizer"], each.baseline.keys["optimizer"]) for each in found] == [("adam", "sgd")]


def test_sweeps_with_different_baselines_have_none_in_common(composed: Callable[..., Any], tmp_path: Path) -> None:
    """Neither wins: which one is the baseline is for the user to say."""
    paths = {}
    for optimizer in ("sgd", "adam"):
        run = composed(f"optimizer={optimizer}", "penalty=l2")
        run.write_config()
        run.write_result({"status": "done", "seed": 0, "data_seed": 0, "test/error": 0.1})
        paths[optimizer] = run.path

    def baselines(*named: str) -> list[bool]:
        members = [Member(path, baseline=name) for path, name in zip(paths.values(), named, strict=True)]
        return [row.is_baseline for row in summarize(tmp_path, members=members).rows]

    assert sum(baselines("optimizer=sgd", "optimizer=sgd")) == 1
    assert sum(baselines("optimizer=sgd", "optimizer=adam")) == 0


def test_a_row_of_which_runs_diverged_is_called_nothing(write: Write, tmp_path: Path) -> None:
    write_rows(write, {(): NONE, l2(0.01): [value - 0.01 - index / 1e4 for index, value in enumerate(NONE)]})
    assert differences_of(summarize(tmp_path), "test/error")[0].is_different
    write(*l2(0.01), seed=7, status="diverged")
    summary = summarize(tmp_path)
    found = differences_of(summary, "test/error")
    assert not found[0].is_different
    text = "\n".join(answer_of(summary, found, "test/error"))
    assert re.search(r"5 seeds, p=\S+: nothing can be said after divergence", text)


def test_one_seed_says_what_is_missing(write: Write, tmp_path: Path) -> None:
    write_rows(write, {(): [0.05], l2(0.01): [0.04]})
    summary = summarize(tmp_path)
    text = "\n".join(answer_of(summary, differences_of(summary, "test/error"), "test/error"))
    assert "too few pairs of seeds to tell" in text
    assert "seed=range(5)" in text


def test_splits_of_the_data_are_pairs_too(write: Write, tmp_path: Path) -> None:
    for seed, value in enumerate(NONE):
        for penalty in ((), l2(0.01)):
            write(f"data.seed={seed}", *penalty, seed=seed, test_error=value)
    summary = summarize(tmp_path)
    assert [len(row.done) for row in summary.rows] == [5, 5]
    found = differences_of(summary, "test/error")
    assert found[0].n == 5
    assert "the seeds and the splits of the data" in "\n".join(answer_of(summary, found, "test/error"))


def test_every_number_of_every_run_stands_in_the_long_table(write: Write, tmp_path: Path) -> None:
    write_rows(write, {(): NONE, l2(0.01): NONE}, train_loss=1 / 3)
    path = tmp_path / "long.csv"
    path.write_text(values_csv(summarize(tmp_path)))
    frame = pd.read_csv(path)
    assert set(frame.columns) == {"penalty", "l2.weight", "seed", "data.seed", "status", "metric", "value"}
    assert sorted(frame[(frame.metric == "test/error") & (frame.penalty == "l2")].value) == sorted(NONE)
    assert set(frame[frame.metric == "train/loss"].value) == {1 / 3}


def test_long_numbers_are_shown_with_four_digits_if_they_still_differ(write: Write, tmp_path: Path) -> None:
    write("optimizer.lr=0.0123456789", test_error=0.1)
    write("optimizer.lr=0.5", test_error=0.1)
    assert values_of(summarize(tmp_path).rows, "lr") == ["0.01235", "0.5"]
    write("optimizer.lr=0.0123456788", test_error=0.1)
    assert values_of(summarize(tmp_path).rows, "lr") == ["0.0123456788", "0.0123456789", "0.5"]


def test_the_picture_marks_what_is_different_and_what_lies_outside(write: Write, tmp_path: Path) -> None:
    rows = {(): NONE, l2(0.01): [value - 0.01 - index / 1e4 for index, value in enumerate(NONE)], l2(0.1): NONE[::-1]}
    write_rows(write, {**rows, l2(1.0): [value + 0.9 for value in NONE]})
    summary = summarize(tmp_path)
    (axes,) = figure_of(summary, differences_of(summary, "test/error"), "test/error").axes
    assert len(axes.get_yticklabels()) == 3
    filled = [line for line in axes.lines if line.get_marker() == "o" and line.get_markerfacecolor() != "white"]
    assert len(filled) == 1
    assert any(line.get_marker() == ">" for line in axes.lines)  # the last row, with its number
    assert "+0.9" in {text.get_text() for text in axes.texts}
    assert axes.get_xlim()[1] < 0.1


# ---- arms


def test_trials_go_along_the_range_by_the_logarithm() -> None:
    assert [x for (x,) in points([(0.001, 10)], 5)] == [0.001, 0.01, 0.1, 1.0, 10.0]
    assert points([(2, 8)], 1) == [(2.0,)]
    several = np.log10(points([(0.001, 10), (1, 100)], 64))
    assert len({tuple(point) for point in several}) == 64
    assert np.allclose(np.histogram(several[:, 0], 4, (-3, 1))[0], 16, atol=2)  # even along each range
    assert np.allclose(np.histogram(several[:, 1], 4, (0, 2))[0], 16, atol=2)


def test_no_trial_of_several_ranges_stands_in_a_corner() -> None:
    """Few trials: each must be worth its time, and all ranges at their least is no more than no penalty at all."""
    ranges = [(0.001, 10), (1, 100), (0.1, 0.5)]
    for count in (1, 2, 5):
        tried = points(ranges, count)
        assert len(tried) == count
        assert all(low < x < high for point in tried for x, (low, high) in zip(point, ranges, strict=True))


def test_the_jobs_of_arms(composed: Callable[..., Any]) -> None:
    sweep: dict[str, Any] = {
        "arms": {"none": {"penalty": "none"}, "both": {"penalty": ["l2", "l1"], "penalty.l1.weight": "0,1e-5"}},
        "trials": 2,
        "tuning_seeds": [7, 8],
        "ranges": None,
    }
    none, first, second = points_of(sweep, ["epochs=3", "seed=range(2)"], project_composer())
    assert none.trials(2, [7, 8]) == {}  # nothing to tune
    assert [job[-1] for job in none.comparison(())] == ["seed=0", "seed=1"]
    tried = first.trials(2, [7, 8])
    assert list(tried) == [("penalty.l2.weight=1e-05",), ("penalty.l2.weight=0.01",)]  # l1's weight is given
    job = tried["penalty.l2.weight=0.01",][1]
    assert job == ["epochs=3", "penalty=[l2,l1]", "penalty.l1.weight=0", "sweep.arm=both", "sweep.stage=trial",
                   "penalty.l2.weight=0.01", "seed=8"]  # fmt: skip
    assert "penalty.l1.weight=1e-05" in second.comparison(("penalty.l2.weight=0.01",))[0]


def test_an_arm_has_ranges_of_its_own() -> None:
    own = {"penalty": "none", "sweep.ranges": {"model.dropout": [0.1, 0.5]}}
    sweep = {"arms": {"none": {"penalty": "none"}, "dropout": own}, "trials": 2, "tuning_seeds": [7], "ranges": None}
    none, dropout = points_of(sweep, ["seed=range(2)"], project_composer())
    assert none.trials(2, [7]) == {}
    assert list(dropout.trials(2, [7])) == [("model.dropout=0.1",), ("model.dropout=0.5",)]


def test_what_an_arm_refers_to_is_told_by_each_of_its_jobs() -> None:
    word = (
        'sweep.arms={l2: {penalty: l2, data.seed: "${seed}", optimizer.weight_decay: ${penalty.l2.weight}, '
        'optimizer.groups: {fc2: {lr: "${optimizer.lr}"}}, sweep.ranges: {optimizer.lr: ["${penalty.l2.weight}", 1]}}}'
    )  # the sweep itself has no penalty
    composer = project_composer()
    sweep = composer.compose([word, "sweep.trials=2", "sweep.tuning_seeds=[7]"]).values["sweep"]
    (point,) = points_of(sweep, [word, "sweep.trials=2", "penalty.l2.weight=0.01", "seed=3,4"], composer)
    assert point.ranges == {"optimizer.lr": [0.01, 1]}
    trials = point.trials(2, [7])
    assert [line for choice in trials for line in choice] == ["optimizer.lr=0.01", "optimizer.lr=1.0"]
    jobs = [*(job for choice in trials.values() for job in choice), *point.comparison(("optimizer.lr=0.5",))]
    configs = [composer.compose(job).values for job in jobs]
    assert [config["data"]["seed"] for config in configs] == [config["seed"] for config in configs] == [7, 7, 3, 4]
    assert {config["optimizer"]["weight_decay"] for config in configs} == {0.01}
    assert [config["optimizer"]["groups"]["fc2"]["lr"] for config in configs] == [0.01, 1, 0.5, 0.5]


@pytest.mark.process
def test_each_run_of_an_arm_has_its_own_seed_of_the_data(sweeps: Sweeps) -> None:
    arms = 'sweep.arms={none: {penalty: none, data.seed: "${seed}"}, l2: {penalty: l2, data.seed: "${seed}"}}'
    sweeps.run(*TINY, arms, "seed=1,2")
    assert sorted(result["data_seed"] for result in sweeps.results().values()) == [1, 1, 2, 2]


def test_a_row_of_an_arm_tells_what_its_trials_chose(composed: Callable[..., Any], tmp_path: Path) -> None:
    arms = {
        "none": (),
        "decay": ("optimizer=adamw", "sweep.ranges={optimizer.weight_decay: [0.01, 1]}", "optimizer.weight_decay=0.01"),
        "dropout": ("sweep.ranges={model.dropout: [0.1, 0.5]}", "model.dropout=0.5"),
        "l2": ("penalty=l2", "penalty.l2.weight=0.001"),
    }
    members = []
    for arm, lines in arms.items():
        run = composed(*lines)
        run.write_config()
        run.write_result({"status": "done", "seed": 0, "data_seed": 0, "test/error": 0.5})
        members.append(Member(run.path, arm))
    chosen = {row.keys["arm"]: row.keys["chosen"] for row in summarize(tmp_path, members=members).rows}
    assert chosen == {  # also where it is the usual value; nothing of what other arms have
        "none": "", "decay": "weight_decay=0.01", "dropout": "dropout=0.5", "l2": "l2.weight=0.001",
    }  # fmt: skip


def test_a_seed_of_the_trials_is_refused_in_the_comparison(capsys: Any) -> None:
    sweep = {"arms": {"l2": {"penalty": "l2"}}, "trials": 2, "tuning_seeds": [1, 8], "ranges": None}
    with pytest.raises(SystemExit) as leaving:
        points_of(sweep, ["seed=range(3)"], project_composer())
    assert leaving.value.code == 2
    assert "sweep.tuning_seeds must be other seeds than those of the comparison, got [1] in both" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("own", [{"data.validation_size": 0}, {"data.train_size": 9}])  # a tenth of 9 is none
def test_trials_without_validation_are_refused_before_any_is_trained(own: dict[str, Any], capsys: Any) -> None:
    arms = {"none": {"penalty": "none"} | own, "l2": {"penalty": "l2"} | own}
    sweep = {"arms": {"none": arms["none"]}, "trials": 2, "tuning_seeds": [7], "ranges": None}
    assert len(points_of(sweep, ["seed=0"], project_composer())) == 1  # nothing is tuned
    with pytest.raises(SystemExit) as leaving:
        points_of({**sweep, "arms": arms}, ["seed=0"], project_composer())
    assert leaving.value.code == 2
    sentence = "sweep.trials needs validation examples, got none: choose data.validation_size above 0\n"
    assert capsys.readouterr().err == sentence


def test_trials_are_chosen_by_validation_never_by_the_test_set() -> None:
    class Result:
        def __init__(self, validation: float, loss: float, test: float, status: str = "done") -> None:
            self.numbers = {"validation/error": validation, "validation/loss": loss, "test/error": test}
            self.status, self.monitor, self.config = status, "validation/error", {"objective_metric": None}

        def result(self) -> dict[str, Any]:
            return {**self.numbers, "status": self.status, "best/by": self.monitor}

    runs = {
        "a": Result(0.3, 1.0, 0.0),
        "b": Result(0.1, 0.9, 0.5),
        "c": Result(0.1, 0.5, 0.9),
        "d": Result(0.0, 0.0, 0.0, "diverged"),
    }
    trials = {(name,): [[name]] for name in runs}
    means = validated(trials, lambda job: runs[job[0]])  # type: ignore[arg-type,return-value]
    assert means["b",][:2] == (0.1, 0.9)
    assert best_of(means) == ("c",)
    assert best_of({("d",): means["d",]}) is None
    runs["a"].monitor = "train/error"
    with pytest.raises(SystemExit):  # no validation examples
        validated(trials, lambda job: runs[job[0]])  # type: ignore[arg-type,return-value]


def test_the_trials_obey_the_objective_and_ties_are_told() -> None:
    class Result:
        status, title = "done", "job"

        def __init__(self, error: float, loss: float, objective: str | None) -> None:
            self.numbers, self.config = (
                {"validation/error": error, "validation/loss": loss},
                {"objective_metric": objective},
            )

        def result(self) -> dict[str, Any]:
            return {**self.numbers, "status": "done", "best/by": "validation/error", "examples/validation": 100}

    def means(objective: str | None) -> Any:
        numbers = {"a": (0.1, 3.0), "b": (0.1, 2.0), "c": (0.11, 1.0), "d": (0.3, 4.0)}
        runs = {name: Result(*both, objective) for name, both in numbers.items()}
        return validated({(name,): [[name]] for name in runs}, lambda job: runs[job[0]])  # type: ignore[arg-type,return-value]

    assert best_of(means(None)) == ("b",)
    assert best_of(means("validation/loss")) == ("c",)
    assert _ties_with(("b",), means(None)) == (
        "; 3 of 4 trials tie within one validation example; 2 are equal: chosen by validation/loss"
    )
    assert _ties_with(("c",), means("validation/loss")) == ""


@pytest.mark.process
def test_a_sweep_of_arms_tunes_compares_answers_and_goes_on(sweeps: Sweeps) -> None:
    tiny = ["data=sine", *TINY[1:], "epochs=3"]
    arms = "sweep.arms={none:{penalty:none},l2:{penalty:l2},both:{penalty:[l2,jacobian]}}"
    line = [*tiny, arms, "sweep.trials=2", "seed=range(3)"]
    said = sweeps.run(*line)
    results = sweeps.results()
    assert len(results) == 2 * 2 * 2 + 3 * 3  # two arms with 2 weights on 2 tuning seeds; three on 3 seeds
    frame = load_runs(sweeps.folder / "runs", trials=True)
    assert frame.value_counts(["arm", "stage"]).to_dict() == {
        ("l2", "trial"): 4, ("both", "trial"): 4, ("none", "comparison"): 3, ("l2", "comparison"): 3,
        ("both", "comparison"): 3,
    }  # fmt: skip
    assert len(load_runs(sweeps.folder / "runs")) == 9
    assert "4 trials in 8 runs; the best trial of each arm on validation goes into the comparison" in said
    assert "Difference to none in test/loss, paired by seed" in said
    assert said.rstrip().splitlines()[-3].endswith("of such tables.")
    assert {"differences.png", "trials.png", "summary.csv"} <= {
        path.name for path in sweeps.folder.glob("runs/train/*")
    }
    before = {path.name: path.read_bytes() for path in sweeps.folder.glob("runs/train/*.csv")}
    again = sweeps.run_without_torch(*line)  # all of it is done
    assert said[said.index("Difference to") :] == again[again.index("Difference to") :]
    assert before == {path.name: path.read_bytes() for path in sweeps.folder.glob("runs/train/*.csv")}


@pytest.mark.process
def test_a_sweep_of_arms_killed_in_both_stages_ends_in_the_same_table(sweeps: Sweeps) -> None:
    arms = "sweep.arms={none:{penalty:none},l2:{penalty:l2},jacobian:{penalty:jacobian}}"
    line = ["data=sine", *TINY[1:], "epochs=100", arms, "sweep.trials=2", "seed=range(2)"]

    def numbers_in(name: str) -> pd.DataFrame:
        frame = pd.read_csv(sweeps.folder / "runs" / name / "summary.csv")
        return frame[~frame.metric.isin(["seconds", "time/examples_per_second"])]

    sweeps.run(*line, name="whole")
    for ended in (2, 10):  # of 8 trials, and of 6 runs after them
        process = sweeps.start(*line, name="killed")
        sweeps.wait_until(lambda ended=ended: _done(sweeps) >= ended, process)  # type: ignore[misc]
        os.kill(process, signal.SIGKILL)
        sweeps.wait(process)
        assert _done(sweeps) < 14
    said = sweeps.run(*line, name="killed")
    assert "Difference to none" in said
    pd.testing.assert_frame_equal(numbers_in("whole"), numbers_in("killed"), check_exact=True)


def _done(sweeps: Sweeps) -> int:
    """Return how many runs of the sweep `killed` have ended well."""
    return sum(result["status"] == "done" for result in sweeps.results("killed").values())


@pytest.mark.process
def test_mistakes_in_arms_are_told_before_anything_starts(command: Callable[..., Any]) -> None:
    done = command("-m", "sweep.arms={none:{penalty:none},a:{penalty:l3},b:{penalty.l2.weight:1}}", "sweep.baseline=x")
    assert done.returncode == 2
    assert "sweep.arms.a: penalty=l3 is not an option" in done.stderr
    assert "sweep.arms.b: penalty.l2.weight is not a key of the config" in done.stderr
    assert len(done.stderr.splitlines()) <= 3
    assert "sweep.baseline must be one of none, a, b, got x" in done.stderr


@pytest.mark.process
def test_an_arm_whose_trials_all_diverge_is_not_lost(sweeps: Sweeps) -> None:
    """The others are compared, and the exit code says that it is missing."""
    arms = "sweep.arms={none: {penalty: none}, l2: {penalty: l2}, wild: {penalty: l2, optimizer.lr: 1e30}}"
    line = ["data=sine", *TINY[1:], "epochs=3", "sweep.trials=1", "sweep.tuning_seeds=[9]", "seed=range(2)"]
    said = sweeps.run(*line, arms, code=1)
    assert "wild: no trial ended well, so that it cannot be compared" in said
    assert "Difference to none in test/loss" in said
    assert "of its range" not in said  # nothing else was tried
    said = sweeps.run(*line, "sweep.arms={wild: {penalty: l2, optimizer.lr: 1e30}}", code=1)  # nothing is left
    assert "sweep of 0 jobs" not in said
    assert "There are trials, and no run of the comparison." in said


def test_a_hint_at_the_end_of_a_range_needs_another_trial() -> None:
    choice, ranges = ("penalty.l2.weight=1e-05",), {"penalty.l2.weight": (1e-5, 1e-2)}
    means = {choice: (0.1, 0.1)}
    assert _hint(choice, ranges, means) == ""
    hint = _hint(choice, ranges, {**means, ("penalty.l2.weight=0.01",): (0.2, 0.2)})
    assert hint == " (the least of its range: larger ones were worse on validation)"


@pytest.mark.process
def test_a_sweep_of_arms_without_validation_writes_nothing(command: Callable[..., Any], tmp_path: Path) -> None:
    done = command("-m", "data=line", "model=mlp", "loss=mse", "sweep.arms={l2: {penalty: l2}}", "sweep.trials=2")
    assert done.returncode == 2
    assert done.stdout + done.stderr == (
        "sweep.trials needs validation examples, got none: choose data.validation_size above 0\n"
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_arms_are_rows_by_their_purpose_in_the_sweep(write: Write, tmp_path: Path) -> None:
    paths = {seed: write(*l2(0.01), seed=seed, test_error=0.1, validation_error=0.1) for seed in (0, 1, 100)}
    other = {seed: write(seed=seed, test_error=0.2, validation_error=0.2) for seed in (0, 1)}
    stage = {True: "trial", False: "comparison"}
    members = [Member(path, "mine", stage[seed == 100]) for seed, path in paths.items()]
    members += [Member(path, "none", "comparison") for path in other.values()]
    summary = summarize(tmp_path, members=members)
    assert {row.keys["arm"]: len(row.done) for row in summary.rows} == {"mine": 2, "none": 2}
    assert [row.keys["chosen"] for row in summary.rows] == ["l2.weight=0.01", ""]
    assert len(summary.trials) == 1
    assert [summary.label(each.row) for each in differences_of(summary, "test/error")] == ["mine"]


@pytest.mark.parametrize("status", ["done", "diverged"])
def test_trials_alone_are_reported(status: str, write: Write, tmp_path: Path, capsys: Any) -> None:
    """As after a second stage that could not begin."""
    paths = [write(*l2(weight), seed=100, status=status, validation_error=weight) for weight in (0.01, 0.1)]
    members = [Member(path, "l2", "trial") for path in paths]
    report(paths, out=tmp_path, members=members)
    assert "There are trials, and no run of the comparison." in capsys.readouterr().out
    assert (tmp_path / "summary.csv").read_text().count("trial,") == 2
    assert (tmp_path / "trials.png").exists() == (status == "done")


def test_the_list_says_what_each_run_is_for(composed: Callable[..., Any], tmp_path: Path) -> None:
    from runner.storage.members import SweepIndex

    index = SweepIndex(tmp_path, ["x"])
    arms = "sweep.arms={l2:{penalty:l2,model:mlp}}"
    line = (arms, "sweep.arm=l2", "sweep.stage=trial", "penalty=l2", "epochs=7", "data=sine", "model=mlp", "loss=mse")
    index.add([composed(*line, "seed=3", "data.seed=3")])
    (found,) = index.members()
    assert (found.arm, found.stage, found.baseline) == ("l2", "trial", None)
    shared = [setting for setting in found.setting if not setting.startswith(("runs_dir", "threads", "device"))]
    assert shared == ["data=sine", "epochs=7", "loss=mse"]
    (file,) = (tmp_path / ".sweeps").iterdir()
    assert json.loads(file.read_text())["run"]
    file.write_text(file.read_text() + '{"run": "cut of')
    assert index.members() == [found]
