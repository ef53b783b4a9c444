"""The penalties as a library: the package `losses` under its other name, and the README's snippets with it.

`.ci/run` does the same with an installed wheel, in an environment that has torch alone.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT
from support.markdown import coordinates, fitted, library_snippets, run, stand_in_for_lightning, surroundings
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

PLAIN, GAN, LIGHTNING, VERIFY, FUNCTIONS, PRECISION, CHECKPOINT, COMPILED, PARALLEL = library_snippets()
LR = 0.1


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the snippets take for granted, with the package under the name that it has when it is installed, alone."""
    for name in {"losses", *(name for name in sys.modules if name.startswith("losses."))}:
        monkeypatch.setitem(sys.modules, name, None)  # to import it fails
    path = ROOT / "losses"
    spec = importlib.util.spec_from_file_location(
        "penalty_lab", path / "__init__.py", submodule_search_locations=[str(path)]
    )
    assert spec
    assert spec.loader
    sys.modules["penalty_lab"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["penalty_lab"])
    yield surroundings()
    for name in [name for name in sys.modules if name.partition(".")[0] == "penalty_lab"]:
        del sys.modules[name]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LR)


def jacobians(model: nn.Module, inputs: Tensor) -> Tensor:
    """The Jacobians (B, C, D), by another way than that of the penalties."""
    return torch.func.vmap(torch.func.jacrev(model))(inputs)


def check_steps(model: nn.Module, copy: nn.Module, objectives: Iterator[Tensor]) -> None:
    """Check that a model has the parameters to which a copy of it comes by gradient steps on these objectives."""
    for objective in objectives:
        gradients = torch.autograd.grad(objective, list(copy.parameters()))
        with torch.no_grad():
            for param, gradient in zip(copy.parameters(), gradients, strict=True):
                param -= LR * gradient
    torch.testing.assert_close(list(model.parameters()), list(copy.parameters()))


def test_a_plain_loop(given: dict[str, Any]) -> None:
    model, copy = given["model"], surroundings()["model"]
    torch.manual_seed(1)
    run(PLAIN, **given, optimizer=optimizer_of(model))

    def by_hand() -> Iterator[Tensor]:
        torch.manual_seed(1)
        for inputs, targets in given["batches"]:
            signs = torch.randn(len(inputs), 3, 1).sign().squeeze(2)
            squares = torch.einsum("bc,bcd->bd", signs, jacobians(copy, inputs)).square().sum(1)
            yield cross_entropy(copy(inputs), targets) + 0.01 * squares.mean()

    check_steps(model, copy, by_hand())


def test_r1_of_a_gan(given: dict[str, Any]) -> None:
    model, copy = given["discriminator"], surroundings()["discriminator"]
    torch.manual_seed(1)
    run(GAN, **given, optimizer=optimizer_of(model))

    def by_hand() -> Iterator[Tensor]:
        torch.manual_seed(1)
        for real in given["real_batches"]:
            fake = given["generator"](torch.randn(len(real), 8)).detach()
            r1 = 10 / 2 * jacobians(copy, real).square().sum((1, 2)).mean()
            yield softplus(-copy(real)).mean() + softplus(copy(fake)).mean() + r1

    check_steps(model, copy, by_hand())


def test_a_lightning_module(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for Lightning: a class that has its `log`, and the loop of a Trainer in four lines."""
    monkeypatch.setitem(sys.modules, "lightning", stand_in_for_lightning())
    model, copy = given["model"], surroundings()["model"]
    module = run(LIGHTNING)["Invariant"](model, coordinates)
    torch.manual_seed(1)
    losses = list(fitted(module, given["batches"]))
    assert module.logged["penalty/tangent_prop"] > 0

    def by_hand() -> Iterator[Tensor]:
        torch.manual_seed(1)
        for (inputs, targets), loss in zip(given["batches"], losses, strict=True):
            signs = 2.0 * torch.randint(2, (2, len(inputs))) - 1
            along = jacobians(copy, inputs)[:, :, :2]  # the tangents are the first two coordinates
            squares = torch.einsum("kb,bck->bc", signs, along).square().sum(1)
            objective = cross_entropy(copy(inputs), targets) + 0.1 * squares.mean()
            torch.testing.assert_close(loss, objective)
            yield objective

    check_steps(model, copy, by_hand())


def test_derivatives_alone(given: dict[str, Any]) -> None:
    run(VERIFY, **given)
    found = run(FUNCTIONS, **given)
    inputs, targets = given["batches"][0]
    rows = jacobians(given["model"], inputs)
    torch.testing.assert_close(found["rows"], rows)
    torch.testing.assert_close(found["squares"], rows.square().sum((1, 2)))
    torch.testing.assert_close(found["slopes"], rows.sum(2))
    given["model"].zero_grad()
    cross_entropy(given["model"](inputs), targets, reduction="sum").backward()
    for name, param in given["model"].named_parameters():
        torch.testing.assert_close(found["by_weight"][name].sum(0), param.grad)
    assert found["gradients"].shape == inputs.shape


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of processes with this one alone, which is what DistributedDataParallel needs at least."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("snippet", "rel"),
    [(PRECISION, 0.02), (CHECKPOINT, 1e-5), (PARALLEL, 1e-5)],
    ids=["bf16", "checkpoint", "parallel"],
)
def test_other_loops_train_as_the_plain_one(given: dict[str, Any], snippet: str, rel: float, group: None) -> None:
    model, copy = given["model"], surroundings()["model"]
    torch.manual_seed(1)
    run(PLAIN, **{**given, "model": copy}, optimizer=optimizer_of(copy))
    torch.manual_seed(1)
    run(snippet, **given, optimizer=optimizer_of(model))
    for ours, theirs in zip(model.parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rel, atol=rel)
    assert (next(model.parameters()) - next(surroundings()["model"].parameters())).norm() > 1e-3


def test_a_compiled_model_is_for_steps_without_a_penalty(given: dict[str, Any]) -> None:
    model, copy = given["model"], surroundings()["model"]
    torch.manual_seed(1)
    run(COMPILED, **given, optimizer=optimizer_of(model))

    def by_hand() -> Iterator[Tensor]:
        torch.manual_seed(1)
        for step, (inputs, targets) in enumerate(given["batches"]):
            objective = cross_entropy(copy(inputs), targets)
            if step % 2 == 0:
                signs = torch.randn(len(inputs), 3, 1).sign().squeeze(2)
                squares = torch.einsum("bc,bcd->bd", signs, jacobians(copy, inputs)).square().sum(1)
                objective = objective + 0.02 * squares.mean()
            yield objective

    check_steps(model, copy, by_hand())


def test_the_snippets_are_short() -> None:
    for snippet in library_snippets():
        assert sum(bool(line.strip()) for line in snippet.splitlines()) <= 20


def test_it_needs_torch_alone() -> None:
    imported = set()
    for path in (ROOT / "losses").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.partition(".")[0] for name in names}
    assert imported - sys.stdlib_module_names == {"torch"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert [line.partition(">")[0] for line in project["project"]["dependencies"]] == ["torch"]
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {
        "only-include": ["losses"],
        "sources": {"losses": "penalty_lab"},
    }
    assert (ROOT / "losses" / "py.typed").exists()
