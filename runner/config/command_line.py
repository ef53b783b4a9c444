"""The command line, checked before Hydra acts on it: Hydra stops at the first mistake, we report them all."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from runner.config.check import exit_with_problems, problems_of
from runner.config.compose import (
    SEARCH_PATH,
    Composer,
    get_args_parser,
    loader_with,
    parsed,
    project_composer,
    typed_lines,
    with_value,
)
from runner.config.conf_files import NAMED, file_of, load, options
from runner.config.tree import walk

SWEPT_VALUES_CHECKED = 200  # of one key; the jobs check theirs again
PROBLEMS_SHOWN = 20
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError, TypeError)  # the last two for odd types
SYNONYMS = {"learning_rate": "lr", "lambda": "weight"}  # what others call our keys


def check(arguments: Sequence[str]) -> Path | None:
    """Exit with code 2 and a sentence for each problem, unless the command line can be run.

    Returns:
        for a sweep, the folder of its runs.
    """
    parsed, unknown = get_args_parser().parse_known_args(list(arguments))
    if parsed.shell_completion:
        return None
    if problems := _problems_of_words(arguments, [*parsed.overrides, *unknown], bool(unknown)):
        exit_with_problems(problems)
    overrides = _parsed_overrides(parsed.overrides)
    if problems := _problems_of_flags(parsed):
        exit_with_problems(problems)
    try:
        composer = _composer_for(parsed.config_dir, overrides)
        problems = list(islice(_problems_of_overrides(overrides, composer), PROBLEMS_SHOWN))
        config = None if problems else composer.compose(next(_variants(overrides)))
        problems += _problems_of_arms(config.values["sweep"], overrides, composer) if config else []
    except COMPOSITION_ERRORS as error:
        problems, config = [_one_line(error)], None
    in_sweep = parsed.multirun or (config is not None and str(config.hydra["mode"]).endswith("MULTIRUN"))
    problems += _problems_of_swept(overrides, in_sweep)
    if problems or config is None:
        exit_with_problems(problems)
    is_sweep = in_sweep and not (parsed.cfg or parsed.hydra_help or parsed.info)
    return Path(config.values["runs_dir"], config.values["name"]) if is_sweep else None


def _problems_of_words(arguments: Sequence[str], words: Sequence[str], flag_in_the_middle: bool) -> list[str]:
    """Return a sentence for each word that is neither a flag nor key=value, or else for a flag in the middle.

    Args:
        arguments: the command line.
        words: of these, what is neither a flag nor its value.
        flag_in_the_middle: whether Hydra would not read all of them.
    """
    problems, rest = [], iter(zip_longest(arguments, arguments[1:], fillvalue=""))
    for word, following in rest:
        if word not in words or not re.fullmatch(r"--?[a-z].*|[a-z][\w./]*", word):
            continue
        option = word.lstrip("-")
        if "=" not in word:
            option += f"={following}" if re.fullmatch(r"(?!-[a-z-])[^=]+", following) and next(rest) else "=..."
        problems.append(f"{word} is not {'a flag' if word.startswith('-') else 'key=value'}: write {option}")
    if not problems and flag_in_the_middle:
        problems.append("flags such as -m cannot stand between options: put them first")
    return problems


def _parsed_overrides(lines: Sequence[str]) -> list[Override]:
    """Parse overrides; exit with code 2 and a sentence for each that cannot be read, or has no value."""
    parser, overrides, problems = OverridesParser.create(), [], []
    for line in lines:
        try:
            overrides.append(parser.parse_override(line))
        except HydraException:
            problems.append(f"{line} cannot be read as key=value: quote what holds spaces, brackets or braces")
    empty = [o.input_line for o in overrides if o.is_sweep_override() and not _values_of(o)]
    problems += [f"{line} has no values: a sweep needs at least one, such as range(5)" for line in empty]
    if problems:
        exit_with_problems(problems)
    return overrides


def _problems_of_flags(parsed: Namespace) -> list[str]:
    """Return a sentence for each flag, or search path, that would evade the check or is of no use here."""
    problems = []
    if parsed.config_path or parsed.config_name:
        problems.append("--config-path and --config-name are not supported: add a folder of yours by --config-dir")
    if parsed.experimental_rerun:  # Hydra would take the overrides from a file, and `allow_targets` with them
        problems.append("--experimental-rerun is not supported: the same command finds its run again")
    if parsed.config_dir and not os.path.isdir(parsed.config_dir):
        problems.append(f"--config-dir must be a folder, got {parsed.config_dir!r}")
    if any(SEARCH_PATH in line and "pkg://" in line for line in parsed.overrides):  # it would be imported
        problems.append("hydra.searchpath must name folders, file://..., not packages")
    return problems


def _problems_of_swept(overrides: Sequence[Override], in_sweep: bool) -> list[str]:
    """Return a sentence for each swept key that says where the sweep lies, or that is swept without a sweep."""
    swept = [o for o in overrides if o.is_sweep_override()]
    if not in_sweep:
        return [f"{o.key_or_group} has several values, {o.get_value_string()}: add -m for a sweep" for o in swept]
    fixed = [o.key_or_group for o in swept if o.key_or_group in ("name", "runs_dir")]
    return [f"{key} cannot be swept: the sweep lies in ${{runs_dir}}/${{name}}" for key in fixed]


def _problems_of_arms(sweep: dict[str, Any], overrides: Sequence[Override], composer: Composer) -> list[str]:
    """Return what is wrong with the arms of a sweep, each problem behind its arm's name."""
    named = "sweep.arms must have names of letters, digits, _ and -"
    problems = [f"{named}, got {arm!r}" for arm in sweep["arms"] or () if not re.fullmatch(r"[\w-]+", str(arm))]
    for arm, own in (sweep["arms"] or {}).items():
        lines = {o.key_or_group: o for o in [*overrides, *map(parsed, typed_lines(own))]}  # the arm's own win
        found = islice(_problems_of_overrides(list(lines.values()), composer), PROBLEMS_SHOWN)
        problems += [f"sweep.arms.{arm}: {problem}" for problem in found]
    if sweep["arms"] and sweep["baseline"] not in (None, *sweep["arms"]):
        problems.append(f"sweep.baseline must be one of {', '.join(sweep['arms'])}, got {sweep['baseline']}")
    return problems


