"""Lecture 5.6: a learning rate that falls, why the test loss rises while the error falls, and capacity."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.summary_pb2 import HistogramProto

from runner.results import load_epochs, load_model
from studies import style
from studies.study import Folders, Text, directories_of, runs_of, studies_of
from studies.tables import interval, paired, spread, table, verdict

SPLITS = ("train", "test")
KINDS = ("error", "loss", "loss_right", "loss_wrong")
METRICS = tuple(f"{split}/{kind}" for split in SPLITS for kind in KINDS)
FALLING, CONSTANT = "0.1, then 0.05", "0.1"
SWEEPS = {FALLING: "lecture_cifar", CONSTANT: "lecture_cifar_constant"}
TURN = 25  # epochs with the first learning rate
EARLIER = [  # schedule, epoch, metric, number
    (FALLING, 5, "test/loss", 0.99),
    (FALLING, 10, "test/loss", 1.01),
    (FALLING, 25, "test/loss", 1.74),
    (FALLING, 50, "train/error", 0.0004),
    (FALLING, 50, "test/error", 0.334),
    (FALLING, 50, "test/loss", 3.28),
    (CONSTANT, 50, "train/error", 0.097),
    (CONSTANT, 50, "test/error", 0.348),
    (CONSTANT, 50, "test/loss", 2.92),
]
SHOWN = (5, 10, 25, 50)  # epochs in the picture of histograms
BINS = np.arange(-8.25, 2.01, 0.25)  # of log10 of the losses
IMAGES = {"train": 25_000, "test": 1_000}
FEWEST_WRONG = 10  # images whose mean loss is drawn


def recorded_losses(path: str) -> Iterator[tuple[str, int, HistogramProto]]:
    """Yield split, epoch and histogram of the log10 of the losses per example, as a run's TensorBoard has them."""
    tags = {f"losses/{split}/log10": split for split in SPLITS}
    for file in sorted(Path(path).glob("*tfevents*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tag in tags:
                    yield tags[value.tag], event.step, value.histo


def typical_losses(path: str) -> pd.DataFrame:
    rows = [(path, epoch, f"{split}/typical", 10 ** (h.sum / h.num)) for split, epoch, h in recorded_losses(path)]
    found = pd.DataFrame(rows, columns=["path", "epoch", "tag", "loss"])
    return found.pivot(index=["path", "epoch"], columns="tag", values="loss").reset_index()


def cifar_numbers(folders: Folders) -> pd.DataFrame:
    """Return a row for each run and evaluated epoch; the seconds stand in the last one."""
    tables = []
    for schedule, name in SWEEPS.items():
        runs = runs_of(folders[name], "path")
        epochs = load_epochs(*directories_of(folders[name]))[["path", "seed", "epoch", *METRICS]]
        typical = pd.concat([typical_losses(path) for path in runs["path"]])
        found = epochs.merge(typical, on=["path", "epoch"]).merge(runs[["path", "seconds"]], on="path")
        found["seconds"] = found["seconds"].where(found["epoch"] == found["epoch"].max())
        tables.append(found.assign(schedule=schedule))
    numbers = pd.concat(tables).drop(columns="path").sort_values(["schedule", "seed", "epoch"], ignore_index=True)
    return numbers[["schedule", *numbers.columns.drop("schedule")]]


def cifar_text(numbers: pd.DataFrame) -> Text:
    falling = numbers[numbers["schedule"] == FALLING]
    return [
        *against_earlier(numbers),
        "",
        *explanation(falling),
        "",
        *by_epoch(falling),
        "",
        *against_constant(numbers),
    ]


def against_earlier(numbers: pd.DataFrame) -> list[str]:
    """Return a table of the numbers of an earlier run beside those of now."""
    rows = []
    for schedule, epoch, metric, earlier in EARLIER:
        ours = numbers.loc[(numbers["schedule"] == schedule) & (numbers["epoch"] == epoch), metric]
        reach = f"{ours.min():.4f} to {ours.max():.4f}" if len(ours) > 1 else ""
        if len(ours):
            cells = (spread(ours), reach, len(ours), verdict(ours, earlier, 0))
            rows.append((schedule, epoch, metric, f"{earlier:g}", *cells))
    names = ("earlier", "mean (sd)", "our range", "n", "the earlier number is")
    return [*table(["learning rate", "epoch", "metric", *names], rows), "", *unlike_earlier(numbers)]


def unlike_earlier(numbers: pd.DataFrame) -> Text:
    """Return in words at which epochs the earlier test loss lies outside the range of our seeds."""
    falling = numbers[numbers["schedule"] == FALLING]
    factors = {}
    for schedule, epoch, metric, loss in EARLIER:
        ours = falling.loc[falling["epoch"] == epoch, metric]
        if (schedule, metric) == (FALLING, "test/loss") and "outside" in verdict(ours, loss, 0):
            factors[epoch] = f"{ours.mean() / loss:.2f}"
    if not factors:
        return []
    return [
        f"Our test losses at epoch {', '.join(map(str, factors))} are {', '.join(factors.values())} times the earlier "
        "ones, and none of our seeds comes as low: something in the training was different, and we do not know what. "
        "What this section is about shows in both: after epoch 10 the test loss rises to about three times its size."
    ]


def explanation(falling: pd.DataFrame) -> Text:
    """Return in words what happens after the fall of the learning rate, and why, at the last epoch of all seeds."""
    seeds = falling.groupby("epoch")["seed"].nunique()
    last, very_last = seeds.index[seeds == seeds.max()].max(), seeds.index.max()
    first, end = (falling[falling["epoch"] == epoch].mean(numeric_only=True) for epoch in (TURN, last))

    def change(tag: str, digits: int, since: int = TURN, until: int = last) -> str:
        return interval(paired(falling, tag, falling["epoch"] == until, falling["epoch"] == since), digits)

    later = (
        f" Epoch {very_last} was reached by {seeds[very_last]} seeds only; from epoch {TURN} on their changes are "
        f"{change('test/error', 4, until=very_last)} and {change('test/loss', 2, until=very_last)}."
    )
    share = end["test/error"] * end["test/loss_wrong"] / end["test/loss"]
    return [
        f"From epoch {TURN} to {last} the test error changes by {change('test/error', 4)} and the test loss by "
        f"{change('test/loss', 2)} (paired by seed, 95 % interval, {seeds[last]} seeds): fewer images are wrong, and "
        f"the loss is larger all the same. From epoch {TURN + 5} to {last}, when the training error is near 0, the "
        f"changes are {change('test/error', 4, TURN + 5)} and {change('test/loss', 2, TURN + 5)}."
        + (later if very_last > last else ""),
        "",
        "Why: the mean loss is that of the right images times their fraction plus that of the wrong ones times theirs. "
        f"From epoch {TURN} to {last} the mean loss of a wrong test image grows from {first['test/loss_wrong']:.2f} to "
        f"{end['test/loss_wrong']:.2f} ({change('test/loss_wrong', 2)}), that of a right one goes from "
        f"{first['test/loss_right']:.3f} to {end['test/loss_right']:.3f} ({change('test/loss_right', 3)}), and "
        f"the wrong images, {end['test/error']:.1%} of all, make {share:.1%} of the test loss. A network that has "
        "learned almost all training images is sure of itself, also where it is wrong; the loss grows with the "
        "difference of the logits there, while the error only counts. Most images are better off: the geometric mean "
        f"of their losses falls from {first['test/typical']:.4f} to {end['test/typical']:.4f} (a loss of 0 counts as "
        "1e-8).",
    ]


def by_epoch(falling: pd.DataFrame) -> list[str]:
    tags = ("train/error", "test/error", "test/loss", "test/loss_right", "test/loss_wrong", "test/typical")
    names = ("train error", "test error", "test loss", "of the right", "of the wrong", "geometric mean")
    epochs = falling.groupby("epoch")
    rows = [(epoch, *(f"{own[tag].mean():.4f}" for tag in tags)) for epoch, own in epochs]
    return table(["mean over the seeds, epoch", *names], rows)


def against_constant(numbers: pd.DataFrame) -> Text:
    """Return what tells the two schedules apart at the end, as far as the seeds allow it."""
    ends = numbers[numbers["epoch"] == numbers["epoch"].max()]
    constant = ends[ends["schedule"] == CONSTANT]
    if not len(constant):
        return ["With the constant learning rate no run had ended when these numbers were written."]
    falling = ends[(ends["schedule"] == FALLING) & ends["seed"].isin(constant["seed"])]
    tags = ("train/error", "test/error", "test/loss")
    pairs = "; ".join(f"{tag} {constant[tag].mean():.4f} and {falling[tag].mean():.4f}" for tag in tags)
    return [
        f"To save time the constant learning rate was trained with seed {', '.join(map(str, constant['seed']))} "
        f"alone. With it and with the falling one, from the same start, at the end: {pairs}. Up to epoch {TURN} both "
        "are the same bits. No difference between the schedules is claimed."
    ]


def cifar_curves(numbers: pd.DataFrame, folders: Folders) -> Figure:
    """Draw error and loss by epoch, of both schedules."""
    figure, (axes,) = style.figure(1, 2)
    numbers = numbers[(numbers["schedule"] == FALLING) | (numbers["epoch"] >= TURN)]  # before that they are the same
    for each, kind in zip(axes, ("error", "loss"), strict=True):
        for index, (schedule, split) in enumerate((s, p) for s in (FALLING, CONSTANT) for p in SPLITS):
            if len(rows := numbers[numbers["schedule"] == schedule]):
                seeds = "" if rows["seed"].nunique() > 1 else ", one seed"
                label = f"{split}, learning rate {schedule}{seeds}"
                style.band(each, rows, "epoch", f"{split}/{kind}", label, index)
        each.axvline(TURN, color="0.6", linewidth=0.8)
        each.set(xlabel="epoch", ylabel="error (fraction of images)" if kind == "error" else "mean loss")
    style.legend_below(figure, axes[0], columns=2)
    return figure


def right_and_wrong(numbers: pd.DataFrame, folders: Folders) -> Figure:
    """Draw the mean losses of right and of wrong images by epoch, training and test."""
    figure, (axes,) = style.figure(1, 2, sharey=True)
    rows = numbers[numbers["schedule"] == FALLING]
    labels = {"loss_wrong": "wrong", "loss": "all", "loss_right": "right", "typical": "all, geometric mean"}
    for each, split in zip(axes, SPLITS, strict=True):
        for index, (kind, label) in enumerate(labels.items()):
            shown = rows[rows["epoch"].isin(_with_enough_wrong(rows, split))] if kind == "loss_wrong" else rows
            style.band(each, shown, "epoch", f"{split}/{kind}", label, index)
        each.axvline(TURN, color="0.6", linewidth=0.8)
        each.set(xlabel="epoch", title=f"{'training' if split == 'train' else split} images", yscale="log")
    axes[0].set_ylabel("mean loss (log scale)")
    style.legend_below(figure, axes[0], columns=4)
    return figure


def _with_enough_wrong(rows: pd.DataFrame, split: str) -> list[int]:
    wrong = rows[f"{split}/error"] * IMAGES[split]
    fewest = wrong.groupby(rows["epoch"]).min()
    return list(fewest.index[fewest >= FEWEST_WRONG])


def histograms(folder: Path, epochs: Sequence[int]) -> Figure:
    """Draw the losses per image of the run with seed 0 on a log axis, at some epochs."""
    path = runs_of(folder, "path").query("seed == 0")["path"].item()
    found = {(split, epoch): histogram for split, epoch, histogram in recorded_losses(path)}
    epochs = [epoch for epoch in epochs if ("test", epoch) in found]
    figure, axes = style.figure(2, len(epochs), height=2.0, sharex=True, sharey=True)
    for row, split in zip(axes, SPLITS, strict=True):
        for each, epoch in zip(row, epochs, strict=True):
            histogram = found[split, epoch]
            edges = np.array([histogram.min, *histogram.bucket_limit])
            up_to = np.concatenate([[0], np.cumsum(histogram.bucket)]) / histogram.num
            fractions = np.diff(np.interp(BINS, edges, up_to))  # of bins that are alike, unlike TensorBoard's
            each.stairs(fractions, BINS, fill=True, color=style.COLORS[SPLITS.index(split)])
            each.axvline(np.log10(np.log(10)), color="black", linewidth=1, linestyle="--")
            each.set_title(f"{'training' if split == 'train' else split}, epoch {epoch}", fontsize=8)
    axes[0, 0].set(xlim=(-8.2, 2), xticks=range(-8, 3, 2))
    axes[0, 0].set_xticklabels([f"1e{power}" for power in range(-8, 3, 2)])
    figure.supxlabel("loss of an image (log scale)", fontsize=9)
    figure.supylabel("fraction of images, in each quarter of a decade", fontsize=9)
    return figure


def capacity_numbers(folders: Folders) -> pd.DataFrame:
    runs = runs_of(folders["lecture_capacity"], "model.width", "train/error", "test/error", "test/loss", "path")
    sizes = [sum(parameter.numel() for parameter in load_model(path).network.parameters()) for path in runs["path"]]
    return runs.assign(parameters=sizes).drop(columns="path")


def capacity_text(runs: pd.DataFrame) -> Text:
    rows = []
    for width, own in runs.groupby("model.width"):
        cells = [
            text for tag in ("train/error", "test/error") for text in (f"{own[tag].median():.4f}", spread(own[tag]))
        ]
        rows.append((f"{width:g}", f"{own['parameters'].iloc[0]:,}", *cells))
    header = ["width", "parameters", "train error, median", "mean (sd)", "test error, median", "mean (sd)"]
    medians = runs.groupby("model.width")["train/error"].median()
    return [*table(header, rows), "", *beyond_enough(runs, sorted(medians.index[medians == 0]))]


def beyond_enough(runs: pd.DataFrame, fitted: Sequence[float]) -> Text:
    """Return what more parameters do than the least width of `fitted`, whose median network learns all digits."""
    if len(fitted) < 2:
        return []
    widest = runs["model.width"] == fitted[-1]
    changes = [
        f"{interval(paired(runs, 'test/error', widest, runs['model.width'] == width))} against width {width:g}"
        for width in fitted[:-1]
    ]
    return [
        f"From width {fitted[0]:g} on the median network learns all training digits. More parameters than that do not "
        f"make the test error larger: at width {fitted[-1]:g} it differs by {', '.join(changes)} (paired by seed, 95 % "
        "intervals, not corrected for their number)."
    ]


def capacity_picture(runs: pd.DataFrame, folders: Folders) -> Figure:
    figure, ((axes,),) = style.figure()
    for index, tag in enumerate(("train/error", "test/error")):
        axes.plot(runs["model.width"] * 1.03 ** (2 * index - 1), runs[tag], ".", color=style.COLORS[index], alpha=0.4)
        medians = runs.groupby("model.width")[tag].median()
        axes.plot(medians.index, medians, label=tag, **style.look(index))
    widths = sorted(runs["model.width"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [f"{width:g}" for width in widths])
    axes.set(xlabel="width (factor of all hidden sizes, log scale)", ylabel="error (fraction of digits)")
    axes.legend(fontsize=8, frameon=False)
    return figure


STUDIES = studies_of(
    __file__,
    lecture_cifar=(
        cifar_numbers,
        cifar_text,
        {
            "": cifar_curves,
            "_right_wrong": right_and_wrong,
            "_histograms": lambda numbers, folders: histograms(folders["lecture_cifar"], SHOWN),
        },
    ),
    lecture_capacity=(capacity_numbers, capacity_text, {"": capacity_picture}),
)
