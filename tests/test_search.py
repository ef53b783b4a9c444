"""A search goes on where it was killed, and several processes share it: each trial is proposed and trained once."""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
import yaml
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from support.sweeps import FAULTY, TINY, Sweeps

from runner.config.compose import project_composer
from runner.config.conf_files import file_of, load
from runner.storage.directory import Run
from runner.sweep.pruning import Pruning, problems_of_pruning, pruner_of
from runner.sweep.space import Proposals, Space, axis_of, place_of
from runner.sweep.study import _database, open_study
from runner.system import birth_of

optuna.logging.set_verbosity(optuna.logging.WARNING)
POSTGRESQL = (pytest.mark.slow, pytest.mark.needs("postgresql"))
RANGES = ("optimizer.lr=tag(log,interval(0.001,0.5))", "penalty.l2.weight=tag(log,interval(0.00001,0.1))")
SEARCH = (*TINY, "hydra/sweeper=optuna", "hydra.sweeper.startup_trials=2", "penalty=l2", *RANGES)


def trials_of(place: Path | str) -> list[FrozenTrial]:
    """Return the trials of the only study in a sweep's folder, or in a database."""
    if isinstance(place, Path):
        storage: Any = JournalStorage(JournalFileBackend(str(place / "search.journal")))
    else:
        storage = _database(place)
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def told(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    """Return what must be the same in two searches, however often they were killed."""
    return [(trial.number, trial.state.name, trial.params, trial.values) for trial in trials]


def check_kills(sweeps: Sweeps, trials: int, generator: random.Random, kills: int = 1) -> None:
    """Kill a search at random moments, repeat it, and compare it with an undisturbed one."""
    line = (*SEARCH, "epochs=100", f"hydra.sweeper.n_trials={trials}")
    began = time.monotonic()
    sweeps.run(*line, name="whole")
    seconds = time.monotonic() - began
    folder = sweeps.folder / "runs" / "killed"
    for _ in range(kills):
        process = sweeps.start(*line, name="killed")
        sweeps.wait_until(lambda: (folder / "search.journal").exists(), process)
        time.sleep(generator.uniform(0, seconds / 2))
        os.kill(process, signal.SIGKILL)
        sweeps.wait(process)
    said = sweeps.run(*line, name="killed")
    found = told(trials_of(folder))
    assert found == told(trials_of(sweeps.folder / "runs" / "whole")), said
    assert [(number, state) for number, state, *_ in found] == [(number, "COMPLETE") for number in range(trials)]
    assert list(sweeps.times_trained("killed").values()) == [1] * trials
    best = (folder / "optimization_results.yaml").read_text()
    assert yaml.safe_load(best)["best_value"] == min(values[0] for *_, values in found)
    said = sweeps.run_without_torch(*line, name="killed")
    assert f"search of {trials} trials, {trials} of them ended before" in said
    assert (folder / "optimization_results.yaml").read_text() == best
    assert (folder / "groups.csv").read_text().count("\n") == trials + 1
    assert told(trials_of(folder)) == found


def test_a_killed_search_goes_on(sweeps: Sweeps) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    check_kills(sweeps, trials=6, generator=random.Random(seed))


@pytest.mark.slow
def test_a_search_that_is_killed_three_times_goes_on(sweeps: Sweeps) -> None:
    check_kills(sweeps, trials=12, generator=random.Random(0), kills=3)


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=POSTGRESQL)])
def test_two_processes_share_a_study_and_one_is_killed(sweeps: Sweeps, database: str) -> None:
    """PostgreSQL, an empty database of that, is found by the variable POSTGRES: `scripts/clusters.sh search`."""
    url = os.environ["POSTGRES"] if database == "postgresql" else f"sqlite:///{sweeps.folder}/study.db"
    line = (*SEARCH, "epochs=1000", "hydra.sweeper.n_trials=8", f"hydra.sweeper.storage={url}", "sweep.n_jobs=2")
    killed, left = sweeps.start(*line), sweeps.start(*line)

    def has_completed_one() -> bool:
        ready = len(sweeps.results()) > 2  # so that there is a study
        return ready and any(trial.values and trial.user_attrs["owner"]["pid"] == killed for trial in trials_of(url))

    sweeps.wait_until(has_completed_one, killed)
    os.kill(killed, signal.SIGKILL)
    sweeps.wait(killed)
    code, said = sweeps.wait(left)
    assert code == 0, said
    trials = [trial for trial in trials_of(url) if "owner" in trial.user_attrs]
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 8
    assert len({str(trial.params) for trial in trials}) == 8
    assert all(math.isfinite(trial.values[0]) for trial in trials)
    assert list(sweeps.times_trained().values()) == [1] * 8
    assert {trial.user_attrs["owner"]["pid"] for trial in trials} == {killed, left}


