"""A run's identity: a hash of everything in its config that can change the result, and a readable name.

Both are pure functions of the resolved config and of the files it names, so that the same config lands in the same
directory however it was typed, whatever the grid or the launcher, and a run finds what it has already done.

For good: each value counts, also one that is the default, since a default may be edited. A value counts, not its
spelling; a file's contents, not its path; the name of a class of ours, not its module. What stands in `NOT_IDENTITY`
does not count. A key that is added later needs a row in `NEUTRAL`, and changes no id.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from runner.config.conf_files import GROUPS, NAMED, SINGLE, chosen_options, default_options, usual_values
from runner.config.tree import as_yaml
from runner.storage.weights import digest_at

# Patterns of keys: `*` stands for one of them; a pattern also holds for all that is below.
RECORDING = ("histograms", "pictures", "checkpoint_seconds", "objective_metric")
WHERE = ("device", "threads", "runs_dir", "name", "force", "allow_targets", "resources")
OF_A_SWEEP = ("sweep", "penalty.*.weight_range")  # these tell which runs there are
NOT_IDENTITY = (*RECORDING, *WHERE, *OF_A_SWEEP)  # cannot change a result
# Keys and the value at which each changes nothing and is left out, as if there were no such key. A key that is added
# when runs have been trained needs a row: then it changes none of their ids.
NEUTRAL: tuple[tuple[str, Any], ...] = (
    ("init_from", None),
    ("augment._target_", "Unchanged"),
    ("data.range", None),
    ("data.channels", None),
    ("optimizer.groups", None),
    ("optimizer.groups", {}),
    ("penalty.*.at", "inputs"),
    ("penalty.*.weight", 1),
    ("penalty.*.every", 1),
    ("penalty.*.warmup", 0),
)
OURS = ("data", "losses", "models", "runner")  # packages whose modules may move
CHECKED = (*OURS, "torch")  # packages whose classes refuse a text where they take a number
VERIFIED = ("CIFAR10", "FashionMNIST", "MNIST")  # data whose contents are known, wherever `data.root` is
SEEDS = ("seed", "data.seed")  # of a run, and of its data's split and noise: what the runs of a group differ in
FIRST = ("penalty", "seed", "optimizer", "model", "data")  # in a directory's name; the other keys follow
LONGEST_NAME = 100  # bytes


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is hashed of a config: the values that count, less those that change nothing."""
    return {path: value for path, value in values_that_count(config).items() if value not in _neutral_values(path)}


def values_that_count(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a config that can change its result, by path, each value in one spelling; a list is a leaf.

    Numbers that are equal are the same one, and so is a text that reads as a number, true, false or null; but not among
    the options of a user's own class, which may tell them apart.
    """
    leaves = {path: value for path, value in _leaves(config) if _counts(path)}
    if leaves.get("data._target_") in VERIFIED:
        leaves.pop("data.root", None)
    return leaves


@cache
def _neutral_values(path: str) -> list[Any]:
    return [value for pattern, value in NEUTRAL if _fits(path, pattern)]


@cache
def _counts(path: str) -> bool:
    return not any(_fits(path, pattern) for pattern in NOT_IDENTITY)


def _fits(path: str, pattern: str) -> bool:
    return bool(re.match(re.escape(pattern).replace(r"\*", "[^.]+") + r"(\.|$)", path))


def _leaves(node: Mapping[str, Any], path: str = "", is_checked: bool = True) -> Iterator[tuple[str, Any]]:
    if isinstance(target := node.get("_target_"), str):
        is_checked = target.partition(".")[0] in CHECKED
    for key, value in node.items():
        inner = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and value:
            yield from _leaves(value, inner, is_checked)
        elif key == "_target_" and str(value).partition(".")[0] in OURS:
            yield inner, value.rpartition(".")[2]
        else:
            yield inner, _in_one_spelling(value, is_checked)


def _in_one_spelling(value: Any, is_checked: bool) -> Any:
    if isinstance(value, dict):
        return dict(_leaves(value, is_checked=is_checked))
    if isinstance(value, list | tuple):
        return [_in_one_spelling(member, is_checked) for member in value]
    if isinstance(value, str) and is_checked:
        value = _read(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read(text: str) -> Any:
    word = text.strip().lower()
    try:
        return float(word.replace(".inf", "inf"))
    except ValueError:
        return {"true": True, "false": False, "null": None}.get(word, text)


def _contents(config: Mapping[str, Any]) -> dict[str, str]:
    named: dict[str, tuple[Callable[[Any], str], Any]] = {"init_from": (digest_at, config.get("init_from"))}
    if config["data"]["_target_"] == "data.Npz":
        named["data.path"] = _hash_at, config["data"].get("path")
    contents = {}
    for key, (digest_of, path) in named.items():
        with suppress(OSError, TypeError, ValueError, RuntimeError):  # no such file: whoever builds from it tells why
            contents[key] = digest_of(path)
    return contents


def _hash_at(path: str) -> str:
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
    label = _label(config).encode()[: LONGEST_NAME - 1 - len(run_id)].decode(errors="ignore")
    return f"{label}_{run_id}"


def _label(config: Mapping[str, Any]) -> str:
    defaults, leaves = default_options(), identity(config)
    # TensorBoard cuts long names: a penalty and its weight are one short word, at the beginning.
    names = sorted(config["penalty"])
    parts = {f"penalty.{name}": f"{name}={leaves.get(f'penalty.{name}.weight', 1)}" for name in names}
    parts = parts or {"penalty": "none"}  # a baseline has a name, too
    for group in SINGLE:
        (option,) = chosen_options(group, config)
        if option != defaults[group]:
            parts[group] = f"{group}={option}"
    usual = identity(usual_values(config))
    if "init_from" in leaves:  # the same weights at another path are the same run
        leaves["init_from"] = _contents(config).get("init_from", leaves["init_from"])[:8]
    for path, value in leaves.items():
        if usual.get(path, ...) != value and _is_shown(path):
            parts[path] = f"{short(path)}={_word(path, value)}"
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(parts[path] for path in sorted(parts, key=place)))


def _is_shown(path: str) -> bool:
    return not (path in NAMED or re.search(r"^probe|_target_$|^penalty\.\w+\.weight$", path))


def _word(path: str, value: Any) -> str:
    if isinstance(value, str):
        return Path(value).stem if "/" in value or path == "data.path" else value
    return as_yaml(value)


def place(path: str) -> tuple[int, bool]:
    """Return where a key stands in a label: by its group, the group's option before its values."""
    group = path.partition(".")[0]
    order = [*FIRST, *(other for other in GROUPS if other not in FIRST)]
    return order.index(group) if group in order else len(order), group != path


def short(path: str) -> str:
    """Return a path without its group, unless that would make it ambiguous."""
    rest = path.partition(".")[2]
    return rest if rest and rest not in ("seed", "weight") else path
