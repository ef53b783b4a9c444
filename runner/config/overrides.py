"""Options that the grammar can read, against the config: is there such a choice, such a key, such a value."""

import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError
from yaml.reader import ReaderError

from runner.config.check import ELSEWHERE, problems_of
from runner.config.compose import Composer, with_value
from runner.config.conf_files import NAMED, SINGLE, default_options, file_of, load, options
from runner.config.tree import as_typed, walk
from runner.config.words import parsed

SWEPT_VALUES_CHECKED = 200  # of one key; the jobs check theirs again
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError)
SYNONYMS = {"learning_rate": "lr", "lambda": "weight", "max_epochs": "epochs", "num_epochs": "epochs"}  # others' keys
REMOVABLE = re.compile(r"(penalty|probe|optimizer\.groups|sweep\.ranges)\.[^.]+|sweep\.arms\.[^.]+(\.[^.]+)*")


def sorted_out(overrides: Sequence[Override], composer: Composer) -> tuple[list[Override], list[str]]:
    """Return the overrides that a config can be composed with, and what is wrong with the others.

    A chosen name that there is not counts as the nearest one, so that the keys that come with that are known.
    """
    choices = [override for override in overrides if composer.is_choice(override)]
    problems, chosen, unclear = list(_problems_of_repetition(choices)), list[Override](), list[str]()
    for choice in choices:
        wrong, meant = _meant_choice(choice, composer.options(choice.key_or_group))
        problems += wrong
        chosen += filter(None, [meant])
        unclear += [] if meant else [f"{choice.key_or_group}."]
    chosen = _composable(chosen, [], composer, problems)
    known = {}  # the keys there are with each of the swept choices
    for lines in variants(chosen):
        config = composer.compose(lines)
        known[tuple(lines)] = dict(walk({**config.values, "hydra": config.hydra}))
    keys = []
    for override in overrides:
        if override not in choices and not f"{override.key_or_group}.".startswith(tuple(unclear)):
            wrong = _problems_of_form(override) or _problems_of_key(override, known)
            problems += wrong
            keys += [] if wrong else [override]
    return [*chosen, *_composable(keys, next(variants(chosen)), composer, problems)], problems


def _composable(
    overrides: list[Override], beside: Sequence[str], composer: Composer, problems: list[str]
) -> list[Override]:
    def problem_of(some: Sequence[Override]) -> str | None:
        lines = list(map(_with_first_value, some))
        try:
            composer.compose([*beside, *lines])
        except COMPOSITION_ERRORS as error:
            return one_line(error, *lines[:1])
        return None

    if problem_of(overrides) is None:
        return overrides
    alone = [problem_of([override]) for override in overrides]
    problems += filter(None, alone)
    return [override for override, problem in zip(overrides, alone, strict=True) if problem is None]


def problems_of_values(overrides: Sequence[Override], composer: Composer, are_all: bool) -> Iterator[str]:
    """Yield what is wrong with every value in a whole config, and with all of them together, if these `are_all`."""
    for lines in variants(overrides):
        try:
            yield from problems_of(composer.compose(lines), are_all)
        except COMPOSITION_ERRORS as error:
            yield one_line(error)


def _problems_of_form(override: Override) -> list[str]:
    """Return a sentence for what Hydra takes and we do not, and for a sweep without an end or a value."""
    key, line, sweep = override.key_or_group, override.input_line, override.value()
    if override.package is not None:
        return [f"{line} puts a group at another place, which is not supported: leave out @{override.package}"]
    ends = [getattr(sweep, name, 0.0) or 0.0 for name in ("start", "stop")] if isinstance(sweep, RangeSweep) else []
    if getattr(sweep, "step", 1) == 0 or not all(map(math.isfinite, ends)):
        return [f"{line} never ends: write finite ends and a step other than 0, such as range(0,10,2)"]
    if override.is_sweep_override() and not values_of(override):
        example = f"such as {', '.join(options(key)) or 'range(5)'}"
        return [f"{line} has no values: a sweep needs at least one, {example}"]
    return []


