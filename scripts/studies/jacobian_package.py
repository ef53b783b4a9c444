"""The example of the package jacobian_regularizer, on all of MNIST."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from studies import style
from studies.study import Folders, Study, Text, runs_of
from studies.tables import against_published, table

KEY = "penalty.jacobian.weight"
METRICS = ("test/error", "train/error", "probe/penalty_value/test", "probe/penalty_value/train")


def numbers(folders: Folders) -> pd.DataFrame:
    return runs_of(folders["jacobian_package"], KEY, *METRICS)


def text(runs: pd.DataFrame) -> Text:
    published = {"test/error": {0.05: 0.030}, "probe/penalty_value/test": {0.05: 1.96}}
    rows = [
        (f"{weight:g}", *(f"{own[metric].median():.4f}" for metric in METRICS)) for weight, own in runs.groupby(KEY)
    ]
    return [
        *against_published(runs, KEY, published, {"test/error": 0.004, "probe/penalty_value/test": 0.2}),
        "",
        "Medians of all weights; `penalty_value` is the mean of the exact ||J||^2:",
        "",
        *table([KEY, *METRICS], rows),
    ]


def picture(runs: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2)
    weights = sorted(runs[KEY].unique())
    for each, metric in zip(axes, ("test/error", "probe/penalty_value/test"), strict=True):
        style.boxes(
            each, [runs.loc[runs[KEY] == value, metric].tolist() for value in weights], [f"{w:g}" for w in weights]
        )
        each.set(xlabel="weight of the Jacobian penalty", ylabel=metric)
    axes[1].set(ylabel="mean ||J||^2 on the test digits", yscale="log")
    axes[0].set(ylabel="test error")
    return figure


STUDIES = {
    "jacobian_package": Study(
        title="Jacobian: the example of its package",
        source="jacobian_regularizer, examples/mnist.py (Hoffman, Roberts, Yaida 2019; published, one run, seed 1)",
        about="All of MNIST, a perceptron, 5 epochs. `probe/penalty_value/test` is the mean of the exact ||J||^2 over "
        "the test examples; the published .98 is half of it, on the last batch of them. Their lambda .1 multiplies "
        "||J||^2 / 2, so it is the weight .05 here.",
        sweeps={"jacobian_package": ("sweep=jacobian_package",)},
        quick=("epochs=1", "seed=range(2)", "data.train_size=2000", "probe.penalty_value.examples=500"),
        inputs="data.root=FOLDER",
        numbers=numbers,
        text=text,
        pictures={"": picture},
        captions={"": "Test error and mean squared norm of the Jacobian against the weight: seeds, mean, deviation."},
    ),
}
