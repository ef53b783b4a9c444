"""Lecture 5.5: what the initialisation does to activations and gradients, layer by layer, and normalised inputs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from runner.config.compose import project_composer
from runner.evaluation import Signal, Subject
from runner.results import load_runs
from runner.summary.runs import config_of, read_run
from runner.training.build import Components, build, build_network
from studies import style
from studies.study import Folders, Text, directories_of, epochs_of, studies_of
from studies.tables import interval, paired, spread, table

DEPTH, WIDTH = 10, 100
WIDTHS = f"model.widths=[{','.join([str(WIDTH)] * DEPTH)}]"
LAYERS = range(1, DEPTH + 1)

# ---------------------------------------------------------------- closed forms

SEEDS = 250
TORCH = ("init=kaiming_uniform", f"init.gain={3**-0.5}")  # its weights, with biases 0
FORMS = {  # activation, initialisation -> overrides and V(x_l) / V(x_(l-1)), which is N V(w), halved by relu
    ("identity", "normal(.01)"): (("init=normal",), 1e-2),
    ("identity", "torch, biases 0"): (TORCH, 1 / 3),
    ("identity", "xavier_normal"): (("init=xavier_normal",), 1),
    ("relu", "torch, biases 0"): (TORCH, 1 / 6),
    ("relu", "xavier_normal"): (("init=xavier_normal",), 1 / 2),
    ("relu", "kaiming_normal"): (("init=kaiming_normal",), 1),
}
BIASES = {  # torch's own have the variance of its weights: activations settle at q = form * (q + 1 / N)
    ("identity", "torch"): (("init=torch",), 1 / 3),
    ("relu", "torch"): (("init=torch",), 1 / 6),
}


def ratios(folders: Folders) -> pd.DataFrame:
    """Return the ratios from layer to layer of many networks at their initialisation, for one digit.

    `forward`: of the activations' mean squares; `backward`: of those of the gradients by pre-activations, from a layer
    to the one before it; both are means over the square layers, whose expectation is the closed form. `weights`: of the
    gradients by weights, a geometric mean, since numerator and denominator are equally distributed. `last`: mean
    square of the last layer's activations.
    """
    components, rows = build(project_composer().compose(["data=digits", "model=mlp"]).values), []
    for (activation, init), (overrides, expected) in (FORMS | BIASES).items():
        networks = squares_at_start((f"model.activation={activation}", *overrides), SEEDS, components, examples=1)
        for seed, (forward, backward, weights) in enumerate(networks):
            means = (forward[1:] / forward[:-1]).mean(), (backward[:-1] / backward[1:]).mean()
            geometric = np.exp(np.diff(np.log(weights[1:])).mean())  # the first layer is not square
            rows.append((activation, init, expected, seed, *means, geometric, forward[-1]))
    return pd.DataFrame(rows, columns=["activation", "init", "closed_form", "seed", *MEASURED, "last"])


def squares_at_start(
    overrides: Sequence[str], seeds: int, components: Components, examples: int
) -> Iterator[np.ndarray]:
    """Yield for some seeds what `squares` returns of a network at its initialisation, as a run has it."""
    config = project_composer().compose(["model=mlp", WIDTHS, *overrides]).values
    dataset, criterion, generator = components.dataset, components.criterion, torch.Generator()
    for seed in range(seeds):
        facts = dataset.shape, dataset.outputs, components.device, dataset
        network = build_network({**config, "seed": seed}, *facts).eval()
        found = Signal(examples)(Subject(network, criterion, dataset, generator))
        yield squares(found, config["model"]["activation"])


def squares(found: Mapping[str, float], activation: str) -> np.ndarray:
    """Return mean squares (3, layers) of `KINDS`, from the numbers of `probe=signal`."""
    names = f"activation/{activation}{{}}", "gradient/fc{}", "weight_gradient/fc{}.weight"
    return np.array([[found[name.format(layer)] for layer in LAYERS] for name in names])


MEASURED = ("forward", "backward", "weights")


def ratio_means(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return for each activation and initialisation the closed form and the means, with half their 95 % intervals."""
    own = numbers.assign(weights=np.log(numbers["weights"])).groupby(["activation", "init"], sort=False)
    means, half = own.mean(), 1.96 * own.std() / np.sqrt(numbers["seed"].nunique())
    return means.assign(weights=np.exp(means["weights"])).join(half[[*MEASURED, "last"]].add_suffix("_half"))


