"""Torch's own modules with up to 40 of their options each, both modes, both float types, eager and functional."""

from collections.abc import Callable

import pytest
import torch
from support import zoo
from torch import Tensor

from losses import verify

SEEN: dict[torch.dtype, list[zoo.Seen]] = {dtype: [] for dtype in zoo.DTYPES}
REFUSED = "the examples of a batch mix|torch cannot differentiate|must have a second derivative"
SAMPLE = {"LayerNorm", "Softmax"}
NAMES = [
    pytest.param(name, marks=pytest.mark.sample if name.split()[1] in SAMPLE else ())
    for name in zoo.MODULES
    if name.split()[1] not in zoo.LEFT_OUT
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("dtype", zoo.DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_each_sample(name: str, dtype: torch.dtype, judged: Callable[..., None]) -> None:
    for training in (True, False):
        seen = zoo.compared(name, dtype, training, most=40)
        assert seen.cases
        SEEN[dtype].append(seen)
        method = f"the zoo, {'training' if training else 'evaluation'}, {str(dtype).removeprefix('torch.')}"
        judged(method, "naive loop", name.split()[1], seen.values, seen.gradients, tolerance=zoo.CLOSE[dtype])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_verify_refuses_no_sound_module(name: str) -> None:
    """In float32, 20 seeds; a module whose examples mix, or that lacks a derivative by the loop, is refused."""
    cases = [case_of(name, seed) for seed in range(20)]
    largest = max(mixing for *_, mixing in cases)  # of dead units in one seed the loop sees nothing
    for network, inputs, values, mixing in cases:
        has_all = all(value.isfinite() for value in values.values()) and zoo.has_gradients(network, values)
        if largest < 1e-7 and has_all:
            verified(network, inputs)
        elif mixing > 1e-5 or largest < 1e-7:
            with pytest.raises(ValueError, match=REFUSED):
                verified(network, inputs)


def case_of(name: str, seed: int) -> tuple[zoo.Behind, Tensor, dict[str, Tensor], float]:
    sample = next(zoo.samples(zoo.MODULES[name], torch.float32, training=False, most=1))
    network = zoo.Behind(sample, torch.float32, seed).eval()
    inputs = torch.randn(zoo.rows_of(network), zoo.INPUTS, generator=torch.Generator().manual_seed(seed))
    return network, inputs, *zoo.naive(network, inputs)


def verified(network: zoo.Behind, inputs: Tensor) -> None:
    penalties = [zoo.PENALTIES[penalty]() for penalty in ("jacobian", "tangent_prop", "input_gradient")]
    zoo.eager(network, inputs, penalties[0])  # a dead unit may hide at the one point what shows at the other
    verify(network, zoo.halves, inputs, inputs, penalties, examples=len(inputs))


def test_what_was_seen() -> None:
    """Tells, with -s -n 0, the numbers of docs/library.md."""
    for dtype, seen in SEEN.items():
        if not seen:
            pytest.skip("run this file whole, in one process")
        cases, mixed, lacking = (sum(getattr(one, name) for one in seen) for name in ("cases", "mixed", "lacking"))
        values, gradients = (max(getattr(one, name) for one in seen) for name in ("values", "gradients"))
        print(f"{dtype}: {cases} cases, {values:.2g} in values, {gradients:.2g} in gradients;", end=" ")
        print(f"refused: {mixed} since examples mix, {lacking} since torch lacks a derivative")
