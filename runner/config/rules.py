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

RULES = (  # a rule, and the keys that it holds for
    (whole(0), "seed data.seed"),
    (whole(1), "epochs batch_size optimizer.max_iter optimizer.history_size penalty.*.every"),
    (optional(whole(0)), "evaluate_every data.validation_size"),
    (optional(whole(1)), "threads data.train_size optimizer.max_eval sweep.n_jobs"),
    (number(low=0), "loss.weight optimizer.weight_decay penalty.*.weight penalty.*.warmup"),
    (number(low=0, high=1), "data.label_noise"),
    (number(low=0, below=1), "optimizer.momentum"),
    (number(above=0), "checkpoint_seconds optimizer.lr optimizer.groups.*.lr model.width"),
    (optional(number(above=0)), "optimizer.clip"),
    (flag, "shuffle histograms pictures force sweep.retry_failed"),
    (optional(flag), "channels_last"),
    (text, "runs_dir"),
    (optional(text), "objective_metric"),
    (each(text), "allow_targets"),
    (folder_name, "name"),
    (mapping, "penalty penalty.* probe probe.* sweep"),
    (optional(mapping), "optimizer.groups"),
    (choice("auto", "cpu", "cuda"), "device"),
    (choice("fp32", "bf16"), "precision"),
    (choice("batch", "frozen"), "batch_norm"),
    (choice("stop", "continue"), "on_nan"),
    (choice("continue", "stop"), "sweep.on_error"),
    (choice("minibatch", "full"), "optimizer.gradient"),
    (optional(choice("strong_wolfe")), "optimizer.line_search_fn"),
    (choice("scalar", "component", "none"), "data.normalize"),
)


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
    return tuple(rule for rule, keys in RULES if any(matches(path, key) for key in keys.split()))


def matches(path: str, pattern: str) -> bool:
    """Tell whether a path fits a pattern whose `*` stands for exactly one key."""
    return path.count(".") == pattern.count(".") and fnmatchcase(path, pattern)