def _composer_for(folder: str | None, overrides: Sequence[Override]) -> Composer:
    """Return the composer that sees the project's files and those of the user's folders."""
    paths = [o.input_line or "" for o in overrides if o.key_or_group == SEARCH_PATH]
    return Composer(loader_with(folder), paths) if folder or paths else project_composer()


def _problems_of_overrides(overrides: Sequence[Override], composer: Composer) -> Iterator[str]:
    """Yield what is wrong: choices of options first, then keys, then every swept value in a whole config."""
    choices = [o for o in overrides if composer.is_choice(o)]
    wrong = {id(o): _problems_of_choice(o, composer.options(o.key_or_group)) for o in choices}
    known = {}  # the keys there are with each of the swept choices
    for lines in _variants([o for o in choices if not wrong[id(o)]]):
        config = composer.compose(lines)
        known[tuple(lines)] = {path for path, _ in walk({**config.values, "hydra": config.hydra})}
    for override in overrides:
        if not (override in choices or override.is_add() or override.is_force_add()):
            wrong[id(override)] = _problems_of_key(override.key_or_group, known)
    yield from _problems_of_repetition(choices)
    for problems in wrong.values():
        yield from problems
    for lines in _variants([override for override in overrides if not wrong.get(id(override))]):
        try:
            yield from problems_of(composer.compose(lines))
        except COMPOSITION_ERRORS as error:
            yield _one_line(error)


def _problems_of_choice(override: Override, known: Sequence[str]) -> list[str]:
    """Return a sentence for each chosen name that its group does not have."""
    group, problems = override.key_or_group, []
    chosen = [name for value in _values_of(override) for name in (value if isinstance(value, list) else [value])]
    for name in chosen:
        if str(name) in known:
            continue
        near = get_close_matches(str(name), known, 1)
        hint = f"did you mean {group}={near[0]}?" if near else f"there are {', '.join(known)}"
        problems.append(f"{group}={'null' if name is None else name} is not an option: {hint}")
    return problems