def test_a_run_that_another_search_trains_is_waited_for(sweeps: Sweeps) -> None:
    """Two studies with the same trials."""
    line = (*SEARCH, "epochs=1000", "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=2")
    both = [sweeps.start(*line, f"hydra.sweeper.startup_trials={trials}") for trials in (1, 2)]
    ends = [sweeps.wait(process) for process in both]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "another process trains" in ends[0][1] + ends[1][1]
    storage = JournalStorage(JournalFileBackend(str(sweeps.folder / "runs" / "train" / "search.journal")))
    first, second = (
        optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)
    )
    assert told(first.trials) == told(second.trials)
    assert all(math.isfinite(trial.values[0]) for trial in first.trials)
    assert list(sweeps.times_trained().values()) == [1, 1]


def test_trials_of_other_machines(sweeps: Sweeps) -> None:
    """What died elsewhere in this folder is run again; what is run in another folder is left alone."""
    line = (*SEARCH, "epochs=2")
    sweeps.run(*line, "hydra.sweeper.n_trials=1")
    folder = sweeps.folder / "runs" / "train"
    storage = JournalStorage(JournalFileBackend(str(folder / "search.journal")))
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage, sampler=RandomSampler(seed=1))
    owner = {**study.trials[0].user_attrs["owner"], "machine": "other"}
    for where in (owner["folder"], f"0:{folder}"):
        study.ask(study.trials[0].distributions).set_user_attr("owner", {**owner, "folder": where})
    sweeps.run(*line, "hydra.sweeper.n_trials=4")
    trials = trials_of(folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "RUNNING", "COMPLETE"]
    assert trials[1].params == study.trials[1].params
    assert len(sweeps.results()) == 3
    shutil.rmtree(next(path for path in folder.glob("*") if path.name in sweeps.results()))
    sweeps.run(*line, "hydra.sweeper.n_trials=4")  # the table is of what is there
    assert (folder / "groups.csv").read_text().count("\n") == 3


def test_a_grid_with_two_objectives(sweeps: Sweeps) -> None:
    line = (*TINY, "epochs=3", "hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", "hydra.sweeper.n_jobs=4")
    line = (*line, "optimizer.lr=0.01,0.1", "seed=range(3)", "hydra.sweeper.objectives=[train/loss,epoch]")
    said = sweeps.run(*line)
    assert "search of 6 trials, 0 of them ended before" in said
    folder = sweeps.folder / "runs" / "train"
    trials = trials_of(folder)
    assert [tuple(trial.params.values()) for trial in trials] == [(lr, n) for lr in ("0.01", "0.1") for n in range(3)]
    assert list(sweeps.times_trained().values()) == [1] * 6
    results = {(result["train/loss"], float(result["epoch"])) for result in sweeps.results().values()}
    assert {tuple(trial.values) for trial in trials} == results
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert [solution["values"] for solution in best["solutions"]] == [list(min(results))]
    assert isinstance(best["solutions"][0]["params"]["optimizer.lr"], float)


def test_a_metric_that_is_not_measured_ends_the_search(sweeps: Sweeps) -> None:
    line = (*TINY, "epochs=1", "hydra/sweeper=optuna", "seed=range(8)", "hydra.sweeper.objectives=[train/lost,epoch]")
    said = sweeps.run(*line, code=2)
    assert re.search("hydra.sweeper.objectives must be one of train/loss, .*, got 'train/lost'\n", said)
    assert not sweeps.results()  # told before anything is trained