def _meant_choice(choice: Override, known: Sequence[str]) -> tuple[list[str], Override | None]:
    """Return what is wrong with the choice of options from a group, and the choice that was meant, if that is clear."""
    group, usual = choice.key_or_group, default_options().get(choice.key_or_group, "[]")
    if wrong := _problems_of_form(choice):
        return wrong, None
    if choice.is_delete():
        meant = f"{group}={usual}"
        return [f"{choice.input_line} would remove what every run has: write {meant}"], parsed(meant)
    chosen = [value if isinstance(value, list) else [value] for value in values_of(choice)]
    other = {
        as_typed(name): _meant_option(group, name, known) for names in chosen for name in names if name not in known
    }
    problems = [f"{group}={typed} is not an option: {hint}" for typed, (hint, _) in other.items()]
    if group in SINGLE and len(chosen[0]) > 1:
        problems.append(f"{group} has one option, got {as_typed(chosen[0])}: write {group}={chosen[0][0]}")
    names = [str(other.get(as_typed(name), ("", name))[1] or "") for name in chosen[0]]
    if not problems or not all(names):
        return problems, None if problems else choice
    return problems, parsed(f"{group}=[{','.join(names)}]" if group in NAMED else f"{group}={names[0]}")


def _meant_option(group: str, name: Any, known: Sequence[str]) -> tuple[str, str | None]:
    if isinstance(name, dict) and not name:
        return f"for none write {group}={'none' if 'none' in known else '[]'}", None
    if isinstance(name, dict):
        keys = [f"{group}.{key}={as_typed(value)}" for key, value in name.items()]
        return f"to set its keys write {shlex.join(keys)}", None
    parts, by_lower = re.findall(r"[\w-]+", str(name)), {option.lower(): option for option in known}
    if group in NAMED and len(parts) > 1 and {*parts} <= {*known}:
        return f"did you mean {group}=[{','.join(parts)}]?", ",".join(parts)
    if "*" in str(name):
        return f"for all of that form write -m '{group}=glob({name})'", None
    if near := get_close_matches(str(name).lower(), by_lower, 1, cutoff=0.61):  # None is not near to cosine
        return f"did you mean {group}={by_lower[near[0]]}?", by_lower[near[0]]
    return f"there are {', '.join(known)}", None


def _problems_of_repetition(choices: Sequence[Override]) -> Iterator[str]:
    for group in dict.fromkeys(o.key_or_group for o in choices):
        values = [o.get_value_string() for o in choices if o.key_or_group == group and not o.is_delete()]
        if len(values) > 1:
            remedy = (
                f"write {group}=[{','.join(value.strip('[]') for value in values)}]" if group in NAMED else "keep one"
            )
            yield f"{group} is chosen {len(values)} times, as {' and '.join(values)}: {remedy}"


def _problems_of_key(override: Override, known: Mapping[tuple[str, ...], Mapping[str, Any]]) -> list[str]:
    """Return a sentence if a key is not in the config that is composed with each of the swept choices."""
    key, line = override.key_or_group, override.input_line or ""
    without = [lines for lines, keys in known.items() if key not in keys]
    if override.is_add() and len(without) < len(known):
        return [f"{line} adds a key that there is: write {line.removeprefix('+')}"]
    if override.is_add() or override.is_force_add():
        return []
    if override.is_delete() and not without:
        allowed = REMOVABLE.fullmatch(key)
        return [] if allowed else [f"{line} would remove what every run has: set it instead, {key}=..."]
    if not without:
        return []
    if override.is_delete():
        return [f"{line} removes what is not there: leave it out"]
    if len(without) < len(known):
        chosen = next(line for line in without[0] if line.startswith(key.partition(".")[0]))
        return [
            f"{key} is not a key of the config with {chosen}, and each job of a grid gets each option: "
            "give it to one arm of a sweep, see the README"
        ]
    return [f"{key} is not a key of the config: {_hint_for(override, next(iter(known.values())))}"]


def _hint_for(override: Override, known: Mapping[str, Any]) -> str:
    """Return what may have been meant by a key that is not there, in words."""
    key = override.key_or_group
    parent, _, name = key.rpartition(".")
    group, _, member = parent.partition(".")
    name = SYNONYMS.get(name, name)
    ours = sorted(path for path in known if path.startswith("hydra") == key.startswith("hydra"))
    if meant := [path for path in ours if _is_short_for(path.split("."), [*filter(None, parent.split(".")), name])]:
        return f"did you mean {' or '.join(meant)}?"
    choice = parent.replace(".", "/")  # if that is a group
    if others := [option for option in options(choice) if name in load(file_of(choice, option))]:
        return f"it comes with {' or '.join(f'{choice}={other}' for other in others)}"
    if not override.is_delete() and (whole := _as_a_whole(override, known)):
        return whole
    siblings = {path.rpartition(".")[2].lower(): path for path in ours if path.rpartition(".")[0] == parent}
    if near := get_close_matches(name.lower(), siblings, 1):
        return f"did you mean {siblings[near[0]]}?"
    if siblings and parent:
        return f"{parent} has {', '.join(siblings)}"
    for named in NAMED:
        if group in options(named):
            return f"add {named}={group} and write {named}.{group}.{name}"
    # the mistake is further up
    if near := get_close_matches(key, [path for path in ours if path.count(".") == key.count(".")], 1, cutoff=0.8):
        return f"did you mean {near[0]}?"
    if group in NAMED:
        return f"add {group}={member}" if member else f"choose {group}=NAME and write {group}.NAME.{name}"
    return ELSEWHERE


