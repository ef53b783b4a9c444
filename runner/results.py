"""Results in Python: runs as tables of pandas, a run as a trained network, a network for other programs.

    from runner.results import load_epochs, load_model, load_runs

pandas and torch are imported when they are needed.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.config.allowlist import is_allowed
from runner.config.conf_files import GROUPS, chosen_options
from runner.config.tree import walk
from runner.storage import weights
from runner.storage.atomic import write_atomic
from runner.storage.lock import locked
from runner.storage.members import Member, members_of
from runner.storage.status import FINISHED, Status
from runner.summary.rows import NothingToShow
from runner.summary.runs import RunRecord, config_of, directories, read_run
from runner.summary.settings import MEMBER, as_typed, is_number, short_names, swept

if TYPE_CHECKING:
    import pandas

    from runner.evaluation.predictor import Predictor

Epoch = Literal["last", "best"]
MEASURED = ("seconds", "examples_per_second")  # beside the metrics, whose tags hold a slash
FILE = "model.safetensors"


def load_runs(*folders: str | Path, trials: bool = False) -> pandas.DataFrame:
    """Return a row for each run at or below some folders.

    Its columns are, in this order:

        run_id, group_id    the group is the same for all seeds
        path, status        status: done, diverged, failed, pruned, interrupted, running or unreadable
        reason              why it is not done
        arm, stage          of a sweep with arms: the arm, and whether it was a trial or part of the comparison
        setting             what tells it from the others but for the seed, such as "l2.weight=0.01"
        epoch               epochs trained
        best/by             the metric by which epochs are compared
        data, model, ...    the chosen options; several penalties as "jacobian+l2", no penalty as "none"
        seed, ...           all keys of the config, by their paths, such as "penalty.l2.weight"
        test/error, ...     all metrics by their tags, also those of the best epoch, such as "best/test/error"

    What a run does not have is missing (NaN or None).

    Args:
        folders: folders of runs, or directories of single runs.
        trials: also the runs that have only chosen what a sweep with arms compares (`sweep.trials`).

    Raises:
        NothingToShow: if there is no run.
    """
    import pandas

    runs, arms = _runs_in([Path(folder) for folder in folders], trials)
    configs = [config_of([run]) or {} for run in runs]
    settings = _settings_of(runs, configs)
    facts = [
        {**_facts_of(run), **_purpose_of(arms.get(run.path)), "setting": settings.get(run.result.get("group_id"), "")}
        for run in runs
    ]
    parts = (facts, [_flat(config) for config in configs], [_metrics_of(run) for run in runs])
    columns = dict.fromkeys(key for part in parts for row in part for key in row)
    rows = [{**fact, **config, **metrics} for fact, config, metrics in zip(*parts, strict=True)]
    return pandas.DataFrame(rows, columns=list(columns))


def load_epochs(*folders: str | Path) -> pandas.DataFrame:
    """Return a row for each run and evaluated epoch: the columns of `load_runs` but its metrics, then the epoch's own.

    Epoch 0 is before the first step. Numbers of a large split may be of a sample: `examples/test` says of how many.

    Args:
        folders: folders of runs, or directories of single runs.

    Raises:
        NothingToShow: if there is no run.
    """
    import pandas

    runs = load_runs(*folders).drop(columns="epoch")
    rows = [{"path": path, **row} for path in runs["path"] for row in _epochs_of(Path(path))]
    columns = dict.fromkeys(["path", "epoch", *(key for row in rows for key in row)])
    epochs = pandas.DataFrame(rows, columns=list(columns))
    return runs[config_columns(runs)].merge(epochs, on="path").astype({"epoch": int})


def config_columns(runs: pandas.DataFrame) -> list[str]:
    """Return the columns of `load_runs` that are no metrics."""
    return [column for column in runs if "/" not in column and column not in MEASURED]


def load_model(
    run: str | Path, epoch: Epoch = "last", *, allow_targets: Sequence[str] = (), device: str = "cpu"
) -> Predictor:
    """Return the trained network of a run, in evaluation mode, for raw inputs; no data set is read.

        outputs = load_model("runs/train/...")(images)  # (N, C) of images of bytes (N, 1, 28, 28)

    The normalisation is part of it. Of a run that is done, `last` gives the test error that is recorded as
    `test/error`, and `best` that of `best/test/error`; of any other run they are the newest that was saved.

    Args:
        run: the run's directory.
        epoch: `last`, or `best` by the metric that the run records as `best/by`.
        allow_targets: your own packages whose classes may be built; the run's config is not trusted with that.
        device: where the network is to compute, `cpu` or `cuda`.

    Raises:
        ValueError: if nothing was saved, or was damaged since, or needs a class that is not allowed; one sentence.
    """
    import torch

    from runner.evaluation.predictor import Predictor
    from runner.training.build import build_network, find_own_packages

    state = _state_of(Path(run), epoch)
    config = _config_of_network(Path(run), allow_targets)
    if allow_targets:
        find_own_packages()
    facts = dict(state["predictor"])
    network = build_network(config, facts["input_shape"], facts.pop("outputs"), torch.device(device))
    if wrong := weights.misfit(state["model"], network.state_dict()):
        raise ValueError(f"the weights of {run} do not fit its network, whose code has changed since: {wrong}")
    network.load_state_dict(state["model"])
    if facts["channels_last"]:
        network.to(memory_format=torch.channels_last)
    return Predictor(network, **facts).to(device).eval()


def export(run: str | Path, folder: str | Path, epoch: Epoch = "last") -> Path:
    """Write a trained network for other programs: `model.safetensors` and `config.yaml`.

    The file holds the network's tensors, each under its name with `network.` before it, and the normalisation:
    outputs = network((inputs - offset) / scale) * target_scale + target_offset. `init_from` takes this file.

    Args:
        run: the run's directory.
        folder: where the two files go; made if absent.
        epoch: as for `load_model`.

    Returns:
        the .safetensors file.

    Raises:
        ValueError: as `load_model` does.
        WriteError: if the system refuses.
    """
    path, state = Path(run), _state_of(Path(run), epoch)
    predictor = state["predictor"]
    facts = {"format": "pt", "run_id": str(read_run(path).result.get("run_id")), "epoch": str(state["epoch"])}
    facts |= {key: str(predictor[key]) for key in ("input_shape", "outputs")}
    normalisation = {key: predictor[key] for key in ("offset", "scale", "target_offset", "target_scale")}
    weights.write(Path(folder, FILE), state["model"], normalisation, facts)
    write_atomic(Path(folder, "config.yaml"), (path / "config.yaml").read_bytes())
    return Path(folder, FILE)


def delete(run: str | Path) -> None:
    """Remove the directory of a run.

    Raises:
        NothingToShow: if it is none.
        Busy: if a process trains there.
    """
    if directories([Path(run)]) != [Path(run)]:
        raise NothingToShow(f"{run} is not the directory of a run: nothing is deleted")
    with locked(Path(run)):
        shutil.rmtree(run)


def _runs_in(folders: Sequence[Path], trials: bool) -> tuple[list[RunRecord], dict[Path, Member]]:
    runs = [read_run(path) for path in directories(folders)]
    members = [member for folder in {run.path.parent for run in runs} for member in members_of(folder)]
    arms = {member.path: member for member in members if member.arm}
    runs = [run for run in runs if trials or run.path not in arms or arms[run.path].stage != "trial"]
    if not runs:
        raise NothingToShow(f"there are no runs in {', '.join(map(str, folders))}: give a folder such as runs/<name>")
    return runs, arms


def _facts_of(run: RunRecord) -> dict[str, Any]:
    return {
        "run_id": run.result.get("run_id"),
        "group_id": run.result.get("group_id"),
        "path": str(run.path),
        "status": run.status,
        "reason": None if run.status == Status.DONE else run.reason,
        "setting": "",
        "epoch": run.result.get("epoch"),
        "best/by": run.result.get("best/by"),
    }


def _purpose_of(member: Member | None) -> dict[str, str]:
    return {"arm": member.arm, "stage": member.stage} if member else {}


def _metrics_of(run: RunRecord) -> dict[str, float]:
    return {key: value for key, value in run.result.items() if is_number(value) and ("/" in key or key in MEASURED)}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    if not config:
        return {}
    choices = {group: "+".join(chosen_options(group, config)) or "none" for group in GROUPS}
    return choices | {
        path: value
        for path, value in walk(config)
        if not isinstance(value, dict) and path not in GROUPS and not MEMBER.search(path)
    }


def _settings_of(runs: Sequence[RunRecord], configs: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    groups = {run.result.get("group_id"): config for run, config in zip(runs, configs, strict=True) if config}
    values = swept(list(groups.values()))
    names = short_names(path for own in values for path in own)
    return {
        group: " ".join(f"{names[path]}={as_typed(value)}" for path, value in own.items())
        for group, own in zip(groups, values, strict=True)
    }


def _epochs_of(path: Path) -> list[dict[str, float]]:
    try:
        with (path / "metrics.csv").open(newline="") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError):
        return []


def _state_of(path: Path, epoch: Epoch) -> dict[str, Any]:
    """Return epoch, weights and the facts for `Predictor` of what a run has saved."""
    from runner.storage import checkpoint

    if epoch not in ("last", "best"):
        raise ValueError(f"epoch must be last or best, got {epoch!r}")
    state = checkpoint.load(path, "checkpoint" if epoch == "last" else "best")
    if state is None:
        raise ValueError(f"{path} has no weights of its {epoch} epoch: train it first, or give the directory of a run")
    if "predictor" not in state:
        raise ValueError(f"{path} was trained by an earlier version, without its normalisation: train it again")
    if epoch == "last":
        state = {"epoch": state["loop"]["epoch"], "model": state["loop"]["model"], "predictor": state["predictor"]}
    result = read_run(path).result
    is_last = epoch == "best" or weights.digest_of(state["model"]) == result.get("weights_sha256")
    is_best = epoch == "last" or state["epoch"] == result.get("best/epoch")
    if (result.get("status") == Status.DONE and not is_last) or (result.get("status") in FINISHED and not is_best):
        raise ValueError(f"{path} holds no sound file of its {epoch} epoch: train it again with force=true")
    return state


def _config_of_network(path: Path, packages: Sequence[str]) -> dict[str, Any]:
    """Return the config of a run, whose network may be built."""
    config = config_of([read_run(path)])
    if config is None or not {"model", "init", "seed", "precision"} <= config.keys():
        raise ValueError(f"{path / 'config.yaml'} is missing or no config: train the run again")
    nodes = {group: config[group] for group in ("model", "init")}
    targets = [(key.partition(".")[0], value) for key, value in walk(nodes) if key.endswith("_target_")]
    if foreign := [str(target) for group, target in targets if not is_allowed(group, target, packages)]:
        fix = f"allow_targets={sorted({target.partition('.')[0] for target in foreign})}"
        raise ValueError(
            f"{path / 'config.yaml'} names {', '.join(foreign)}, which is not of this project: "
            f"add {fix} if you trust it"
        )
    return config