def test_failed_trials_are_repeated(sweeps: Sweeps) -> None:
    sweeps.faults.write_text('{"1": "kill", "2": "diverge"}')
    line = (*FAULTY, "hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", "loss.job=range(4)")
    sweeps.run(*line, code=1)
    folder = sweeps.folder / "runs" / "train"
    assert [trial.state.name for trial in trials_of(folder)] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials_of(folder)[2].values == [math.inf]
    sweeps.run(*line, "sweep.retry_failed=false", code=1)
    assert len(trials_of(folder)) == 4
    sweeps.faults.write_text("{}")
    sweeps.run(*line, code=1)  # the one that diverged
    assert [trial.state.name for trial in trials_of(folder)] == ["COMPLETE", "FAIL", *["COMPLETE"] * 3]
    assert trials_of(folder)[4].params == {"loss.job": 1}
    assert sorted(sweeps.times_trained().values()) == [0, 1, 1, 1]


def test_a_search_that_prunes_and_is_killed(sweeps: Sweeps) -> None:
    """What is pruned depends on no clock: it is the same in a search that was killed."""
    line = (*SEARCH, "evaluate_every=1", "epochs=40", "hydra.sweeper.n_trials=6", "hydra.sweeper.pruner=median")

    def stopped() -> list[dict[str, Any]]:
        return [result for result in sweeps.results("killed").values() if result["status"] == "pruned"]

    sweeps.run(*line, name="whole")
    whole = trials_of(sweeps.folder / "runs" / "whole")
    assert {trial.state.name for trial in whole} == {"COMPLETE", "PRUNED"}
    assert all(trial.last_step == 40 for trial in whole if trial.state == TrialState.COMPLETE)
    process = sweeps.start(*line, name="killed")
    sweeps.wait_until(stopped, process)
    os.kill(process, signal.SIGKILL)
    sweeps.wait(process)
    said = sweeps.run(*line, name="killed")
    found = trials_of(sweeps.folder / "runs" / "killed")
    assert told(found) == told(whole), said
    assert [trial.intermediate_values for trial in found] == [trial.intermediate_values for trial in whole]
    pruned = [trial for trial in found if trial.state == TrialState.PRUNED]
    before = stopped()
    assert 0 < len(before) <= len(pruned)  # another one may have been at its end before it was stopped
    assert all(f"pruned (seed 0): {result['reason']}" in said for result in before)
    sweeps.run_without_torch(*line, name="killed")  # nothing is trained again
    name = next(name for name, result in sweeps.results("killed").items() if result["status"] == "pruned")
    typed = yaml.safe_load((sweeps.folder / "runs" / "killed" / name / "overrides.yaml").read_text())
    typed = [word for word in typed if not word.startswith("--")]  # the folder of options, which `sweeps` gives
    sweeps.run(*typed, name="killed")  # outside of the search the run goes on
    assert len(stopped()) == len(before) - 1


class Recorded(NamedTuple):
    """A run, as far as pruning looks at it."""

    path: Path

    def result(self) -> dict[str, Any]:
        return {"best/by": "validation/error"}

    def record(self, values: list[float], end: str = "") -> None:
        rows = [f"{epoch},{value}\r\n" for epoch, value in enumerate(values)]
        (self.path / "metrics.csv").write_text("".join(["epoch,validation/error\r\n", *rows, end]), newline="")
        os.utime(self.path / "metrics.csv", ns=(0, len(rows) + len(end)))