def deviations(numbers: pd.DataFrame) -> pd.DataFrame:
    means = ratio_means(numbers).loc[list(FORMS)]
    expected = means["closed_form"]
    found = {"forward": means["forward"] / expected, "backward": means["backward"] / expected}
    return pd.DataFrame({**found, "weights": means["weights"]}) - 1


def _named(place: tuple[str, str], between: str = ", ") -> str:
    return between.join(place).replace("(.01)", " (sd 0.01)")


def ratios_text(numbers: pd.DataFrame) -> Text:
    means, count = ratio_means(numbers), numbers["seed"].nunique()
    rows = []
    for place in FORMS:
        row = means.loc[place]
        cells = [f"{row[key]:.4f} ± {row[f'{key}_half']:.4f}" for key in MEASURED]
        rows.append((_named(place), f"{row['closed_form']:.4f}", *cells))
    levels = []
    for place in BIASES:
        row = means.loc[place]
        level = row["closed_form"] / (1 - row["closed_form"]) / WIDTH
        levels.append(
            f"{place[0]}: {row['last']:.5f} ± {row['last_half']:.5f} in the tenth layer, closed form {level:.5f}, "
            f"while gradients still shrink to {row['backward']:.4f} ± {row['backward_half']:.4f} in each layer"
        )
    return [
        *table(
            ["activation, init", "N V(w), with relu N V(w) / 2", "activations", "gradients", "gradients by weights"],
            rows,
        ),
        "",
        f"The ratio of mean squares from layer to layer, means of {count} networks and the square layers, with the "
        f"95 % interval. The largest deviation from the closed form is {deviations(numbers).abs().max().max():.1%}. "
        "Gradients go by the same factor as activations, in the other direction, so that gradients by weights are "
        "alike in all layers: their closed form is 1. A single network scatters: the standard deviation of one ratio "
        "is about sqrt(2 / N) = 14 % of it, with relu sqrt(5 / N) = 22 %. The forms of gradients are exact for wide "
        "layers only: N = 100 leaves corrections of about a percent.",
        "",
        "`torch, biases 0` are torch's weights alone (`init=kaiming_uniform init.gain=0.57735`). With torch's biases, "
        f"of the same variance as its weights, activations do not vanish: they settle. {'; '.join(levels)}.",
    ]


def ratios_picture(numbers: pd.DataFrame, folders: Folders) -> Figure:
    figure, ((axes,),) = style.figure(height=3.8)
    means, off = ratio_means(numbers).loc[list(FORMS)], 100 * deviations(numbers)
    places = np.arange(len(means))
    labels = {"forward": "activations", "backward": "gradients", "weights": "gradients by weights"}
    for index, (key, label) in enumerate(labels.items()):
        half = 100 * means[f"{key}_half"] / (1 if key == "weights" else means["closed_form"])
        look = {"color": style.COLORS[index], "marker": style.MARKERS[index], "markersize": 5}
        axes.errorbar(places + 0.2 * (index - 1), off[key], half, linestyle="none", label=label, capsize=3, **look)
    axes.axhspan(-2, 2, color="0.93", zorder=0)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xticks(places, [_named(place, "\n") for place in means.index], fontsize=7)
    axes.set(ylabel="ratio of layers off its closed form (%)", ylim=(-4, 4))
    style.legend_below(figure, axes)
    return figure


# ---------------------------------------------------------------- signals of networks that are trained

INITS = {
    "normal(.01)": ("init=normal",),
    "torch": ("init=torch",),
    "xavier_normal": ("init=xavier_normal",),
    "kaiming_normal": ("init=kaiming_normal",),
    "kaiming_normal, fan_out": ("init=kaiming_normal", "init.mode=fan_out"),
    "lsuv": ("init=lsuv",),
}
ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
KINDS = ("activation", "gradient", "weight_gradient")


