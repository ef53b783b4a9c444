"""One section of docs/results.md: the sweeps that are run, the numbers kept of them, the text and the pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from runner.results import load_epochs, load_runs
from runner.storage.members import last_members

Folders = Mapping[str, Path]  # the folder of each sweep, by its name
Text = list[str]  # paragraphs, which are wrapped later, and lines of tables


@dataclass(frozen=True)
class Study:
    """What is repeated of a source, and how it is shown.

    Args:
        numbers: folders of the sweeps -> a row for each run, or for each thing that was measured. They become
            docs/results/NAME.csv, and are all that `text` and, where possible, the pictures are made from.
        text: numbers -> tables, and sentences whose numbers are computed here, never typed.
        pictures: suffix -> (numbers, folders -> a picture), written as docs/results/NAME<suffix>.png.
        title: of the section.
        source: of the published values, with their mark: published, secondary (quoted from a review), recalled
            (from memory, not checked).
        about: what is trained on what, and what a reader should know before the numbers.
        captions: suffix -> the line under the picture, which is also its text for those who cannot see it. A picture
            without one is shown on another page.
        sweeps: name -> overrides of `train.py -m`. The name is also the sweep's folder. None at all where nothing is
            trained.
        quick: overrides of every sweep for `--quick`.
        inputs: what the command line has to give, such as data.root=FOLDER.
    """

    numbers: Callable[[Folders], pd.DataFrame]
    text: Callable[[pd.DataFrame], Text]
    pictures: Mapping[str, Callable[[pd.DataFrame, Folders], Figure]]
    title: str
    source: str
    about: str
    captions: Mapping[str, str]
    sweeps: Mapping[str, Sequence[str]] = field(default_factory=dict)
    quick: Sequence[str] = ()
    inputs: str = ""


def studies_of(file: str, **functions: tuple[Any, Any, Any]) -> dict[str, Study]:
    """Return the studies of a module: their functions with the sweeps and words that the YAML file beside it gives.

    Args:
        file: of the module.
        functions: name of a study -> numbers, text and pictures.
    """
    given = yaml.safe_load(Path(file).with_suffix(".yaml").read_text())
    return {name: Study(*own, **given[name]) for name, own in functions.items()}


def directories_of(folder: Path) -> list[Path]:
    return [member.path for member in last_members(folder)]


def runs_of(folder: Path, *columns: str) -> pd.DataFrame:
    """Return a row for each run of a sweep, sorted: the columns asked for, with `seed`, `status` and `seconds`.

    Of a sweep with arms only the runs of the comparison, with `arm`.

    Args:
        folder: of the sweep; only the runs of the last command in it count.
        columns: of `load_runs`.

    Raises:
        SystemExit: if a run has neither ended well nor diverged.
    """
    runs = load_runs(*directories_of(folder))
    if unfinished := sorted(set(runs["status"]) - {"done", "diverged"}):
        raise SystemExit(f"runs in {folder} are {', '.join(unfinished)}: repeat the command, which resumes them")
    first = [*(["arm"] if "arm" in runs else []), *columns]
    runs = runs.reindex(columns=list(dict.fromkeys([*first, "seed", "status", "seconds"])))
    return runs.sort_values([*first, "seed"], ignore_index=True)


def epochs_of(folder: Path, *columns: str) -> pd.DataFrame:
    """Return a row for each run of a sweep and evaluated epoch, sorted: the columns, with `epoch`, `seed`, `status`.

    `seconds` stands in the last row of each run.

    Raises:
        SystemExit: as `runs_of` does.
    """
    seconds = runs_of(folder, "path").set_index("path")["seconds"]
    kept = list(dict.fromkeys([*columns, "epoch", "seed", "status"]))
    epochs = load_epochs(*directories_of(folder)).reindex(columns=["path", *kept])
    is_last = epochs.groupby("path")["epoch"].transform("max") == epochs["epoch"]
    epochs = epochs[kept].assign(seconds=epochs["path"].map(seconds).where(is_last))
    settings = [column for column in columns if "/" not in column]  # metrics have a slash
    return epochs.sort_values([*settings, "seed", "epoch"], ignore_index=True)
