"""The command that repeats a run, from its config."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from runner.config.compose import project_composer
from runner.config.conf_files import NAMED, SINGLE, chosen_options, default_options, usual_values
from runner.config.tree import as_yaml, walk
from runner.storage.identity import OF_A_SWEEP, ids
from runner.summary.settings import MEMBER

PLAIN = re.compile(r"[A-Za-z_./][\w./+-]*")  # a word that Hydra takes for one
TAKEN = ("null", "true", "false", "nan", "inf", "yes", "no", "on", "off")


def overrides_of(config: Mapping[str, Any], typed: Sequence[str] = ()) -> list[str]:
    """Return overrides that compose a config: its options, and the values that its options' files do not give.

    Args:
        config: of a run.
        typed: the run's own overrides, returned instead if the config needs files or classes of a user's own, which
            were given by `--config-dir`.
    """
    lines = _differences(config)
    try:
        composed = project_composer().compose(lines).values
        if all(composed[key] == config[key] for key in ("runs_dir", "name")) and ids(composed) == ids(config):
            return lines
    except Exception:  # whatever Hydra makes of lines that need the user's own files
        pass
    return [line for line in typed if not line.startswith(("force=", "sweep=", "sweep."))]


def command_of(overrides: Sequence[str], seeds: range | None = None) -> str:
    """Return the command with some overrides, as it can be typed; with seeds, as a sweep over them."""
    lines = list(overrides)
    if seeds is not None:
        lines = [line for line in lines if not line.startswith("seed=")]
        lines = ["-m", *lines, f"seed=range({seeds.start},{seeds.stop})"]
    return shlex.join(["uv", "run", "train.py", *lines])


def _differences(config: Mapping[str, Any]) -> list[str]:
    """Return the chosen options that are no defaults, and the values that are not those of the options' files."""
    defaults, lines = default_options(), []
    for group in SINGLE:
        (option,) = chosen_options(group, config)
        lines += [] if option == defaults[group] else [f"{group}={option}"]
    for group in NAMED:
        names = ",".join(config[group])
        lines += [f"{group}=[{names}]" if "," in names else f"{group}={names}"] if names else []
    usual = _leaves(usual_values(config))
    for path, value in _leaves(config).items():
        if path != "force" and not OF_A_SWEEP.match(path) and usual.get(path, ...) != value:
            lines.append(f"{'' if path in usual else '+'}{path}={_typed(value)}")
    return lines


def _leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config by their paths; a list is one value."""
    return {
        path: value
        for path, value in walk(config)
        if not (isinstance(value, dict) or path in NAMED or MEMBER.search(path))
    }


def _typed(value: Any) -> str:
    """Return a value as Hydra reads it."""
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_typed(member)}" for key, member in value.items()) + "}"
    if not isinstance(value, str):
        return as_yaml(value)
    return value if PLAIN.fullmatch(value) and value.lower() not in TAKEN else '"' + value.replace('"', r"\"") + '"'