def signals(folders: Folders) -> pd.DataFrame:
    """Return a row for each network and layer, with the mean squares of `KINDS`.

    Of epoch 0, with all initialisations, and of trained networks, with some; for these also the errors.
    """
    (folder,) = folders.values()
    runs = load_runs(*directories_of(folder))
    components, tables = build(config_of([read_run(Path(runs["path"][0]))])), []
    for activation in ACTIVATIONS:
        for init, overrides in INITS.items():
            networks = squares_at_start((f"model.activation={activation}", *overrides), 5, components, examples=500)
            tables += [layers_of(activation, init, seed, 0, found) for seed, found in enumerate(networks)]
    for _, run in runs[runs["status"] == "done"].iterrows():
        found = squares({key.removeprefix("probe/signal/"): run[key] for key in runs}, run["model.activation"])
        init = {"normal": "normal(.01)"}.get(run["init"], run["init"])
        of_run = run["model.activation"], init, run["seed"], run["epoch"]
        errors = {key: run[key] for key in ("train/error", "test/error", "seconds")}
        first = pd.DataFrame([errors], index=[0])  # once for each run
        tables.append(layers_of(*of_run, found).join(first))
    return pd.concat(tables)


def layers_of(activation: str, init: str, seed: int, epoch: int, found: np.ndarray) -> pd.DataFrame:
    facts = {"activation": activation, "init": init, "seed": seed, "epoch": epoch, "layer": list(LAYERS)}
    return pd.DataFrame({**facts, **{f"square_of_{kind}": own for kind, own in zip(KINDS, found, strict=True)}})


def signals_text(numbers: pd.DataFrame) -> Text:
    start, end = (numbers[numbers["epoch"] == epoch] for epoch in (0, numbers["epoch"].max()))
    columns = [f"square_of_{kind}" for kind in KINDS]
    means = start.groupby(["activation", "init", "layer"])[columns].mean()
    rows = []
    for activation in ACTIVATIONS:
        for init in INITS:
            own = means.loc[(activation, init)] ** 0.5
            rows.append(
                (_named((activation, init)), *(f"{own.loc[at, key]:.2g}" for key in columns[:2] for at in (1, DEPTH)))
            )
    relu = means.loc["relu"]["square_of_activation"]
    out = relu["kaiming_normal, fan_out"] / relu["kaiming_normal"]
    ended = end.dropna(subset=["test/error"]).groupby(["activation", "init"], sort=False)
    errors = [(_named(place), *(spread(own[key], 3) for key in ERRORS)) for place, own in ended]
    return [
        *table(["", "activations, layer 1", "layer 10", "gradients, layer 1", "layer 10"], rows),
        "",
        "Root mean squares before the first step, means over 5 seeds. With relu, fan_out differs from fan_in where a "
        f"layer is not square: the mean square of the first layer's activations is {out[1]:.2f} times that with fan_in "
        f"(784 / 100 = 7.84), and stays so, {out[DEPTH]:.2f} times in the tenth layer. After "
        f"{end['epoch'].max()} epochs:",
        "",
        *table(["activation, init", *ERRORS], errors),
        "",
        *vanishing(means, ended[ERRORS[1]].mean()),
    ]


ERRORS = ("train/error", "test/error")


def vanishing(means: pd.DataFrame, errors: pd.Series) -> Text:
    """Return what the tables say of normal weights of deviation .01 and of Kaiming's: means are mean squares."""
    said = []
    for activation in ("tanh", "relu"):
        gradients = means["square_of_gradient"].loc[activation].unstack() ** 0.5
        small, kaiming = (
            gradients.loc[init, 1] / gradients.loc[init, DEPTH] for init in ("normal(.01)", "kaiming_normal")
        )
        error, learned = (errors[activation, init] for init in ("normal(.01)", "kaiming_normal"))
        said.append(
            f"With {activation} and normal (sd 0.01) the gradient at layer 1 is {small:.0e} times that at layer "
            f"{DEPTH}, "
            f"and the network learns nothing (test error {error:.2f}; a guess has 0.9). With {activation} and "
            f"kaiming_normal it is {kaiming:.2g} times that, and the test error is {learned:.2f}."
        )
    return [
        " ".join(said) + " lsuv gives the outputs of each layer, before the activation, the variance 1: with tanh and "
        f"relu its gradients are {_ratios('gradient', means)} times those of kaiming_normal, its activations "
        f"{_ratios('activation', means)} times."
    ]