@pytest.mark.parametrize("pruner", ["median", "halving"])
@pytest.mark.parametrize("looks", [[21], [2, 5, 6, 21], [*range(22)]])
def test_pruning_depends_on_what_is_recorded_alone(tmp_path: Path, pruner: str, looks: list[int]) -> None:
    study = optuna.create_study(pruner=pruner_of(pruner, prune_after=3, startup_trials=2))
    reasons = []
    for slope in (0.02, 0.03, 0.025, 0.001, 0.04):  # the fourth is the only bad one in the end
        trial, run = study.ask(), Recorded(tmp_path)
        pruning = Pruning([(run, trial)], None)  # type: ignore[list-item]
        values = [0.0, *(1 - slope * epoch for epoch in range(1, 21))]  # the untrained one is no rival
        reason = None
        for look in looks:
            run.record(values[:look], end="7,0.1")  # a line that is being written
            reason = pruning.reason(run)  # type: ignore[arg-type]
            again = Pruning([(run, optuna.trial.Trial(study, trial._trial_id))], None)  # type: ignore[list-item]
            assert again.reason(run) == reason  # type: ignore[arg-type]
        reasons.append(reason)
        study.tell(trial, None if reason else values[-1], TrialState.PRUNED if reason else TrialState.COMPLETE)
    expected = {
        "median": [None, None, None, "at epoch 3, with validation/error 0.997", None],
        "halving": [
            None,
            None,
            "at epoch 3, with validation/error 0.925",
            "at epoch 3, with validation/error 0.997",
            None,
        ],
    }
    assert reasons == expected[pruner]


@pytest.mark.parametrize(
    ("launcher", "objectives", "line", "sentence"),
    [
        ("local", None, ["evaluate_every=0"], "needs epochs that are evaluated, got evaluate_every=0"),
        ("ray_cluster", None, [], "needs hydra/launcher=local"),
        ("local", ["train/loss", "test/loss"], [], "needs one metric .*, got train/loss, test/loss"),
        ("local", None, ["objective_metric=best/train/loss"], "needs one metric .*, got best/train/loss"),
        ("local", ["seconds"], [], "needs one metric .*, got seconds"),
        ("local", ["validation/error"], [], None),
        ("local", None, ["objective_metric=test/loss"], None),
    ],
)
def test_what_cannot_be_pruned(
    launcher: str, objectives: list[str] | None, line: list[str], sentence: str | None
) -> None:
    run = Run(project_composer().compose(line).values)
    target = load(file_of("hydra/launcher", launcher))["_target_"]
    problems = problems_of_pruning(target, objectives, run)
    assert len(problems) == bool(sentence)
    assert not sentence or re.match(f"hydra.sweeper.pruner {sentence}", problems[0])


@pytest.fixture
def space() -> Space:
    return Space.of(["epochs=3", *RANGES, "seed=range(0,10)", "optimizer=sgd,adam"], project_composer())


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
@pytest.mark.parametrize("objectives", [1, 2])
def test_a_trial_that_was_cut_off_gets_the_same_values(space: Space, sampler: str, objectives: int) -> None:
    if sampler == "grid":
        space = Space.of(["seed=range(0,10)", "optimizer=sgd,adam", "epochs=1,2"], project_composer())

    def proposed(cut_off: bool) -> list[dict[str, Any]]:
        study = optuna.create_study(directions=["minimize"] * objectives)
        study.sampler = Proposals(space, sampler, seed=0, startup_trials=3)
        for number in range(8):
            trial = study.ask()
            if cut_off:
                space._replace(axes=dict(list(space.axes.items())[:2])).suggest(trial)
                trial = optuna.trial.Trial(study, study.trials[number]._trial_id)
            space.suggest(trial)
            study.tell(trial, [float(trial.params["seed"] ** k) for k in range(1, objectives + 1)])
        return [trial.params for trial in study.trials]

    whole = proposed(cut_off=False)
    assert proposed(cut_off=True) == whole
    assert len({str(params) for params in whole}) == 8


