"""Code blocks of a Markdown file, for tests that run what a reader would copy. As a script: all for loops of your own.

As a script it needs nothing but what the snippets import, so that `.ci/run` can try an installed wheel with it.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]


def blocks(text: str, heading: str = "", language: str = r"\w+") -> list[str]:
    """Return the code blocks of a language, of the whole text or of the section below a heading."""
    section = re.split(r"^##+ ", text.split(f"{heading}\n", 1)[1], flags=re.M)[0] if heading else text
    return re.findall(rf"^```(?:{language})\n(.*?)^```$", section, re.M | re.S)


def library_snippets() -> list[str]:
    """Return the README's plain loop, and the snippets of docs/library.md in their order."""
    (plain,) = blocks((ROOT / "README.md").read_text(), "### From your own loop", "python")
    return [plain, *blocks((ROOT / "docs" / "library.md").read_text(), language="python")]


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, outputs))


def surroundings() -> dict[str, Any]:
    """Return what the snippets take for granted: models, an optimizer, batches of random numbers."""
    torch.manual_seed(0)
    model, discriminator, generator = network(6, 3), network(6, 1), network(8, 6)
    batches = [(torch.randn(5, 6), torch.randint(3, (5,))) for _ in range(3)]
    return {
        "model": model,
        "discriminator": discriminator,
        "generator": generator,
        "batches": batches,
        "real_batches": [inputs for inputs, _ in batches],
        "torch": torch,
    }


def run(code: str, **names: Any) -> dict[str, Any]:
    """Execute a snippet as a module of its own, and return its names."""
    namespace = {"__name__": "snippet", **names}
    exec(compile(code, "snippet", "exec"), namespace)
    return namespace


def stand_in_for_lightning() -> types.ModuleType:
    """Return a module with the part of a LightningModule that ours uses: it is no dependency of ours."""

    class LightningModule(nn.Module):
        def log(self, name: str, value: Tensor) -> None:
            self.logged = {**getattr(self, "logged", {}), name: value}

    module = types.ModuleType("lightning")
    module.LightningModule = LightningModule  # type: ignore[attr-defined]
    return module


def coordinates(inputs: Tensor) -> Tensor:
    """Return two tangents (K, B, *I): along the first two coordinates."""
    return torch.eye(inputs.shape[1])[:2, None].expand(-1, *inputs.shape)


def fitted(module: Any, batches: list[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    """Train a Lightning module as a Trainer does, a step a batch, and yield the losses."""
    optimizer = module.configure_optimizers()
    for index, batch in enumerate(batches):
        loss = module.training_step(batch, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss


def main() -> None:
    """Run those that need neither a compiler nor other processes."""
    plain, gan, lightning, *others = library_snippets()
    given = surroundings()
    run(plain, **given, optimizer=torch.optim.SGD(given["model"].parameters(), lr=0.1))
    run(gan, **given, optimizer=torch.optim.SGD(given["discriminator"].parameters(), lr=0.1))
    for other in others[:4]:
        run(other, **given, optimizer=torch.optim.SGD(given["model"].parameters(), lr=0.1))
    if not find_spec("lightning"):
        sys.modules["lightning"] = stand_in_for_lightning()
    module = run(lightning)["Invariant"](given["model"], coordinates)
    print("the snippets run; loss", *(f"{loss.item():.3f}" for loss in fitted(module, given["batches"])))


if __name__ == "__main__":
    main()
