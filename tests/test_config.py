"""Bad input: one sentence each, all at once, exit code 2, nothing written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT

from runner.config import command_line
from runner.config.allowlist import resolve
from runner.config.check import ConfigError
from runner.config.conf_files import CONF
from runner.config.help import INTRODUCTION, keys_of, show
from runner.config.help import PRINTED as GROUPS
from runner.config.rules import SHAPES

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Return a function of arguments that returns what the check of the command line says when it refuses them."""
    monkeypatch.chdir(tmp_path)

    def check(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            command_line.read_command(arguments)
        assert stop.value.code == 2
        assert not list(tmp_path.iterdir())
        return capsys.readouterr().err

    return check


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["optimizer.lrr=0.1"], "optimizer.lrr is not a key of the config: did you mean optimizer.lr?"),
        (["epoch=3"], "epoch is not a key of the config: did you mean epochs?"),
        (["optimizer=adm"], "optimizer=adm is not an option: did you mean optimizer=adam?"),
        (["penalty.l2.weight=1"], "penalty.l2.weight is not a key of the config: add penalty=l2"),
        (["optimizer.momentum=0.9"], "it comes with optimizer=momentum or optimizer=nesterov or optimizer=rmsprop"),
        (["data.root=x"], "it comes with data=cifar10 or data=fashion_mnist or data=mnist"),
        (["model.widths=[5]"], "model.widths is not a key of the config: it comes with model=mlp"),
        (["penalty=l2", "penalty.l2.biasses=false"], "did you mean penalty.l2.biases?"),
        (["penalty=elastic_net", "penalty.elastic_net.every=2"], "penalty.elastic_net has _target_, biases, l1, l2, "),
        (["data=npz"], "data.path must be given: data.path=..."),
        (["+penalty._target_=losses.L2"], "penalty must map a name of your choice to _target_ and its options"),
        (["+typo=1"], "typo is not a key of the config: uv run train.py --help lists the keys"),
        (["~epochs"], "~epochs would remove what every run has: set it instead, epochs=..."),
        (["epochs=0"], "epochs must be a whole number of at least 1, got 0"),
        (["data=npz", "data.path=null"], "data.path must be a path, "),
        (["-m", "epochs=1,2", "--cfg", "job"], "--cfg shows one config, and -m has many: leave out -m"),
        (["-m", "optimizer.lr=range(0.1,inf,0.1)"], "optimizer.lr=range(0.1,inf,0.1) never ends: write finite ends"),
        (["sweep.ranges={optimizer.lr: [0,1]}"], "sweep.ranges must be a mapping of keys to two numbers above 0"),
        (["epochs=two"], "epochs must be a whole number of at least 1, got 'two'"),
        (["seed=0.5"], "seed must be a whole number of at least 0, got 0.5"),
        (["seed=true"], "seed must be a whole number of at least 0, got true"),
        (["optimizer.lr=0"], "optimizer.lr must be a finite number above 0, got 0"),
        (["optimizer.lr=nan"], "optimizer.lr must be a finite number above 0, got nan"),
        (["optimizer.lr=inf"], "optimizer.lr must be a finite number above 0, got inf"),
        (["optimizer.lr=abc"], "optimizer.lr must be a finite number above 0, got 'abc'"),
        (["device=gpu"], "device must be one of auto, cpu, cuda, got 'gpu'"),
        (["data.per_class=0"], "data.per_class must be a whole number of at least 1, or null, got 0"),
        (["init=lsuv", "init.examples=1"], "init.examples must be a whole number of at least 2, got 1"),
        (["data.label_noise=2"], "data.label_noise must be between 0 and 1, got 2"),
        (["optimizer=momentum", "optimizer.momentum=1"], "optimizer.momentum must be at least 0 and below 1, got 1"),
        (["penalty=l2", "penalty.l2.weight=-1"], "penalty.l2.weight must be a finite number of at least 0, got -1"),
        (["penalty=l2", "penalty.l2.every=0"], "penalty.l2.every must be a whole number of at least 1, got 0"),
        (["name=../elsewhere"], "name must be a folder name without '..' and not absolute"),
        (["loss.weight=0"], "loss.weight must be above 0 without a penalty, got 0"),
        (["model._target_=os.system"], "model._target_ must be one of the classes that conf/ names, got 'os.system'"),
        (["model._target_=data.Digits"], "model._target_ must be one of the classes that conf/ names"),
        (["+hydra.callbacks.x._target_=os.system"], "hydra.callbacks must stay {}, got"),
        (["seed=1,2"], "seed has several values, 1,2: add -m for a sweep"),
        (["-m", "seed=1,-2"], "seed must be a whole number of at least 0, got -2"),
        (["--config-dir", "absent"], "--config-dir must be a folder, got 'absent'"),
        (["epochs=["], "epochs=[ has a bracket without its partner: write 'epochs=[]'"),
        (["-m", "seed=range(0)"], "seed=range(0) has no values: a sweep needs at least one"),
        (["--epochs", "5"], "--epochs is not a flag: write epochs=5\n"),
        (["--epochs=5", "seed=1"], "--epochs=5 is not a flag: write epochs=5\n"),
        (["epochs", "5", "seed=1"], "epochs is not key=value: write epochs=5\n"),
        (["penalty=l2", "seed"], "seed is not key=value: write seed=...\n"),
        (["penalty=l2", "-m", "seed=1,2"], "flags such as -m cannot stand between options: put them first\n"),
        ([f"runs_dir={__file__}/x"], f"runs_dir must be a folder, existing or new, got '{__file__}/x'"),
        (["hydra.launcher.njobs=2"], "did you mean hydra.launcher.n_jobs?"),
        (["hydra.sweeper.n_trials=2"], "it comes with hydra/sweeper=optuna"),
        (["lr=0.01"], "lr is not a key of the config: did you mean optimizer.lr?"),
        (["learning_rate=0.01"], "did you mean optimizer.lr?"),
        (["optimizer.learning_rate=1"], "did you mean optimizer.lr?"),
        (["penalty=l2", "l2.weight=1"], "l2.weight is not a key of the config: did you mean penalty.l2.weight?"),
        (["l2.weight=1"], "add penalty=l2 and write penalty.l2.weight"),
        (["penalty=l2", "penalty.weight=1"], "did you mean penalty.l2.weight?"),
        (["penalty=[l2,l1]", "penalty.weight=1"], "did you mean penalty.l1.weight or penalty.l2.weight?"),
        (["penalty.weight=1"], "choose penalty=NAME and write penalty.NAME.weight"),
        (["seed.x=1"], "seed.x is not a key of the config: seed is given as a whole, write seed=1"),
        (
            ["penalty=l2", "penalty=[l1,jacobian]"],
            "penalty is chosen 2 times, as l2 and [l1,jacobian]: write penalty=[l2,",
        ),
        (["model=mlp", "model=convnet"], "model is chosen 2 times, as mlp and convnet: keep one"),
        (
            ["-m", "penalty=l2,l1", "penalty.l2.weight=1"],
            "penalty.l2.weight is not a key of the config with penalty=l1",
        ),
        (
            ["-m", "penalty=l1,l2", "penalty.l2.weight=1"],
            "penalty.l2.weight is not a key of the config with penalty=l1",
        ),
        (
            ["model=cifar10_convnet"],
            "takes 3x32x32 inputs, got 1x28x28: choose model=large_margin_convnet or model=mnist_",
        ),
        (
            ["data=cifar10"],
            "MNISTConvnet takes 1x28x28 inputs, got 3x32x32: choose model=cifar10_convnet or model=convnet",
        ),
        (["data=line"], "model: MNISTConvnet takes 1x28x28 inputs, got 1: choose model=mlp\n"),
    ],
)
def test_problem_of_the_command_line(refused: Refused, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(*arguments)


@pytest.mark.parametrize(("arguments", "is_sweep"), [([], False), (["-m"], True)])
def test_nothing_behind_the_command(arguments: list[str], is_sweep: bool) -> None:
    """`uv run train.py` to the letter, the first command of the README."""
    command = command_line.read_command(arguments)
    assert (command.is_sweep, command.folder) == (is_sweep, Path("runs", "train"))


def test_all_problems_at_once(refused: Refused) -> None:
    lines = refused("epochs=0", "optimizer.lrr=1", "optimizer.lr=-1", "optimizer=sdg", "shuffle=random").splitlines()
    named = ["optimizer=sdg", "optimizer.lrr", "epochs", "shuffle", "optimizer.lr"]
    assert [line.split(" ")[0] for line in lines] == named


def test_a_file_cannot_allow_targets(refused: Refused, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\nallow_targets: [os]\n")
    assert "allow_targets must be given on the command line" in refused("--config-dir", str(folder), "experiment=mine")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["+optimizer.typo=1"], "optimizer.typo is not an option of optimizer"),
        (["+optimizer.nesterv=true"], "did you mean optimizer.nesterov?"),
        (["+optimizer.nesterov=abc"], "optimizer.nesterov must be true or false, got 'abc'"),
        (["penalty=jacobian", "penalty.jacobian.projections=0"], "projections must be positive or null, got 0"),
        (["penalty=jacobian", "penalty.jacobian.projections=1.5"], "must be a whole number or null, got 1.5"),
        (
            ["penalty=jacobian", "penalty.jacobian.of=relu9"],
            "penalty.jacobian: of must be among outputs, conv1, pool1, ",
        ),
        (["penalty=jacobian", "penalty.jacobian.of=inputs"], "of must be outputs or the name of a layer, got inputs"),
        (["penalty=large_margin", "penalty.large_margin.top_k=10"], "top_k must be"),
        (["penalty=large_margin", "penalty.large_margin.norm=3"], "norm must be"),
        (["penalty=large_margin", "penalty.large_margin.layers=[fc9]"], "layers must be among inputs, conv1"),
        (["data=line", "model=mlp"], "takes class labels and the data has real values as targets: choose loss=mse"),
        (["loss=mse"], "takes real values as targets and the data has class labels"),
        (["loss=nll"], "takes log-probabilities: add model.log_softmax=true"),
        (["data.train_size=2000"], "data: train_size must be 1 to 1437"),
        (["data.per_class=300"], "data: per_class must be 1 to 1"),
        (["data=npz", "data.path=absent.npz"], "absent.npz"),
        (["optimizer.groups={fc9: {lr: 0.1}}"], "groups must name layers with parameters, conv1, conv2, fc1, fc2"),
        (["optimizer.groups={fc2: {lrr: 0.1}}"], "groups.fc2 must map options among"),
        (["data.validation_size=0", "objective_metric=validation/error"], "objective_metric must be one of"),
        (["probe=zeros", "objective_metric=probe/zeros/fc9.bias"], "must be one of probe/zeros/"),
        (["probe=slope"], "slope is of a curve"),
        (["data=line", "model=mlp", "loss=mse", "probe=shift"], "shift is about classes"),
        (
            ["model=large_margin_convnet", "penalty=jacobian"],
            "the examples of a batch mix in norm1 (BatchNorm2d): put a batch norm into evaluation mode (in the runner "
            "batch_norm=frozen), or take a layer that treats each example by itself",
        ),
    ],
)
def test_problem_told_before_anything_is_written(
    composed: Callable[..., Any], tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    from runner.run import train_run

    directory = composed(*overrides)
    with pytest.raises(ConfigError) as refusal:
        train_run(directory)
    assert sentence in str(refusal.value)
    assert not (tmp_path / "runs").exists()


def test_image_tangents_on_the_line(composed: Callable[..., Any]) -> None:
    from runner.run import train_run

    line = ["data=line", "model=mlp", "loss=mse", "penalty=tangent_prop"]
    with pytest.raises(ConfigError, match="rotation"):
        train_run(composed(*line, "penalty.tangent_prop.tangents.names=[rotation]"))


def test_absent_cuda_is_told(composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.run import train_run

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="device must be auto or cpu on this machine, got cuda"):
        train_run(composed("device=cuda"))


def test_the_shapes_that_are_known_without_torch() -> None:
    for name, shape in SHAPES.items():
        if name.startswith("models."):
            resolve(name)(input_shape=tuple(map(int, shape.split("x"))), outputs=2)
        elif name in ("data.Digits", "data.Line", "data.Plateaus", "data.Sine"):  # the others are downloaded
            assert "x".join(map(str, resolve(name)().load().train.inputs.shape[1:])) == shape


@pytest.mark.process
def test_the_help_may_be_cut(tmp_path: Path) -> None:
    line = f"{sys.executable} {ROOT / 'train.py'} --help | head -1"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("Train a small network")
    assert not done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["optimizer.lrr=1"], ["data=cifar10"]])
