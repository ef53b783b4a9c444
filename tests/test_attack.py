"""Config as an attack: nothing outside the allowlist is built, and whatever is typed is answered in sentences."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import resource
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.forked import Forks

from runner.config import command_line
from runner.config.check import ConfigError, problems_of_config
from runner.config.compose import loader_with
from runner.config.tree import walk
from runner.training.build import build
from runner.training.loop import Loop

# Targets, with arguments by which each would make the file FILE, or do worse.
HOSTILE: dict[str, dict[str, Any]] = {
    "os.system": {"command": "touch FILE"},
    "posix.system": {"command": "touch FILE"},
    "os.mkdir": {"path": "FILE"},
    "subprocess.Popen": {"args": ["touch", "FILE"]},
    "subprocess.check_output": {"args": "touch FILE", "shell": True},
    "builtins.exec": {"source": "open('FILE', 'w').close()"},
    "builtins.eval": {"source": "open('FILE', 'w').close()"},
    "builtins.open": {"file": "FILE", "mode": "w"},
    "pathlib.Path.touch": {"self": "FILE"},
    "shutil.copy": {"src": "/etc/hostname", "dst": "FILE"},
    "runpy.run_path": {"path_name": "FILE"},
    "importlib.import_module": {"name": "antigravity"},
    "pickle.loads": {"data": "FILE"},
    "torch.load": {"f": "FILE", "weights_only": False},
    "torch.hub.load": {"repo_or_dir": "FILE", "model": "x"},
    "torch.nn.parallel.distributed.os.system": {"command": "touch FILE"},
    "data.download.os.system": {"command": "touch FILE"},
    "losses.jacobian.torch.save": {"obj": 1, "f": "FILE"},
    "runner.storage.atomic.write_atomic": {"path": "FILE", "content": "x"},
    "runner.run.run": {"directory": "FILE"},
    "hydra.utils.instantiate": {"config": {"_target_": "os.mkdir", "path": "FILE"}},
    "numpy.save": {"file": "FILE", "arr": [1]},
    "logging.FileHandler": {"filename": "FILE"},
    "models.MLP.__init__.__globals__": {},
}
GROUPS = ("model", "data", "loss", "optimizer", "scheduler", "init", "augment")


def said_by(check: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the sentences of a check that must refuse."""
    with pytest.raises(SystemExit) as leaving:
        check()
    assert leaving.value.code == 2
    return capsys.readouterr().err.splitlines()


def assert_refused(sentences: list[str], target: str, file: Path) -> None:
    assert any(re.search(rf"must (be|stay|name) .*{re.escape(target)}", sentence) for sentence in sentences), sentences
    assert not any("Traceback" in sentence for sentence in sentences)
    assert not file.exists()


def some_of(places: Sequence[Any], target: str, whole: bool) -> Sequence[Any]:
    """Return all places for a target, or one, another for each target."""
    return places if whole else [places[list(HOSTILE).index(target) % len(places)]]


def with_file(arguments: Any, file: Path) -> Any:
    return json.loads(json.dumps(arguments).replace("FILE", str(file)))


