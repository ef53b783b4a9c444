"""What the values of a config may be, as far as that can be told without torch.

A rule stands for a path, where `*` is one key. What a constructor takes beyond these is told by its signature
(`runner.config.signature`) once its package has been imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

from runner.config.tree import as_yaml, walk


class Rule(NamedTuple):
    """What a value must be, in words, and the test for it."""

    expected: str
    accepts: Callable[[Any], bool]


def whole(low: int) -> Rule:
    """A whole number of at least `low`."""
    return Rule(f"a whole number of at least {low}", lambda value: type(value) is int and low <= value < 2**63)


def number(
    *, low: float | None = None, above: float | None = None, high: float = math.inf, below: float = math.inf
) -> Rule:
    """A finite number: at least `low` or above `above`, at most `high` or below `below`."""
    if high < math.inf:
        expected = f"between {low} and {high}"
    elif below < math.inf:
        expected = f"at least {low} and below {below}"
    else:
        expected = f"a finite number of at least {low}" if above is None else f"a finite number above {above}"
    least = -math.inf if low is None else low
    beyond = -math.inf if above is None else above

    def accepts(value: Any) -> bool:
        is_number = type(value) in (int, float) and math.isfinite(value)
        return is_number and least <= value <= high and beyond < value < below

    return Rule(expected, accepts)


def choice(*names: str) -> Rule:
    """One of a few words."""
    return Rule("one of " + ", ".join(names), lambda value: value in names)


def each(rule: Rule) -> Rule:
    """A list whose members all obey `rule`."""
    return Rule(
        f"a list, each member {rule.expected}",
        lambda value: isinstance(value, list) and all(map(rule.accepts, value)),
    )


def optional(rule: Rule) -> Rule:
    """The same, or null."""
    return Rule(f"{rule.expected}, or null", lambda value: value is None or rule.accepts(value))


flag = Rule("true or false", lambda value: type(value) is bool)
text = Rule("a word", lambda value: isinstance(value, str) and value != "")
folder_name = Rule(
    "a folder name without '..' and not absolute",
    lambda value: isinstance(value, str) and value != "" and ".." not in value and not value.startswith("/"),
)
mapping = Rule("a mapping of names to options", lambda value: isinstance(value, dict))

RULES: dict[str, Rule] = {
    "epochs": whole(1),
    "batch_size": whole(1),
    "shuffle": flag,
    "seed": whole(0),
    "device": choice("auto", "cpu", "cuda"),
    "precision": choice("fp32", "bf16"),
    "channels_last": optional(flag),
    "batch_norm": choice("batch", "frozen"),
    "threads": optional(whole(1)),
    "on_nan": choice("stop", "continue"),
    "evaluate_every": optional(whole(0)),
    "histograms": flag,
    "pictures": flag,
    "objective_metric": optional(text),
    "checkpoint_seconds": number(above=0),
    "runs_dir": text,
    "name": folder_name,
    "force": flag,
    "allow_targets": each(text),
    "data.train_size": optional(whole(1)),
    "data.validation_size": optional(whole(0)),
    "data.normalize": choice("scalar", "component", "none"),
    "data.label_noise": number(low=0, high=1),
    "data.seed": whole(0),
    "loss.weight": number(low=0),
    "optimizer.lr": number(above=0),
    "optimizer.weight_decay": number(low=0),
    "optimizer.momentum": number(low=0, below=1),
    "optimizer.gradient": choice("minibatch", "full"),
    "optimizer.clip": optional(number(above=0)),
    "optimizer.max_iter": whole(1),
    "optimizer.max_eval": optional(whole(1)),
    "optimizer.history_size": whole(1),
    "optimizer.line_search_fn": optional(choice("strong_wolfe")),
    "optimizer.groups": optional(mapping),
    "optimizer.groups.*.lr": number(above=0),
    "model.width": number(above=0),
    "penalty": mapping,
    "penalty.*": mapping,
    "penalty.*.weight": number(low=0),
    "penalty.*.every": whole(1),
    "penalty.*.warmup": number(low=0),
    "sweep": mapping,
    "sweep.n_jobs": optional(whole(1)),
    "sweep.on_error": choice("continue", "stop"),
    "sweep.retry_failed": flag,
    "probe": mapping,
    "probe.*": mapping,
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
            for rule in rules_of(path)
            if not rule.accepts(value)
        ]
    return problems


@cache
def rules_of(path: str) -> tuple[Rule, ...]:
    """Return the rules for a path."""
    return tuple(rule for pattern, rule in RULES.items() if matches(path, pattern))


def matches(path: str, pattern: str) -> bool:
    """Tell whether a path fits a pattern whose `*` stands for exactly one key."""
    return path.count(".") == pattern.count(".") and fnmatchcase(path, pattern)