def test_a_repeated_trial_leaves_no_hole_in_the_grid(space: Space) -> None:
    space = Space.of(["seed=range(3)", "optimizer=sgd,adam"], project_composer())
    study = optuna.create_study(sampler=Proposals(space, "grid", 0, 0))
    for number in range(7):
        if number == 3:
            study.enqueue_trial(study.trials[1].params, user_attrs={"repeats": 1})
        trial = study.ask()
        space.suggest(trial)
        study.tell(trial, state=TrialState.FAIL)
    assert study.trials[3].params == study.trials[1].params
    fresh = [tuple(trial.params.values()) for trial in study.trials if trial.number != 3]
    assert fresh == [(name, seed) for name in ("sgd", "adam") for seed in range(3)]
    assert place_of(study, 7) == 6


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("seed=range(1,4)", [1, 2, 3]),
        ("seed=shuffle(range(1,8,3))", [1, 4, 7]),
        ("seed=range(3,0,-1)", [1, 2, 3]),
        ("optimizer.lr=range(0.1,0.45,0.1)", [0.1, 0.2, 0.3, 0.4]),
        ("optimizer=sgd,adam,sgd", ["sgd", "adam"]),
        ("model.widths=[3,4],[5],null", ["[3,4]", "[5]", "null"]),
        ("name='7','a b'", ["'7'", "'a b'"]),
    ],
)
def test_values_are_those_of_any_sweep(typed: str, values: list[Any]) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    axis = axis_of(OverridesParser.create().parse_override(typed))
    assert list(axis.values) == values
    space = Space.of([typed], project_composer())
    study = optuna.create_study(sampler=Proposals(space, "tpe", seed=1, startup_trials=10))
    found = set()
    for _ in range(40):
        trial = study.ask()
        space.suggest(trial)
        found.add(space.lines(trial.params)[0].partition("=")[2])
        study.tell(trial, 0.0)
    assert found == set(map(str, values))


def test_a_line_that_was_not_finished_is_cut_off(tmp_path: Path) -> None:
    def opened() -> optuna.Study:
        return open_study(None, tmp_path, "study", "x", 1, anew=False)

    opened().tell(opened().ask(), 1.0)
    with (tmp_path / "search.journal").open("a") as journal:
        journal.write('{"op_code":4,"worker')
    study = opened()
    assert [trial.values for trial in study.trials] == [[1.0]]
    study.tell(study.ask(), 2.0)
    assert [trial.values for trial in opened().trials] == [[1.0], [2.0]]


