"""A sweep in TensorBoard: for each group of seeds a run with its means, and a row of what differs between groups."""

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, STATUS_UNKNOWN

from runner.console import MEANS
from runner.recording.events import SESSION, Events, scalars, session_end, write_session
from runner.storage.members import Member, listed
from runner.summary.runs import RunRecord, config_of, read_run
from runner.summary.settings import changed, group_name, short_names, swept


def write_groups(folder: Path, members: Sequence[Member]) -> bool:
    """Write what TensorBoard shows of a sweep as a whole, and tell whether it has a mean.

    The rows of the table of hyperparameters are those of the groups: the rows that the runs had alone are removed, and
    the trials that have chosen what is compared have none.

    Args:
        folder: of the runs; for each group of seeds it gets a directory of event files, `mean/<group>`, written anew.
        members: of the sweep.

    Raises:
        OSError: if a file cannot be written.
        ValueError: if a metrics.csv is damaged.
    """
    compared = {member.path: member.arm for member in members if member.stage != "trial"}
    groups = _groups_of(list(compared))
    configs = {group: config for group, runs in groups.items() if (config := config_of(runs)) is not None}
    rows = hyperparameters(folder, configs)
    for group, config in configs.items():
        arm = compared[groups[group][0].path]
        # If only the seed differs, what differs from the defaults.
        values = {**({"arm": arm} if arm else {}), **(rows[group] or changed(config))}
        _write_group(folder / MEANS, group, values, groups[group])
    for member in members:
        (member.path / SESSION).unlink(missing_ok=True)
    return any(run.status == "done" for runs in groups.values() for run in runs)


def hyperparameters(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what tells each group of seeds from the others of its sweep, and of the other sweeps that it is in.

    Args:
        folder: of the runs and of the lists of sweeps, `.sweeps/<id>`.
        configs: group id -> config.
    """
    found: dict[str, dict[str, Any]] = {group: {} for group in configs}
    for path in sorted((folder / ".sweeps").glob("*")):
        members = _groups_of([member.path for member in listed(path)])
        if found.keys() & members.keys():
            readable = {group: configs.get(group) or config_of(runs) for group, runs in members.items()}
            known = {group: config for group, config in readable.items() if config}
            for group, values in zip(known, swept(list(known.values())), strict=True):
                found.get(group, {}).update(values)
    names = short_names(path for values in found.values() for path in values)
    return {group: {names[path]: value for path, value in values.items()} for group, values in found.items()}


def _groups_of(paths: Sequence[Path]) -> dict[str, list[RunRecord]]:
    groups: dict[str, list[RunRecord]] = defaultdict(list)
    for run in map(read_run, paths):
        if "group_id" in run.result:
            groups[run.result["group_id"]].append(run)
    return groups


def _write_group(folder: Path, group: str, values: Mapping[str, Any], runs: Sequence[RunRecord]) -> None:
    directory = folder / group_name(values, group)
    for other in set(folder.glob(f"*_{group}")) - {directory}:  # from when less differed
        shutil.rmtree(other)
    directory.mkdir(parents=True, exist_ok=True)
    done = [run for run in runs if run.status == "done"]
    write_session(directory, {**values, "n": len(done)}, directory.name)
    events = Events(directory, None)
    for epoch, means in _means_of(done).items():
        events.add(epoch, scalars(means))
    has_failed = {run.status for run in runs} & {"diverged", "failed"}
    status = STATUS_SUCCESS if done else STATUS_FAILURE if has_failed else STATUS_UNKNOWN
    events.add(0, [session_end(status)])
    events.close()


def _means_of(runs: Sequence[RunRecord]) -> dict[int, dict[str, float]]:
    """Return the means over some runs, by epoch and tag, of what is in all their metrics.csv and of the best epochs."""
    import pandas  # late: half a second

    if not runs:
        return {}
    tables = [pandas.read_csv(run.path / "metrics.csv", index_col="epoch") for run in runs]
    columns = [column for column in tables[0] if all(column in table for table in tables)]
    epochs = sorted(set.intersection(*(set(table.index) for table in tables)))
    means = np.mean([table.loc[epochs, columns].to_numpy(float) for table in tables], 0)
    # What was not measured after an epoch is NaN: probes are there in the last one alone.
    rows = [{tag: mean for tag, mean in zip(columns, row, strict=True) if not np.isnan(mean)} for row in means]
    best = [tag for tag in runs[0].numbers if tag.startswith("best/") and all(tag in run.numbers for run in runs)]
    rows[-1:] = [row | {tag: float(np.mean([run.numbers[tag] for run in runs])) for tag in best} for row in rows[-1:]]
    return dict(zip(map(int, epochs), rows, strict=True))