def test_some_of_the_hostile_targets_would_work(tmp_path: Path) -> None:
    """Negative control: what is refused below would do harm."""
    from importlib import import_module

    worked = 0
    for number, (target, arguments) in enumerate(HOSTILE.items()):
        file = tmp_path / str(number)
        module, _, name = target.rpartition(".")
        with contextlib.suppress(Exception):
            found: Any = getattr(import_module(module), name)
            values = with_file(arguments, file)
            result = found(*values.values()) if module in ("builtins", "posix") else found(**values)
            getattr(result, "wait", getattr(result, "close", print))()
        worked += file.exists()
    assert worked >= 10


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "everywhere"])
@pytest.mark.parametrize("target", HOSTILE)
def test_hostile_target_on_the_command_line(
    target: str, whole: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    arguments = with_file(HOSTILE[target], file)
    group = GROUPS[len(target) % len(GROUPS)]
    options = [f"+{group}.{key}={json.dumps(value)}" for key, value in arguments.items() if not isinstance(value, dict)]
    places = (
        [f"{group}._target_={target}", *options],
        ["penalty=tangent_prop", f"penalty.tangent_prop.tangents._target_={target}"],
        [f"+penalty.mine={{_target_: {target}, weight: 1}}"],
        [f"+model.widths=[1, {{_target_: {target}}}]"],
        [f"+hydra.callbacks.mine._target_={target}"],
        [f"hydra.launcher._target_={target}"],
        ["-m", f"{group}._target_={target},{target}", "seed=1,2"],
    )
    for line in some_of(places, target, whole):
        assert_refused(said_by(lambda line=line: command_line.read_command(line), capsys), target, file)  # type: ignore[misc]


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "everywhere"])
@pytest.mark.parametrize("target", HOSTILE)
def test_hostile_target_in_a_config_file(
    target: str, whole: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    node = {"_target_": target, **with_file(HOSTILE[target], file)}
    group = GROUPS[len(target) % len(GROUPS)]
    contents = {
        f"{group}/evil": node,
        "penalty/evil": {"evil": {**node, "weight": 1}},
        "probe/evil": {"evil": node},
        "experiment/evil": {"model": node, "allow_targets": [target.split(".")[0]]},
        "experiment/hooks": {"hydra": {"callbacks": {"evil": node}}},
        "experiment/launched": {"hydra": {"launcher": node}},
        "hydra/launcher/evil": node,
        "sweep/evil": {"hydra": {"sweeper": node}},
    }
    for name, content in some_of(list(contents.items()), target, whole):
        path = tmp_path / "own" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        package = "# @package _global_\n" if name.startswith(("experiment", "sweep")) else ""
        path.write_text(package + yaml.safe_dump(content))
        choice, _, option = name.rpartition("/")
        line = ["--config-dir", str(tmp_path / "own"), f"{choice}={option}"]
        assert_refused(said_by(lambda line=line: command_line.read_command(line), capsys), target, file)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["hydra.job_logging.root={handlers: [x]}"], "hydra.job_logging must stay"),
        (["hydra.hydra_logging.root={handlers: [x]}"], "hydra.hydra_logging must stay"),
        (["hydra.job_logging.root={}"], "hydra.job_logging must stay"),
        (["hydra.job_logging=${seed}"], "hydra.job_logging must stay"),
        (["+hydra.job_logging.handlers={x: {class: logging.FileHandler}}"], "hydra.job_logging must stay"),
        (["hydra/job_logging=default"], "hydra.job_logging must stay"),
        (["--hydra-help"], "--hydra-help is not supported"),
        (["--info", "config"], "--info is not supported"),
        (["hydra.job.name=other"], "hydra.job.name must stay"),
        (["+hydra.job.env_set.PATH=/tmp/evil"], "hydra.job.env_set must stay {}"),
        (["hydra.job.env_set=${seed}"], "hydra.job.env_set must"),
        (["+hydra.callbacks.x='${oc.create:{_target_:os.getcwd}}'"], "hydra.callbacks must stay {}"),
        (["hydra.launcher.n_jobs='${oc.create:{_target_:os.getcwd}}'"], "hydra.launcher.n_jobs must be a plain value"),
        (["hydra.launcher.n_jobs=${model}"], "hydra.launcher.n_jobs must be a plain value"),
        (["hydra.help.header='${oc.create:{_target_:os.getcwd}}'"], "hydra.help must stay"),
        (["hydra.launcher=l2"], "hydra.launcher must be chosen by hydra/launcher=..."),
        (["hydra.sweeper=l2"], "hydra.sweeper must be chosen by hydra/sweeper=..."),
        (["hydra.sweeper.params={allow_targets: '[os]'}"], "hydra.sweeper.params must not hold allow_targets"),
        (["hydra.sweeper.params={+allow_targets: '[os]'}"], "hydra.sweeper.params must not hold +allow_targets"),
        (["hydra.sweeper.params={hydra.verbose: 'true'}"], "hydra.sweeper.params must not hold hydra.verbose"),
        (["hydra.sweeper.params={hydra/launcher: evil}"], "hydra.sweeper.params must not hold hydra/launcher"),
        (["hydra.sweeper.params=[seed]"], "hydra.sweeper.params must map keys"),
        (
            ["hydra/sweeper=optuna", "hydra.sweeper.storage=redis://x"],
            "hydra.sweeper.storage must begin with sqlite:",
        ),
        (["hydra.verbose={a: 1}"], "hydra.verbose must stay false"),
        (["hydra.searchpath=[pkg://antigravity]"], "hydra.searchpath must name folders"),
        (["--experimental-rerun", "job.pickle"], "--experimental-rerun is not supported"),
        (["--config-path", "evil"], "--config-path and --config-name are not supported"),
        (["model._args_=[1]"], "is not a key of the config"),
        (["+model._args_=[1]"], "model._args_ is not allowed"),
        (["+model._partial_=true"], "model._partial_ is not allowed"),
        (["model._target_=${oc.env:HOME}"], "model._target_ must be one of the classes"),
        (["optimizer=null"], "optimizer=null is not an option"),
        (["~model=5"], "~model=5 would remove what every run has"),
        (["optimizer=lbfgs", "optimizer.line_search_fn=armijo"], "must be one of strong_wolfe, or null"),
        (["+penalty=null"], "penalty"),
        (["~sweep.on_error"], "~sweep.on_error would remove what every run has"),
        (["~data.seed"], "~data.seed would remove what every run has"),
        (["allow_targets=losses", "model._target_=losses.L2"], "allow_targets must be a list"),
    ],
)
def test_other_ways_in_are_closed(line: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert any(sentence in said for said in said_by(lambda: command_line.read_command(line), capsys))


HYDRA = {  # what a file may try to have Hydra build, before or beside a run
    "callback": {"callbacks": {"evil": "${oc.create:{_target_:os.mkdir,path:EVIL}}"}},
    "callback by reference": {"callbacks": {"evil": "${data.evil}"}},
    "handler": {"job_logging": {"root": {}, "handlers": {"evil": {"()": "os.mkdir", "path": "EVIL"}}}},
    "option of a launcher": {"launcher": {"n_jobs": "${oc.create:{_target_:os.mkdir,path:EVIL}}"}},
    "option of a sweeper": {"sweeper": {"evil": {"deep": ["${oc.create:{_target_:os.mkdir,path:EVIL}}"]}}},
    "allow_targets": {"mode": "MULTIRUN", "sweeper": {"params": {"allow_targets": "[subprocess]", "seed": "0,1"}}},
}


@pytest.mark.parametrize("attack", HYDRA)
def test_hydra_builds_nothing_for_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], attack: str) -> None:
    target = tmp_path / "evil"
    node = json.loads(json.dumps({"hydra": HYDRA[attack]}).replace("EVIL", str(target)))
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(node))
    line = ["--config-dir", str(tmp_path / "own"), "experiment=evil"]
    said = said_by(lambda: command_line.read_command(line), capsys)
    assert said
    assert all(sentence.startswith("hydra.") for sentence in said), said
    assert not target.exists()


