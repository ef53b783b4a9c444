"""Checkpoints and small files: whole and verified, whatever kill, disk or attacker do."""

import ast
import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support import ROOT
from support.forked import Forks, wait_until
from support.skips import small_disk
from support.states import assert_same

from runner.storage.atomic import WriteError, read_json, remove_stale_temporaries, write_atomic, write_json
from runner.storage.checkpoint import CheckpointError, load, save

OWN = ("conf", "data", "losses", "models", "runner", "scripts", "tests")
FLIPS, KILLS = 40, 20

# Notes each checkpoint that is done; saves without end at the stage `any`, otherwise kills itself at the given one of
# its third save.
SAVER = """
import itertools, os, signal, sys
from pathlib import Path
import torch
from runner.storage import checkpoint

stage, directory = sys.argv[1], Path(sys.argv[2])
notes = os.open(directory / "done", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
for step in itertools.count(1) if stage == "any" else (1, 2, 3):
    state = {"step": step, "weights": torch.full((200_000,), float(step))}
    if step == 3 and stage != "any":
        module, name = stage.split(".")
        kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        setattr({"os": os, "Path": Path, "checkpoint": checkpoint}[module], name, kill)
    checkpoint.save(directory, state, step=step)
    os.write(notes, f"{step}\\n".encode())
"""


def killed_while_saving(forks: Forks, directory: Path, stage: str, delay: float = 0) -> None:
    """Start a saver in a new directory and see it die: at a stage, or some seconds after its first checkpoint."""
    directory.mkdir()
    saver = forks.python(SAVER, stage, str(directory))
    if stage == "any":
        wait_until(lambda: list(directory.glob("checkpoint-*")), lambda: forks.is_running(saver))
        time.sleep(delay)
        os.kill(saver, signal.SIGKILL)
    assert forks.wait(saver) == -signal.SIGKILL, forks.said()


def assert_nothing_lost(directory: Path) -> None:
    """What is loaded is whole, and no older than the last checkpoint whose `save` had returned."""
    done = (directory / "done").read_text().split()
    state = load(directory)
    assert state is not None
    assert state["step"] >= int(done[-1] if done else 1)
    assert torch.equal(state["weights"], torch.full((200_000,), float(state["step"])))


def kill_at_random(forks: Forks, root: Path, kills: int, seed: int) -> int:
    """Kill savers at random moments, check what they leave, and count those hit before the rename."""
    print(f"{seed=}")  # seen when a test fails
    draw, hits = random.Random(seed), 0
    for kill in range(kills):
        directory = root / str(kill)
        killed_while_saving(forks, directory, "any", delay=draw.uniform(0, 0.05))
        assert_nothing_lost(directory)
        hits += len(remove_stale_temporaries(directory))
        assert not list(directory.glob(".*"))
        shutil.rmtree(directory)
    return hits


def test_checkpoint_loads_after_a_kill_at_a_random_moment(forks, tmp_path):
    kill_at_random(forks, tmp_path, kills=5, seed=time.time_ns())


@pytest.mark.slow
def test_checkpoint_loads_after_each_of_many_kills(forks, tmp_path):
    hits = kill_at_random(forks, tmp_path, kills=KILLS, seed=time.time_ns())
    print(f"{hits} of {KILLS} kills left a temporary file")
    assert hits > 0, "no kill hit a write: this run tested nothing"


@pytest.mark.parametrize(
    ("stage", "step", "temporaries"),
    [
        ("checkpoint.write_atomic", 2, 0),  # serialised, not yet written
        ("os.fsync", 2, 1),  # written, perhaps in the system's memory only
        ("os.replace", 2, 1),
        ("checkpoint.remove_all_but", 3, 0),  # in place, the earlier ones not yet removed
        ("Path.unlink", 3, 0),
    ],
)
def test_checkpoint_loads_after_a_kill_at_each_stage(forks, tmp_path, stage, step, temporaries):
    directory = tmp_path / "run"
    killed_while_saving(forks, directory, stage)
    assert_nothing_lost(directory)
    assert load(directory)["step"] == step
    assert len(remove_stale_temporaries(directory)) == temporaries


# Reading


