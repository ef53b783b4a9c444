"""The cost of the Jacobian penalty with many outputs."""

from __future__ import annotations

import benchmark_outputs
import pandas as pd
from matplotlib.figure import Figure

from studies import style
from studies.jacobian import PAPER
from studies.study import Folders, Study, Text
from studies.tables import table

COSTS = ("1 projection", "3 projections", "exact")


def outputs_numbers(folders: Folders) -> pd.DataFrame:
    return pd.DataFrame(benchmark_outputs.measure())


def outputs_text(rows: pd.DataFrame) -> Text:
    lines = []
    for row in rows.itertuples():
        is_probe = row.what == benchmark_outputs.PROBE
        ratio = "" if is_probe else f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})"
        lines.append((row.what, row.outputs, f"{row.ms:,.1f}", ratio, f"{row.peak_mib:,.0f}"))
    found = rows.set_index(["what", "outputs"])
    least, most = benchmark_outputs.OUTPUTS[0], benchmark_outputs.OUTPUTS[-1]
    one, three, exact = ([found.loc[(what, size), "ratio"] for size in (least, most)] for what in COSTS)
    memory = [found.loc[("exact", size), "peak_mib"] for size in (least, most)]
    probe = found.loc[(benchmark_outputs.PROBE, most)]
    return [
        *table(["what", "outputs C", "ms", "ratio to a step without (quartiles)", "peak memory, MiB"], lines),
        "",
        f"From {least} to {most:,} outputs the ratio of one random projection goes from {one[0]:.1f} to {one[1]:.1f}, "
        f"of three from {three[0]:.1f} to {three[1]:.1f}, "
        f"that of the exact penalty from {exact[0]:.0f} to {exact[1]:,.0f}, and its memory from {memory[0]:,.0f} to "
        f"{memory[1]:,.0f} MiB. A random projection is one vector-Jacobian product, v^T J, whatever the length of v: a "
        "backward pass through the network, as the data loss needs one, while the exact ||J||^2 needs a product for "
        "each of the C rows, and keeps the graphs of all of them for its own gradient. The quartiles show how much of "
        "the differences is other work on this machine.",
        "",
        f"`probe=jacobian_norm` is exact: with {most:,} outputs it takes "
        f"{probe['ms'] / benchmark_outputs.EXAMPLES:,.0f} ms an image and {probe['peak_mib']:,.0f} MiB. It takes the "
        "images in batches, smaller ones for larger C, so that the memory does not grow with their number; the time "
        "does: give it few of them (`probe.jacobian_norm.examples=100`).",
    ]


def outputs_picture(rows: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2)
    for index, what in enumerate(COSTS):
        own = rows[rows["what"] == what]
        axes[0].plot(own["outputs"], own["ratio"], label=what, **style.look(index))
        axes[0].fill_between(own["outputs"], own["low"], own["high"], color=style.COLORS[index], alpha=0.2, lw=0)
    for index, what in enumerate((*COSTS, benchmark_outputs.PROBE)):
        own = rows[rows["what"] == what]
        axes[1].plot(own["outputs"], own["peak_mib"].clip(lower=0.1), label=what, **style.look(index))
    for each in axes:
        each.set(xscale="log", yscale="log", xlabel="outputs C")
    axes[0].set(ylabel="time of a step / time without")
    axes[1].set(ylabel="peak memory (MiB)")
    style.legend_below(figure, axes[1], columns=4)
    return figure


STUDIES = {
    "jacobian_outputs": Study(
        title="Jacobian: cost with many outputs",
        source="the forum question, discuss.pytorch.org/t/62771, which asks for the Jacobian of a layer with many "
        f"units; {PAPER}, algorithm 1 (no numbers to compare)",
        about="A perceptron 784-200-200-C, 32 random images with random labels, one thread, nothing is trained "
        "(`scripts/benchmark.py outputs` measures the same). CPU times; ratios are medians of steps timed side by "
        "side, of two rounds for the exact penalty with 100 and 1,000 outputs, else of 30; the probe is asked once, of "
        "50 images. "
        "Peak memory is beyond the model and the data, in a process of its own.",
        numbers=outputs_numbers,
        text=outputs_text,
        pictures={"": outputs_picture},
        captions={"": "Time of a step (band: quartiles) and peak memory against the number of outputs; log scales."},
    ),
}
