"""The forum question on activation gradients: do they get smaller, from which weight on, and does the error change?"""

import pandas as pd
from matplotlib.figure import Figure

from studies import style
from studies.study import Folders, Text, runs_of, studies_of
from studies.tables import interval, paired, spread, table

KEY = "penalty.activation_gradient.weight"
VALUES = {split: f"probe/penalty_value/{split}" for split in ("train", "test")}
ERRORS = {split: f"{split}/error" for split in ("train", "test")}
BATCH = 50


def numbers(folders: Folders) -> pd.DataFrame:
    columns = (*ERRORS.values(), *VALUES.values())
    tables = []
    for name, folder in folders.items():
        runs = runs_of(folder, KEY, *columns).assign(penalty=name.removeprefix("activation_gradient_"))
        tables.append(runs.rename(columns={KEY: "weight"}).fillna({"weight": 0.0}))
    runs = pd.concat(tables)
    return runs[["penalty", *[column for column in runs if column != "penalty"]]]


def settings(runs: pd.DataFrame) -> list[tuple[str, float]]:
    found = {name: sorted(own["weight"].unique()) for name, own in runs.groupby("penalty")}
    return [(name, weight) for name in ("none", "example", "batch") for weight in found.get(name, [])]


def text(runs: pd.DataFrame) -> Text:
    shown = {"value, training": VALUES["train"], "value, test": VALUES["test"]}
    rows = []
    for name, weight in settings(runs):
        mask = (runs["penalty"] == name) & (runs["weight"] == weight)
        own = runs[mask]
        values = [f"{own[metric].mean():.2g} ({own[metric].std():.1g})" for metric in shown.values()]
        found = "" if name == "none" else interval(paired(runs, ERRORS["test"], mask, runs["penalty"] == "none"))
        label = {"none": "none", "example": f"{weight:g}", "batch": f"{weight:g}, reduction=batch"}[name]
        rows.append((label, *values, spread(own[ERRORS["test"]]), found))
    return [*table(["weight", *shown, "test error", "minus none, 95 % interval"], rows), "", *findings(runs)]


def findings(runs: pd.DataFrame) -> Text:
    """Return in words from which weight on the value is smaller, and at which the error differs."""
    none = runs["penalty"] == "none"
    means = runs.groupby(["penalty", "weight"])[list(VALUES.values())].mean()
    smaller, different = [], []
    for name, weight in settings(runs):
        mask = (runs["penalty"] == name) & (runs["weight"] == weight)
        if name == "example" and paired(runs, VALUES["test"], mask, none).high < 0:
            smaller.append(f"{weight:g}")
        found = paired(runs, ERRORS["test"], mask, none)
        if name == "example" and found.low * found.high > 0:
            different.append(f"{weight:g} ({'smaller' if found.high < 0 else 'larger'})")
    (plain,), largest = means.loc["none"].to_numpy(), max(weight for _, weight in settings(runs))
    strong, batch = means.loc[("example", largest)].to_numpy(), means.loc["batch"].iloc[-1]
    return [
        "The value is the exact mean over the examples of the squared gradients of each example's loss by `relu1` and "
        f"`relu2`. With weight {largest:g} it is {change(strong[1], plain[1])} on the test digits, and "
        f"{change(strong[0], plain[0])} on the training digits, where it is small without a penalty, too: the digits "
        "that are learned with confidence have small gradients, and a large weight may get in the way of that. On the "
        f"test digits it is smaller by the 95 % interval (not corrected for their number) at the weights "
        f"{', '.join(smaller) or 'none of these'}; the test error differs at "
        f"{', '.join(different) or 'none of these weights'}. Smaller activation gradients are no evidence of a smaller "
        "error.",
        "",
        f"At the question's scale (`reduction=batch`: gradients of the mean loss, a {BATCH} times smaller penalty) the "
        f"weight 1 leaves {batch[VALUES['test']] / plain[1]:.0%} of the value on the test digits, the same weight at "
        f"our scale {means.loc[('example', 1.0)][VALUES['test']] / plain[1]:.0%}: it is too weak to be seen.",
    ]


def change(value: float, before: float) -> str:
    return f"{before / value:.1f} times smaller" if value < before else f"{value / before:.1f} times larger"


def picture(runs: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2)
    own = runs[runs["penalty"] != "batch"]
    places = {weight: place for place, weight in enumerate(sorted(own["weight"].unique()))}
    own = own.assign(place=own["weight"].map(places))
    for index, (split, label) in enumerate((("train", "training digits"), ("test", "test digits"))):
        style.band(axes[0], own, "place", VALUES[split], label, index)
        style.band(axes[1], own, "place", ERRORS[split], label, index)
    for each in axes:
        each.set_xticks(list(places.values()), ["none" if not weight else f"{weight:g}" for weight in places])
        each.set_xlabel("weight of the penalty (not to scale)")
    axes[0].set(ylabel="squared activation gradients, mean", yscale="log")
    axes[1].set(ylabel="error (fraction of digits)")
    style.legend_below(figure, axes[0])
    return figure


STUDIES = studies_of(
    __file__,
    activation_gradient=(numbers, text, {"": picture}),
)