def _ratios(kind: str, means: pd.DataFrame) -> str:
    sizes = means.loc[["tanh", "relu"], f"square_of_{kind}"] ** 0.5
    ratio = sizes.xs("lsuv", level="init") / sizes.xs("kaiming_normal", level="init")
    return f"{ratio.min():.2f} to {ratio.max():.2f}"


FLOORS = {"tanh": 1e-4, "relu": 5e-6, "sigmoid": 1e-10, "identity": 1e-4}  # of the pictures


def signals_picture(numbers: pd.DataFrame, activations: tuple[str, ...]) -> Figure:
    figure, axes = style.figure(len(activations), 2, height=2.6, sharex=True, sharey="row")
    start = numbers[numbers["epoch"] == 0]
    for row, activation in zip(axes, activations, strict=True):
        for each, kind in zip(row, KINDS, strict=False):
            for index, init in enumerate(INITS):
                own = start[(start["activation"] == activation) & (start["init"] == init)]
                own = own.assign(size=own[f"square_of_{kind}"] ** 0.5)
                style.band(each, own, "layer", "size", _named((init,)), index)
            each.set(yscale="log", xticks=LAYERS)
            each.set_title(f"{activation}: {'activations' if kind == 'activation' else 'gradients'}", fontsize=9)
        row[0].set(ylabel="root mean square", ylim=(FLOORS[activation], 10))
    for each in axes[-1]:
        each.set_xlabel("layer")
    style.legend_below(figure, axes[0, 0])
    return figure


# ---------------------------------------------------------------- normalised inputs

NORMALIZE = ("scalar", "component", "none")


def normalization(folders: Folders) -> pd.DataFrame:
    return epochs_of(folders["lecture_normalization"], "data.normalize", "train/error", "test/error")


def normalization_text(epochs: pd.DataFrame) -> Text:
    last = epochs["epoch"].max()
    final = epochs[epochs["epoch"] == last]
    shown = sorted({2, 4, last} & set(epochs["epoch"]))
    rows = []
    for name in NORMALIZE:
        own = epochs[epochs["data.normalize"] == name]
        cells = [spread(own.loc[own["epoch"] == at, "test/error"]) for at in shown]
        masks = final["data.normalize"] == name, final["data.normalize"] == "scalar"
        rows.append((name, *cells, "" if name == "scalar" else interval(paired(final, "test/error", *masks))))
    header = ["data.normalize", *(f"test error, epoch {at}" for at in shown), "minus scalar's, 95 % interval"]
    train = final.groupby("data.normalize")["train/error"].mean()
    return [
        *table(header, rows),
        "",
        "`scalar` subtracts one mean and divides by one deviation, of all pixels of the training digits; `component` "
        "does so for each pixel; `none` leaves the images in [0, 1]. Means and deviations over 5 seeds; the difference "
        "is after the last epoch, paired by seed. Then training errors are "
        f"{', '.join(f'{train[name]:.4f} ({name})' for name in NORMALIZE)}.",
    ]


def normalization_picture(epochs: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2, sharey=True)
    for each, metric in zip(axes, ("train/error", "test/error"), strict=True):
        for index, name in enumerate(NORMALIZE):
            own = epochs[(epochs["data.normalize"] == name) & (epochs["epoch"] > 0)]
            style.band(each, own, "epoch", metric, f"data.normalize={name}", index)
        each.set(xlabel="epoch", title=metric)
        style.log_errors(each)
    axes[0].set_ylabel("error (fraction of digits)")
    style.legend_below(figure, axes[0])
    return figure


STUDIES = studies_of(
    __file__,
    lecture_ratios=(ratios, ratios_text, {"": ratios_picture}),
    lecture_signals=(
        signals,
        signals_text,
        {
            "": lambda numbers, folders: signals_picture(numbers, ("tanh", "relu")),
            "_others": lambda numbers, folders: signals_picture(numbers, ("sigmoid", "identity")),
        },
    ),
    lecture_normalization=(normalization, normalization_text, {"": normalization_picture}),
)
