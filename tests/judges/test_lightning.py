"""The snippet of docs/library.md, trained by the real Lightning, and the same steps by hand."""

import copy
import sys
import warnings
from pathlib import Path

import pytest
import torch
from support.markdown import library_snippets, run
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import losses
from losses import CrossEntropy, EagerForward, TangentProp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning

pytestmark = [pytest.mark.sample, pytest.mark.filterwarnings("ignore")]  # Lightning's advice on workers


def one_direction(x: Tensor) -> Tensor:
    """Of several, TangentProp would draw signs, and others by hand than in the Trainer."""
    return x.cos()[None]


def test_its_trainer_makes_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "penalty_lab", losses)  # its name where it is installed
    snippet = next(one for one in library_snippets() if "import lightning" in one)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 3))
    by_hand = copy.deepcopy(model)
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    batches = DataLoader(TensorDataset(x, y), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(run(snippet)["Invariant"](model, one_direction), batches)
    assert trainer.global_step == 9
    assert trainer.callback_metrics["penalty/tangent_prop"] > 0
    penalty = TangentProp(tangents=one_direction)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(3):
        for inputs, targets in batches:
            forward = EagerForward(by_hand, CrossEntropy(), inputs, targets, [penalty])
            objective = forward.losses.mean() + 0.1 * penalty(forward).mean()
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
    for ours, theirs in zip(by_hand.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
