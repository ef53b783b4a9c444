"""After which epochs a run is evaluated, and on what, by default and on request; what that changes, and what not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.records import table, values

from data import Dataset, Split
from runner.evaluation.plan import SAMPLE, SMALL, Plan
from runner.run import train_run
from runner.storage.directory import Run
from runner.training.build import build

MNIST, DIGITS, LECTURE, LINE = (54_000, 6_000, 10_000), (900, 100, 10_000), (1_000, 0, 10_000), (5, 0, 5)
ALL_DIGITS = (1_294, 143, 360)
# Of 45 digits to train on and 365 others; with a limit of 100 examples that is too much for each epoch.
FEW = ("epochs=20", "data.train_size=50", "batch_size=40", "model=mlp", "optimizer.lr=0.5", "threads=1", "device=cpu")


def plan(sizes: tuple[int, int, int], epochs: int, every: int | None = None, batch_size: int = 100) -> Plan:
    train, validation, test = (Split(torch.zeros(size, 1), torch.arange(size)) for size in sizes)
    dataset = Dataset(train, validation if sizes[1] else None, test, 10, torch.tensor(0.0), torch.tensor(1.0))
    gradient = {"gradient": "minibatch"}
    options = {"epochs": epochs, "evaluate_every": every, "batch_size": batch_size, "optimizer": gradient}
    return Plan(dataset, options)


def epochs_of(is_it: Callable[[int], bool], epochs: int) -> list[int]:
    return [epoch for epoch in range(epochs + 1) if is_it(epoch)]


# ---- the rule


@pytest.mark.parametrize(
    ("sizes", "epochs", "whole", "drawn"),
    [
        (MNIST, 5, [0, 3, 5], [0, 3, 5]),
        (MNIST, 10, [0, 2, 4, 6, 8, 10], [0, 2, 4, 6, 8, 10]),
        (MNIST, 20, list(range(21)), [0, 4, 8, 12, 16, 20]),
        (LECTURE, 20, [0, 20], [0, 20]),  # an evaluation of 10,000 digits costs as much as three epochs
        ((10_000, 0, 10_000), 10, [0, 5, 10], [0, 5, 10]),
        (LECTURE, 100, [0, 25, 50, 75, 100], [0, 25, 50, 75, 100]),
        (ALL_DIGITS, 20, list(range(21)), [0, 20]),  # the default
        (ALL_DIGITS, 200, list(range(0, 201, 2)), [0, 40, 80, 120, 160, 200]),
        ((45, 5, 360), 20, list(range(21)), [0, 20]),
        ((1_500, 0, 500), 20, list(range(21)), [0, 10, 20]),
        ((1_500, 0, 501), 20, [0, 4, 8, 12, 16, 20], [0, 12, 20]),
        (LINE, 3, [0, 1, 2, 3], [0, 3]),
        (LINE, 5000, list(range(0, 5001, 50)), list(range(0, 5001, 1000))),
    ],
)
def test_whole_evaluations_and_pictures(sizes: Any, epochs: int, whole: list[int], drawn: list[int]) -> None:
    found = plan(sizes, epochs)
    assert epochs_of(found.is_whole, epochs) == whole
    assert epochs_of(found.is_drawn, epochs) == drawn


@pytest.mark.parametrize("sizes", [MNIST, DIGITS, LECTURE, LINE, ALL_DIGITS, (1_300, 400, 360), (25_000, 0, 10_000)])
@pytest.mark.parametrize("epochs", [1, 7, 20, 99, 101, 250, 3000])
def test_first_and_last_are_whole_and_what_is_between_costs_little(sizes: tuple[int, int, int], epochs: int) -> None:
    found = plan(sizes, epochs)
    rows, whole, drawn = (epochs_of(is_it, epochs) for is_it in (found.is_row, found.is_whole, found.is_drawn))
    assert set(drawn) <= set(whole) <= set(rows) <= set(range(epochs + 1))
    assert {0, epochs} <= set(drawn)
    assert (len(drawn) <= 6, len(rows) <= 102) == (True, True)
    evaluated = [sum(map(len, found.splits(epoch).values())) for epoch in rows]
    if sum(sizes) > SMALL and len(whole) > 2:
        assert sum(evaluated) <= epochs * sizes[0] / 2


def test_no_clock_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sizes are the same plan on any machine at any load."""
    monkeypatch.setattr("time.perf_counter", lambda: pytest.fail("the clock"))
    monkeypatch.setattr("time.monotonic", lambda: pytest.fail("the clock"))
    assert [vars(plan(DIGITS, 200)).get(name) for name in ("row_every", "whole_every", "drawn_every")] == [2, 34, 68]