def two_checkpoints(directory: Path, size: int = 1000) -> tuple[Path, bytes]:
    """Save steps 1 and 2, and return the newer file with its bytes."""
    generator = torch.Generator().manual_seed(0)
    for step in (1, 2):
        newer = save(directory, {"step": step, "weights": torch.randn(size, generator=generator)}, step=step)
    return newer, newer.read_bytes()


def assert_falls_back(directory: Path, damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The older checkpoint is loaded, with one warning that names the file."""
    caplog.clear()
    assert load(directory)["step"] == 1
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "WARNING"
    assert f"{damaged} is truncated or damaged" in caplog.text


def test_no_flipped_bit_is_loaded(tmp_path, caplog):
    newer, whole = two_checkpoints(tmp_path)
    seed = time.time_ns()
    print(f"{seed=}")
    draw = random.Random(seed)
    trailer = range(len(whole) - 80, len(whole))
    for position in (*draw.choices(range(len(whole)), k=FLIPS), *trailer):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << draw.randrange(8)
        newer.write_bytes(flipped)
        assert_falls_back(tmp_path, newer, caplog)
    newer.write_bytes(whole)
    assert load(tmp_path)["step"] == 2


@pytest.mark.slow
def test_no_flipped_bit_is_loaded_wherever_it_is(tmp_path, caplog):
    newer, whole = two_checkpoints(tmp_path, size=10)
    for position in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        newer.write_bytes(flipped)
        assert_falls_back(tmp_path, newer, caplog)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99, None])
def test_no_truncated_file_is_loaded(tmp_path, caplog, kept):
    newer, whole = two_checkpoints(tmp_path)
    newer.write_bytes(whole[: len(whole) - 1 if kept is None else int(kept * len(whole))])
    assert_falls_back(tmp_path, newer, caplog)


def test_unreadable_file_is_passed_over(tmp_path, caplog):
    newer, _ = two_checkpoints(tmp_path)
    newer.unlink()
    newer.mkdir()
    assert load(tmp_path)["step"] == 1
    assert f"{newer} cannot be read (Is a directory)" in caplog.text


def test_nothing_sound_is_none_with_a_warning_each(tmp_path, caplog):
    assert load(tmp_path) is None
    assert load(tmp_path / "absent") is None
    assert not caplog.records
    _, whole = two_checkpoints(tmp_path)
    for path in tmp_path.glob("checkpoint-*"):
        path.write_bytes(whole[:-1])
    assert load(tmp_path) is None
    assert len(caplog.records) == 2


class Payload:
    """Unpickled by a reader that trusts the file, it makes a file."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.system, (f"touch '{self.touched}'",)


def test_malicious_checkpoint_is_refused_and_nothing_of_it_runs(tmp_path, monkeypatch):
    touched = tmp_path / "touched"
    save(tmp_path, {"step": 1}, step=1)
    with monkeypatch.context() as patch:  # written as an attacker would: with a digest that agrees
        patch.setattr("runner.storage.checkpoint.as_plain_data", lambda state: state)
        malicious = save(tmp_path, {"step": 2, "weights": Payload(touched)}, step=2)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # must not undo it
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert not touched.exists()
    assert str(caught.value).startswith(f"{malicious} holds posix.system, which is no plain data")
    assert "\n" not in str(caught.value)
    os.system(f"touch '{touched}'")  # the payload itself would have worked
    assert touched.exists()


@pytest.mark.parametrize("content", [b"", b"not torch's", b"\x80\x02N."])
def test_foreign_content_with_a_right_digest_is_one_sentence(tmp_path, monkeypatch, content):
    monkeypatch.setattr("torch.save", lambda _, buffer: buffer.write(content))
    path = save(tmp_path, {}, step=1)
    with pytest.raises(CheckpointError, match=re.escape(str(path))) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_state_that_is_no_dict_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("runner.storage.checkpoint.as_plain_data", lambda state: [state])
    save(tmp_path, {}, step=1)
    with pytest.raises(CheckpointError, match="must hold a dict, got list"):
        load(tmp_path)


# Writing


def steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory."""
    return sorted(int(path.stem.partition("-")[2]) for path in directory.glob("checkpoint-*.pt"))


def test_last_two_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (0, 9, 10**10 - 1, 10**10):  # as text, the last one comes before the one before
        path = save(tmp_path / "run", {"step": step}, step=step)
        assert load(path.parent)["step"] == step
    assert steps(path.parent) == [10**10 - 1, 10**10]


def test_steps_left_behind_are_removed(tmp_path):
    for step in (10, 20):
        save(tmp_path, {"step": step}, step=step)
    save(tmp_path, {"step": 15}, step=15)  # the run went on from 10, say for 20 was damaged
    assert steps(tmp_path) == [10, 15]


def test_a_damaged_one_is_not_kept_in_place_of_a_sound_one(tmp_path):
    newer, whole = two_checkpoints(tmp_path)
    newer.write_bytes(whole[:-1])
    save(tmp_path, {"step": 3}, step=3)
    assert steps(tmp_path) == [1, 3]


def test_state_comes_back_bit_for_bit(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    model[0].weight.data[0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": torch.Generator().manual_seed(3).get_state(),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "history": [{"loss": 0.1, "epoch": 1}, (float("inf"), None, True, "word", b"bytes")],
        7: torch.float64,
    }
    save(tmp_path, state, step=1)
    loaded = load(tmp_path)
    assert_same(loaded, state)
    assert loaded["model"]._metadata == model.state_dict()._metadata  # else modules take it for an old format
    assert isinstance(loaded["model"], OrderedDict)


def test_tensors_of_a_gpu_come_back_on_the_cpu(tmp_path, gpu):
    save(tmp_path, {"weights": torch.arange(3, device=gpu)}, step=1)
    assert_same(load(tmp_path), {"weights": torch.arange(3)})


def test_what_torch_would_refuse_to_load_is_converted(tmp_path):
    state = {
        "path": Path("a/b"),
        "numbers": (np.float32(0.5), np.float64(0.25), np.int64(3), np.bool_(True)),
        "torch": torch.__version__,
        "config": OmegaConf.create({"lr": 0.1, "sizes": [1, 2]}),
        np.int64(4): torch.Size([2, 3]),
    }
    save(tmp_path, state, step=1)
    expected = {
        "path": "a/b",
        "numbers": (0.5, 0.25, 3, True),
        "torch": str(torch.__version__),
        "config": {"lr": 0.1, "sizes": [1, 2]},
        4: (2, 3),
    }
    assert_same(load(tmp_path), expected)


@pytest.mark.parametrize("value", [np.zeros(2), {1}, object(), torch.nn.Linear(1, 1), torch.Generator()])
def test_other_values_are_refused_by_their_path(tmp_path, value):
    save(tmp_path, {"step": 1}, step=1)
    with pytest.raises(CheckpointError, match=r"^state\.history\[1\]\.x must be a tensor, .*, got \w+$"):
        save(tmp_path, {"history": [0, {"x": value}]}, step=2)
    assert load(tmp_path)["step"] == 1


def test_negative_step_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="step must be 0 or more, got -1"):
        save(tmp_path, {}, step=-1)


# Disks that refuse


def fail_to_flush(*_: Any) -> None:
    """What `os.fsync` does on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse what a file would hold beyond `size` bytes, after it has taken as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_old_stands(directory: Path, fault: str) -> None:
    """A save that the system refuses leaves the old checkpoint and says in one sentence what and where."""
    before = sorted(directory.iterdir())
    with pytest.raises(WriteError) as caught:
        save(directory, {"step": 2, "weights": torch.zeros(200_000)}, step=2)
    path = re.escape(str(directory / "checkpoint-0000000002.pt"))
    bytes_free = rf": [\d,]+ bytes free in {re.escape(str(directory))}"
    assert re.fullmatch(rf"cannot write {path} \(80\d,\d\d\d bytes, {fault}\){bytes_free}", str(caught.value))
    assert sorted(directory.iterdir()) == before
    assert load(directory)["step"] == 1


def test_full_disk_at_flush_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, {"step": 1}, step=1)
    monkeypatch.setattr("os.fsync", fail_to_flush)
    assert_old_stands(tmp_path, "No space left on device")


