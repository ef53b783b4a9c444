"""Lecture 5.2: the noise of mini-batches, a narrow valley; with 5.3: all optimizers on digits."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from data import Split
from losses import Criterion
from runner.config.compose import project_composer
from runner.results import load_model
from runner.summary.runs import config_of, read_run
from runner.training.build import build, build_optimizer
from runner.training.schedule import Constant
from studies import style
from studies.study import Folders, Text, epochs_of, runs_of, studies_of
from studies.tables import interval, paired, spread, table

# ---------------------------------------------------------------- a narrow valley

CURVATURES = torch.tensor([1.0, 30.0], dtype=torch.float64)
START = (6.0, 1.0)
BOUND, MOST_STEPS = 1e-3, 20_000
LRS = {  # of each optimizer
    "sgd": (0.01, 0.03, 0.06, 0.064, 0.066, 0.068, 0.1),
    "momentum": (0.005, 0.01, 0.02, 0.05, 0.1),
    "nesterov": (0.005, 0.01, 0.02, 0.05, 0.1),
    "adam": (0.001, 0.01, 0.1, 0.3, 1),
}
DROP, LOWER = 20, 0.1  # the step at which the learning rate falls, and to which part of it


class Point(nn.Module):
    """A place in the valley f = (x^2 + 30 y^2) / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor(START, dtype=torch.float64))


def optimizer_node(name: str, *overrides: str) -> Mapping[str, Any]:
    return project_composer().compose([f"optimizer={name}", *overrides]).values


def places(config: Mapping[str, Any], slope: Callable[[Tensor], Tensor], drop: int | None = None) -> Iterator[Tensor]:
    """Yield the places from the start on; the learning rate falls to a tenth at step `drop`."""
    point = Point()
    optimizer = build_optimizer(config, point, Constant())
    for step in range(MOST_STEPS + 1):
        yield point.place.detach().clone()
        if step == drop:
            optimizer.param_groups[0]["lr"] *= LOWER
        point.place.grad = slope(point.place.detach())
        optimizer.step()