def test_hydra_builds_nothing_for_a_job_that_a_file_asks_for(tmp_path: Path, command: Callable[..., Any]) -> None:
    """The file sweeps over another file, which no look at the command line would compose."""
    files = {
        "sweep/outer": {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"experiment": "evil"}}}},
        "experiment/evil": {"hydra": {"job_logging": HYDRA["handler"]["job_logging"]}},
    }
    for name, node in files.items():
        text = json.dumps(node).replace("EVIL", str(tmp_path / "evil"))
        path = tmp_path / "own" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text("# @package _global_\n" + text)
    done = command("--config-dir", str(tmp_path / "own"), "sweep=outer", "-m")
    assert "hydra.job_logging must stay" in done.stderr, done.stdout + done.stderr
    assert done.returncode == 2
    assert not (tmp_path / "evil").exists()


def test_hydra_would_build_it_unchecked(tmp_path: Path) -> None:
    """The control: the attack works, where nothing looks."""
    from hydra._internal.callbacks import Callbacks

    target = tmp_path / "evil"
    line = f"+hydra.callbacks.evil='${{oc.create:{{_target_:os.mkdir,path:{target}}}}}'"
    config = loader_with().load_configuration("config", [line], RunMode.RUN, from_shell=False)
    with contextlib.suppress(Exception):
        Callbacks(config)
    assert target.exists()


