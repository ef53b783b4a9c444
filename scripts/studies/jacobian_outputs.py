"""The cost of the Jacobian penalty with many outputs."""

import benchmark_steps
import pandas as pd
from matplotlib.figure import Figure

from studies import style
from studies.study import Folders, Text, studies_of
from studies.tables import table

COSTS = ("1 projection", "3 projections", "exact")


def outputs_numbers(folders: Folders) -> pd.DataFrame:
    return pd.DataFrame(benchmark_steps.measure_outputs())


def outputs_text(rows: pd.DataFrame) -> Text:
    lines = []
    for row in rows.itertuples():
        is_probe = row.what == benchmark_steps.PROBE
        ratio = "" if is_probe else f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})"
        lines.append((row.what, row.outputs, f"{row.ms:,.1f}", ratio, f"{row.peak_mib:,.0f}"))
    found = rows.set_index(["what", "outputs"])
    least, most = benchmark_steps.OUTPUTS[0], benchmark_steps.OUTPUTS[-1]
    one, three, exact = ([found.loc[(what, size), "ratio"] for size in (least, most)] for what in COSTS)
    memory = [found.loc[("exact", size), "peak_mib"] for size in (least, most)]
    probe = found.loc[(benchmark_steps.PROBE, most)]
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
        f"{probe['ms'] / benchmark_steps.EXAMPLES:,.0f} ms an image and {probe['peak_mib']:,.0f} MiB. It takes the "
        "images in batches, smaller ones for larger C, so that the memory does not grow with their number; the time "
        "does: give it few of them (`probe.jacobian_norm.examples=100`).",
    ]


def outputs_picture(rows: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2)
    for index, what in enumerate(COSTS):
        own = rows[rows["what"] == what]
        axes[0].plot(own["outputs"], own["ratio"], label=what, **style.look(index))
        axes[0].fill_between(own["outputs"], own["low"], own["high"], color=style.COLORS[index], alpha=0.2, lw=0)
    for index, what in enumerate((*COSTS, benchmark_steps.PROBE)):
        own = rows[rows["what"] == what]
        axes[1].plot(own["outputs"], own["peak_mib"].clip(lower=0.1), label=what, **style.look(index))
    for each in axes:
        each.set(xscale="log", yscale="log", xlabel="outputs C")
    axes[0].set(ylabel="time of a step / time without")
    axes[1].set(ylabel="peak memory (MiB)")
    style.legend_below(figure, axes[1], columns=4)
    return figure


STUDIES = studies_of(
    __file__,
    jacobian_outputs=(outputs_numbers, outputs_text, {"": outputs_picture}),
)