def places_of_the_slide(lr: float, momentum: float, drop: int | None = None) -> Iterator[Tensor]:
    """Yield the places of u = momentum * u + lr * gradient, w = w - u, as the lecture has it."""
    place, velocity = torch.tensor(START, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for step in range(MOST_STEPS + 1):
        yield place
        lr = lr * LOWER if step == drop else lr
        velocity = momentum * velocity + lr * in_valley(place)
        place = place - velocity


def in_valley(place: Tensor) -> Tensor:
    return CURVATURES * place


def until_settled(points: Iterator[Tensor]) -> Iterator[Tensor]:
    for point in points:
        yield point
        if not BOUND <= height(point) < 1e6:
            return


def height(point: Tensor) -> float:
    return 0.5 * (CURVATURES * point.square()).sum().item()


def valley(folders: Folders) -> pd.DataFrame:
    """Return the places by step: all with the best learning rate of each optimizer, with the others the last one.

    `ramp`: under a constant gradient of 1 in both coordinates. `drop`, `torch` and `drop_slide`, `slide`: momentum as
    torch and as the lecture have it, with a learning rate that falls and with a constant one.
    """
    rows = []
    for name, lrs in LRS.items():
        tracks = {lr: list(until_settled(places(optimizer_node(name, f"optimizer.lr={lr}"), in_valley))) for lr in lrs}
        best = min(tracks, key=lambda lr: (height(tracks[lr][-1]) >= BOUND, len(tracks[lr])))
        for lr, found in tracks.items():
            keep = range(len(found)) if lr == best else [len(found) - 1]
            rows += [("valley", name, lr, step, *found[step].tolist(), height(found[step])) for step in keep]
    config = optimizer_node("momentum")
    lr, momentum = config["optimizer"]["lr"], config["optimizer"]["momentum"]
    others = {
        "ramp": places(config, torch.ones_like),
        "torch": places(config, in_valley),
        "slide": places_of_the_slide(lr, momentum),
        "drop": places(config, in_valley, DROP),
        "drop_slide": places_of_the_slide(lr, momentum, DROP),
    }
    for kind, points in others.items():
        steps = enumerate(islice(points, 301 if kind == "ramp" else 41))
        rows += [
            (kind, "momentum", lr, step, *p.tolist(), height(p)) for step, p in steps if kind != "ramp" or step > 298
        ]
    return pd.DataFrame(rows, columns=["kind", "optimizer", "lr", "step", "x", "y", "f"])


def valley_text(numbers: pd.DataFrame) -> Text:
    last = numbers[numbers["kind"] == "valley"].groupby(["optimizer", "lr"]).last()
    default = {name: optimizer_node(name)["optimizer"]["lr"] for name in LRS}
    rows = [
        (name, f"{lr:g}{' (default)' if lr == default[name] else ''}", _steps(last.loc[(name, lr)]))
        for name, lrs in LRS.items()
        for lr in sorted(lrs)
    ]
    fastest = {name: last.loc[name].query(f"f < {BOUND}")["step"].min() for name in LRS}
    places = {kind: own.set_index("step")[["x", "y"]] for kind, own in numbers.groupby("kind")}
    lr, momentum = (optimizer_node("momentum")["optimizer"][key] for key in ("lr", "momentum"))
    velocity = -places["ramp"].diff().iloc[-1]["x"]
    apart = (places["torch"] - places["slide"]).abs().to_numpy().max()
    before, after = (
        [np.linalg.norm(places[kind].diff().loc[step]) for kind in ("drop", "drop_slide")] for step in (DROP, DROP + 1)
    )
    return [
        *table(["optimizer", "learning rate", f"steps to f < {BOUND:g}"], rows),
        "",
        "Plain SGD diverges for learning rates above 2 / 30 = 0.0667, twice the inverse of the largest curvature. The "
        f"fewest steps of these learning rates: {', '.join(f'{name} {steps:.0f}' for name, steps in fastest.items())}.",
        "",
        f"Under a constant gradient of 1, a step of momentum (learning rate {lr:g}, momentum {momentum:g}) becomes "
        f"{velocity:.6f} long: its terminal velocity lr / (1 - momentum) = {lr / (1 - momentum):g}.",
        "",
        "The lecture's momentum, u = momentum * u + lr * gradient, is torch's only at a constant learning rate: the "
        f"places of 40 steps then {f'differ by at most {apart:g}' if apart else 'agree in all six digits'}. When the "
        f"learning rate falls to a tenth at step {DROP}, torch's next step is {after[0] / before[0]:.2f} times as "
        f"long as the one before, the lecture's {after[1] / before[1]:.2f} times: its velocity remembers the old "
        "learning rate.",
    ]


def _steps(row: pd.Series) -> str:
    if row["f"] < BOUND:
        return f"{row['step']:.0f}"
    return f"more than {MOST_STEPS}" if row["step"] >= MOST_STEPS else "diverges"


def valley_picture(numbers: pd.DataFrame, folders: Folders) -> Figure:
    figure, axes = style.figure(2, 2, height=2.4, sharex=True, sharey=True)
    x, y = np.meshgrid(np.linspace(-5, 7, 201), np.linspace(-1.3, 1.3, 201))
    valley = numbers[numbers["kind"] == "valley"]
    for index, (each, name) in enumerate(zip(axes.flat, LRS, strict=True)):
        each.contour(x, y, (x**2 + 30 * y**2) / 2, levels=[0.1, 1, 4, 10, 20, 33], colors="0.75", linewidths=0.7)
        own = valley[valley["optimizer"] == name]
        best = own["lr"].value_counts().idxmax()  # of the others there is the last step alone
        own = own[own["lr"] == best]
        each.plot(own["x"], own["y"], linewidth=1, **style.look(index) | {"markersize": 3, "linestyle": "-"})
        each.set_title(f"{name}, lr {best:g}: f < {BOUND:g} after {own['step'].max()} steps", fontsize=9)
    figure.supxlabel("x (curvature 1)", fontsize=9)
    figure.supylabel("y (curvature 30)", fontsize=9)
    return figure


# ---------------------------------------------------------------- the noise of mini-batches

SIZES = (1, 3, 10, 32, 100, 320)
BATCHES = 60  # of each size


def batches(folders: Folders) -> pd.DataFrame:
    """Return E ||g_B - g||^2 for mini-batches of each size, before and after training, and what theory says of it."""
    tables = []
    torch.set_num_threads(1)  # more of them only wait for each other where a batch has few examples
    for path in sorted(runs_of(folders["lecture_batches"], "path")["path"]):
        components = build(config := config_of([read_run(Path(path))]))
        trained = load_model(path).network.requires_grad_()
        for epoch, network in ((0, components.model), (config["epochs"], trained)):
            found = noise(network, components.criterion, components.dataset.train, config["seed"])
            tables.append(found.assign(epoch=epoch, seed=config["seed"]))
    return pd.concat(tables)[["seed", "epoch", "size", "variance", "closed_form", "squared_gradient"]]


def noise(network: nn.Module, criterion: Criterion, examples: Split, seed: int) -> pd.DataFrame:
    """Return a row for each size of mini-batches."""
    params, count = list(network.parameters()), len(examples)

    def gradient(indices: Tensor) -> Tensor:
        loss = criterion(network(examples.inputs[indices]), examples.targets[indices]).mean()
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, params)])

    full = gradient(torch.arange(count))

    def mean_square(batches: Iterable[Tensor]) -> float:
        return float(np.mean([(gradient(indices) - full).square().sum().item() for indices in batches]))

    single = mean_square(torch.arange(count).split(1))
    generator, rows = torch.Generator().manual_seed(seed), []
    for size in SIZES:
        found = mean_square(torch.randperm(count, generator=generator)[:size] for _ in range(BATCHES))
        rows.append((size, found, single / size * (count - size) / (count - 1), full.square().sum().item()))
    return pd.DataFrame(rows, columns=["size", "variance", "closed_form", "squared_gradient"])


