"""All penalties against none, and against what else is done: on scikit-learn's digits, and on 1,000 digits of MNIST."""

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from benchmark import compare
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runner.config import conf_files
from runner.summary.compare import Interval, holm
from runner.summary.groups import summarize
from runner.summary.runs import config_of, read_run
from runner.system import keep_freed_memory
from runner.training.build import build
from runner.training.loop import Loop
from studies import style
from studies.study import Folders, Text, studies_of
from studies.tables import interval, missed, paired, range_end, spread, table

ERROR = "test/error"
# What is measured of each run, and what it is called.
METRICS = {
    ERROR: "test error",
    "probe/noise/0.3": "error under noise .3",
    "probe/shift/2": "error shifted by 2 pixels",
    "probe/fgsm/0.1": "error under FGSM .1",
    "probe/pgd/0.1": "error under PGD .1",
    "probe/jacobian_norm/frobenius": "\\|\\|J\\|\\|",
    "probe/boundary/mean": "margin",
}
DRAWN = (ERROR, "probe/noise/0.3", "probe/shift/2", "probe/pgd/0.1")
LEVEL = 0.05
ROUNDS = 9
README_COLUMNS = {
    ERROR: "test error",
    "probe/noise/0.3": "with noise .3",
    "probe/shift/2": "shifted by 2 pixels",
    "probe/pgd/0.1": "attacked (PGD .1)",
}


def numbers(folders: Folders) -> pd.DataFrame:
    """Return a row for each run of the comparison: arm, what its trials chose, metrics, cost of a step."""
    compared, early = folders.values()
    rows = [row for row in summarize(compared).rows if "arm" in row.keys]  # others are of an earlier version of it
    costs = costs_of({str(row.keys["arm"]): row.runs[0].path for row in rows})
    found = [
        {"arm": row.keys["arm"], "chosen": row.keys["chosen"], "cost": costs[str(row.keys["arm"])], **run.result}
        for row in rows
        for run in row.runs
    ]
    for row in summarize(early).rows:
        of_best = {"arm": "early_stopping", "chosen": "epoch", "cost": 1.0, **dict.fromkeys(METRICS)}  # no probes
        found += [{**run.result, **of_best, ERROR: run.result["best/test/error"]} for run in row.runs]
    columns = ["arm", "chosen", "seed", "status", *METRICS, "cost", "seconds"]
    return pd.DataFrame(found)[columns].sort_values(["arm", "seed"], ignore_index=True)


def costs_of(runs: dict[str, Path]) -> dict[str, float]:
    """Return the time of an epoch of each arm, as a ratio to that of the arm none, measured side by side."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run does
    loops = {}
    for arm in sorted(runs, key=lambda arm: arm != "none"):  # the others are compared with the first
        config = config_of([read_run(runs[arm])])
        loops[arm] = Loop(build(config), config)
    epochs = {arm: lambda loop=loop: loop.run_epoch(lambda: None) for arm, loop in loops.items()}
    return {arm: timing.ratio for arm, timing in compare(epochs, ROUNDS, clock=time.process_time).items()}


def differences(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return for each arm but none the mean difference to none, its interval, and p corrected by Holm for all arms."""
    arms = [arm for arm in runs["arm"].unique() if arm != "none" and runs.loc[runs["arm"] == arm, metric].notna().all()]
    found = [paired(runs, metric, runs["arm"] == arm, runs["arm"] == "none") for arm in arms]
    table = pd.DataFrame(found, index=arms).assign(p=holm([each.p for each in found]))
    return table.sort_values("mean")


def text(runs: pd.DataFrame) -> Text:
    return [*table_of_errors(runs), "", *table_of_metrics(runs), "", *findings(runs)]


def table_of_errors(runs: pd.DataFrame) -> list[str]:
    """Return the arms by their test error: what was chosen, the difference to none, the cost."""
    found = differences(runs, ERROR)
    first = runs.groupby("arm").first()
    rows = []
    for arm in ["none", *found.index]:
        own = runs[runs["arm"] == arm]
        chosen = "" if arm == "none" else f"{first.chosen[arm].replace(f'{arm}.', '')}{at_end(arm, first.chosen[arm])}"
        against = ("", "") if arm == "none" else (interval(Interval(*found.loc[arm])), f"{found.p[arm]:.2g}")
        rows.append((arm, chosen, spread(own[ERROR]), *against, f"{first.cost[arm]:.1f}"))
    return table(["", "chosen", "test error", "difference to none, 95 % interval", "p", "cost"], rows)


def at_end(arm: str, chosen: str) -> str:
    own = conf_files.load(conf_files.file_of("sweep", "compare_penalties"))["sweep"]["arms"].get(arm, {})
    options = conf_files.load(conf_files.file_of("penalty", own.get("penalty", "none"))).get(arm, {})
    ranges = own.get("sweep.ranges") or {"": options.get("weight_range")}
    (tried,) = ranges.values()
    return range_end(float(chosen.rpartition("=")[2]), *tried) if tried else ""


