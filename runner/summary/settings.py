"""Which keys of the configs of a sweep tell its groups apart: the columns on the left of its table.

A choice from a config group (the optimizer, the penalties) is one column with its name; the options that come with it
have a column only where somebody set them to something else than the group's file under conf/ says.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.config.conf_files import GROUPS, chosen_options, default_values, usual_values
from runner.config.tree import as_yaml
from runner.storage.identity import LONGEST_NAME, SEEDS, short, values_that_count

Config = Mapping[str, Any]
RESERVED = {"arm", "best", "chosen", "n", "diverged", "seed", "sweep"}  # columns of the table itself
MEMBER = re.compile(r"\.\d+(\.|$)")  # of a list, which is a value as a whole
BLANK = object()  # no value, which is another thing than null


def swept(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Return for each config the values that tell it from the others, by path; keys that it lacks are left out.

    The order of the columns is that of the configs, choices before options. The seeds are never among them.
    """
    tables = [_flat(config) for config in configs]
    usual = [values_that_count(usual_values(config)) for config in configs]
    paths = list(dict.fromkeys(path for table in tables for path in table))
    differing = {path for path in paths if len({as_yaml(table.get(path, BLANK)) for table in tables}) > 1}
    choices = [group for group in GROUPS if group in differing]

    def comes_with_a_choice(path: str) -> bool:
        return path.partition(".")[0] in choices and all(
            path not in table or table[path] == file.get(path, BLANK) for table, file in zip(tables, usual, strict=True)
        )

    kept = [path for path in paths if path in choices or (path in differing and not comes_with_a_choice(path))]
    return [{path: table[path] for path in kept if path in table} for table in tables]


def changed(config: Config) -> dict[str, Any]:
    """Return the names of a config's penalties, and what else tells it from the defaults, by short names."""
    values = {"penalty": _flat(config)["penalty"], **swept([default_values(), config])[1]}
    names = short_names(values)
    return {names[path]: value for path, value in values.items()}


def group_name(values: Mapping[str, Any], group_id: str) -> str:
    """Return the name of a group of seeds as TensorBoard shows it: its arm or penalty, the other values, its id.

    Such as `none_1a2b3c4d` or `l2,l2.weight=0.01_5e6f7a8b`; also a folder's name, so not too long and of safe signs.
    """
    first = values.get("arm") or values.get("penalty")
    words = [f"{key}={as_typed(value)}" for key, value in values.items() if key not in ("arm", "penalty")]
    safe = [re.sub(r"[^\w.=+-]+", "-", re.sub(r"[\s\[\]]", "", word)) for word in ([first, *words] if first else words)]
    return f"{','.join(safe)[:LONGEST_NAME]}_{group_id}"


def _flat(config: Config) -> dict[str, Any]:
    choices = {group: "+".join(chosen_options(group, config)) or "none" for group in GROUPS}
    leaves = {
        path: value
        for path, value in values_that_count(config).items()
        if path not in (*SEEDS, *GROUPS) and not MEMBER.search(path) and not _is_choice(path)
    }
    return choices | leaves


def _is_choice(path: str) -> bool:
    depth = 2 if path.startswith(("penalty.", "probe.")) else 1
    return path.endswith("._target_") and path.count(".") == depth


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return a short name for each path; the whole path where the short one would be taken for something else."""
    paths = list(dict.fromkeys(paths))
    taken = Counter(map(short, paths))
    return {path: path if taken[short(path)] > 1 or short(path) in RESERVED else short(path) for path in paths}


def sort_key(value: Any) -> tuple[Any, ...]:
    """Return a key to sort values by: none at all first, then numbers by size, words, and lists, short ones first."""
    if value is BLANK:
        return (0,)
    if is_number(value):
        return 1, value
    return (3, len(value), [sort_key(member) for member in value]) if isinstance(value, list) else (2, as_typed(value))


def is_number(value: Any) -> bool:
    """Tell whether a value is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_typed(value: Any) -> str:
    """Return a value as it is typed on the command line; nothing for none at all."""
    if value is BLANK:
        return ""
    return value if isinstance(value, str) else as_yaml(value)
