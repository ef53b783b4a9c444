"""The forum question "Implementation of Large Margin Deep Networks for Classification", with its own settings."""

from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from data import Digits, prepare
from models import MLP
from runner.results import load_epochs
from studies import style
from studies.study import Folders, Text, directories_of, studies_of
from studies.tables import spread, table

GAMMA, ALPHA, EPS = 200.0, 2.0, 1e-6
BATCH, LR, MOMENTUM, EPOCHS = 64, 0.01, 0.5, 10
WORST = ALPHA * GAMMA  # of the hinge; the question's loss is smaller by gamma
METRIC = "train/penalty/large_margin"
LOOPS = {"question's loop": True, "question's loop without zero_()": False}
ARMS = ("right gradient", "right gradient, clipped at 5", *LOOPS)


def backward(model: nn.Module, inputs: Tensor, targets: Tensor, zero: bool = True) -> Tensor:
    """Fill the parameters' `.grad` as the question's loop does, by nine products instead of a call for each gap.

    Its `.backward()` of each gap also adds the gap's own gradient to the parameters'. It divides a gap by the norm of
    the whole batch's `.grad`: of the gap's gradient alone, or without `zero_()` of the sum over all gaps so far, those
    of the examples before included.

    Args:
        model: outputs logits.
        inputs: a batch.
        targets: class numbers.
        zero: whether the loop calls `inputs.grad.data.zero_()`.

    Returns:
        the means of the distances (B,), which the loss clips.
    """
    inputs = inputs.clone().requires_grad_()
    probabilities = model(inputs).softmax(1)
    right = targets.unsqueeze(1)
    order = probabilities.detach().scatter(1, right, -1.0).argsort(1, descending=True)[:, :-1]
    gaps = probabilities.gather(1, right) - probabilities.gather(1, order)
    unit = torch.eye(probabilities.shape[1], dtype=inputs.dtype)
    directions = (unit[right] - unit[order]).transpose(0, 1)  # (C - 1, B, C), of the gaps by the probabilities
    (each,) = torch.autograd.grad(probabilities, inputs, directions, retain_graph=True, is_grads_batched=True)
    squares = (each if zero else each.cumsum(0)).flatten(2).square().sum(2)  # (C - 1, B), of the own example's rows
    before = 0 if zero else squares[-1].cumsum(0) - squares[-1]  # of the rows of the examples before it
    distances = (gaps / (EPS + (before + squares).sqrt().T)).mean(1)
    loss = (GAMMA - distances.clamp(GAMMA * (1 - ALPHA), GAMMA)).mean()
    (loss + gaps.sum()).backward(inputs=list(model.parameters()))
    return distances.detach()


def trained_by_the_loop(seed: int, zero: bool, epochs: int) -> list[dict[str, float]]:
    """Train by the question's loop, which the runner cannot do; return what is measured in each epoch."""
    torch.manual_seed(seed)
    dataset = prepare(Digits().load(), validation_size=0)
    model = MLP(input_shape=dataset.shape, outputs=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    rows = []
    for epoch in range(1, epochs + 1):
        found = []
        for batch in torch.randperm(len(dataset.train)).split(BATCH):
            optimizer.zero_grad()
            found.append(backward(model, dataset.train[batch].inputs, dataset.train[batch].targets, zero))
            optimizer.step()
        distances = torch.cat(found)
        with torch.no_grad():
            wrong = model(dataset.test.inputs).argmax(1) != dataset.test.targets
        rows.append(
            {
                "epoch": epoch,
                "loss": (GAMMA - distances.clamp(GAMMA * (1 - ALPHA), GAMMA)).mean().item() - GAMMA,
                "at_lower_clamp": (distances <= GAMMA * (1 - ALPHA)).double().mean().item(),
                "test/error": wrong.double().mean().item(),
            }
        )
    return rows


def numbers(folders: Folders) -> pd.DataFrame:
    """Return a row for each run and epoch; `loss` is the question's, which is ours minus gamma."""
    folder = Path(folders["margin_question"])
    epochs = load_epochs(*directories_of(folder)).rename(columns={f"{METRIC}/at_lower_clamp": "at_lower_clamp"})
    epochs = epochs[epochs["epoch"] > 0].assign(loss=lambda table: table[METRIC] - GAMMA)
    columns = ["arm", "seed", "epoch", "loss", "at_lower_clamp", "test/error"]
    rows = [
        {"arm": arm, "seed": seed, **row}
        for arm, zero in LOOPS.items()
        for seed in sorted(epochs["seed"].unique())
        for row in trained_by_the_loop(seed, zero, int(epochs["epoch"].max()))
    ]
    ours = epochs.replace({"arm": {"right": ARMS[0], "clipped": ARMS[1]}})[columns]
    return pd.concat([ours, pd.DataFrame(rows)[columns]], ignore_index=True)


def text(epochs: pd.DataFrame) -> Text:
    last = epochs[epochs["epoch"] == epochs["epoch"].max()]
    rows = []
    for arm in ARMS:
        own = last[last["arm"] == arm]
        rows.append((arm, spread(own["loss"], 1), spread(own["at_lower_clamp"], 3), spread(own["test/error"], 3)))
    ends = dict(list(last.groupby("arm")))
    plain, clipped, literal, without = (ends[arm] for arm in ARMS)
    return [
        *table(["gradient", "loss", "fraction at the lower clamp", "test/error"], rows),
        "",
        f"After {int(last['epoch'].max())} epochs, mean (standard deviation) of {literal['seed'].nunique()} seeds. The "
        f"question's loss is the hinge minus gamma; {WORST - GAMMA:g} is its largest value. Its loop ends at "
        f"{literal['loss'].mean():.1f}, with {literal['at_lower_clamp'].mean():.1%} of the examples at the lower "
        "clamp, where the hinge has no gradient: almost all digits are taken for one class, which is right for a "
        "tenth of them. Without `zero_()`, with which the question reports 98 %, "
        f"{1 - without['test/error'].mean():.1%} of the test digits are right, in the best seed "
        f"{1 - without['test/error'].min():.1%}.",
        "",
        f"With the right gradient {1 - plain['test/error'].mean():.1%} of the test digits are right after the same "
        f"steps, at least {1 - plain['test/error'].max():.1%} in each seed; clipped at 5 "
        f"{1 - clipped['test/error'].mean():.1%}. So these settings do train, here, once the stray gradients are gone.",
    ]


def picture(epochs: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2)
    for index, arm in enumerate(ARMS):
        own = epochs[epochs["arm"] == arm]
        style.band(axes[0], own, "epoch", "loss", arm, index)
        style.band(axes[1], own, "epoch", "at_lower_clamp", arm, index)
    axes[0].axhline(WORST - GAMMA, color="0.6", linewidth=0.8)
    axes[0].set(xlabel="epoch", ylabel="loss (hinge minus gamma)")
    axes[1].set(xlabel="epoch", ylabel="fraction at the lower clamp", ylim=(-0.03, 1.03))
    style.legend_below(figure, axes[0], columns=2)
    return figure


STUDIES = studies_of(
    __file__,
    margin_question=(numbers, text, {"": picture}),
)
