"""Linear models through the command line, against scikit-learn and statsmodels. Training is in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge
from statsmodels.discrete.discrete_model import MNLogit
from support.forked import Forks

from runner.storage import checkpoint

pytestmark = pytest.mark.sample
FLOAT32 = 1e-4  # relative: the weights that training in float32 ends at
N = 80
LINEAR = ("model=mlp", "model.widths=[]", "data=npz", "data.path=data.npz", "data.normalize=none")
QUIET = ("data.validation_size=0", "batch_size=80", "evaluate_every=0", "histograms=false", "pictures=false")


def save(folder: Path, inputs: np.ndarray, **targets: np.ndarray) -> None:
    """Write a data set whose test split is its training split, in the float32 that is trained on."""
    arrays = {"inputs": inputs.astype(np.float32), **targets}
    np.savez(folder / "data.npz", **{f"{split}_{k}": v for split in ("train", "test") for k, v in arrays.items()})


def trained(forks: Forks, *arguments: str) -> tuple[np.ndarray, np.ndarray]:
    """Train by the command line, and return weight (C, D) and bias (C,)."""
    code = forks.run(*LINEAR, *QUIET, "threads=1", "device=cpu", *arguments)
    assert code == 0, forks.said()
    (directory,) = (forks.folder / "runs/train").iterdir()
    state = checkpoint.load(directory)
    assert state
    return tuple(state["loop"]["model"][f"fc1.{name}"].double().numpy() for name in ("weight", "bias"))  # type: ignore


def difference(found: tuple[np.ndarray, np.ndarray], weight: np.ndarray, bias: np.ndarray) -> float:
    ours, theirs = (np.concatenate([np.ravel(part) for part in parts]) for parts in (found, (weight, bias)))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.fixture
def line(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A regression on six features, correlated, of which half count; written to a file."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(N, 6)) @ (np.eye(6) + 0.3)
    targets = inputs @ [1.0, -2, 0.5, 0, 0, 0] + 0.7 + 0.3 * random.normal(size=N)
    inputs, targets = inputs.astype(np.float32), targets.astype(np.float32)
    save(tmp_path, inputs, targets=targets)
    return inputs.astype(float), targets.astype(float)


@pytest.fixture
def classes(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Three overlapping classes of four features, written to a file."""
    random = np.random.default_rng(0)
    labels = random.integers(3, size=N)
    inputs = (random.normal(size=(N, 4)) + 0.8 * np.eye(3, 4)[labels]).astype(np.float32)
    save(tmp_path, inputs, labels=labels)
    return inputs.astype(float), labels


def test_ridge(forks: Forks, line: tuple[np.ndarray, np.ndarray], judged: Callable[..., None]) -> None:
    """mean (y - x w - b)^2 + lam |w|^2, the bias free; their sums are N times that."""
    found = trained(
        forks,
        *("loss=mse", "penalty=l2", "penalty.l2.weight=0.3", "penalty.l2.biases=false"),
        *("optimizer=lbfgs", "epochs=10"),
    )
    ridge = Ridge(alpha=0.3 * N, solver="cholesky").fit(*line)
    value = difference(found, ridge.coef_, ridge.intercept_)
    judged("L2, command line, float32", "scikit-learn Ridge", "regression", value, tolerance=FLOAT32)

    inputs, targets = line
    centred = sm.OLS(targets - targets.mean(), inputs - inputs.mean(0))
    params = np.asarray(centred.fit_regularized(alpha=2 * 0.3 / 2, L1_wt=0).params)
    value = difference(found, params, targets.mean() - inputs.mean(0) @ params)
    judged("L2, command line, float32", "statsmodels OLS", "regression", value, tolerance=FLOAT32)


@pytest.mark.parametrize(("method", "l1", "l2"), [("lasso", 0.3, 0.0), ("elastic_net", 0.2, 0.25)])
def test_proximal_steps_to_the_end(
    forks: Forks,
    line: tuple[np.ndarray, np.ndarray],
    judged: Callable[..., None],
    method: str,
    l1: float,
    l2: float,
) -> None:
    """mean (y - x w - b)^2 + l1 |w|_1 + l2 |w|^2; theirs is half of it. The zeros are the same."""
    if method == "lasso":
        penalty = ("penalty=l1", f"penalty.l1.weight={l1}", "penalty.l1.scale_by_lr=true", "penalty.l1.biases=false")
        judge = Lasso(alpha=l1 / 2, tol=1e-12, max_iter=100_000)
    else:
        options = {"l1": l1, "l2": l2, "scale_by_lr": "true", "biases": "false"}
        penalty = ("penalty=elastic_net", *(f"penalty.elastic_net.{name}={value}" for name, value in options.items()))
        judge = ElasticNet(alpha=l1 / 2 + l2, l1_ratio=l1 / 2 / (l1 / 2 + l2), tol=1e-12, max_iter=100_000)
    found = trained(forks, "loss=mse", *penalty, "optimizer.lr=0.1", "epochs=600")
    judge.fit(*line)
    assert 0 < (judge.coef_ == 0).sum() < 6
    assert ((found[0][0] == 0) == (judge.coef_ == 0)).all()
    name = "L1" if method == "lasso" else "elastic net"
    value = difference(found, judge.coef_, judge.intercept_)
    judged(
        f"{name}, proximal, command line, float32",
        f"scikit-learn {type(judge).__name__}",
        "regression",
        value,
        tolerance=FLOAT32,
    )

    inputs, targets = line
    centred = sm.OLS(targets - targets.mean(), inputs - inputs.mean(0))
    share = l1 / 2 / (l1 / 2 + l2)
    fitted = centred.fit_regularized(alpha=l1 / 2 + l2, L1_wt=share, maxiter=10_000, cnvrg_tol=1e-12)
    params = np.asarray(fitted.params)
    value = difference(found, params, targets.mean() - inputs.mean(0) @ params)
    judged(f"{name}, proximal, command line, float32", "statsmodels OLS", "regression", value, tolerance=FLOAT32)


def test_logistic_regression(forks: Forks, classes: tuple[np.ndarray, np.ndarray], judged: Callable[..., None]) -> None:
    """mean cross-entropy + lam |w|^2; theirs is C times the sum + |w|^2 / 2, so C = 1 / (2 lam N)."""
    found = trained(
        forks,
        *("penalty=l2", "penalty.l2.weight=0.05", "penalty.l2.biases=false"),
        *("optimizer=lbfgs", "epochs=15"),
    )
    judge = LogisticRegression(C=1 / (2 * 0.05 * N), tol=1e-10, max_iter=10_000).fit(*classes)
    biases = found[1] - found[1].mean()  # a shift of all of them changes nothing
    theirs = judge.intercept_ - judge.intercept_.mean()
    value = difference((found[0], biases), judge.coef_, theirs)
    judged("L2, command line, float32", "scikit-learn LogisticRegression", "three classes", value, tolerance=FLOAT32)


def test_logistic_regression_without_a_penalty(
    forks: Forks, classes: tuple[np.ndarray, np.ndarray], judged: Callable[..., None]
) -> None:
    """The maximum of the likelihood, in differences to the first class, as statsmodels has them."""
    inputs, labels = classes
    weight, bias = trained(forks, "optimizer=lbfgs", "epochs=30")
    params = np.asarray(MNLogit(labels, sm.add_constant(inputs)).fit(method="newton", disp=False).params)
    value = difference((weight[1:] - weight[0], bias[1:] - bias[0]), params[1:].T, params[0])
    judged("cross-entropy, command line, float32", "statsmodels MNLogit", "three classes", value, tolerance=FLOAT32)
