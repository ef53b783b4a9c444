"""Evaluation: the mean over all examples, whatever the batches in which the model sees them."""

import pytest
import torch
from torch import nn

from data import Split
from losses import MSE, CrossEntropy
from runner.evaluation.evaluate import BATCH, evaluate

COUNT = 2 * BATCH + 100  # the last batch is a small one


@pytest.fixture
def inputs() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(COUNT, 4) * torch.linspace(0.1, 3, COUNT).unsqueeze(1)  # no batch stands for the rest


def test_all_examples_count_alike(inputs: torch.Tensor) -> None:
    model, targets = nn.Linear(4, 3), torch.randint(3, (COUNT,))
    found = evaluate(model, CrossEntropy(), Split(inputs, targets), 3)
    outputs = model(inputs).detach()
    torch.testing.assert_close(found.outputs, outputs)
    assert len(found.losses) == COUNT
    assert found.loss == pytest.approx(nn.functional.cross_entropy(outputs, targets).item(), rel=1e-5)
    wrong = sum(row.argmax().item() != target.item() for row, target in zip(outputs, targets, strict=True))
    assert found.error == pytest.approx(wrong / COUNT)
    metrics = found.metrics("test")
    assert (metrics["test/loss"], metrics["test/error"]) == (found.loss, found.error)
    right, wrong = (metrics[f"test/loss_{name}"] for name in ("right", "wrong"))
    assert 0 < right < wrong
    assert (1 - found.error) * right + found.error * wrong == pytest.approx(found.loss)
    assert not found.outputs.requires_grad


def test_a_regression_has_no_error_and_a_model_that_drops_does_not(inputs: torch.Tensor) -> None:
    model = nn.Sequential(nn.Dropout(0.9)).train()
    found = evaluate(model, MSE(), Split(inputs, inputs + 2), None)
    assert found.error is None
    errors = {f"train/rmse/{output}": pytest.approx(2.0) for output in range(4)}
    assert found.metrics("train") == {"train/loss": pytest.approx(4.0), **errors}


def test_where_no_example_is_wrong_the_wrong_ones_have_no_loss(inputs: torch.Tensor) -> None:
    model = nn.Linear(4, 3)
    found = evaluate(model, CrossEntropy(), Split(inputs, model(inputs).argmax(1)), 3)
    assert found.metrics("train") == {"train/loss": found.loss, "train/error": 0.0, "train/loss_right": found.loss}
