"""A run's identity: a hash of everything in its config that can change the result, and a readable name.

Both are pure functions of the resolved config, so that the same config lands in the same directory however it was
typed, whatever the grid or the launcher, and a run finds what it has already done.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runner.config.conf_files import GROUPS, NAMED, SINGLE, chosen_options, default_options, usual_values
from runner.config.tree import as_yaml, walk
from runner.storage.weights import digest_at

RECORDING = ("histograms", "pictures", "checkpoint_seconds", "objective_metric")
WHERE = ("device", "threads", "data.root", "runs_dir", "name", "force", "allow_targets")
RESOURCES = ("resources.gpus", "resources.mem_gb")
NOT_IDENTITY = (*RECORDING, *WHERE, *RESOURCES)  # keys that cannot change a result
ABSENT = (  # leaves that stand for nothing
    *(("init_from", None), ("augment._target_", "data.Unchanged")),
    *(("data.range", None), ("data.channels", None)),
)
OF_A_SWEEP = re.compile(r"sweep\.|penalty\.[^.]+\.weight_range")  # nor can these: they tell which runs there are
SEEDS = ("seed", "data.seed")  # of a run, and of its data's split and noise: what the runs of a group differ in
FIRST = ("penalty", "seed", "optimizer", "model", "data")  # in a directory's name; the other keys follow
LONGEST_NAME = 100


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a config that can change its result, by path; equal numbers become the same one.

    `init_from` and `augment` count where they are given: without them the ids are those of runs from before these keys.
    """
    leaves = {path: value for path, value in walk(config) if not isinstance(value, dict) or not value}
    return {
        path: int(value) if isinstance(value, float) and value.is_integer() else value
        for path, value in leaves.items()
        if path not in NOT_IDENTITY and not OF_A_SWEEP.match(path) and (path, value) not in ABSENT
    }


def _contents(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the sha256 of what the user's own files hold, by the keys that name them: other contents, another run."""
    named: dict[str, tuple[Callable[[Any], str], Any]] = {}
    if config["data"]["_target_"] == "data.Npz":
        named["data.path"] = _hash_at, config["data"].get("path")
    if config.get("init_from") is not None:
        named["init_from"] = digest_at, config["init_from"]
    found = {}
    for key, (digest_of, path) in named.items():
        try:
            found[key] = digest_of(path)
        except (OSError, TypeError, ValueError, RuntimeError):  # no such file: whoever builds from it will tell why
            continue
    return found


def _hash_at(path: str) -> str:
    """Return the sha256 of a file."""
    file = Path(path).expanduser().resolve()
    facts = file.stat()
    return _hash_of(file, facts.st_mtime_ns, facts.st_size)


@cache
def _hash_of(path: Path, modified: int, size: int) -> str:
    """Return the sha256 of a file, read once as long as time and size stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(tree: Mapping[str, Any]) -> str:
    """Return a short hash of plain data, whatever its order."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]


def ids(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the id of a run, and the id of its group, which is the same for all seeds, those of the data included."""
    leaves = identity(config) | _contents(config)
    return digest(leaves), digest({path: value for path, value in leaves.items() if path not in SEEDS})


def directory_name(config: Mapping[str, Any], run_id: str) -> str:
    """Return the label and the id as one name, of a length that every file system takes."""
    return f"{_label(config)[: LONGEST_NAME - 1 - len(run_id)]}_{run_id}".lstrip("_")


def _label(config: Mapping[str, Any]) -> str:
    """Return the options and values that differ from the defaults, readable, in a fixed order, safe as a file name."""
    defaults, leaves = default_options(), identity(config)
    # TensorBoard cuts long names: a penalty and its weight are one short word, at the beginning.
    names = sorted(config["penalty"])
    parts = {f"penalty.{name}": f"{name}={leaves.get(f'penalty.{name}.weight', 1)}" for name in names}
    for group in SINGLE:
        (option,) = chosen_options(group, config)
        if option != defaults[group]:
            parts[group] = f"{group}={option}"
    usual = identity(usual_values(config))
    if "init_from" in leaves:  # the same weights at another path are the same run
        leaves["init_from"] = _contents(config).get("init_from", leaves["init_from"])[:8]
    for path, value in leaves.items():
        if usual.get(path, ...) != value and _is_shown(path):
            parts[path] = f"{short(path)}={value if isinstance(value, str) else as_yaml(value)}"
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(parts[path] for path in sorted(parts, key=place)))


def _is_shown(path: str) -> bool:
    """Tell whether a leaf stands in a label: no class, no member of a list, no probe; a weight stands there already."""
    return not (path in NAMED or re.search(r"^probe|_target_$|\.\d+$|^penalty\.\w+\.weight$", path))


def place(path: str) -> tuple[int, bool]:
    """Return where a key stands in a label: by its group, the group's option before its values."""
    group = path.partition(".")[0]
    order = [*FIRST, *(other for other in GROUPS if other not in FIRST)]
    return order.index(group) if group in order else len(order), group != path


def short(path: str) -> str:
    """Return a path without its group, unless that would make it ambiguous."""
    rest = path.partition(".")[2]
    return rest if rest and rest not in ("seed", "weight") else path
