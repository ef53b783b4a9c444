"""Runs in groups that differ in the seed alone, each group a row of the table.

Read from `result.json` and `config.yaml` of the runs' directories and from nothing else, so that it does not matter
which launcher ran them, or whether all of them ended.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from runner.config.text import near
from runner.storage.identity import values_that_count
from runner.storage.members import Member, members_of
from runner.summary.labels import short_folders
from runner.summary.rows import NothingToShow, Row, Summary
from runner.summary.runs import RunRecord, config_of, directories, read_run
from runner.summary.settings import BLANK, as_typed, short_names, sort_key, swept


def summarize(*folders: Path, members: Sequence[Member] | None = None, baseline: str | None = None) -> Summary:
    """Return the summary of all runs below some folders; nothing that is missing or damaged in them raises.

    Runs of one group are pooled over the folders, unless a run stands in two of them: then the folders are compared,
    in a column `sweep`.

    Args:
        folders: of runs.
        members: what the runs are in their sweep for (null: as the lists in the folders say).
        baseline: what rows are compared with: an arm, or KEY=VALUE (null: as the sweep says, or what has no penalty).

    Raises:
        NothingToShow: if no row is that baseline.
    """
    runs = [read_run(path) for path in directories(folders)]
    if members is None:
        members = [member for folder in {run.path.parent for run in runs} for member in members_of(folder)]
    groups = _grouped(runs, members)
    configs = {group: config_of(some) for group, some in groups.items()}
    lost = [run for group, some in groups.items() if configs[group] is None for run in some]
    tried = [run for group, some in groups.items() if group.is_trial for run in some if run.status == "diverged"]
    others = [run for run in runs if run.status != "done" and run not in lost and run not in tried]
    others += [
        RunRecord(run.path, {}, "unreadable", f"{run.path / 'config.yaml'} is missing or no config") for run in lost
    ]
    named = baseline or _agreed({member.baseline for member in members})
    readable = {group: (config, groups[group]) for group, config in configs.items() if config is not None}
    rows, trials = (
        in_order(_rows({group: both for group, both in readable.items() if group.is_trial == is_trial}, named))
        for is_trial in (False, True)
    )
    summary = Summary(rows, others, trials, named, _agreed({member.objective for member in members}))
    if baseline and rows and not any(row.is_baseline for row in rows):
        raise NothingToShow(f"baseline must be one of {near(baseline, _baselines(summary))}, got {baseline!r}")
    return summary


def _baselines(summary: Summary) -> list[str]:
    if "arm" in summary.columns:
        return list(dict.fromkeys(row.typed("arm") for row in summary.rows))
    columns = [column for column in summary.columns if column != "sweep"]
    return list(dict.fromkeys(f"{column}={row.typed(column)}" for column in columns for row in summary.rows))


def _agreed(named: set[str | None]) -> str | None:
    return named.pop() if len(named) == 1 else None


def _grouped(runs: Sequence[RunRecord], members: Sequence[Member]) -> dict[_Group, list[RunRecord]]:
    purposes = {member.path.resolve(): member for member in members}
    found = {(run.path.parent, run.result["run_id"]): run for run in runs if "group_id" in run.result}
    known = list(found.values())  # a run counts once, though it be in two directories side by side
    compared = len({run.result.get("run_id") for run in known}) < len(known)
    groups: dict[_Group, list[RunRecord]] = defaultdict(list)
    for run in known:
        purpose = purposes.get(run.path.resolve(), Member(run.path))
        folder, is_trial = str(run.path.parent) if compared else "", purpose.stage == "trial"
        groups[_Group(folder, is_trial, purpose.arm, tuple(purpose.setting), run.result["group_id"])].append(run)
    return groups


class _Group(NamedTuple):
    """What the runs of a row share."""

    folder: str
    is_trial: bool
    arm: str
    setting: tuple[str, ...]
    group_id: str


def _rows(groups: Mapping[_Group, tuple[dict[str, Any], list[RunRecord]]], baseline: str | None) -> list[Row]:
    """Return a row for each group, named by what tells it from the others."""
    values = swept([config for config, _ in groups.values()])
    tuned = [_tuned(config) if group.arm else {} for group, (config, _) in groups.items()]
    names = short_names(dict.fromkeys(path for own in (*values, *tuned) for path in own))
    varied = _varied([group.arm for group in groups], values)
    folders = short_folders({group.folder for group in groups})
    baseline = _with_path(baseline, names)
    rows = []
    for (group, (config, runs)), own, chosen in zip(groups.items(), values, tuned, strict=True):
        shared = {line.partition("=")[0] for line in group.setting}
        keys = {names[path]: value for path, value in own.items() if path in shared or not group.arm}
        options = {path: value for path, value in own.items() if path not in shared and path != "penalty"}
        if group.arm:
            chosen |= {path: value for path, value in options.items() if path in varied[group.arm]}
            words = [f"{names[path]}={as_typed(value)}" for path, value in chosen.items()]
            keys = {"arm": group.arm, **keys, "chosen": " ".join(words)}
        if len(folders) > 1:
            keys = {"sweep": folders[group.folder], **keys}
        setting, is_baseline = _place(group, config, own, baseline)
        named = {names[path]: value for path, value in (options | chosen).items()}
        rows.append(Row(keys, runs, _criterion_of(config), setting, _family_of(group, config), is_baseline, named))
    return rows


def _with_path(baseline: str | None, names: Mapping[str, str]) -> str | None:
    key, equals, value = (baseline or "").partition("=")
    paths = [path for path, name in names.items() if key in (path, name)]
    return f"{paths[0]}={value}" if equals and paths else baseline


def _tuned(config: Mapping[str, Any]) -> dict[str, Any]:
    weights = [f"penalty.{name}.weight" for name in config.get("penalty", {})]
    ranges = config.get("sweep", {}).get("ranges") or {}
    values = values_that_count(config)
    return {path: values[path] for path in (*weights, *ranges) if path in values}


def _varied(arms: Sequence[str], values: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for arm, own in zip(arms, values, strict=True):
        for path, value in own.items():
            seen[arm][path].add(as_typed(value))
    return {arm: {path for path, found in paths.items() if len(found) > 1} for arm, paths in seen.items()}


def _place(group: _Group, config: Mapping[str, Any], own: Mapping[str, Any], baseline: str | None) -> tuple[str, bool]:
    if group.arm:
        return json.dumps([group.folder, group.setting]), group.arm == (baseline or "none")
    key, _, value = (baseline or "").partition("=")
    compared = "penalty" if not value or key.startswith("penalty.") else key
    setting = {path: as_typed(v) for path, v in own.items() if not f"{path}.".startswith(f"{compared}.")}
    acts = any(options.get("weight", 1) for options in config.get("penalty", {}).values())
    is_baseline = _is_same(own.get(key, BLANK), value) if value else not (acts or baseline)
    return json.dumps([group.folder, setting]), is_baseline


def _is_same(value: Any, typed: str) -> bool:
    with suppress(ValueError):
        return bool(float(typed) == value)
    return as_typed(value) == typed


def _family_of(group: _Group, config: Mapping[str, Any]) -> str:
    own = {path: value for path, value in values_that_count(config).items() if path.startswith("data.")}
    return json.dumps(
        [group.folder, {path: own[path] for path in own.keys() - {"data.seed", "data.normalize"}}], sort_keys=True
    )


def _criterion_of(config: Mapping[str, Any]) -> str:
    options = {path: value for path, value in values_that_count(config).items() if path.startswith("loss.")}
    return json.dumps({path: value for path, value in options.items() if path != "loss.weight"}, sort_keys=True)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return the rows sorted by their keys, the first column first; runs by their seeds."""
    columns = list(dict.fromkeys(key for row in rows for key in row.keys))
    return sorted(rows, key=lambda row: [sort_key(row.keys.get(column, BLANK)) for column in columns])
