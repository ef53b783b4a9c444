"""The map of the code holds: who may import whom, no circles, small functions, few modules at the root of runner/."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("runner", "losses", "models", "data")
ROOMS = ("training", "config", "storage", "evaluation", "recording", "summary", "stack", "sweep")
ALLOWED = {  # room -> the rooms that it may import from, beside itself
    "config": set(),
    "storage": {"config"},
    "evaluation": set(),
    "training": {"config", "evaluation"},  # no disk, and no Hydra
    "recording": {"config", "storage", "evaluation"},
    "summary": {"config", "storage"},
    "root": {"config", "storage", "evaluation", "recording", "summary", "training"},
    "stack": {"config", "storage", "training", "root"},
    "sweep": {"config", "storage", "evaluation", "recording", "summary", "training", "stack", "root"},
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def imports_of(source: str, package: str = "") -> Iterator[str]:
    """Yield the modules of ours that a file of a package imports, anywhere in it: in functions and for types too."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            found = next((known for known in (name, name.rpartition(".")[0]) if known in MODULES), None)
            if found:
                yield found


def package_of(name: str, path: Path) -> str:
    return name if path.stem == "__init__" else name.rpartition(".")[0]


GRAPH = {name: set(imports_of(path.read_text(), package_of(name, path))) - {name} for name, path in MODULES.items()}


def room_of(module: str) -> str:
    """Return the room of a module of runner/, or `root`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "root"


def wrong_directions(graph: dict[str, set[str]]) -> list[str]:
    wrong = []
    for module, imported in graph.items():
        package = module.partition(".")[0]
        for other in imported:
            if package != "runner":
                right = other.partition(".")[0] == package
            elif not other.startswith("runner"):
                right = True
            else:
                right = room_of(other) in ALLOWED[room_of(module)] | {room_of(module)}
            wrong += [] if right else [f"{module} imports {other}"]
    return wrong


def test_imports_go_in_the_allowed_directions() -> None:
    assert not wrong_directions(GRAPH)


def test_a_wrong_direction_would_be_seen() -> None:
    graph = {"runner.config.check": {"runner.storage.atomic"}, "losses.jacobian": {"data"}, "runner.run": {"losses"}}
    assert len(wrong_directions(graph)) == 2
    assert (
        len(
            wrong_directions(
                {"runner.training.loop": {"runner.sweep.pool"}, "runner.evaluation": {"runner.training.build"}}
            )
        )
        == 2
    )


def test_no_circles() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as circle:
        pytest.fail(f"modules import each other in a circle: {' <- '.join(circle.args[1])}")


def test_imports_for_types_and_in_functions_count() -> None:
    source = "if TYPE_CHECKING:\n    from runner.training.build import build\ndef f():\n    from runner import run\n"
    assert set(imports_of(source)) == {"runner.training.build", "runner.run"}
    assert set(imports_of("from .forward import Forward\nfrom . import eager\n", "losses")) == {
        "losses.forward",
        "losses.eager",
    }


def functions() -> dict[str, int]:
    """Return the lines of each function."""
    return {
        f"{name}.{node.name}:{node.lineno}": node.end_lineno - node.lineno + 1  # type: ignore[operator]
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_functions_are_short() -> None:
    lines = functions()
    assert not [name for name, count in lines.items() if count > 40]
    assert statistics.median(lines.values()) <= 8


def test_runner_has_few_modules_at_its_root() -> None:
    assert len(list((ROOT / "runner").glob("*.py"))) <= 9


def test_the_map_names_every_module() -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / "runner" / "__init__.py").read_text())) or ""
    modules = [name.split(".")[1:] for name in MODULES if name.startswith("runner.")]
    assert not [name for name in modules if name[-1] not in docstring]


def test_losses_models_and_data_stand_alone() -> None:
    """They import nothing of ours but themselves, so each can be used without the rest."""
    for package in PACKAGES[1:]:
        others = {
            other.partition(".")[0] for name, found in GRAPH.items() if name.startswith(package) for other in found
        }
        assert others <= {package}