def test_an_admitted_package_does_not_admit_what_it_imports(composed: Callable[..., Any]) -> None:
    overrides = ("allow_targets=[losses]", "model._target_=losses.forward.abstractmethod")
    with pytest.raises(ConfigError, match="must be a class or function defined in losses"):
        build(composed(*overrides).config)


@pytest.mark.parametrize("targets", [list(HOSTILE)[:2], pytest.param(list(HOSTILE), marks=pytest.mark.slow)])
def test_tampered_run_directory_is_not_believed(forks: Forks, tmp_path: Path, targets: list[str]) -> None:
    """All that a run directory holds in text, made hostile, and resumed: nothing of it is built or obeyed."""
    file = tmp_path / "file"
    line = ("data=line", "model=mlp", "loss=mse", "epochs=4", "threads=1", "device=cpu", "checkpoint_seconds=1e-6")
    quiet = (*line, "histograms=false", "pictures=false")
    assert forks.run(*quiet, after=2) == -9
    (directory,) = (tmp_path / "runs" / "train").iterdir()
    for target in targets:
        node = {"_target_": target, **with_file(HOSTILE[target], file)}
        config = yaml.safe_load((directory / "config.yaml").read_text())
        hostile = dict.fromkeys(GROUPS, node) | {"penalty": {"evil": node}, "probe": {"evil": node}}
        hydra = {"callbacks": {"evil": node}, "launcher": node, "job_logging": {"root": {}, "handlers": {"x": node}}}
        allowed = {"allow_targets": [target.split(".")[0]], "hydra": hydra}
        (directory / "config.yaml").write_text(yaml.safe_dump({**config, **hostile, **allowed}))
        overrides = [f"model._target_={target}", f"allow_targets=[{target}]", f"hydra.launcher._target_={target}"]
        (directory / "overrides.yaml").write_text(yaml.safe_dump(overrides))
        (directory / "hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
        assert forks.run(*quiet, after=0, moment="within") == -9
        assert not file.exists()
        assert yaml.safe_load((directory / "config.yaml").read_text()) == config
    assert forks.run(*quiet) == 0
    refused = forks.run(f"--config-dir={directory}", "--config-name=config", *quiet)
    assert refused == 2
    assert not file.exists()


def test_damaged_result_is_made_anew(forks: Forks, tmp_path: Path) -> None:
    line = ("data=line", "model=mlp", "loss=mse", "epochs=2", "threads=1", "histograms=false", "pictures=false")
    assert forks.run(*line) == 0
    (path,) = tmp_path.glob("runs/train/*/result.json")
    whole = json.loads(path.read_text())
    for content in ("", "{", "[]", "null", '{"status": "done"}', '{"status": ["done"]}', "\x00\xff"):
        path.write_text(content)
        assert forks.run(*line) == 0, (content, forks.said())
        assert "Traceback" not in forks.said(), content
        assert json.loads(path.read_text())["test/loss"] == whole["test/loss"], content


# ---- Anything that may be typed

WORDS = ("epochs", "weight", "_target_", "lr", "l2", "mine", "0", "_", "a b", "model", "widths", "é", "losses.L2", "..")
NUMBERS = (0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"))
SETTINGS = (
    "tanh", "softplus", "reverse", "forward", "sphere", "logit", "sum_of_hinges", "inf", "sequential", "full",
    "component", "frozen", "bf16", "none", "fc1", "continue", "lecture", "train/loss", "losses.L2", "rotation",
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.text(max_size=5))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=6,
)
STARTS = (
    ("data=line", "model=mlp", "loss=mse", "penalty=[l2,jacobian]", "scheduler=step", "model.widths=[4]"),
    ("data=sine", "data.n=12", "model=mlp", "loss=mse", "penalty=[tangent_prop,l1]", "optimizer=adam"),
    ("data.train_size=20", "model.width=0.1", "penalty=[large_margin]", "probe=[noise]", "optimizer=lbfgs"),
    ("data.train_size=20", "model=mlp", "loss=multi_margin", "penalty=[input_gradient]", "optimizer.gradient=full"),
)
SENTENCE = re.compile(r"[\w+.${}\[\]'\"/:*=-].{10,}", re.S)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let what would take more than 2 GB fail at once, as it would on a machine without them."""
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@st.composite
def changes(draw: st.DrawFn) -> tuple[int, list[tuple[float, str, str, Any]]]:
    """A config to start from, and what to change in it: where (a fraction of its keys), how, and to what."""
    wild = st.tuples(st.floats(0, 0.999), st.sampled_from(("set", "delete", "add")), st.sampled_from(WORDS), TREES)
    tame = st.tuples(st.floats(0, 0.999), st.just("like"), st.just(""), st.integers(0, 60))
    return draw(st.integers(0, len(STARTS) - 1)), draw(st.lists(wild, max_size=1)) + draw(st.lists(tame, max_size=4))


def like(value: Any, number: int) -> Any:
    """Return another value of the same type."""
    if isinstance(value, list):
        return [like(member, number + i) for i, member in enumerate(value)][: 1 + number % 3] or [number]
    kinds: dict[type, Sequence[Any]] = {
        bool: (True, False), int: (0, 1, 2, 3, 7, 20), float: (0.0, 1e-6, 0.5, 1, 2.0, 1e6), str: (value, *SETTINGS),
        type(None): (None, 1, 0.5, 10, "orthonormal"),
    }  # fmt: skip
    return kinds[type(value)][number % len(kinds[type(value)])] if type(value) in kinds else value


def changed(config: dict[str, Any], edits: list[tuple[float, str, str, Any]]) -> dict[str, Any]:
    config = copy.deepcopy(config)
    for where, how, key, value in edits:
        places = places_in(config)
        node, last = places[int(where * len(places))]
        if how == "delete":
            del node[last]
        elif how == "like":
            node[last] = like(node[last], value)
        else:
            node[last if how == "set" else key] = value
    return config


def places_in(node: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return each key of a tree of dicts, with the dict that it is a key of."""
    inner = [place for value in node.values() if isinstance(value, dict) for place in places_in(value)]
    return [(node, key) for key in node] + inner


def is_memory(error: Exception) -> bool:
    """Tell whether it is what the runner reports with the batch size."""
    return isinstance(error, MemoryError) or "alloc" in str(error) or "memory" in str(error)


def outcome_of(config: dict[str, Any]) -> str:
    """Check, build and train one step: return "run", or "refused" by sentences, or "memory"."""
    problems = problems_of_config(config, [])
    if not problems:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loop = Loop(build(config), config)
                loop.step(loop.steps()[0])
            return "run"
        except ConfigError as error:
            problems = str(error).splitlines()
        except (MemoryError, RuntimeError) as error:
            if not is_memory(error):
                raise
            return "memory"
    for sentence in problems:
        assert SENTENCE.fullmatch(sentence), sentence
    return "refused"


@pytest.fixture
def starts(composed: Callable[..., Any]) -> list[dict[str, Any]]:
    configs = [composed(*overrides).config for overrides in STARTS]
    assert [outcome_of(config) for config in configs] == ["run"] * len(STARTS)
    return configs


def fuzz_trees(starts: list[dict[str, Any]], cases: int) -> dict[str, int]:
    """Return how many of so many changed configs ended in which way."""
    ends = {"run": 0, "refused": 0, "memory": 0}

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(changes())
    def fuzz(change: tuple[int, list[Any]]) -> None:
        ends[outcome_of(changed(starts[change[0]], change[1]))] += 1

    fuzz()
    return ends


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=mlp", "loss=nll", "model.log_softmax=true", "penalty=tangent_prop"),  # torch's log_softmax raises
        ("loss=nll", "model.log_softmax=true", "penalty=[jacobian]", "penalty.jacobian.mode=forward"),
    ],
)
def test_what_the_fuzz_has_found_trains(composed: Callable[..., Any], overrides: list[str]) -> None:
    assert outcome_of(composed(*overrides, "data.train_size=20").config) == "run"