def test_refused_write_leaves_the_old_checkpoint(tmp_path):
    save(tmp_path, {"step": 1}, step=1)
    with largest_file(300_000):
        assert_old_stands(tmp_path, "File too large")


@pytest.mark.needs("mount")
def test_full_disk_leaves_the_old_checkpoint(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        save(disk, {"step": 1, "weights": torch.zeros(100_000)}, step=1)
        assert_old_stands(disk, "No space left on device")
        save(disk, {"step": 2}, step=2)
        assert load(disk)["step"] == 2  # what was taken by the attempt is free again


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write .*/file/x .*Not a directory|File exists"):
        write_atomic(tmp_path / "file" / "x", b"")
    assert (tmp_path / "file").read_text() == ""


def test_interrupt_while_writing_leaves_no_temporary(tmp_path, monkeypatch):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    write_atomic(tmp_path / "x", "old")
    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "x", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_file_is_flushed_before_the_rename_and_the_directory_after(tmp_path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda fd: calls.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr("os.replace", lambda old, new: calls.append("rename") or rename(old, new))
    write_atomic(tmp_path / "x", "text")
    assert calls == [str(tmp_path / f".x.{os.getpid()}.tmp"), "rename", str(tmp_path)]


def test_only_stale_temporaries_are_removed(tmp_path):
    others = ["x", ".x.lock", ".x.tmp", "x.1.tmp", ".x.part"]
    for name in [*others, ".x.1.tmp", ".checkpoint-0000000002.pt.4194304.tmp"]:
        (tmp_path / name).write_text("")
    removed = remove_stale_temporaries(tmp_path)
    assert [path.name for path in removed] == [".checkpoint-0000000002.pt.4194304.tmp", ".x.1.tmp"]
    assert {path.name for path in tmp_path.iterdir()} == set(others)


# JSON


def test_json_is_valid_and_keeps_what_json_has_no_number_for(tmp_path):
    path = tmp_path / "result.json"
    numbers = [float("inf"), -float("inf"), float("nan"), 0.1, -0.0, 3, None, True]
    write_json(path, {"objective": numbers, "path": Path("a/b"), "state": ("done", np.float64("nan"))})
    json.loads(path.read_text(), parse_constant=pytest.fail)  # called for a bare NaN or Infinity: no JSON
    found = read_json(path)
    assert list(map(repr, found["objective"])) == list(map(repr, numbers))
    assert found["path"] == "a/b"
    assert list(map(repr, found["state"])) == ["'done'", "nan"]


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_word_that_would_come_back_as_a_number_is_refused(tmp_path, word):
    with pytest.raises(ValueError, match=word):
        write_json(tmp_path / "x", {"name": word})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe"])
def test_damaged_json_is_one_sentence_naming_the_file(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is not valid JSON .*: delete it"):
        read_json(path)


# The repository's own code


UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def test_no_code_here_unpickles():
    """Neither by an import, nor by `torch.load` and `numpy.load`, whose safe way is always asked for by name."""
    paths = [*ROOT.glob("*.py"), *(path for own in OWN for path in (ROOT / own).rglob("*.py"))]
    assert ROOT / "runner" / "storage" / "checkpoint.py" in paths
    assert [f"{path}:{line}" for path in paths for line in unpickling(path.read_text())] == []


def unpickling(source: str) -> Iterator[int]:
    """Yield the numbers of the lines that can unpickle."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            if UNPICKLERS & {module.partition(".")[0] for module in modules} or modules == ["torch", "load"]:
                yield node.lineno
        if isinstance(node, ast.Call):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            missing = ast.unparse(node.func) == "torch.load" and "weights_only" not in options
            trusting = options.get("weights_only", "True") != "True" or options.get("allow_pickle", "False") != "False"
            if missing or trusting:
                yield node.lineno


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads as read",
        "from six.moves import cPickle",
        "from torch import load",
        "torch.load(path)",
        "torch.load(path, weights_only=trust)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_unpickling_is_recognised(line):
    assert list(unpickling(line)) == [1]


def test_safe_reading_is_admitted():
    assert not list(unpickling("torch.load(path, weights_only=True); np.load(path, allow_pickle=False); import json"))
