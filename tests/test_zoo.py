"""Torch's own modules, one or two samples of each: the penalties equal naive loops, or say in a sentence why not.

More samples, evaluation mode and other people's networks are in tests/judges/test_zoo.py.
"""

import pytest
import torch
from support import zoo

NAMES = [name for name in zoo.MODULES if name.split()[1] not in zoo.LEFT_OUT]


@pytest.mark.parametrize("dtype", zoo.DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_each_module_of_torch(name: str, dtype: torch.dtype) -> None:
    most = 2 if dtype == torch.float64 else 1
    assert zoo.compared(name, dtype, training=True, most=most).cases >= 8


def test_the_zoo_is_whole() -> None:
    assert len(zoo.MODULES) >= 114
    assert len(NAMES) == len(zoo.MODULES) - len(zoo.LEFT_OUT)


@pytest.mark.parametrize("name", [name for name in NAMES if "BatchNorm" in name])
def test_batch_norm_is_refused_in_training_and_right_in_evaluation(name: str) -> None:
    training, evaluation = (zoo.compared(name, torch.float64, mode, most=2) for mode in (True, False))
    assert training.mixed > 0
    assert evaluation.mixed == 0
    assert evaluation.cases == 16