@pytest.mark.usefixtures("little_memory")
def test_any_tree_is_a_run_or_a_sentence(starts: list[dict[str, Any]]) -> None:
    ends = fuzz_trees(starts, 120)
    print(ends)
    assert min(ends["run"], ends["refused"]) > 5  # else only one side was tried


@pytest.mark.slow
@pytest.mark.usefixtures("little_memory")
def test_any_tree_is_a_run_or_a_sentence_whole(starts: list[dict[str, Any]]) -> None:
    ends = fuzz_trees(starts, 2000)
    print(ends)
    assert min(ends["run"], ends["refused"]) > 100


def keys_of(config: dict[str, Any]) -> list[str]:
    return [path for path, _ in walk(config) if not re.search(r"\.\d", path)]


def fuzz_lines(config: dict[str, Any], cases: int) -> dict[str, int]:
    """Check so many command lines; return how many passed and how many were refused."""
    ends = {"run": 0, "refused": 0}
    keys = st.sampled_from([*keys_of(config), *GROUPS, "penalty", "probe", "hydra.launcher", "hydra.sweeper", *WORDS])
    values = st.one_of(
        TREES.map(json.dumps), st.sampled_from(["l2", "mlp", "1,2", "range(3)", "interval(0,1)", "${seed}", "${x}"]),
        st.text("[]{}(),:=$'\"\\ a1~+@/-.é\n", max_size=8),
    )  # fmt: skip
    prefix = st.sampled_from(["", "", "", "+", "++", "~"])
    override = st.tuples(prefix, keys, values).map(lambda parts: f"{parts[0]}{parts[1]}={parts[2]}")
    right = st.sampled_from(["seed=3", "penalty=l2", "model=mlp", "data=moons", "+optimizer.momentum=0.9", "name=a b"])
    words = st.one_of(override, override, right)  # so that some lines pass

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(words, min_size=1, max_size=3), st.booleans())
    def fuzz(lines: list[str], multirun: bool) -> None:
        lines = [line for line in lines if not line.startswith("-")]
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                command_line.read_command(["-m", *lines] if multirun else lines)
                ends["run"] += 1
            except SystemExit as leaving:
                ends["refused"] += 1
                code = leaving.code
            else:
                return
        assert code == 2
        assert said.getvalue().strip()
        assert "Traceback" not in said.getvalue()

    fuzz()
    return ends


def test_any_command_line_passes_or_is_refused(composed: Callable[..., Any]) -> None:
    ends = fuzz_lines(composed().config, 40)
    print(ends)


@pytest.mark.slow
def test_any_command_line_passes_or_is_refused_whole(composed: Callable[..., Any]) -> None:
    ends = fuzz_lines(composed().config, 500)
    print(ends)
    assert min(ends.values()) > 10