@pytest.mark.parametrize(("every", "expected"), [(1, list(range(8))), (3, [0, 3, 6, 7]), (0, [7])])
def test_on_request_everything_at_each_of_them(every: int, expected: list[int]) -> None:
    found = plan(MNIST, 7, every)
    for is_it in (found.is_row, found.is_whole, found.is_drawn):
        assert epochs_of(is_it, 7) == expected
    assert all(len(found.splits(epoch)["train"]) == MNIST[0] for epoch in expected)
    assert found.sentence == ""


def test_the_sample_is_fixed_and_the_last_evaluation_in_full() -> None:
    one, other = plan(MNIST, 10), plan(MNIST, 90)
    sample = one.splits(0)["train"].targets
    assert len(sample) == SAMPLE
    assert torch.equal(sample, other.splits(3)["train"].targets)
    assert sample.unique().equal(sample)  # each example once, in order
    assert sample.max() > 50_000  # not the first ones: a file may be sorted by class
    assert {name: len(split) for name, split in one.splits(10).items()} == dict(
        zip(("train", "validation", "test"), MNIST, strict=True)
    )
    assert "5000 of 54000 training examples" in one.sentence


@pytest.mark.parametrize(("epoch", "sizes"), [(0, (SAMPLE, SAMPLE, SAMPLE)), (4, (SAMPLE, *MNIST[1:])), (10, MNIST)])
def test_before_the_first_step_all_large_splits_are_sampled(epoch: int, sizes: tuple[int, int, int]) -> None:
    found = plan(MNIST, 10)
    assert tuple(len(found.splits(epoch)[name]) for name in ("train", "validation", "test")) == sizes
    assert found.facts(epoch) == {
        f"examples/{name}": size for name, size in zip(("train", "validation", "test"), sizes, strict=True)
    }
    assert found.is_complete({"test/loss": 1.0} | found.facts(epoch)) is (sizes == MNIST)


def test_a_small_split_is_evaluated_in_full_and_nothing_is_said_of_it() -> None:
    found = plan(LECTURE, 20)
    assert found.splits(0)["train"] is found.dataset.train
    assert found.facts(0) == {"examples/test": SAMPLE}
    assert "at 0 with at most 5000 examples of each" in found.sentence
    assert plan(LINE, 3).sentence == ""
    assert plan(LINE, 3).is_complete({"test/loss": 1.0})


def test_without_a_validation_split_the_training_error_tells_the_best_epoch_so_it_is_of_all() -> None:
    found = plan((60_000, 0, 10_000), 20)
    between = next(epoch for epoch in range(1, 20) if found.is_whole(epoch))
    assert found.splits(between)["train"] is found.dataset.train
    assert found.facts(between) == {"examples/train": 60_000, "examples/test": 10_000}
    assert found.splits(1) == {}


# ---- runs


@pytest.fixture
def pair(
    composed: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[tuple[Run, dict[str, Any]]]]:
    """The same training with the evaluations that large data have by default, and with one after each epoch."""
    monkeypatch.setattr("runner.evaluation.plan.SMALL", 100)

    def trained(*options: str) -> list[tuple[Run, dict[str, Any]]]:
        named = {"seldom": "null", "often": 1}
        runs = [composed(*FEW, *options, f"evaluate_every={named[name]}", f"name={name}") for name in named]
        return [(run, train_run(run)) for run in runs]

    return trained