def _problems_of_repetition(choices: Sequence[Override]) -> Iterator[str]:
    """Yield a sentence for each group that is chosen more than once: only the last choice would count."""
    for group in dict.fromkeys(o.key_or_group for o in choices):
        values = [o.get_value_string() for o in choices if o.key_or_group == group]
        if len(values) > 1:
            remedy = (
                f"write {group}=[{','.join(value.strip('[]') for value in values)}]" if group in NAMED else "keep one"
            )
            yield f"{group} is chosen {len(values)} times, as {' and '.join(values)}: {remedy}"


def _problems_of_key(key: str, known: Mapping[tuple[str, ...], set[str]]) -> list[str]:
    """Return a sentence if a key is not in the config that is composed with each of the swept choices."""
    without = [lines for lines, keys in known.items() if key not in keys]
    if not without:
        return []
    if len(without) < len(known):
        chosen = next(line for line in without[0] if line.startswith(key.partition(".")[0]))
        return [
            f"{key} is not a key of the config with {chosen}, and each job of a grid gets each option: "
            "give it to one arm of a sweep, see the README"
        ]
    return [f"{key} is not a key of the config: {_hint_for(key, next(iter(known.values())))}"]


def _hint_for(key: str, known: set[str]) -> str:
    """Return what may have been meant by a key that is not there, in words."""
    parent, _, name = key.rpartition(".")
    group, _, member = parent.partition(".")
    name = SYNONYMS.get(name, name)
    ours = sorted(path for path in known if path.startswith("hydra") == key.startswith("hydra"))
    if meant := [path for path in ours if _is_short_for(path.split("."), [*filter(None, parent.split(".")), name])]:
        return f"did you mean {' or '.join(meant)}?"
    choice = parent.replace(".", "/")  # if that is a group
    if others := [option for option in options(choice) if name in load(file_of(choice, option))]:
        return f"it comes with {' or '.join(f'{choice}={other}' for other in others)}"
    siblings = {path.rpartition(".")[2]: path for path in ours if path.rpartition(".")[0] == parent}
    if siblings:
        near = [siblings[match] for match in get_close_matches(name, siblings, 1)]
        return f"did you mean {near[0]}?" if near else f"{parent or 'it'} has {', '.join(siblings)}"
    for named in NAMED:
        if group in options(named):
            return f"add {named}={group} and write {named}.{group}.{name}"
    # the mistake is further up
    if near := get_close_matches(key, [path for path in ours if path.count(".") == key.count(".")], 1, cutoff=0.8):
        return f"did you mean {near[0]}?"
    if group in NAMED:
        return f"add {group}={member}" if member else f"choose {group}=NAME and write {group}.NAME.{name}"
    return f"it has {', '.join(path for path in ours if '.' not in path)}"


def _is_short_for(path: Sequence[str], typed: Sequence[str]) -> bool:
    """Tell whether the parts of a path are those typed, in their order, with some more before the last one."""
    parts = iter(path)
    return path[-1] == typed[-1] and all(part in parts for part in typed)


def _variants(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Yield lists of overrides with one value each, so that each swept value occurs, beside the first of the others."""
    firsts = [_with_first_value(o) for o in overrides]
    yield firsts
    for index, override in enumerate(overrides):
        for value in _values_of(override)[1:]:
            yield [*firsts[:index], with_value(override, value), *firsts[index + 1 :]]


def _values_of(override: Override) -> list[Any]:
    """Return the values that an override takes, one unless it is swept; the ends of an interval."""
    if override.is_interval_sweep():
        return [override.value().start, override.value().end]  # type: ignore[union-attr]
    if override.is_sweep_override():
        return list(islice(override.sweep_iterator(), SWEPT_VALUES_CHECKED))
    return [override.value()]


def _with_first_value(override: Override) -> str:
    """Return an override as it is typed, with the first of its values if it is swept."""
    return with_value(override, _values_of(override)[0]) if override.is_sweep_override() else override.input_line or ""


def _one_line(error: Exception) -> str:
    """Return an error of Hydra's as one line; what it says of causes and remedies follows the first line."""
    cause = error.__cause__ if not str(error).strip() and error.__cause__ else error
    text = str(cause).partition("\nConfig search path:")[0]
    return " ".join(text.split()) or type(cause).__name__
