"""The command line, checked before Hydra acts on it: Hydra stops at the first mistake, we name them all."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.allowlist import CONF
from runner.config.check import exit_with_problems, problems_of_config
from runner.config.compose import SEARCH_PATH, Composer, allowed_packages, compose, resolved
from runner.config.hydra_node import problems_of_hydra, problems_of_packages
from runner.config.rules import walk
from runner.storage.directory import loaded

SWEPT_VALUES_CHECKED = 200  # of one key; the jobs check theirs again
PROBLEMS_SHOWN = 20
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError, TypeError)  # the last two for odd types


def check(arguments: Sequence[str]) -> Path | None:
    """Leave with exit code 2 and a sentence for each problem, unless the command line can be run.

    Returns:
        for a sweep, the folder of its runs.
    """
    parsed = get_args_parser().parse_args(list(arguments))
    if parsed.shell_completion:
        return None
    overrides = parsed_overrides(parsed.overrides)
    if problems := [*problems_of_flags(parsed), *problems_of_search_path(overrides)]:
        exit_with_problems(problems)
    try:
        loader = loader_with(parsed.config_dir)
        problems = list(islice(problems_of_overrides(overrides, loader), PROBLEMS_SHOWN))
        config = None if problems else compose(loader, next(variants(overrides)))
    except COMPOSITION_ERRORS as error:
        problems, config = [one_line(error)], None
    finally:
        GlobalHydra.instance().clear()
    in_sweep = parsed.multirun or (config is not None and config.hydra.mode == RunMode.MULTIRUN)
    problems += problems_of_swept(overrides, in_sweep)
    if problems or config is None:
        exit_with_problems(problems)
    is_sweep = in_sweep and not (parsed.cfg or parsed.hydra_help or parsed.info)
    return Path(config.runs_dir, config.name) if is_sweep else None


def problems_of_flags(parsed: Namespace) -> list[str]:
    """Return a sentence for each flag of Hydra's that would lead past the check, or to nothing."""
    problems = []
    if parsed.config_path or parsed.config_name:
        problems.append("--config-path and --config-name are not supported: add a folder of yours by --config-dir")
    if parsed.experimental_rerun:  # Hydra would take the overrides from a file, and `allow_targets` with them
        problems.append("--experimental-rerun is not supported: the same command finds its run again")
    if parsed.config_dir and not os.path.isdir(parsed.config_dir):
        problems.append(f"--config-dir must be a folder, got {parsed.config_dir!r}")
    return problems


def problems_of_search_path(overrides: Sequence[Override]) -> list[str]:
    """Return a sentence if configs would be looked for in a package, which would be imported for that."""
    paths = [o.input_line or "" for o in overrides if o.key_or_group == SEARCH_PATH]
    return ["hydra.searchpath must name folders, file://..., not packages"] if "pkg://" in "".join(paths) else []


def problems_of_swept(overrides: Sequence[Override], in_sweep: bool) -> list[str]:
    """Return a sentence for each swept key that says where the sweep lies, or that is swept without a sweep."""
    swept = [o for o in overrides if o.is_sweep_override()]
    if not in_sweep:
        return [f"{o.key_or_group} has several values, {o.get_value_string()}: add -m for a sweep" for o in swept]
    fixed = [o.key_or_group for o in swept if o.key_or_group in ("name", "runs_dir")]
    return [f"{key} cannot be swept: it says where the sweep lies, in ${{runs_dir}}/${{name}}" for key in fixed]


def parsed_overrides(lines: Sequence[str]) -> list[Override]:
    """Parse overrides; leave with exit code 2 and a sentence for each that cannot be read."""
    parser, parsed, problems = OverridesParser.create(), [], []
    for line in lines:
        try:
            parsed.append(parser.parse_override(line))
        except HydraException:
            problems.append(f"{line} cannot be read as key=value: quote what holds spaces, brackets or braces")
    if problems:
        exit_with_problems(problems)
    return parsed


def loader_with(folder: str | None) -> ConfigLoader:
    """Return a config loader that sees what `hydra.main` will see."""
    search_path = create_config_search_path(str(CONF))
    if folder:
        search_path.prepend("command-line", f"file://{os.path.abspath(folder)}", SearchPathQuery(provider="schema"))
    return Hydra.create_main_hydra2(task_name="train", config_search_path=search_path).config_loader


