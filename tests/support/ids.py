"""Ids of configs of all kinds, as `tests/ids.txt` has them: a line each, the id and the overrides.

Write the file anew:

    uv run python tests/support/ids.py
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "ids.txt"
CONFIGS = (
    "",
    "seed=3 data.seed=1 epochs=5 batch_size=100 shuffle=false",
    "data=mnist data.train_size=1000 data.label_noise=0.1 data.normalize=component",
    "data=fashion_mnist data.per_class=10 data.validation_size=100",
    "data=cifar10 model=cifar10_convnet scheduler=step",
    "data=cifar10 model=torchvision model.name=resnet18 batch_norm=frozen optimizer.lr=0.001",
    "data=moons model=mlp model.widths=[20] model.activation=tanh data.noise=0.1",
    "data=line model=mlp loss=mse penalty=tangent_prop probe=slope",
    "data=sine model=mlp loss=sum_of_squares data.n=50",
    "data=plateaus model=mlp loss=l1 data.distorted=true",
    "data=npz data.path=mine.npz model=convnet model.norm=group",
    "model=large_margin_convnet model.dropout=0.5 init=lsuv",
    "model=mlp model.widths=[] init=normal init.std=0.1",
    "model=mlp init=xavier_normal loss=nll model.log_softmax=true",
    "loss=cross_entropy loss.label_smoothing=0.1 init=kaiming_normal",
    "loss=multi_margin optimizer=adamw optimizer.weight_decay=0.1 scheduler=cosine",
    "loss=mse_one_hot optimizer=momentum optimizer.clip=5 scheduler=geometric",
    "optimizer=lbfgs optimizer.gradient=full optimizer.max_iter=5",
    "optimizer=adam 'optimizer.groups={fc2: {lr: 0.01}}' scheduler=staircase",
    "augment=noise augment.sigma=0.2",
    "augment=distortion 'augment.names=[rotation]'",
    "augment=adversarial augment.steps=1",
    "penalty=l2 penalty.l2.weight=1 penalty.l2.biases=false",
    "'penalty=[l1,elastic_net]' penalty.l1.scale_by_lr=true",
    "penalty=jacobian penalty.jacobian.every=2 penalty.jacobian.warmup=3",
    "'penalty=[jacobian_spectral,input_gradient,activation_gradient,weight_gradient]'",
    "penalty=large_margin penalty.large_margin.top_k=2",
    "penalty=large_margin_reference loss.weight=0 optimizer=rmsprop_tensorflow",
    "'probe=[jacobian_norm,zeros,boundary,noise,shift,rotation,fgsm,pgd,signal]'",
    "probe=penalty_value 'probe.penalty_value.penalty={_target_: losses.Jacobian, projections: null}'",
    "precision=bf16 channels_last=true on_nan=continue evaluate_every=2",
    "init_from=donor",
    "model=module 'model.network={_target_: mine.Net, hidden: 32}' 'allow_targets=[mine]'",
    "experiment=jacobian_mnist1000",
    "sweep=compare_penalties penalty=l2",
)


def lines() -> list[str]:
    """Return the lines of the file, by the code and the files under conf/ that stand beside this one."""
    from runner.config.compose import project_composer
    from runner.storage.identity import ids

    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("mine.npz").write_bytes(b"some data")
            Path("donor").mkdir()
            Path("donor", "result.json").write_text(json.dumps({"status": "done", "weights_sha256": "0" * 64}))
            return [
                f"{ids(project_composer().compose(shlex.split(config)).values)[0]} {config}".strip()
                for config in CONFIGS
            ]
        finally:
            os.chdir(before)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    FILE.write_text("\n".join(lines()) + "\n")