def test_last_and_best_epoch_are_those_of_an_evaluation_after_each(pair: Callable[..., Any]) -> None:
    (seldom, result), (often, expected) = pair("histograms=false", "pictures=false", "penalty=[l1,l2]")
    kinds = ("train/", "test/", "validation/", "best/", "weights_sha256")
    numbers = {key: value for key, value in expected.items() if key.startswith(kinds)}
    assert {key: result[key] for key in numbers} == numbers
    found = Plan(build(seldom.config).dataset, seldom.config)
    assert result["best/epoch"] % found.whole_every  # else the best epoch would have been evaluated anyway
    rows, all_rows = table(seldom.path), table(often.path)
    assert [row["epoch"] for row in rows] == [row["epoch"] for row in all_rows]
    for key in ("train/objective", "validation/error", "train/penalty/l2", "train/penalty/l1", "optimizer/lr"):
        assert [row[key] for row in rows] == [row[key] for row in all_rows], key
    tested = {int(row["epoch"]): row["test/error"] for row in rows if row["test/error"]}
    assert list(tested) == epochs_of(found.is_whole, 20)
    assert all(all_rows[epoch]["test/error"] == error for epoch, error in tested.items())


def test_what_tensorboard_has_of_it(pair: Callable[..., Any]) -> None:
    (seldom, _), (often, _) = pair("epochs=12")
    few, all_values = values(seldom.path), values(often.path)
    assert few.keys() == all_values.keys()
    assert few["Validation/error"] == all_values["Validation/error"]
    assert few["Test/when_best/error"][-1][1] == all_values["Test/when_best/error"][-1][1]
    for tag, most in (("Test/error", 8), ("losses/test", 6), ("pictures/confusion", 5)):
        steps = [step for step, *_ in few[tag]]
        assert steps[-1] == 12
        assert len(steps) <= most < len(all_values[tag]), tag


@pytest.mark.parametrize(("weight", "examples"), [(400, 30), (40_000, 50)], ids=["another is the last", "the last"])
def test_the_best_epoch_of_a_run_that_diverges_is_evaluated(
    composed: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, weight: int, examples: int
) -> None:
    for name, value in {"SMALL": 100, "SHARE": 20.0, "SAMPLE": 30}.items():  # so samples of 50 are taken in between
        monkeypatch.setattr(f"runner.evaluation.plan.{name}", value)
    growing = ("penalty=l2", f"penalty.l2.weight={weight}", "penalty.l2.warmup=20", "optimizer.lr=0.1")
    run = composed(*FEW, *growing, "histograms=false", "pictures=false")
    result = train_run(run)
    assert result["status"] == "diverged"
    assert math.isfinite(result["best/test/error"] + result["best/train/loss"])
    assert (result["train/loss"] == result["best/train/loss"]) is (examples == 50)
    assert result["examples/train"] == examples


def test_samples_are_named_in_the_record_and_the_best_and_the_last_epoch_are_in_full(
    pair: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.evaluation.plan.SAMPLE", 30)  # of 50 training and of 360 test examples
    (seldom, result), (_, expected) = pair("histograms=false", "pictures=false")
    rows = table(seldom.path)
    sizes = {
        row["epoch"]: [float(row[f"examples/{part}"]) for part in ("train", "test")] for row in rows if row["test/loss"]
    }
    assert (sizes["0"], sizes["20"]) == ([30, 30], [50, 360])
    assert (result["examples/train"], result["best/epoch"] in (0, 20)) == (50, False)
    assert {key: result[key] for key in expected if key.startswith("best/t")} == {
        key: value for key, value in expected.items() if key.startswith("best/t")
    }
