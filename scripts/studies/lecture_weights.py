"""Lecture 5.4: the tables of L2 and L1 weights, what the networks' weights look like, and why only L1 gives zeros."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from runner.results import load_model
from studies import style
from studies.study import Folders, Text, runs_of, studies_of
from studies.tables import against_published, table

L2 = (0, 0.001, 0.002, 0.004, 0.01, 0.02)
L1 = (0, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4)
LR = 0.1
L2_PUBLISHED = {
    "train/error": dict(zip(L2, (0, 0, 0, 0.005, 0.022, 0.048), strict=True)),
    "test/error": dict(zip(L2, (0.064, 0.063, 0.064, 0.065, 0.075, 0.101), strict=True)),
}
L1_PUBLISHED = {
    "train/error": dict(zip(L1, (0, 0, 0, 0.004, 0.087, 0.057, 0.496), strict=True)),
    "test/error": dict(zip(L1, (0.064, 0.063, 0.067, 0.068, 0.128, 0.101, 0.516), strict=True)),
}
TOLERANCE = {"train/error": 0.006, "test/error": 0.006}
BINS = np.linspace(-0.4, 0.4, 82)  # an odd number of bins: the one in the middle holds the zeros


def weights_of(path: str) -> np.ndarray:
    return torch.cat([parameter.flatten() for parameter in load_model(path).network.parameters()]).numpy()


def histograms(folder: Path, key: str) -> Figure:
    """Draw the weights of the run with seed 0 for each value of a key, with the same bins."""
    runs = runs_of(folder, key, "path").query("seed == 0 and status == 'done'")
    figure, axes = style.figure(2, -(-len(runs) // 2), height=2.2, sharex=True, sharey=True)
    for each, (_, run) in zip(axes.flat, runs.iterrows(), strict=False):
        weights = weights_of(run["path"])
        each.hist(weights.clip(BINS[0], BINS[-1]), BINS, color=style.COLORS[0], log=True)
        each.set_title(f"weight {run[key]:g}\n{np.mean(weights == 0):.1%} zeros, sd {weights.std():.3f}", fontsize=8)
    for each in axes.flat[len(runs) :]:
        each.axis("off")
    figure.supxlabel("parameter (what lies outside is counted at the edges)", fontsize=9)
    figure.supylabel("number of parameters (log scale)", fontsize=9)
    return figure


def errors(runs: pd.DataFrame, key: str, published: Mapping[str, Mapping[float, float]]) -> Figure:
    figure, ((axes,),) = style.figure()
    for index, (metric, numbers) in enumerate(published.items()):
        style.over_values(axes, runs, key, metric, metric, index, "median")
        look = style.look(index) | {"markersize": 10, "markerfacecolor": "none", "label": f"{metric}, published"}
        style.published(axes, sorted(runs[key].unique()), numbers, **look)
    axes.set_ylabel("error (fraction of digits)")
    axes.legend(fontsize=8, frameon=False)
    return figure


def l2_numbers(folders: Folders) -> pd.DataFrame:
    runs = runs_of(folders["lecture_l2"], "penalty.l2.weight", *TOLERANCE, "path")
    return runs.assign(sd_of_parameters=[weights_of(path).std() for path in runs["path"]]).drop(columns="path")


def l2_text(runs: pd.DataFrame) -> Text:
    spreads = runs.groupby("penalty.l2.weight")["sd_of_parameters"].mean()
    return [
        *against_published(runs, "penalty.l2.weight", L2_PUBLISHED, TOLERANCE),
        "",
        f"The standard deviation of all parameters falls from {spreads.iloc[0]:.4f} without the penalty to "
        f"{spreads.iloc[-1]:.4f} with weight {spreads.index[-1]:g}.",
    ]


def l1_numbers(folders: Folders) -> pd.DataFrame:
    tables = []
    for method, scale in (("proximal", 1.0), ("subgradient", LR)):
        name = "lecture_l1" if method == "proximal" else "lecture_l1_subgradient"
        runs = runs_of(folders[name], "penalty.l1.weight", *TOLERANCE, "probe/zeros/all")
        threshold = (runs.pop("penalty.l1.weight") * scale).round(10)
        tables.append(runs.assign(method=method, threshold=threshold))
    runs = pd.concat(tables)
    return runs[["method", "threshold", *[column for column in runs if column not in ("method", "threshold")]]]


def l1_text(runs: pd.DataFrame) -> Text:
    done = runs[runs["status"] == "done"]
    methods = dict(list(done.groupby("method")))
    rows = []
    for value in sorted(done["threshold"].unique()):
        pair = [methods[method][methods[method]["threshold"] == value] for method in ("proximal", "subgradient")]
        cells = [cell for each in pair for cell in (*_typical(each), f"{each['probe/zeros/all'].mean():.3f}")]
        rows.append((f"{value:g}", *cells))
    return [
        *against_published(methods["proximal"], "threshold", L1_PUBLISHED, TOLERANCE),
        "",
        "The same penalty as a term of the objective, whose subgradient is followed with the learning rate 0.1: "
        "weight = threshold / 0.1. The parameters fluctuate about 0, and none becomes exactly 0. Medians of the test "
        "error, how many of the runs failed (more than twice the median), and zeros as a fraction of all parameters:",
        "",
        *table(["threshold", "proximal", "failed", "zeros", "subgradient", "failed", "zeros"], rows),
    ]


def _typical(runs: pd.DataFrame) -> tuple[str, str]:
    errors = runs["test/error"]
    return f"{errors.median():.4f}", f"{(errors > 2 * errors.median()).sum()} of {len(errors)}"


def minima_numbers(folders: Folders) -> pd.DataFrame:
    """Return the minimum of (x - 1)^2 + (x - 1)^3 / 6 + k x^2 or + k |x| for some k, found on a grid."""
    x = np.linspace(-0.5, 1.5, 2_000_001)  # holds 0 exactly
    x[np.abs(x).argmin()] = 0.0
    loss = (x - 1) ** 2 + (x - 1) ** 3 / 6
    terms = {"k x^2": x**2, "k |x|": np.abs(x)}
    rows = [(name, k, x[np.argmin(loss + k * term)]) for name, term in terms.items() for k in STRENGTHS]
    return pd.DataFrame(rows, columns=["penalty", "k", "minimum"])


STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 4.0)
HIGHEST = 4.0  # value in the picture


def minima_text(numbers: pd.DataFrame) -> Text:
    found = numbers.pivot(index="k", columns="penalty", values="minimum")
    rows = [(f"{k:g}", f"{row['k x^2']:.4f}", f"{row['k |x|']:.4f}") for k, row in found.iterrows()]
    return [
        *table(["k", "minimum with k x^2", "minimum with k \\|x\\|"], rows),
        "",
        "The slope of the loss at 0 is -2 + 1/2 = -1.5. The slope of k |x| jumps there from -k to k, so that 0 is "
        "the minimum from k = 1.5 on, exactly. The slope of k x^2 is 0 at 0: its minimum only comes near 0.",
    ]


def minima_picture(numbers: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2, sharey=True)
    x = np.linspace(-0.5, 1.5, 401)
    for each, (name, term) in zip(axes, {"k x^2": x**2, "k |x|": np.abs(x)}.items(), strict=True):
        for index, k in enumerate(STRENGTHS):
            curve = (x - 1) ** 2 + (x - 1) ** 3 / 6 + k * term
            look = style.look(index)
            each.plot(x, curve, color=look["color"], linestyle=look["linestyle"])
            at = numbers.loc[(numbers["penalty"] == name) & (numbers["k"] == k), "minimum"].item()
            each.plot(at, np.interp(at, x, curve), look["marker"], color=look["color"], markersize=7, zorder=4)
            end = np.flatnonzero(curve <= HIGHEST)[-1]
            each.annotate(f"k = {k:g}", (x[end], curve[end]), (3, 2), textcoords="offset points", fontsize=7)
        each.axvline(0, color="0.6", linewidth=0.8)
        each.set(xlabel="x", title=f"loss + {name}", ylim=(-0.6, HIGHEST + 0.3), xlim=(-0.5, 1.8))
    axes[0].set_ylabel("objective")
    return figure


STUDIES = studies_of(
    __file__,
    lecture_l2=(
        l2_numbers,
        l2_text,
        {
            "": lambda runs, folders: errors(runs, "penalty.l2.weight", L2_PUBLISHED),
            "_histograms": lambda runs, folders: histograms(folders["lecture_l2"], "penalty.l2.weight"),
        },
    ),
    lecture_l1=(
        l1_numbers,
        l1_text,
        {
            "": lambda runs, folders: errors(runs[runs["method"] == "proximal"], "threshold", L1_PUBLISHED),
            "_histograms": lambda runs, folders: histograms(folders["lecture_l1"], "penalty.l1.weight"),
        },
    ),
    lecture_minima=(minima_numbers, minima_text, {"": minima_picture}),
)