def rows_of_means(runs: pd.DataFrame, metrics: Iterable[str], form: str) -> list[tuple[str, ...]]:
    found, means = {metric: differences(runs, metric) for metric in metrics}, runs.groupby("arm")[list(metrics)].mean()
    return [
        (arm, *(f"{means.loc[arm, metric]:{form}}{arrow(found[metric], arm)}" for metric in metrics))
        for arm in ["none", *found[ERROR].index]
        if means.loc[arm].notna().all()
    ]


def table_of_metrics(runs: pd.DataFrame) -> list[str]:
    return table([f"mean over {runs['seed'].nunique()} seeds", *METRICS.values()], rows_of_means(runs, METRICS, ".3g"))


def table_of_readme(runs: pd.DataFrame) -> list[str]:
    """Return the short table of the README: none, and the arms that differ from it in one of its columns."""
    costs, rows = runs.groupby("arm")["cost"].first(), rows_of_means(runs, README_COLUMNS, ".3f")
    shown = [row for row in rows if row[0] == "none" or any(cell[-1] in "↓↑" for cell in row)]
    return table(["", *README_COLUMNS.values(), "cost of training"], [(*row, f"{costs[row[0]]:.1f}") for row in shown])


def arrow(found: pd.DataFrame, arm: str) -> str:
    if arm not in found.index or not found.p[arm] <= LEVEL:
        return ""
    return " ↓" if found["mean"][arm] < 0 else " ↑"


def findings(runs: pd.DataFrame) -> Text:
    """Return what the tables say, in sentences."""
    lines = []
    for metric in (ERROR, "probe/noise/0.3", "probe/shift/2", "probe/fgsm/0.1", "probe/pgd/0.1"):
        found = differences(runs, metric)
        lower, higher = (
            [arm for arm in found.index if found.p[arm] <= LEVEL and sign * found["mean"][arm] > 0] for sign in (-1, 1)
        )
        words = [f"lower with {', '.join(lower)}"] if lower else []
        words += [f"higher with {', '.join(higher[::-1])}"] if higher else []
        words += ["no other difference found" if words else "no difference found"]
        name, (typical, largest) = METRICS[metric], missed(found, runs["seed"].nunique())
        lines += [
            f"**{name[0].upper()}{name[1:]}**: {'; '.join(words)}. Holm's first step calls no mean difference below "
            f"{typical:.2g} one (median of the rows; {largest:.2g} in the most scattered one). "
            f"{scattered(runs, metric)}".rstrip(),
            "",
        ]
    ours = runs["arm"] == "tangent_prop"
    for metric in (ERROR, "probe/shift/2"):
        found = paired(runs, metric, ours, runs["arm"] == "distorted_inputs")
        verdict = "no difference found" if not found.p <= LEVEL else "lower" if found.mean < 0 else "higher"
        lines += [
            f"Tangent prop against training on images distorted by the same transformations, {METRICS[metric]}: "
            f"{interval(found)} (p = {found.p:.2g}, this one comparison): {verdict}.",
            "",
        ]
    return lines[:-1]


def scattered(runs: pd.DataFrame, metric: str) -> str:
    found, means = differences(runs, metric), runs.groupby("arm")[metric].mean()
    far = [
        f"{arm} ({means[arm]:.3g})"
        for arm in found.index
        if found.p[arm] > LEVEL and not 2 / 3 < means[arm] / means["none"] < 3 / 2
    ]
    return f"Far from none in the mean, and not called different for their scatter: {', '.join(far)}." if far else ""


def picture(runs: pd.DataFrame, folders: Folders) -> Figure:
    """Draw the differences to none, a panel for each kind of test, the arms in the order of the test error."""
    order = list(differences(runs, ERROR).index)
    figure, (axes,) = style.figure(1, len(DRAWN), height=1.2 + 0.24 * len(order), sharey=True)
    for each, metric in zip(axes, DRAWN, strict=True):
        draw_differences(each, differences(runs, metric), order)
        each.set_title(METRICS[metric], fontsize=9)
    axes[0].set_yticks(range(len(order)), order)
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    figure.supxlabel("difference to no penalty, paired by seed; left of 0 is better", fontsize=9)
    return figure


def draw_differences(axes: Axes, found: pd.DataFrame, order: Sequence[str]) -> None:
    """Draw mean and interval of each arm; filled where it is called different."""
    reach = 1.6 * np.nanmax(found["mean"].abs())  # an interval of few seeds may be far wider than all means
    for place, arm in enumerate(order):
        if arm in found.index:
            mean, low, high, p = found.loc[arm]
            if not math.isnan(low):
                axes.plot([max(low, -reach), min(high, reach)], [place, place], "-", color="black", linewidth=1.4)
            fill = "black" if p <= LEVEL else "white"
            axes.plot(mean, place, "o", color="black", markerfacecolor=fill, markersize=5, zorder=3)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlim(-1.05 * reach, 1.05 * reach)


STUDIES = studies_of(
    __file__,
    compare_digits=(numbers, text, {"": picture}),
    compare_mnist=(numbers, text, {"": picture}),
)