def batches_text(numbers: pd.DataFrame) -> Text:
    means = numbers.groupby(["epoch", "size"]).mean()
    rows = []
    for (epoch, size), row in means.iterrows():
        ratio = (numbers["variance"] / numbers["closed_form"])[(numbers["epoch"] == epoch) & (numbers["size"] == size)]
        cells = (f"{row['variance']:.4g}", f"{row['closed_form']:.4g}", spread(ratio, 3))
        rows.append((epoch, size, *cells, f"{row['variance'] / row['squared_gradient']:.3g}"))
    first, last = sorted(set(numbers["epoch"]))
    factors = [means.loc[(epoch, 1), "variance"] / means.loc[(epoch, 100), "variance"] for epoch in (first, last)]
    noises = [(means.loc[epoch, "variance"] / means.loc[epoch, "squared_gradient"])[32] for epoch in (first, last)]
    return [
        *table(["epoch", "batch size", "measured", "closed form", "ratio, mean (sd)", "noise / signal"], rows),
        "",
        "The closed form for B of N examples, drawn without replacement, is s^2 / B * (N - B) / (N - 1), where s^2 is "
        f"the variance for single examples. From 1 example to 100, the variance falls to 1/{factors[0]:.0f} before "
        f"training and to 1/{factors[1]:.0f} after it. Noise is this variance, signal the squared norm of the gradient "
        f"over all examples: with 32 examples their ratio is {noises[0]:.2g} before training and {noises[1]:.2g} after "
        f"{last} epochs.",
    ]


