"""Each penalty over its weight: what it makes smaller, and what that does to the error."""

from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies import style
from studies.study import Folders, Text, runs_of, studies_of
from studies.tables import interval, paired, spread, table

VALUE, ERROR = "probe/penalty_value/test", "test/error"
PENALTIES = (
    "l2",
    "l1",
    "elastic_net",
    "jacobian",
    "jacobian_spectral",
    "input_gradient",
    "activation_gradient",
    "weight_gradient",
    "tangent_prop",
    "large_margin",
)


def numbers(folders: Folders) -> pd.DataFrame:
    (folder,) = folders.values()
    keys = [f"penalty.{name}.weight" for name in sorted(set(runs_of(folder)["arm"]))]
    runs = runs_of(folder, *keys, "train/error", ERROR, "probe/penalty_value/train", VALUE)
    weights = [row[f"penalty.{row['arm']}.weight"] for _, row in runs.iterrows()]
    runs = runs.drop(columns=keys).rename(columns={"arm": "penalty"})
    runs.insert(1, "weight", weights)
    return runs.sort_values(["penalty", "weight", "seed"], ignore_index=True)


def text(runs: pd.DataFrame) -> Text:
    rows = []
    for name in PENALTIES:
        own = runs[runs["penalty"] == name]
        for weight in sorted(own["weight"].unique()):
            each = own[own["weight"] == weight]
            against = interval(paired(own, ERROR, own["weight"] == weight, own["weight"] == 0)) if weight else ""
            value = f"{each[VALUE].mean():.3g}"
            rows.append((name, f"{weight:g}", value, spread(each["train/error"]), spread(each[ERROR]), against))
    header = ["penalty", "weight", "its value", "training error", "test error", "difference to weight 0"]
    return table(header, rows)


def picture(name: str, runs: pd.DataFrame, folders: Folders) -> Figure:
    """Draw the errors and the value of a penalty over its weight; the value once where it is of the weights alone."""
    key = f"penalty.{name}.weight"
    own = runs[(runs["penalty"] == name) & (runs["status"] == "done")].rename(columns={"weight": key})
    figure, (axes,) = style.figure(1, 2, height=2.6)
    of_weights_alone = own["probe/penalty_value/train"].equals(own[VALUE])
    for index, (split, label) in enumerate((("train", "training"), ("test", "test"))):
        style.over_values(axes[0], own, key, f"{split}/error", label, index, "mean")
        if not of_weights_alone:
            style.over_values(axes[1], own, key, f"probe/penalty_value/{split}", label, index, "mean")
    if of_weights_alone:
        style.over_values(axes[1], own, key, VALUE, "of the weights alone", 2, "mean")
    _cut(axes[0], own.groupby(key)[ERROR].mean())
    axes[0].set_ylabel("error (fraction of digits)")
    axes[1].set_ylabel("its value (log scale)")
    style.log_errors(axes[1])
    for each in axes:
        each.legend(fontsize=8, frameon=False)
    return figure


def _cut(axes: Axes, errors: pd.Series) -> None:
    top = 2.5 * errors.iloc[0]
    if errors.max() > top:
        axes.set_ylim(-0.05 * top, top)
        for place in (errors > top).to_numpy().nonzero()[0]:
            axes.text(place, 0.93 * top, f"{errors.iloc[place]:.2f} \N{UPWARDS ARROW}", fontsize=8, ha="right")


STUDIES = studies_of(
    __file__,
    weights=(numbers, text, {f"_{name}": partial(picture, name) for name in PENALTIES}),
)
