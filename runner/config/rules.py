"""What the values of a config may be, as far as that can be told without torch.

A rule stands for a path, where `*` is one key. What a constructor takes beyond these is told by its signature
(`runner.config.signature`) once its package has been imported.
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from runner.config.tree import as_typed, as_yaml, walk


class _Rule(NamedTuple):
    """What a value must be, in words, and the test for it."""

    expected: str
    accepts: Callable[[Any], bool]


def whole(low: int) -> _Rule:
    """A whole number of at least `low`."""
    return _Rule(f"a whole number of at least {low}", lambda value: type(value) is int and low <= value < 2**63)


def number(expected: str, holds: Callable[[float], bool]) -> _Rule:
    """A finite number for which `holds`, which `expected` says in words."""
    return _Rule(expected, lambda value: type(value) in (int, float) and math.isfinite(value) and holds(value))


def choice(*names: str) -> _Rule:
    """One of a few words."""
    return _Rule("one of " + ", ".join(names), lambda value: value in names)


def each(rule: _Rule) -> _Rule:
    """A list whose members all obey `rule`."""
    return _Rule(
        f"a list, each member {rule.expected}", lambda value: isinstance(value, list) and all(map(rule.accepts, value))
    )


def _optional(rule: _Rule) -> _Rule:
    return _Rule(f"{rule.expected}, or null", lambda value: value is None or rule.accepts(value))


def _is_path(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    is_dead = any(os.path.islink(step) and not os.path.exists(step) for step in (Path(value), *Path(value).parents))
    return os.path.exists(value) or (not (is_dead or re.search(r"[$*\\]|^~|^$", value)) and value.isprintable())


flag = _Rule("true or false", lambda value: type(value) is bool)
text = _Rule("a word", lambda value: isinstance(value, str) and value != "")
folder = _Rule(
    "a folder, existing or new",
    lambda value: text.accepts(value) and not any(os.path.isfile(step) for step in (value, *Path(value).parents)),
)
a_path = _Rule("a path, ~ being the home folder, without $, *, \\ and links to nothing", lambda value: _is_path(value))
folder_name = _Rule(
    "a folder name without '..' and not absolute, of letters, digits, spaces and any of _ . , = + - /",
    lambda value: isinstance(value, str) and bool(re.fullmatch(r"(?!.*\.\.)\w[\w.,=+ -]*(/\w[\w.,=+ -]*)*/?", value)),
)
mapping = _Rule("a mapping of names to options", lambda value: isinstance(value, dict))

not_negative = number("a finite number of at least 0", lambda value: value >= 0)
gpus = number("between 0 and 1, or whole", lambda value: value >= 0 and (value <= 1 or value % 1 == 0))
positive = number("a finite number above 0", lambda value: value > 0)
number_range = _Rule(
    "two numbers above 0, the least first",
    lambda value: (
        isinstance(value, list) and len(value) == 2 and all(map(positive.accepts, value)) and value[0] < value[1]
    ),
)
ranges = _Rule(
    "a mapping of keys to two numbers above 0, the least first, such as {optimizer.lr: [0.01, 1]}",
    lambda value: isinstance(value, dict) and all(map(number_range.accepts, value.values())),
)

metrics = _Rule(
    "a list of different metrics, such as [validation/error, seconds]",
    lambda value: isinstance(value, list) and all(map(text.accepts, value)) and 0 < len(value) == len({*value}),
)

RULES = (  # a rule, and the keys that it holds for
    (whole(0), "seed data.seed sweep.trials"),
    (whole(1), "epochs batch_size optimizer.max_iter optimizer.history_size penalty.*.every scheduler.steps"),
    (whole(1), "augment.steps"),
    (whole(2), "init.examples hydra.launcher.largest"),
    (_optional(whole(0)), "evaluate_every data.validation_size"),
    (_optional(whole(1)), "threads data.train_size data.per_class optimizer.max_eval sweep.n_jobs"),
    (not_negative, "loss.weight optimizer.weight_decay penalty.*.weight penalty.*.warmup"),
    (not_negative, "augment.sigma augment.size augment.sizes.* augment.scale"),
    (number("between 0 and 1", lambda value: 0 <= value <= 1), "data.label_noise scheduler.final"),
    (number("above 0 and at most 1", lambda value: 0 < value <= 1), "scheduler.factor"),
    (number("at least 0 and below 1", lambda value: 0 <= value < 1), "optimizer.momentum model.dropout"),
    (positive, "checkpoint_seconds optimizer.lr optimizer.groups.*.lr model.width data.shift"),
    (_optional(positive), "optimizer.clip resources.mem_gb hydra.launcher.mem_gb"),
    (_optional(gpus), "resources.gpus hydra.launcher.num_gpus"),
    (_optional(text), "hydra.launcher.address"),
    (positive, "hydra.launcher.num_cpus"),
    (whole(0), "hydra.launcher.max_num_timeout hydra.launcher.restarts"),
    (whole(1), "hydra.launcher.timeout_min hydra.launcher.cpus_per_task hydra.launcher.array_parallelism"),
    (whole(1), "hydra.launcher.signal_delay_s"),
    (flag, "shuffle histograms pictures force sweep.retry_failed sweep.wait data.distorted"),
    (_optional(flag), "channels_last"),
    (folder, "runs_dir"),
    (a_path, "runs_dir data.root data.path"),
    (_optional(text), "objective_metric init_from"),
    (each(text), "allow_targets"),
    (folder_name, "name"),
    (mapping, "penalty penalty.* probe probe.* sweep sweep.arms.* resources"),
    (_optional(mapping), "optimizer.groups sweep.arms"),
    (_optional(ranges), "sweep.ranges"),
    (number_range, "penalty.*.weight_range"),
    (each(whole(0)), "sweep.tuning_seeds"),
    (_optional(text), "sweep.baseline sweep.arm"),
    (_optional(choice("trial", "comparison")), "sweep.stage"),
    (choice("tpe", "random", "grid"), "hydra.sweeper.sampler"),
    (_optional(choice("median", "halving")), "hydra.sweeper.pruner"),
    (whole(0), "hydra.sweeper.seed hydra.sweeper.startup_trials"),
    (whole(1), "hydra.sweeper.n_trials hydra.sweeper.n_jobs hydra.sweeper.prune_after"),
    (_optional(metrics), "hydra.sweeper.objectives"),
    (_optional(text), "hydra.sweeper.study_name"),
    (choice("auto", "cpu", "cuda"), "device"),
    (choice("fp32", "bf16"), "precision"),
    (choice("batch", "frozen"), "batch_norm"),
    (choice("stop", "continue"), "on_nan"),
    (choice("continue", "stop"), "sweep.on_error"),
    (choice("minibatch", "full"), "optimizer.gradient"),
    (_optional(choice("strong_wolfe")), "optimizer.line_search_fn"),
    (choice("auto", "scalar", "component", "none"), "data.normalize"),
    (_optional(choice("first", "last")), "data.channels"),
)

SPELLED = {"yes": True, "on": True, "no": False, "off": False, "none": None, "gpu": "cuda"}  # as others do

SHAPES = {  # of one example: of the data that have always the same, and what the models of one shape take
    name: shape
    for shape, names in (
        ("1x28x28", "models.MNISTConvnet models.LargeMarginConvnet data.Digits data.MNIST data.FashionMNIST"),
        ("3x32x32", "models.CIFAR10Convnet data.CIFAR10"),
        ("1", "data.Line data.Plateaus data.Sine"),
    )
    for name in names.split()
}


def problems_of_values(config: dict[str, Any]) -> list[str]:
    """Return a sentence for each value that breaks its rule."""
    problems = []
    for path, value in walk(config):
        if value == "???":
            problems.append(f"{path} must be given: {path}=...")
            continue
        problems += [
            f"{path} must be {rule.expected}, got {as_yaml(value)}"
            + correction(path, value, rule.accepts, rule.expected)
            for rule in _rules_of(path)
            if not rule.accepts(value)
        ]
    return problems


def correction(path: str, value: Any, accepts: Callable[[Any], bool], expected: str = "") -> str:
    """Return what to type in place of a value, behind a colon, where what was meant is near to what is accepted.

    Args:
        path: of the value.
        value: that is not accepted.
        accepts: the test for a value.
        expected: the same in words, of which some may be values.
    """
    if isinstance(value, list) and value and all(map(accepts, value)):
        return f": for a sweep write -m {path}={','.join(map(as_typed, value))}"
    ends = re.fullmatch(r"(\d{1,9})(?:\.\.+|-|:)(\d{1,9})", str(value))
    if ends and accepts(int(ends[1])):
        return f": for a sweep write -m '{path}=range({ends[1]},{int(ends[2]) + 1})'"
    words = re.findall(r"\w+", expected.partition("one of ")[2])
    return next((f": write {path}={as_typed(other)}" for other in _near(value, words) if accepts(other)), "")


def _near(value: Any, words: list[str]) -> Iterator[Any]:
    """Yield other forms of a value: a list of it, a whole number, a word as we spell it, a number among signs."""
    yield [value]
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    if isinstance(value, str):
        spelled = {
            "yes": True,
            "on": True,
            "no": False,
            "off": False,
            "1": True,
            "0": False,
            "none": None,
            "gpu": "cuda",
        }
        yield spelled.get(value.lower(), value)
        yield from get_close_matches(value.lower(), words, 1)
        if figures := re.fullmatch(r"\W*?(-?\d*[.,]?\d+(?:e[+-]?\d+)?)[.;,f]*", value.lower()):
            number = float(figures[1].replace(",", "."))
            yield from (int(number), number) if number.is_integer() else (number,)
    if value in (0, 1):
        yield bool(value)


@cache
def _rules_of(path: str) -> tuple[_Rule, ...]:
    return tuple(rule for rule, keys in RULES if any(_matches(path, key) for key in keys.split()))


def _matches(path: str, pattern: str) -> bool:
    return path.count(".") == pattern.count(".") and fnmatchcase(path, pattern)