def problems_of_overrides(overrides: Sequence[Override], loader: ConfigLoader) -> Iterator[str]:
    """Yield what is wrong: choices of groups first, then keys, then every swept value in a whole config."""
    paths = [o for o in overrides if o.key_or_group == "hydra.searchpath"]
    _, files = loader._parse_overrides_and_create_caching_repo("config", [o.input_line for o in paths])  # type: ignore
    choices = [o for o in overrides if files.group_exists(o.key_or_group)]
    good = [*paths]
    for override in choices:
        wrong = problems_of_choice(override, files.get_group_options(override.key_or_group))
        yield from wrong
        good += [] if wrong else [override]
    config = compose(loader, [plain(o) for o in good])
    known = {path for path, _ in walk(OmegaConf.to_container(config, resolve=False))}
    for override in overrides:
        if override in choices or override in paths:
            continue
        wrong = [] if override.is_add() or override.is_force_add() else problems_of_key(override.key_or_group, known)
        yield from wrong
        good += [] if wrong else [override]
    composer = Composer(loader)
    for lines in variants(good):
        yield from problems_of_lines(composer, lines)


def problems_of_choice(override: Override, options: Sequence[str]) -> list[str]:
    """Return a sentence for each chosen name that its group does not have."""
    group, problems = override.key_or_group, []
    chosen = [name for value in values_of(override) for name in (value if isinstance(value, list) else [value])]
    for name in chosen:
        if str(name) in options:
            continue
        near = get_close_matches(str(name), options, 1)
        hint = f"did you mean {group}={near[0]}?" if near else f"there are {', '.join(options)}"
        problems.append(f"{group}={'null' if name is None else name} is not an option: {hint}")
    return problems


def problems_of_key(key: str, known: set[str]) -> list[str]:
    """Return a sentence if a key is not in the composed config."""
    if key in known:
        return []
    parent, _, name = key.rpartition(".")
    group, _, member = parent.partition(".")
    missing = f"{key} is not a key of the config"
    others = [file.stem for file in sorted((CONF / group).glob("*.yaml")) if parent == group and name in loaded(file)]
    if others:
        return [f"{missing}: it comes with {' or '.join(f'{group}={other}' for other in others)}"]
    ours = [path for path in known if not path.startswith("hydra")]
    siblings = {path.rpartition(".")[2]: path for path in sorted(ours) if path.rpartition(".")[0] == parent}
    if siblings:
        near = [siblings[match] for match in get_close_matches(name, siblings, 1)]
    else:  # the mistake is further up
        near = get_close_matches(key, [path for path in ours if path.count(".") == key.count(".")], 1, cutoff=0.8)
    has = f"{parent or 'it'} has {', '.join(siblings)}" if siblings else f"add {group}={member}"
    return [f"{missing}: did you mean {near[0]}?" if near else f"{missing}: {has}"]


def variants(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Yield lists of plain overrides in which every swept value stands once, the others at their first."""
    firsts = [plain(o) for o in overrides]
    yield firsts
    for index, override in enumerate(overrides):
        for value in values_of(override)[1:]:
            yield [*firsts[:index], plain(override, value), *firsts[index + 1 :]]


def values_of(override: Override) -> list[Any]:
    """Return the values that an override takes, one unless it is swept; the ends of an interval."""
    if override.is_interval_sweep():
        return [override.value().start, override.value().end]  # type: ignore[union-attr]
    if override.is_sweep_override():
        return list(islice(override.sweep_iterator(), SWEPT_VALUES_CHECKED))
    return [override.value()]


def plain(override: Override, value: Any = None) -> str:
    """Return an override with one value, the first unless another is given, as it is typed."""
    if not override.is_sweep_override():
        return override.input_line or ""
    first = values_of(override)[0] if value is None else value
    return f"{override.get_key_element()}={Override._get_value_element_as_str(first)}"


def problems_of_lines(composer: Composer, lines: Sequence[str]) -> list[str]:
    """Compose one config and check it whole."""
    try:
        config = composer.compose(lines)
        hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
        return (
            problems_of_hydra(hydra)
            + problems_of_packages(hydra)
            + problems_of_config(resolved(config), allowed_packages(lines))
        )
    except COMPOSITION_ERRORS as error:
        return [one_line(error)]


def one_line(error: Exception) -> str:
    """Return an error of Hydra's as one sentence."""
    cause = error.__cause__ if not str(error).strip() and error.__cause__ else error
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)