def batches_picture(numbers: pd.DataFrame, folders: Folders) -> Figure:
    figure, ((axes,),) = style.figure()
    for index, (epoch, own) in enumerate(numbers.groupby("epoch")):
        label = "before training" if epoch == 0 else f"after {epoch} epochs"
        style.band(axes, own, "size", "variance", f"measured, {label}", index)
        form = own.groupby("size")["closed_form"].mean()  # thin: it lies under the measured line
        axes.plot(form, color="black", linewidth=0.8, label="closed form" if index == 0 else None, zorder=1)
    axes.set(xscale="log", yscale="log", xlabel="examples in a mini-batch", ylabel="E ||batch gradient - gradient||^2")
    axes.legend(fontsize=8, frameon=False, handlelength=3)
    return figure


# ---------------------------------------------------------------- all optimizers on digits

PANELS = {
    "momentum, and one step per epoch": ("sgd", "momentum", "nesterov", "full gradient", "lbfgs"),
    "Adam and its relatives": ("sgd", "adam", "adamw", "adamax", "nadam"),
    "other scales of each parameter": ("sgd", "rmsprop", "rmsprop_tensorflow", "adagrad", "adadelta"),
}
NAMES = list(dict.fromkeys(name for names in PANELS.values() for name in names))
METRICS = ("train/loss", "train/error", "test/error")


def optimizers(folders: Folders) -> pd.DataFrame:
    tables = [epochs_of(folders["lecture_optimizers"], "optimizer", *METRICS)]
    tables += [epochs_of(folders["lecture_full_gradient"], "optimizer", *METRICS).assign(optimizer="full gradient")]
    return pd.concat([*tables, epochs_of(folders["lecture_lbfgs"], "optimizer", *METRICS)])


def optimizers_text(epochs: pd.DataFrame) -> Text:
    final = epochs[epochs["epoch"] == epochs["epoch"].max()]
    seconds = epochs.groupby(["optimizer", "seed"])["seconds"].max().groupby("optimizer").median()
    rows = []
    for name in NAMES:
        own = final["optimizer"] == name
        difference = "" if name == "sgd" else interval(paired(final, "test/error", own, final["optimizer"] == "sgd"))
        cells = [spread(final.loc[own, metric]) for metric in ("train/loss", "test/error")]
        rows.append((name, *cells, difference, f"{seconds[name]:.1f}"))
    sgd, full = (_first_below(epochs, name, 0.5) for name in ("sgd", "full gradient"))
    return [
        *table(
            ["optimizer", "train/loss, mean (sd)", "test/error", "test/error minus sgd's, 95 % interval", "seconds"],
            rows,
        ),
        "",
        f"SGD has a training loss below 0.5 after {sgd}, one step per epoch with the same learning rate after {full}: "
        f"an epoch visits the same digits, but makes one step instead of {STEPS}.",
        "",
        "Seconds are medians of a run, evaluations included, two runs at a time. Differences are to sgd, paired by "
        "seed, not corrected for their number. Learning rates are those of conf/optimizer; none was tuned for this "
        "comparison.",
    ]


def _first_below(epochs: pd.DataFrame, name: str, bound: float) -> str:
    means = epochs[epochs["optimizer"] == name].groupby("epoch")["train/loss"].mean()
    below = means.index[means < bound]
    return f"{below[0]} epochs" if len(below) else f"more than {means.index[-1]} epochs ({means.iloc[-1]:.2f} then)"


def optimizers_picture(epochs: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 3, height=4.2, sharey=True)
    for each, (title, names) in zip(axes, PANELS.items(), strict=True):
        for index, name in enumerate(names):
            style.band(each, epochs[epochs["optimizer"] == name], "epoch", "train/loss", name, index)
        each.set(xlabel="epoch", yscale="log", title=title)
        each.title.set_fontsize(9)
        each.legend(fontsize=7.5, frameon=False, handlelength=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    axes[0].set_ylabel("training loss (cross-entropy)")
    return figure


STEPS = 29  # of an epoch: 1,437 digits in batches of 50

STUDIES = studies_of(
    __file__,
    lecture_batches=(batches, batches_text, {"": batches_picture}),
    lecture_valley=(valley, valley_text, {"": valley_picture}),
    lecture_optimizers=(optimizers, optimizers_text, {"": optimizers_picture}),
)
