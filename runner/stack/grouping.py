"""Which runs of a sweep are trained as one stack: a fixed rule, made from measurements, without torch."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from runner.config.tree import walk
from runner.storage.directory import Run
from runner.storage.identity import digest, identity

MODELS = ("models.MLP",)  # on a CPU K grouped convolutions have .55 of the throughput of K single ones
OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RMSprop", "Adagrad", "Adadelta")  # elementwise, linear in lr
OPTIONS = (  # of these, all that a stack does as each model alone; torch has others, such as maximize
    *("_target_", "groups", "gradient", "clip", "lr", "weight_decay", "betas", "eps", "amsgrad", "momentum"),
    *("nesterov", "dampening", "alpha", "centered", "rho", "momentum_decay", "lr_decay", "initial_accumulator_value"),
)
SMALL = ("data.Digits", "data.Line", "data.Moons", "data.Plateaus", "data.Sine")  # each model may have its own
NUMBERS = ("seed", "optimizer.", "init.")  # keys, or groups of keys, in whose numbers the runs of a stack may differ
NUMBERS_OF_DATA = ("data.seed", "data.noise", "data.label_noise")


Stack = tuple[Run, ...]  # trained as one, in the order of their places; those that have ended in it hold theirs


def name_of(configs: Iterable[Mapping[str, Any]]) -> str:
    """Return the name of a stack, the same as long as its runs are."""
    return digest({str(place): identity(config) for place, config in enumerate(configs)})


def stacks_of(runs: Sequence[Run], n_jobs: int, largest: int) -> tuple[list[Stack], dict[str, list[Run]]]:
    """Return the stacks in which some runs of a sweep are trained, and why the others are trained alone.

    A stack that was interrupted is made again of the same runs, with those that have ended: bits depend on its size.

    Args:
        runs: of the sweep, those that ended before included.
        n_jobs: stacks that are trained at the same time; there are not fewer as long as each has two runs.
        largest: number of runs in a stack (>= 2).

    Returns:
        the stacks; and reason -> runs.
    """
    goes_on = {run: not (run.config["force"] and run.has_ended) for run in runs}
    stack_before = {run: run.result().get("stack") if goes_on[run] else None for run in runs}
    begun: dict[str, Stack] = {}
    groups: dict[str, list[Run]] = {}
    alone: dict[str, list[Run]] = {}
    for run in (run for run in runs if not run.needs_no_training):
        before = stack_before[run]
        if reason := _obstacle(run.config):
            alone.setdefault(reason, []).append(run)
        elif before:
            begun[before] = begun.get(before) or _placed(other for other in runs if stack_before[other] == before)
        elif goes_on[run] and any(run.path.glob("checkpoint-*.pt")):
            alone.setdefault("it goes on from a checkpoint of its own", []).append(run)
        else:
            groups.setdefault(_kind(run.config), []).append(run)
    stacks = [*begun.values()]
    for group in groups.values():
        if len(group) == 1:
            alone.setdefault("no other differs from it in numbers alone", []).append(group[0])
            continue
        count = max(math.ceil(len(group) / largest), min(math.ceil(n_jobs / len(groups)), len(group) // 2))
        ends = [len(group) * number // count for number in range(count + 1)]
        stacks += [_placed(group)[start:end] for start, end in pairwise(ends)]
    return stacks, alone


def _obstacle(config: Mapping[str, Any]) -> str | None:
    model, optimizer, augment = (config[group]["_target_"] for group in ("model", "optimizer", "augment"))
    others = [f"optimizer.{key}" for key in config["optimizer"] if key not in OPTIONS]
    facts = {
        f"{model} is no model that gains by it": model not in MODELS,
        "model.dropout draws for all models at once": bool(config["model"].get("dropout")),
        f"a step of {optimizer} is not one of each number by itself": optimizer.rpartition(".")[2] not in OPTIMIZERS,
        f"a stack does not know {', '.join(others)}": bool(others),
        f"{augment} draws for all models at once": augment != "data.Unchanged",
        "precision=bf16 is not meant for it": config["precision"] != "fp32",
        "classes of your own (allow_targets) may mix examples": bool(config["allow_targets"]),
    }
    return next((reason for reason, holds in facts.items() if holds), None)


def _kind(config: Mapping[str, Any]) -> str:
    fitted = any("_target_" in str(list(node.values())) for node in config["penalty"].values())  # to the training data
    own_data = config["data"]["_target_"] in SMALL and not fitted
    numbers = (*NUMBERS, *NUMBERS_OF_DATA) if own_data else NUMBERS
    leaves = {}
    for path, value in walk(config):
        group, _, key = path.rpartition(".")
        if isinstance(value, dict | list) or path.startswith("sweep.") or "weight_range" in path:
            continue
        if group.startswith("penalty.") and key == "weight":
            value = bool(value)  # with 0 the penalty is not evaluated, and draws nothing
        elif type(value) in (int, float) and (path.startswith(numbers) or path.endswith(".warmup")):
            value = "a number"
        leaves[path] = value
    return json.dumps(leaves, sort_keys=True)


def _placed(runs: Iterable[Run]) -> Stack:
    def place(run: Run) -> str:
        options = {key: value for key, value in run.config["optimizer"].items() if key not in ("lr", "weight_decay")}
        return json.dumps([options, run.run_id], sort_keys=True)

    return tuple(sorted(runs, key=place))


def lines_of(stacks: Sequence[Stack], alone: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return the lines that tell what is trained how."""
    sizes = Counter(len(stack) for stack in stacks)
    words = [f"{count} of {size} jobs" for size, count in sorted(sizes.items(), reverse=True)]
    lines = [f"stacks: {', '.join(words)}"] if words else []
    return lines + [f"by themselves: {len(runs)} job{'s' * (len(runs) > 1)}; {why}" for why, runs in alone.items()]
