"""Every command that README and docs show: run as a reader types it, each page in its order, in one clone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from support.commands import PAGES, Clone, Command, commands_of, file_names, output_lines
from support.markdown import blocks

SECONDS = 240.0  # for a command, on a busy machine


class Rule(NamedTuple):
    """What becomes of the commands in which a pattern is found, instead of running them to the letter.

    Attributes:
        pattern: a regular expression.
        change: words to append, or one of those below.
        why: it is not run to the letter here.
        slow: whether `pytest -m slow` runs it to the letter.
    """

    pattern: str
    change: str
    why: str
    slow: bool = False


LEFT_OUT = "left out"
SERVER = "ended once it names its address"
CHECKED = "checked before anything is trained"
SHORTENED, FEW = " epochs=1", " epochs=1 seed=0"
RULES = (
    Rule(r"uv run pytest|pytest tests/judges|\.ci/run|ruff", LEFT_OUT, ".ci/run gives these commands"),
    Rule(r"^pip install uv && uv run train|^uv run train.py$", LEFT_OUT, ".ci/run gives it, in a clean clone"),
    Rule(r"uv sync|pip install|uv pip", LEFT_OUT, "changes the environment in which the tests run"),
    Rule(r"run tensorboard", SERVER, "does not end by itself"),
    Rule(r"^ray start|ray_cluster", LEFT_OUT, "needs Ray"),
    Rule(r"submitit_cluster", CHECKED, "needs Slurm"),
    Rule(r"runs/weights", LEFT_OUT, "needs the sweep on Slurm that stands before it"),
    Rule(r"clusters\.sh", LEFT_OUT, "sets up Slurm or Ray, as root"),
    Rule(r"gpu\.sh", LEFT_OUT, "needs a GPU; tests/test_benchmark.py runs it with a Python that is played"),
    Rule(r"reproduce\.py NAME|cancel FOLDER", LEFT_OUT, "stands for the reader's choice"),
    Rule(r"reproduce\.py", " --text", "trains for minutes or hours; this makes the page of its csv"),
    Rule(r"benchmark\.py", LEFT_OUT, "takes minutes; tests/test_benchmark.py runs the subjects"),
    Rule(r"=FOLDER|data=mnist|data\.path=FILE", CHECKED, "needs data that are downloaded"),
    Rule(r"sweep=(compare_penalties|optimizers)|sweep\.trials", CHECKED, "trains for half an hour"),
    Rule(
        r"-m (hydra/sweeper|data\.train_size|penalty=l2|experiment|'seed|penalty=large)",
        FEW,
        "trains many",
        slow=True,
    ),
    Rule(r"penalty='?(jacobian|input|activation|weight_g|tangent|large)", SHORTENED, "trains for long", slow=True),
    Rule(r"\*1a2b3c4d", LEFT_OUT, "the id stands for one of the reader's"),
    Rule(
        r"in (real_)?batches:|import lightning", LEFT_OUT, "for a loop of the reader's; tests/test_library.py runs it"
    ),
)


def rule_for(command: str) -> Rule | None:
    """Return the first rule that a command matches; None if it is run to the letter."""
    return next((rule for rule in RULES if re.search(rule.pattern, command)), None)


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with what the reader is asked to bring along (a package `mine`, its options, arrays), and a first run."""
    clone = Clone(tmp_path_factory.mktemp("clone"))
    for page in PAGES:
        for block in blocks(page.read_text(), language="python|yaml"):
            if name := re.match(r"# (\S+\.(?:py|yaml))\n", block):
                path = clone.folder / name[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block)
    (clone.folder / "mine" / "__init__.py").write_text(NET)
    (clone.folder / "check.py").write_text(CHECK)
    draw = np.random.default_rng(0)
    arrays = {f"{split}_images": draw.integers(0, 256, (60, 3, 32, 32), np.uint8) for split in ("train", "test")}
    labels = {f"{split}_labels": np.arange(60) % 10 for split in ("train", "test")}
    np.savez(clone.folder / "mine.npz", **arrays, **labels)
    assert not clone.run("uv run train.py epochs=1", SECONDS), clone.output  # what the README's first command leaves
    return clone


NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, hidden: int):
        super().__init__(nn.Flatten(), nn.Linear(28 * 28, hidden), nn.Tanh(), nn.Linear(hidden, 10))
"""


CHECK = """
import sys

from runner.config.command_line import read_command

read_command(sys.argv[1:])
"""


def failures_of(text: str, clone: Clone, slow: bool = False) -> list[str]:
    """Run the commands of a page in their order, and return how those failed that did.

    Args:
        text: of the page.
        clone: where they are run.
        slow: run those to the letter that take too long otherwise, instead of the others.
    """
    failures = []
    for command in commands_of(text):
        rule = rule_for(command.text)
        if not (rule and rule.slow) if slow else (rule and rule.change == LEFT_OUT):
            continue
        if failure := _failure(command, None if slow else rule, clone):
            failures.append(f"line {command.line}: {command.text}\n{failure}")
    return failures


def _failure(command: Command, rule: Rule | None, clone: Clone) -> str:
    if rule and rule.change == SERVER:
        return clone.serve(command.text, SECONDS)
    if rule and rule.change == CHECKED:
        return clone.run(command.text.replace("train.py", "check.py"), SECONDS)
    return clone.run(command.text + (rule.change if rule else ""), SECONDS, command.is_python)


@pytest.mark.process
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_a_page_works(clone: Clone, page: Path) -> None:
    clone.output = ""
    assert not (failures := failures_of(page.read_text(), clone)), "\n".join(failures)
    for line in output_lines(page.read_text()):
        pattern = re.sub(r"\d[\d.,]*", r"\\S+", re.escape(line).replace(r"\.", "."))
        assert re.search(pattern, clone.output), f"the page says that this is printed: {line}"
    missing = [name for name in file_names(page.read_text()) - ELSEWHERE if not clone.has(name)]
    assert not missing, "the page names files that are not there after its commands"


# Files that only commands write that are not run to the letter.
ELSEWHERE = {"trials.png", "differences.png"}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_longer_command_of_a_page_works(clone: Clone, page: Path) -> None:
    assert not (failures := failures_of(page.read_text(), clone, slow=True)), "\n".join(failures)


def test_each_row_of_the_table_is_of_use() -> None:
    """Each is the first match of a command, so that the table stays short."""
    used = {rule_for(command.text) for page in PAGES for command in commands_of(page.read_text())}
    assert set(RULES) <= used


BROKEN = """
Train with `uv run train.py epochs=1 --cfg job` first.

    uv run train.py epoks=1 --cfg job
    uv run scripts/sumarize.py runs/train

```
uv run train.py -m penalty=l2 penalty.l2.wait=0,1 \\
    --cfg job
```

What works is `uv run scripts/runs.py --help`, what does not `uv run scripts/runs.py lisst runs/train`.

```python
value = 1
```

```python
assert value == 2
```
"""


@pytest.mark.process
def test_what_is_broken_on_a_page_is_found(clone: Clone) -> None:
    lines = [int(re.match(r"line (\d+)", failure)[1]) for failure in failures_of(BROKEN, clone)]  # type: ignore[index]
    assert lines == [4, 5, 9, 12, 18]