def _as_a_whole(override: Override, known: Mapping[str, Any]) -> str | None:
    """Return what to type for a key below one that has a value as a whole, such as `model.network`; None if none is."""
    parts = override.key_or_group.split(".")
    for count in range(len(parts) - 1, 0, -1):
        parent, group = ".".join(parts[:count]), "/".join(parts[: count - 1])
        owner = next((name for name in options(group) if parts[count - 1] in load(file_of(group, name))), None)
        if parent not in known and not owner:
            continue
        usual = known[parent] if parent in known else load(file_of(group, str(owner)))[parts[count - 1]]
        if isinstance(usual, dict):
            return None
        value = override.get_value_string()
        inner = "".join(f"{{{part}: " for part in parts[count:]) + value + "}" * (len(parts) - count)
        typed = [f"{group}={owner}"] * (parent not in known) + [f"{parent}={value if usual is not None else inner}"]
        typed += [f"allow_targets=[{value.partition('.')[0]}]"] * (parts[-1] == "_target_")
        return f"{parent} is given as a whole, write {shlex.join(typed)}"
    return None


def _is_short_for(path: Sequence[str], typed: Sequence[str]) -> bool:
    parts = iter(path)
    return path[-1] == typed[-1] and all(part in parts for part in typed)


def variants(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Yield lists of overrides with one value each, so that each swept value occurs, beside the first of the others."""
    firsts = [_with_first_value(o) for o in overrides]
    yield firsts
    for index, override in enumerate(overrides):
        for value in values_of(override)[1:]:
            yield [*firsts[:index], with_value(override, value), *firsts[index + 1 :]]


def values_of(override: Override) -> list[Any]:
    """Return the values that an override takes, one unless it is swept; the ends of an interval."""
    if override.is_interval_sweep():
        return [override.value().start, override.value().end]  # type: ignore[union-attr]
    if override.is_sweep_override():
        return list(islice(override.sweep_iterator(), SWEPT_VALUES_CHECKED))
    return [override.value()]


def _with_first_value(override: Override) -> str:
    return with_value(override, values_of(override)[0]) if override.is_sweep_override() else override.input_line or ""


def one_line(error: Exception, typed: str = "a file") -> str:
    """Return an error of Hydra's, or of a file's, as one line; causes and remedies follow the first line.

    Args:
        error: that composing raised.
        typed: the option that has raised it.
    """
    cause = error.__cause__ if not str(error).strip() and error.__cause__ else error
    first = next(iter(str(cause).splitlines()), "")
    if isinstance(cause, MarkedYAMLError) and (mark := cause.problem_mark or cause.context_mark):
        fault = str(cause.problem).replace(
            "found character '\\t' that cannot start any token", "a tab stands for spaces"
        )
        return f"{os.path.relpath(mark.name)}, line {mark.line + 1}, is not YAML: {fault}"
    if isinstance(cause, ReaderError):
        return f"{os.path.relpath(cause.name)} is not YAML: it holds {chr(cause.character)!r} ({cause.reason})"
    if isinstance(cause, UnicodeDecodeError):
        line = cause.object[: cause.start].count(b"\n") + 1
        return f"{typed}: its file, line {line}, is not written in UTF-8: save it as UTF-8"
    if kind := re.search(r"Cannot merge DictConfig with (\w+)Config|Invalid loaded object type: (\w+)", str(cause)):
        return f"{typed}: its file must map keys to values, KEY: VALUE, got a {(kind[1] or kind[2]).lower()}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key} cannot be resolved: {first}"
    return " ".join(str(cause).partition("\nConfig search path:")[0].split()) or type(cause).__name__