def test_waiting_for_a_database_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process may be creating it; a wrong password looks the same."""
    told_by_pauses = []
    monkeypatch.setattr(time, "sleep", lambda _: told_by_pauses.append(capsys.readouterr().err))
    with pytest.raises(SystemExit) as leaving:
        open_study("sqlite:////nowhere/a.db", tmp_path, "study", "x", 1, anew=False)
    assert leaving.value.code == 2
    first, *later = told_by_pauses
    assert first == (
        "hydra.sweeper.storage=sqlite:////nowhere/a.db cannot be used yet (unable to open database file): "
        "trying again for 15.5 seconds\n"
    )
    assert later == [""] * 4
    assert "cannot be used: unable to open database file" in capsys.readouterr().err


def test_a_process_is_known_by_its_birth() -> None:
    assert birth_of(os.getpid()) == birth_of(os.getpid()) != birth_of(1)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert birth_of(child) is None  # a zombie
    os.waitpid(child, 0)
    assert birth_of(child) is None


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["hydra.sweeper.sampler=tpee"], "hydra.sweeper.sampler must be one of tpe, random, grid, got 'tpee'"),
        (["hydra.sweeper.pruner=mean"], "hydra.sweeper.pruner must be one of median, halving, or null, got 'mean'"),
        (["hydra.sweeper.prune_after=0"], "hydra.sweeper.prune_after must be a whole number of at least 1, got 0"),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials must be a whole number of at least 1, got 0"),
        (["hydra.sweeper.n_jobs=1.5"], "hydra.sweeper.n_jobs must be a whole number of at least 1, got 1.5"),
        (["hydra.sweeper.seed=null"], "hydra.sweeper.seed must be a whole number of at least 0, got null"),
        (["hydra.sweeper.objectives=train/loss"], "hydra.sweeper.objectives must be a list of different metrics"),
        (["hydra.sweeper.objectives=[]"], "hydra.sweeper.objectives must be a list of different metrics"),
        (["hydra.sweeper.storage=redis://x"], "hydra.sweeper.storage must begin with sqlite:/// or postgresql://"),
        (["hydra.sweeper.storage='sqlite:///:memory:'"], "hydra.sweeper.storage must begin with sqlite:///"),
        (["hydra.sweeper.params=[seed]"], "hydra.sweeper.params must map keys to their values"),
        (["+hydra.sweeper.trials=3"], "hydra.sweeper.trials is not an option of a search"),
        (["~hydra.sweeper.seed"], "~hydra.sweeper.seed would remove what every run has: set it instead"),
        (["hydra.sweeper.trials=3"], "hydra.sweeper.trials is not a key of the config"),
    ],
)
def test_bad_options_are_told(line: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    from runner.config import command_line

    with pytest.raises(SystemExit) as stop:
        command_line.read_command(["-m", "hydra/sweeper=optuna", "seed=1,2", *line])
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from runner.config.hydra_node import problems_of_choice

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    node = {**load(file_of("hydra/sweeper", "optuna")), "storage": "postgresql://x/y"}
    problems = problems_of_choice("sweeper", node)
    assert [re.search("needs (.*), which", problem)[1] for problem in problems] == ["optuna", "psycopg"]  # type: ignore[index]
    assert all(problem.endswith("uv sync --extra optuna") for problem in problems)


def test_what_cannot_be_searched_is_told_before_anything_starts(sweeps: Sweeps) -> None:
    search = (*TINY, "hydra/sweeper=optuna")
    assert "hydra/sweeper=optuna needs a key to search" in sweeps.run(*search, code=2)
    lines: list[tuple[tuple[str, ...], str]] = [
        (("hydra.sweeper.sampler=grid", "optimizer.lr=interval(0.1,1)"), "optimizer.lr must have values for"),
        (("optimizer.lr=tag(log,interval(0,1))",), "optimizer.lr must be a finite number above 0, got 0"),
        (("optimizer.lr=interval(2,1)",), "optimizer.lr=interval(2,1) cannot be searched"),
        (("seed=1,2", "sweep.arms={a: {penalty: none}}"), "sweep.arms needs hydra/sweeper=grid"),
        (("seed=1,2", "hydra.sweeper.storage=sqlite:////nowhere/a.db"), "sqlite:////nowhere/a.db cannot be used: "),
        (("seed=1,2", "hydra.sweeper.params={optimizer.lr: '0.1,-1'}"), "optimizer.lr must be a finite number above 0"),
    ]
    for line, sentence in lines:
        said = sweeps.run(*search, *line, code=2)
        assert sentence in said
        assert "Traceback" not in said
    assert not sweeps.results()


def test_a_study_of_another_search_is_refused(sweeps: Sweeps) -> None:
    storage = ("hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=mine", "hydra.sweeper.n_trials=1")
    sweeps.run(*TINY, "epochs=1", "hydra/sweeper=optuna", *storage, "seed=1,2")
    for other in (("seed=1,3",), ("seed=1,2", "loss.weight=2"), ("seed=1,2", "objective_metric=test/loss")):
        said = sweeps.run(*TINY, "epochs=1", "hydra/sweeper=optuna", *storage, *other, code=2)
        assert "hydra.sweeper.study_name=mine holds another search" in said
    assert "force=true would discard" in sweeps.run(
        *TINY, "epochs=1", "hydra/sweeper=optuna", *storage, "seed=1,2", "force=true", code=2
    )


def test_force_begins_anew(sweeps: Sweeps) -> None:
    line = (*SEARCH, "epochs=2", "hydra.sweeper.n_trials=2")
    sweeps.run(*line)
    first = told(trials_of(sweeps.folder / "runs" / "train"))
    assert "search of 2 trials, 0 of them ended before" in sweeps.run(*line, "force=true")
    assert told(trials_of(sweeps.folder / "runs" / "train")) == first
    assert list(sweeps.times_trained().values()) == [2, 2]
