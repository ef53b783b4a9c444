"""Arms: several grids in one sweep, each tuned with the same number of trials, then compared on fresh seeds.

An arm is a name and its overrides (`sweep.arms`). At each point of its grid, less the seeds, `sweep.trials` weights are
tried on the tuning seeds; the least mean of what validation measures chooses one; with it the point is trained on the
seeds of the comparison. Test numbers choose nothing.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from runner.config.check import exit_with_problems
from runner.config.compose import Composer, grid, typed_lines
from runner.config.objective import loss_beside, problems_of_choosing
from runner.config.text import wrapped
from runner.config.words import parsed
from runner.outcome import FAILED, objective
from runner.storage.directory import Run
from runner.storage.identity import SEEDS
from runner.storage.status import Status
from runner.summary.best import TIE, least

NO_VALIDATION = "sweep.trials needs validation examples, got none: choose data.validation_size above 0"

Jobs = list[list[str]]


def run_arms(
    sweep: dict[str, Any], shared: Sequence[str], composer: Composer, train: Callable[[Jobs], list[Run]]
) -> int:
    """Run the trials of all arms, then the comparison with what they have chosen; return 1 if one is left out, else 0.

    Args:
        sweep: the config's node.
        shared: overrides of all arms, as they are typed.
        composer: of the jobs' configs.
        train: trains some jobs, however they end.
    """
    found = points_of(sweep, shared, composer)
    trials = [point.trials(sweep["trials"], sweep["tuning_seeds"]) for point in found]
    if jobs := [job for point in trials for each in point.values() for job in each]:
        count = sum(map(len, trials))
        best = "the best trial of each arm on validation goes into the comparison"
        print(f"{count} trial{'s' * (count != 1)} in {len(jobs)} run{'s' * (len(jobs) != 1)}; {best}", flush=True)
        train(jobs)
    jobs, is_missing = [], False
    for point, tried in zip(found, trials, strict=True):
        means = validated(tried, lambda job: Run(composer.compose(job).values))
        choice = best_of(means) if tried else ()
        if choice is None:
            print(f"{point.arm}: no trial ended well, so that it cannot be compared", file=sys.stderr, flush=True)
            is_missing = True
            continue
        if tried:
            words = f"{_words_for(choice, means)}{_ties_with(choice, means)}{_hint(choice, point.ranges, means)}"
            print(wrapped(f"{point.arm}: {words}"), flush=True)
        jobs += point.comparison(choice)
    if jobs:
        train(jobs)
    return FAILED if is_missing else 0


class Tried(NamedTuple):
    """What a trial came to: means over its seeds."""

    value: float  # of the metric that chooses
    loss: float  # of the same split: it tells equal values apart
    metric: str = ""
    step: float = 0.0  # of the metric, for one example more that is wrong; 0 if it is no error


Choice = tuple[str, ...]  # overrides that are tried


def _words_for(choice: Choice, means: Mapping[Choice, Tried]) -> str:
    others = sorted(tried.value for other, tried in means.items() if other != choice)
    beside = f", the next best {others[0]:.4g}" if others else ""
    return f"{' '.join(choice)}, {means[choice].metric} {means[choice].value:.4g}{beside}"


def _ties_with(choice: Choice, means: Mapping[Choice, Tried]) -> str:
    value, _, metric, step = means[choice]
    near = sum(tried.value <= value + step * (1 + TIE) for tried in means.values())
    equal = len(least(list(means), lambda other: means[other].value))
    if max(near, equal) == 1:
        return ""
    within = f" within one {metric.removeprefix('best/').partition('/')[0]} example" if step else ""
    by = f"{equal} are equal: chosen by {loss_beside(metric)}" if equal > 1 else f"chosen by the least {metric}"
    return f"; {near} of {len(means)} trials tie{within}; {by}"


def _hint(choice: Sequence[str], ranges: Mapping[str, Sequence[float]], means: Mapping[tuple[str, ...], object]) -> str:
    """Return what it means if a number that was chosen stands at an end of its range; nothing without other trials."""
    if len(means) == 1:
        return ""
    hints = {}
    for key, (low, high) in ranges.items():
        option = f"{key}_range" if key.startswith("penalty.") else "sweep.ranges"
        hints[f"{key}={_between(low, high, 1)}"] = f"the largest of its range: widen {option}"
        hints[f"{key}={_between(low, high, 0)}"] = "the least of its range: larger ones were worse on validation"
    return "".join(f" ({hints[line]})" for line in choice if line in hints)


@dataclass
class Point:
    """One point of an arm's grid, a row of the comparison.

    Attributes:
        arm: its name.
        lines: its overrides, less the seeds.
        seeds: overrides of the comparison's seeds, each with all its values.
        ranges: what is tuned, from least to largest.
    """

    arm: str
    lines: list[str]
    seeds: list[str]
    ranges: dict[str, Sequence[float]] = field(default_factory=dict)

    def trials(self, count: int, seeds: Sequence[int]) -> dict[tuple[str, ...], Jobs]:
        """Return the jobs of each trial, by the overrides that are tried; none without a range."""
        first = [line for line in grid(self.seeds)[0] if not line.startswith("seed=")]
        own = [*self.lines, *first, *_labels(self.arm, "trial")]
        tried = points(list(self.ranges.values()), count) if self.ranges else []
        choices = [tuple(f"{key}={value}" for key, value in zip(self.ranges, values, strict=True)) for values in tried]
        return {choice: [[*own, *choice, f"seed={seed}"] for seed in seeds] for choice in choices}

    def comparison(self, choice: Sequence[str]) -> Jobs:
        """Return the jobs of the comparison, with what the trials have chosen."""
        own = [*self.lines, *choice, *_labels(self.arm, "comparison")]
        return [[*own, *seeds] for seeds in grid(self.seeds)]


def _labels(arm: str, stage: str) -> list[str]:
    return [f"sweep.arm={arm}", f"sweep.stage={stage}"]


def points(ranges: Sequence[Sequence[float]], count: int) -> list[tuple[float, ...]]:
    """Return points in a box of ranges, even by their logarithms: a grid of one range, a Halton sequence of several.

    Args:
        ranges: least and largest value of each number, above 0.
        count: of the points, >= 1.
    """
    if len(ranges) == 1:
        places = [[index / max(1, count - 1)] for index in range(count)]
    else:
        from scipy.stats import qmc  # late: few sweeps need it

        places = qmc.Halton(len(ranges), scramble=False).random(count + 1)[1:].tolist()  # the first one is a corner
    return [tuple(_between(low, high, place) for (low, high), place in zip(ranges, at, strict=True)) for at in places]


def _between(low: float, high: float, place: float) -> float:
    return float(f"{low * (high / low) ** place:.3g}")


def points_of(sweep: dict[str, Any], shared: Sequence[str], composer: Composer) -> list[Point]:
    """Return the points of all arms; exit with code 2 if a trial has a seed of the comparison, or nothing to choose by.

    Args:
        sweep: the config's node.
        shared: overrides of all arms, as they are typed.
        composer: of configs.
    """
    found = []
    for arm, own in sweep["arms"].items():
        lines = {parsed(line).get_key_element(): line for line in [*shared, *typed_lines(own)]}  # the arm's own win
        seeds = [line for key, line in lines.items() if key in SEEDS]
        others = [line for key, line in lines.items() if key not in SEEDS]
        for point in grid(others, composer):
            config = composer.compose(point).values if sweep["trials"] else None
            ranges = ranges_of(config, set(lines)) if config else {}
            if config and ranges:
                _check_choosing(config)
            found.append(Point(arm, point, seeds, ranges))
    if sweep["trials"]:
        _check_seeds(found, sweep["tuning_seeds"], composer)
    return found


def _check_choosing(config: dict[str, Any]) -> None:
    metric = config["objective_metric"]
    if problems := problems_of_choosing(metric):
        exit_with_problems(problems)
    if not (metric or "").startswith(("train/", "best/train/")) and not _has_validation(config["data"]):
        exit_with_problems([NO_VALIDATION])


def _has_validation(data: dict[str, Any]) -> bool:
    if data["validation_size"] is None:  # a tenth of the training examples
        return data["train_size"] is None or data["train_size"] >= 10
    return data["validation_size"] > 0


def ranges_of(config: dict[str, Any], given: set[str]) -> dict[str, Sequence[float]]:
    """Return what is tuned at a point, by key: the weights of its penalties and `sweep.ranges`, but nothing given."""
    weights = {
        f"penalty.{name}.weight": options["weight_range"]
        for name, options in config["penalty"].items()
        if "weight_range" in options
    }
    ranges = weights | (config["sweep"]["ranges"] or {})
    return {key: range for key, range in ranges.items() if key not in given}


def _check_seeds(points: Sequence[Point], tuning: Sequence[int], composer: Composer) -> None:
    compared = {composer.compose(job).values["seed"] for point in points for job in point.comparison(())}
    if both := sorted(compared & set(tuning)):
        exit_with_problems([f"sweep.tuning_seeds must be other seeds than those of the comparison, got {both} in both"])


def validated(trials: Mapping[Choice, Jobs], run_of: Callable[[list[str]], Run]) -> dict[Choice, Tried]:
    """Return what each trial came to, by what `objective_metric` says, else by the error (or loss) on validation."""
    return {choice: _tried(list(map(run_of, jobs))) for choice, jobs in trials.items()}


def best_of(means: Mapping[Choice, Tried]) -> Choice | None:
    """Return the overrides of the best trial, the first one of equal ones; None if none has ended well."""
    best = least(list(means), lambda choice: means[choice].value, lambda choice: means[choice].loss)
    return best[0] if best and math.isfinite(means[best[0]].value) else None


def _tried(runs: Sequence[Run]) -> Tried:
    """Return the means over the seeds of a trial; infinite if a run did not end well."""
    first = runs[0].result()
    named = runs[0].config["objective_metric"]
    metric = named or first.get("best/by", "")
    if any(run.status != Status.DONE for run in runs):
        return Tried(math.inf, math.inf)
    if not (named or metric.startswith("validation/")):
        exit_with_problems([NO_VALIDATION])
    value, loss = (fmean(objective(run, name) for run in runs) for name in (metric, loss_beside(metric)))
    examples = first.get(f"examples/{metric.removeprefix('best/').partition('/')[0]}")
    return Tried(value, loss, metric, 1 / examples if examples and metric.endswith("/error") else 0.0)
