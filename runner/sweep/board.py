"""A sweep in TensorBoard: for each group of seeds a run with mean and band; hyperparameters that differ, no others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.recording.events import BANDS, Events, band, band_charts, scalars, write_session
from runner.storage.directory import Run
from runner.storage.members import Member, listed
from runner.summary.runs import RunRecord, config_of, read_run
from runner.summary.settings import short_names, swept

MEANS = "mean"  # folder of the groups beside the runs; it holds event files alone, so no summary takes it for a run


def write_groups(folder: Path, members: Sequence[Member]) -> None:
    """Write what TensorBoard shows of a sweep as a whole.

    Args:
        folder: of the runs; for each group of seeds it gets an event file, `mean/<group>`, which is written anew.
        members: of the sweep. The trials that have chosen what is compared are in no mean.

    Raises:
        OSError: if a file cannot be written.
        ValueError: if a metrics.csv is damaged.
    """
    groups = _groups_of([member.path for member in members])
    trials = {member.path for member in members if member.stage == "trial"}
    configs = {group: config for group, runs in groups.items() if (config := config_of(runs)) is not None}
    rows = hyperparameters(folder, configs)
    for group, config in configs.items():
        name = Run(config).group_name
        for run in groups[group]:
            if rows[group]:  # else only the seed differs
                write_session(run.path, rows[group], name)
        if done := [run.path for run in groups[group] if run.status == "done" and run.path not in trials]:
            _write_means(folder / MEANS / name, done)


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
    """Return the runs that can be read, by the id of their group."""
    groups: dict[str, list[RunRecord]] = defaultdict(list)
    for run in map(read_run, paths):
        if "group_id" in run.result:
            groups[run.result["group_id"]].append(run)
    return groups


def _write_means(directory: Path, runs: Sequence[Path]) -> None:
    """Write the mean over some runs, by epoch, of all that is in their metrics.csv; for losses and errors also a band.

    The band is the mean plus and minus the standard deviation (n - 1) over the runs; of one run it has no width.
    """
    import pandas  # late: half a second

    tables = [pandas.read_csv(path / "metrics.csv", index_col="epoch") for path in runs]
    columns = [column for column in tables[0] if all(column in table for table in tables)]
    epochs = sorted(set.intersection(*(set(table.index) for table in tables)))
    values = np.stack([table.loc[epochs, columns].to_numpy(float) for table in tables])
    means, widths = values.mean(0), values.std(0, ddof=len(runs) > 1)
    directory.mkdir(parents=True, exist_ok=True)
    events = Events(directory, None)
    events.add(0, [band_charts()])
    for epoch, mean, width in zip(epochs, means, widths, strict=True):
        measured = [n for n in range(len(columns)) if not np.isnan(mean[n])]  # probes are there in the last epoch alone
        events.add(int(epoch), scalars({columns[n]: mean[n] for n in measured}))
        for n in measured:
            if columns[n] in BANDS:
                events.add(int(epoch), band(columns[n], mean[n] - width[n], mean[n] + width[n]))
    events.close()