def test_torch_is_not_imported(tmp_path: Path, arguments: list[str]) -> None:
    line = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), *arguments]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 2)
    assert "| torch" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_completion_does_not_import_torch(tmp_path: Path) -> None:
    import os

    environment = {**os.environ, "COMP_LINE": "train.py optimizer.l", "COMP_POINT": "20"}
    line = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "-sc", "query=bash"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert "optimizer.lr=" in done.stdout
    assert "| torch" not in done.stderr


EXAMPLES = [line.strip() for line in INTRODUCTION.partition("Examples\n")[2].splitlines()]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_the_help_can_be_trained(composed: Callable[..., Any], example: str) -> None:
    from runner.training.build import build

    words = shlex.split(example)
    assert words[:3] == ["uv", "run", "train.py"]
    overrides = [word.partition(",0.001,")[0] for word in words[3:] if word not in ("-m", "seed=range(5)")]
    build(composed(*(word for word in overrides if word != "data=mnist")).config)


def test_help_tells_the_keys_of_what_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    show(["penalty=[l2,jacobain]", "hydra/launcher=submitit_cluster", "sweep=lecture_l1"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "penalty=l2: Sum of the squared parameters." in lines
    assert any(line.startswith("penalty.l2.weight=0.001 coefficient in the objective") for line in lines)
    assert any(line.startswith("penalty=jacobain is not an option: there are activation_gradient,") for line in lines)
    assert any(line.startswith("hydra.launcher.timeout_min=240 minutes for one session") for line in lines)
    assert any(line.startswith("hydra.sweeper.max_batch_size=null jobs handed to the launcher") for line in lines)
    launchers = "hydra/launcher local ray_cluster stacked *submitit_cluster"
    assert any(line.startswith(launchers) for line in lines)


def test_every_key_has_a_meaning() -> None:
    files = [CONF / "config.yaml", *(path for group in GROUPS[:9] for path in (CONF / group).glob("*.yaml"))]
    for path in files:
        content = yaml.safe_load(path.read_text()) or {}
        content = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
        described = " ".join(keys_of(path))
        for key in leaves(content):
            assert f"{key}=" in described or key == "_target_", f"{path}: {key}"


def leaves(node: Any) -> list[str]:
    """Return the keys of the leaves of a tree of dicts."""
    if not isinstance(node, dict):
        return []
    return [key for key, value in node.items() if not isinstance(value, dict) or not value] + [
        key for value in node.values() for key in leaves(value)
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-m", "optimizer.lr=interval(0.1,0.2)"], "no values for a grid: write some, such as optimizer.lr=0.1,0.2"),
        (["-m", "seed=range(0,5,0)"], "seed=range(0,5,0) never ends: write finite ends and a step other than 0"),
        (["-m", "penalty=glob(x*)"], "penalty=glob(x*) has no values: a sweep needs at least one, such as activation_"),
        (["-m", "seed=glob(*)"], "seed=glob(*) has no values: a sweep needs at least one, such as range(5)"),
        (["penalty=*"], "penalty=* is not an option: for all of that form write -m 'penalty=glob(*)'"),
        (["penalty=l2,jacobian"], "add -m for a sweep, or for all of them in one run write penalty=[l2,jacobian]"),
        (["optimizer.lr=0,1"], "add -m for a sweep, or write optimizer.lr=0.1 for one number"),
        (["penalty=[l2 jacobian]"], "penalty=l2 jacobian is not an option: did you mean penalty=[l2,jacobian]?"),
        (["penalty=l2+jacobian"], "did you mean penalty=[l2,jacobian]?"),
        (["data=MNIST", "model=mnist_convnet"], "data=MNIST is not an option: did you mean data=mnist?"),
        (["scheduler=null"], "scheduler=null is not an option: there are constant, cosine"),
        (["penalty=None"], "did you mean penalty=none?"),
        (["optimizer={lr: 0.1}"], "optimizer={lr: 0.1} is not an option: to set its keys write optimizer.lr=0.1"),
        (["optimizer=[adam,sgd]"], "optimizer has one option, got [adam,sgd]: write optimizer=adam"),
        (["optimizer@model=adam"], "optimizer@model=adam puts a group at another place, which is not supported"),
        (["~optimizer.lr"], "~optimizer.lr would remove what every run has: set it instead, optimizer.lr=..."),
        (["~scheduler"], "~scheduler would remove what every run has: write scheduler=constant"),
        (["~penalty=l2"], "~penalty=l2 would remove what every run has: write penalty=[]"),
        (["~hydra/launcher"], "write hydra/launcher=local"),
        (["~penalty.l2"], "~penalty.l2 removes what is not there: leave it out"),
        (["+seed=1"], "+seed=1 adds a key that there is: write seed=1"),
        (["+sweep.trails=6"], "sweep.trails is not a key of the config: sweep has n_jobs, "),
        (["EPOCHS=5"], "EPOCHS is not a key of the config: did you mean epochs?"),
        (["callbacks=x"], "callbacks is not a key of the config: uv run train.py --help lists the keys, and docs/own_"),
        (["epochs=${nothing}", "seed=-1"], "epochs cannot be resolved: Interpolation key 'nothing' not found\nseed "),
        (["-m", "sweep.baseline=l2", "penalty=none,l1"], "baseline must be one of penalty=none, penalty=l1, got l2"),
        (["-m", "sweep.baseline='optimizer=sdg'", "optimizer=sgd,adam"], "did you mean optimizer=sgd?"),
        (["-m", "sweep.arms={a: {}, bc: {penalty: l2}}", "sweep.baseline=bd"], "of a, bc, got bd: did you mean bc?"),
        (["-m", "sweep.arms={a: {penalty: '[l2'}}"], "sweep.arms.a: penalty=[l2 has a bracket without its partner: "),
        (
            ["model.network._target_=mine.Net"],
            "write model=module 'model.network={_target_: mine.Net}' 'allow_targets=[mine]'",
        ),
        (["optimizer.groups.fc2.lr=1"], "groups is given as a whole, write 'optimizer.groups={fc2: {lr: 1}}'"),
        (["scheduler=geometric", "scheduler.factor=0"], "scheduler.factor must be above 0 and at most 1, got 0\n"),
        (["scheduler=staircase", "scheduler.factor=1.1"], "scheduler.factor must be above 0 and at most 1, got 1.1\n"),
        (["scheduler=staircase", "scheduler.factor=nan"], "scheduler.factor must be above 0 and at most 1, got nan\n"),
        (["scheduler=staircase", "scheduler.steps=0"], "scheduler.steps must be a whole number of at least 1, got 0\n"),
        (["scheduler=cosine", "scheduler.final=1.1"], "scheduler.final must be between 0 and 1, got 1.1\n"),
        (["name=a:b"], "name must be a folder name without '..' and not absolute, of letters"),
        (["name=."], "name must be a folder name"),
        (["runs_dir=$HOME/x"], "runs_dir must be a path, ~ being the home folder, without $, *, \\ and links "),
        (["runs_dir=a\\b"], "runs_dir must be a path"),
        (["data=mnist", "data.root='*'"], "data.root must be a path"),
        (["--config-dir"], "argument --config-dir/-cd: expected one argument: uv run train.py --help has examples\n"),
        (["--cfg", "foo"], "argument --cfg/-c: invalid choice: 'foo'"),
        (["-m=1"], "argument --multirun/-m: ignored explicit argument '1'"),
        # What to type stands behind a value that is nearly right.
        (["-m", "seed=[0,1,2]"], "got [0, 1, 2]: for a sweep write -m seed=0,1,2\n"),
        (["seed=0..4"], "got '0..4': for a sweep write -m 'seed=range(0,5)'\n"),
        (["seed=0-4"], "got '0-4': for a sweep write -m 'seed=range(0,5)'\n"),
        (["sweep.tuning_seeds=5"], "got 5: write sweep.tuning_seeds=[5]\n"),
        (["epochs=1e1"], "got 10.0: write epochs=10\n"),
        (["seed='1'"], "got '1': write seed=1\n"),
        (["optimizer.lr=1e-3."], "got '1e-3.': write optimizer.lr=0.001\n"),
        (["device=CPU"], "got 'CPU': write device=cpu\n"),
        (["threads=None"], "got 'None': write threads=null\n"),
        (["shuffle=yes"], "got 'yes': write shuffle=true\n"),
        (["optimizer.lr=1/10"], "got '1/10'\n"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_what_to_type(refused: Refused, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(*arguments)


def test_a_link_to_nothing_is_no_folder(refused: Refused, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("links")
    (folder / "dead").symlink_to(folder / "nothing")
    assert "runs_dir must be a path" in refused(f"runs_dir={folder}/dead/x")


def test_an_option_that_is_near_brings_its_keys(refused: Refused) -> None:
    assert refused(
        "optimizer=adm", "optimizer.betas=[0.9,0.99]", "model=mlpp", "data=line", "loss=mse"
    ).splitlines() == [
        "optimizer=adm is not an option: did you mean optimizer=adam?",
        "model=mlpp is not an option: did you mean model=mlp?",
    ]
    assert refused("optimizer=adm", "optimizer.epz=1").endswith("key of the config: did you mean optimizer.eps?\n")


@pytest.mark.parametrize("arguments", [["penalty=l2", "~penalty.l2"], ["optimizer=glob(s*)", "-m"], ["penalty=[]"]])
def test_what_makes_sense_passes(arguments: list[str]) -> None:
    command_line.read_command(arguments)


def test_glob_finds_the_options_of_all_folders(refused: Refused, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "penalty").mkdir()
    (folder / "penalty" / "l2_mine.yaml").write_text("l2_mine: {_target_: losses.L2, weight: -1}\n")
    line = ["-m", "--config-dir", str(folder)]
    told = "penalty.l2_mine.weight must be a finite number of at least 0, got -1\n"
    assert refused(*line, "penalty=glob(l2*)") == told
    assert refused(*line, "sweep.arms={a: {penalty: 'glob(l2*)'}}") == f"sweep.arms.a: {told}"
    command_line.read_command([*line, "penalty=glob(l2*,exclude=l2_mine)"])


HEAD = "# @package _global_\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("epochs: [1\nseed: 2\n", "mine.yaml, line 3, is not YAML: expected ',' or ']', but got ':'"),
        ("optimizer:\n\tlr: 2\n", "mine.yaml, line 3, is not YAML: a tab stands for spaces"),
        ("epochs: 1\nepochs: 2\n", "mine.yaml, line 3, is not YAML: found duplicate key epochs"),
        ("epochs: !!python/name:os.system\n", "mine.yaml, line 2, is not YAML: could not determine a constructor"),
        ("epochs: 1\x00\n", "mine.yaml is not YAML: it holds '\\x00'"),
        ("name: größe\n".encode("latin-1"), "experiment=mine: its file, line 2, is not written in UTF-8: save it as"),
        ("- epochs\n", "experiment=mine: its file must map keys to values, KEY: VALUE, got a list"),
        ("5\n", "experiment=mine: its file must map keys to values, KEY: VALUE, got a int"),
        ("epochs: ${nope}\n", "epochs cannot be resolved: Interpolation key 'nope' not found"),
        ("epohcs: 5\n", "epohcs is not a key of the config: did you mean epochs?"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line(
    refused: Refused, tmp_path_factory: pytest.TempPathFactory, content: str | bytes, sentence: str
) -> None:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    text = HEAD.encode() + (content if isinstance(content, bytes) else content.encode())
    (folder / "experiment" / "mine.yaml").write_bytes(text)
    said = refused("--config-dir", str(folder), "experiment=mine", "seed=-1")
    assert sentence in said
    assert "seed must be a whole number of at least 0, got -1" in said or "epohcs" in said


def test_a_preset_needs_its_first_line(refused: Refused, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text("epochs: 5\n")
    said = refused("--config-dir", str(folder), "experiment=mine")
    assert said.endswith("the first line of a file in the folder experiment must be # @package _global_\n")


def test_the_version_is_that_of_this_project(capsys: pytest.CaptureFixture[str]) -> None:
    show(["--version"])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.fullmatch(rf"penalty-lab {re.escape(version)}, torch \d+\.\d+.*\n", capsys.readouterr().out)
