"""What a search varies, and what it proposes: a function of the seed, the trial's number and the trials before it.

So a search that was killed proposes what it would have proposed, and two processes that share a study never propose the
same random numbers, since no two trials have the same number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial

from runner.config.compose import Composer, with_exact_steps
from runner.config.words import parsed
from runner.training.seeds import stream_seed

REPEATS = "repeats"  # attribute of a trial: the number of the failed one whose values it has
MOST_CHECKED = 200  # values of one key; the trials check theirs again


class Axis(NamedTuple):
    """What one key may be.

    Attributes:
        distribution: its values, for optuna.
        values: all of them in their order; the ends of an interval.
        is_interval: whether there are values between them.
    """

    distribution: BaseDistribution
    values: Sequence[Any]
    is_interval: bool = False


def axis_of(override: Override) -> Axis:
    """Return the values that an override takes, written as in any sweep; `shuffle` means nothing to a search.

    Raises:
        ValueError: if there are none.
    """
    sweep: Any = override.value()
    if override.is_interval_sweep():
        low, high, log = sweep.start, sweep.end, "log" in sweep.tags
        is_whole = isinstance(low, int) and isinstance(high, int)
        return Axis((IntDistribution if is_whole else FloatDistribution)(low, high, log=log), (low, high), True)
    if hasattr(sweep, "shuffle"):
        sweep.shuffle = False
    if not override.is_range_sweep():
        choices = list(dict.fromkeys(override.sweep_string_iterator()))
        return Axis(CategoricalDistribution(choices), choices)
    values: list[Any] = sorted(with_exact_steps(override).sweep_iterator())
    if not values:
        raise ValueError(f"{override.get_value_string()} is empty")
    step = abs(sweep.step)
    if all(isinstance(value, int) for value in (*values, step)):
        return Axis(IntDistribution(values[0], values[-1], step=int(step)), values)
    return Axis(FloatDistribution(values[0], values[-1], step=float(step)), values)


class Space(NamedTuple):
    """What a search varies.

    Attributes:
        axes: values by key, in the order of the keys: that of the words on the command line changes nothing.
        fixed: the other overrides.
        empty: a sentence for each key that has no values.
    """

    axes: dict[str, Axis]
    fixed: list[str]
    empty: list[str]

    @classmethod
    def of(cls, lines: Sequence[str], composer: Composer) -> Space:
        """Return the space of some overrides, as they are typed; the last one of a key counts."""
        overrides = map(composer.parsed, lines)
        axes, fixed, empty = {}, [], []
        for key, override in sorted({override.get_key_element(): override for override in overrides}.items()):
            if not override.is_sweep_override():
                fixed.append(str(override.input_line))
                continue
            try:
                axes[key] = axis_of(override)
            except ValueError as error:
                empty.append(f"{key}={override.get_value_string()} cannot be searched: {error}")
        return cls(axes, fixed, empty)

    def problems(self, sampler: str) -> list[str]:
        """Return a sentence for each key that a sampler cannot propose, and one if there is nothing to propose."""
        if not self.axes and not self.empty:
            return ["hydra/sweeper=optuna needs a key to search, such as 'optimizer.lr=tag(log,interval(0.01,1))'"]
        unending = [key for key, axis in self.axes.items() if sampler == "grid" and axis.is_interval]
        wanted = "must have values for hydra.sweeper.sampler=grid, such as 0.1,0.2"
        return self.empty + [f"{key} {wanted}, got an interval" for key in unending]

    def samples(self) -> list[dict[str, Any]]:
        """Return points to check before a search begins: each value of a key, beside the first ones of the others."""
        first = {key: axis.values[0] for key, axis in self.axes.items()}
        others = ({**first, key: value} for key, axis in self.axes.items() for value in axis.values[1:MOST_CHECKED])
        return [first, *others]

    @property
    def size(self) -> int:
        """The number of points of the grid."""
        return math.prod(len(axis.values) for axis in self.axes.values())

    @property
    def words(self) -> dict[str, str]:
        """The axes in words, which tell them from others."""
        return {key: str(axis.distribution) for key, axis in self.axes.items()}

    def lines(self, params: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a trial's job."""
        return [*self.fixed, *(self._line(key, params[key]) for key in self.axes)]

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a trial; choices are stored as they are typed."""
        return {key: parsed(self._line(key, params[key])).value() for key in self.axes}

    def _line(self, key: str, value: Any) -> str:
        """Return an override; numbers at even steps without the last bits that repeated addition leaves."""
        is_step = isinstance(value, float) and not self.axes[key].is_interval
        return f"{key}={value:.12g}" if is_step else f"{key}={value}"

    def point(self, place: int) -> dict[str, Any]:
        """Return a point of the grid, the last key changing first."""
        point = {}
        for key, axis in reversed(self.axes.items()):
            place, index = divmod(place, len(axis.values))
            point[key] = axis.values[index]
        return point

    def suggest(self, trial: Trial) -> None:
        """Give a trial the values that it still lacks."""
        for name, axis in self.axes.items():
            match axis.distribution:
                case FloatDistribution(low=low, high=high, step=step, log=log):
                    trial.suggest_float(name, low, high, step=step, log=log)
                case IntDistribution(low=low, high=high, step=step, log=log):
                    trial.suggest_int(name, low, high, step=step, log=log)
                case CategoricalDistribution(choices=choices):
                    trial.suggest_categorical(name, choices)


class Proposals(BaseSampler):
    """Proposes all values of a trial together.

    Args:
        space: what is varied.
        sampler: tpe, random or grid.
        seed: of the search.
        startup_trials: random ones before tpe begins.
    """

    def __init__(self, space: Space, sampler: str, seed: int, startup_trials: int) -> None:
        self.space, self.sampler, self.seed, self.startup_trials = space, sampler, seed, startup_trials

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all keys, so that one call proposes all values."""
        return {name: axis.distribution for name, axis in self.space.axes.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the values of a trial."""
        if self.sampler == "grid":
            return self.space.point(place_of(study, trial.number) % self.space.size)
        seed = stream_seed(self.seed, "search", trial.number) % 2**32  # numpy's largest
        inner: BaseSampler = RandomSampler(seed=seed)
        if self.sampler == "tpe":
            inner = TPESampler(seed=seed, n_startup_trials=self.startup_trials)
        together = inner.sample_relative(study, trial, inner.infer_relative_search_space(study, trial))
        return {
            name: together[name] if name in together else inner.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Propose one value; optuna asks for it where the study holds other ranges than ours."""
        return self.sample_relative(study, trial, self.infer_relative_search_space(study, trial))[param_name]


def place_of(study: Study, number: int) -> int:
    """Return how many trials before this one were proposed: all but those that repeat a failed one."""
    return sum(REPEATS not in trial.user_attrs for trial in study.get_trials(deepcopy=False)[:number])
