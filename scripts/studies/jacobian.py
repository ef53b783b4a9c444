"""The Jacobian penalty: the example of its package, and the paper's tables."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from runner.summary.compare import Interval
from studies import style
from studies.study import Folders, Text, runs_of, studies_of
from studies.tables import against_published, interval, paired, spread, table

KEY = "penalty.jacobian.weight"
METRICS = ("test/error", "train/error", "probe/penalty_value/test", "probe/penalty_value/train")
NORM = "probe/jacobian_norm/frobenius"
# The paper's weights in our convention: its lambda .01 multiplies ||J||^2 / 2, its weight decay 5e-4 sum w^2 / 2.
L2 = "penalty.l2.weight: 2.5e-4"
JACOBIAN = "penalty.jacobian.weight: 0.005"
DROPOUT = "model.dropout: 0.5"
PAPERS_ARMS = {
    "none": "penalty: none",
    "l2": f"penalty: l2, {L2}",
    "dropout": f"penalty: none, {DROPOUT}",
    "jacobian": f"penalty: jacobian, {JACOBIAN}",
    "all": f"penalty: [l2, jacobian], {L2}, {JACOBIAN}, {DROPOUT}",
}
LARGER = "jacobian_larger"


def in_order(runs: pd.DataFrame) -> list[str]:
    return [arm for arm in (*PAPERS_ARMS, LARGER) if arm in set(runs["arm"])]


def difference(runs: pd.DataFrame, metric: str, arm: str) -> Interval:
    return paired(runs, metric, runs["arm"] == arm, runs["arm"] == "none")


def package_numbers(folders: Folders) -> pd.DataFrame:
    return runs_of(folders["jacobian_package"], KEY, *METRICS)


PACKAGE = {"test/error": {0.05: 0.030}, "probe/penalty_value/test": {0.05: 1.96}}  # metric -> weight -> published


def package_text(runs: pd.DataFrame) -> Text:
    rows = [
        (f"{weight:g}", *(f"{own[metric].median():.4f}" for metric in METRICS)) for weight, own in runs.groupby(KEY)
    ]
    return [
        *against_published(runs, KEY, PACKAGE, {"test/error": 0.004, "probe/penalty_value/test": 0.2}),
        "",
        "Medians of all weights; `penalty_value` is the mean of the exact ||J||^2:",
        "",
        *table([KEY, *METRICS], rows),
    ]


def package_picture(runs: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2)
    weights = sorted(runs[KEY].unique())
    for each, (metric, published) in zip(axes, PACKAGE.items(), strict=True):
        style.published(each, weights, published, -0.15, marker="x", color=style.COLORS[1], label="published")
        style.boxes(
            each, [runs.loc[runs[KEY] == value, metric].tolist() for value in weights], [f"{w:g}" for w in weights]
        )
        each.set(xlabel="weight of the Jacobian penalty", ylabel=metric)
    axes[1].set_ylabel("mean ||J||^2 on the test digits (log scale)")
    style.log_errors(axes[1])
    axes[0].set_ylabel("test error")
    axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    return figure


# Table 1 of the paper: accuracy in percent and ||J||
TABLE = {
    "none": (98.9, 32.9),
    "l2": (99.2, 4.6),
    "dropout": (98.6, 21.5),
    "jacobian": (99.0, 1.1),
    "all": (99.1, 1.2),
}


def table_numbers(folders: Folders) -> pd.DataFrame:
    runs = runs_of(folders["jacobian_table"], "test/error", "train/error", NORM)
    return runs.assign(accuracy=100 * (1 - runs["test/error"]))


def table_text(runs: pd.DataFrame) -> Text:
    rows = []
    for arm in in_order(runs):
        own = runs[runs["arm"] == arm]
        cells = []
        for published, metric, digits in zip(TABLE[arm], ("accuracy", NORM), (2, 2), strict=True):
            compared = "" if arm == "none" else interval(difference(runs, metric, arm), digits)
            cells += [f"{published:.1f}", spread(own[metric], digits), compared]
        rows.append((arm, *cells))
    named = ("published", "ours, mean (sd)", "minus none, 95 % interval")
    norms = runs.groupby("arm")[NORM].mean()
    ratio = {arm: f"{norms['none'] / norms[arm]:.1f}" for arm in ("l2", "jacobian", "all")}
    return [
        *table(
            ["arm", *(f"accuracy, {each}" for each in named), *(f"mean \\|\\|J\\|\\|, {each}" for each in named)], rows
        ),
        "",
        f"{runs.groupby('arm').size().min()} seeds of each arm; differences are paired by seed. The Jacobian penalty "
        f"makes ||J|| {ratio['jacobian']} times smaller (published: 30 times), L2 {ratio['l2']} times (7 times), both "
        f"with dropout {ratio['all']} times (27 times). Our ||J|| without a penalty is {norms['none']:.2f}, not 32.9: "
        "our runs are far shorter than the paper's, and cross-entropy goes on making the outputs larger. ||J|| is "
        "ruled by the size of the logits, so between methods it says nothing of the shape of the function. "
        "Intervals are of one difference alone. With so little training neither column is held to a tolerance.",
    ]


def table_picture(runs: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2)
    shown = in_order(runs)
    for index, (each, metric) in enumerate(zip(axes, ("accuracy", NORM), strict=True)):
        style.boxes(each, [runs.loc[runs["arm"] == arm, metric].tolist() for arm in shown], shown)
        published = [TABLE[arm][index] for arm in shown]
        each.plot(np.arange(len(shown)) - 0.2, published, "x", color=style.COLORS[1], label="published")
    axes[0].set(ylabel="test accuracy (%)")
    axes[1].set(ylabel="mean ||J|| on 1,000 test digits", yscale="log")
    axes[0].legend(fontsize=8, frameon=False)
    return figure


# Accuracy in percent with 1, 3, 10, 30 training digits of each class
FEW = {
    "none": (49.2, 67.0, 83.3, 90.4),
    "l2": (49.9, 68.1, 84.3, 91.2),
    "dropout": (49.7, 67.4, 83.9, 91.6),
    "jacobian": (49.3, 68.2, 84.5, 91.3),
    "all": (51.7, 69.7, 86.3, 92.7),
}
SIZES = (1, 3, 10, 30)
RECALLED = {(arm, size): value for arm, values in FEW.items() for size, value in zip(SIZES, values, strict=True)}


def few_numbers(folders: Folders) -> pd.DataFrame:
    runs = pd.concat([runs_of(folder, "data.per_class", "test/error", "train/error") for folder in folders.values()])
    return runs.assign(accuracy=100 * (1 - runs["test/error"]))


def few_text(runs: pd.DataFrame) -> Text:
    rows = []
    for size, own in runs.groupby("data.per_class"):
        for arm in in_order(own):
            recalled = RECALLED.get((arm, size))
            gain = "" if recalled is None or arm == "none" else f"{recalled - RECALLED['none', size]:+.1f}"
            ours = own[own["arm"] == arm]
            cells = ("" if recalled is None else f"{recalled:.1f}", gain, f"{ours['accuracy'].median():.1f}")
            compared = "" if arm == "none" else interval(difference(own, "accuracy", arm), 1)
            rows.append((size, arm, *cells, spread(ours["accuracy"], 1), compared))
    ours = ("our median", "mean (sd)", "minus none, 95 % interval")
    return [*table(["digits of a class", "arm", "recalled", "minus none", *ours], rows), "", *few_failures(runs)]


def few_failures(runs: pd.DataFrame) -> Text:
    failed = runs[runs["train/error"] > 0.1]
    named = [f"`{row['arm']}` with {row['data.per_class']} digits, seed {row['seed']}" for _, row in failed.iterrows()]
    return [
        f"Runs that had not learned their training digits (error above 10 %): {'; '.join(named) or 'none'}. They stay "
        "in the means, and rule them at that size, with the intervals: compare the medians there. Each interval is of "
        "one difference alone, not corrected for their number.",
    ]


def few_picture(runs: pd.DataFrame, folders: Folders) -> Figure:
    """Draw median accuracies, which one run that failed does not move, and the recalled ones."""
    figure, (axes,) = style.figure(1, 2, sharey=True)
    ours = {arm: own.groupby("data.per_class")["accuracy"].median() for arm, own in runs.groupby("arm")}
    for each, title, shown in zip(axes, ("ours, median", "recalled"), (ours, FEW), strict=True):
        for index, arm in enumerate(arm for arm in in_order(runs) if arm in shown):
            each.plot(range(len(SIZES)), shown[arm], label=arm, **style.look(index))
        each.set_xticks(range(len(SIZES)), [str(size) for size in SIZES])
        each.set(title=title, xlabel="training digits of each class (not to scale)")
    axes[0].set(ylabel="test accuracy (%)")
    style.legend_below(figure, axes[0], columns=6)
    return figure


STUDIES = studies_of(
    __file__,
    jacobian_package=(package_numbers, package_text, {"": package_picture}),
    jacobian_table=(table_numbers, table_text, {"": table_picture}),
    jacobian_few=(few_numbers, few_text, {"": few_picture}),
)
