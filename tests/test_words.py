"""What Hydra's grammar cannot read: taken as it was meant where that is plain, else a sentence with the cause."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import ROOT

from runner.config import command_line
from runner.config.compose import project_composer
from runner.config.words import as_read, parsed, read

Refused = Callable[..., list[str]]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Return a function of arguments that returns the sentences with which they are refused."""
    monkeypatch.chdir(tmp_path)

    def check(*arguments: str) -> list[str]:
        with pytest.raises(SystemExit) as stop:
            command_line.read_command(arguments)
        assert stop.value.code == 2
        return capsys.readouterr().err.splitlines()

    return check


# A word, and the fault that is named with what to type.
FAULTS = {
    "epochs = 5": "has spaces around =: write epochs=5",
    "seed==1": "has two signs between key and value: write seed=1",
    "seed:=1": "has two signs between key and value: write seed=1",
    r"seed\=1": r"has a backslash before =: write seed=1",
    "seed=1#": "has a # that begins no comment here: write seed=1",
    "seed=1 # the first": "has a # that begins no comment here: write seed=1",
    "name=a#b": "cannot be read from '#b' on: write 'name=\"a#b\"'",
    "name=a!b": "cannot be read from '!b' on: write 'name=\"a!b\"'",
    "epochs=5;": "ends in a sign too many: write epochs=5",
    "epochs=5,": "ends in a sign too many: write epochs=5",
    "epochs=5 seed=1": "is one word with 2 options: write epochs=5 seed=1",
    "epochs=5, seed=1": "is one word with 2 options: write epochs=5 seed=1",
    "epochs=5\nseed=1": "is one word with 2 options: write epochs=5 seed=1",
    "epochs=5;+seed=1": "is one word with 2 options: write epochs=5 +seed=1",
    "penalty=[l2,l1": "has a bracket without its partner: write 'penalty=[l2,l1]'",
    "penalty=[l2,l1)": "has a bracket without its partner: write 'penalty=[l2,l1]'",
    "penalty=l2]": "has a bracket without its partner: write penalty=l2",
    "seed=range(5": "has a bracket without its partner: write 'seed=range(5)'",
    "penalty=[l2,l1,]": "has a comma with nothing beside it: write 'penalty=[l2,l1]'",
    "penalty=[l2,,l1]": "has a comma with nothing beside it: write 'penalty=[l2,l1]'",
    "model.widths=(100,100)": "has parentheses around a list: write 'model.widths=[100,100]'",
    'sweep.arms={"a": {"penalty": l2}}': "has quotes around a key: write 'sweep.arms={a: {penalty: l2}}'",
    "sweep.arms={a={penalty=l2}}": "has = within braces, where : belongs: write 'sweep.arms={a: {penalty: l2}}'",
    "epochs='5": "has a quote without its partner: write epochs=5",
    "name=it's": 'cannot be read from "\'s" on: write ',
    "name=“x”": "holds '“' (left double quotation mark), which means nothing here: write 'name=\"x\"'",
    "seed=–1": "holds '–' (en dash), which means nothing here: write seed=-1",
    "seed\u00a0= 1": "holds '\\xa0' (no-break space), which means nothing here",
    "seed=1\u200b": "(zero width space), which means nothing here: write seed=1",
    "seed＝1": "(fullwidth equals sign), which means nothing here: write seed=1",
    "seed=1\r": "holds '\\r' (a sign that cannot be seen), which means nothing here: write seed=1",
    "größe=1": "has no key that could be one: letters, digits, _ and . may stand before =",
    "x[0]=1": "has no key that could be one",
    "=5": "is not key=value: an option is written as epochs=5",
    "~": "is not key=value: an option is written as epochs=5",
    "@": "is not key=value: an option is written as epochs=5",
    "epochs:5": "is not key=value: write epochs=5",
    "l2": "is not key=value: write penalty=l2",
    "mnist": "is not key=value: write data=mnist",
    "help": "is not key=value: write --help",
    "--hel": "is not a flag: write --help",
    "-seed=1": "is not a flag: write seed=1",
    "-x": "is not a flag: uv run train.py --help lists them",
    "lr=loguniform(0.1,1)": "calls loguniform, which is no function here: write 'lr=tag(log,interval(0.01,1))'",
    "lr=uniform(0.1,1)": "calls uniform, which is no function here: write 'lr=interval(0.01,1)'",
    "lr=Range(5)": "calls Range, which is no function here: write 'lr=range(5)'",
    "lr=randint(5)": "calls randint, which is no function here: write 'lr=range(5)'",
    "lr=range(a,b)": "calls range, which takes other values: write 'lr=range(5)'",
    "lr=interval(1)": "calls interval, which takes other values: write 'lr=interval(0.01,1)'",
    "seed=int(a)": "calls int, which takes other values: write 'seed=range(5)'",
}


@pytest.mark.parametrize(("word", "sentence"), FAULTS.items())
def test_the_fault_of_a_word_is_named_with_what_to_type(word: str, sentence: str) -> None:
    lines, problems = read([word])
    assert not lines
    (said,) = problems.values()
    assert said.startswith(word)
    assert sentence in said


@pytest.mark.parametrize("word", [word for word, sentence in FAULTS.items() if ": write " in sentence and "=" in word])
def test_what_is_to_be_typed_can_be_read(word: str) -> None:
    (said,) = read([word])[1].values()
    for meant in shlex.split(said.rpartition(": write ")[2]):
        parsed(meant)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["seed", "=", "1"], "seed is not key=value: write seed=1"),
        (["seed=", "1"], "seed= is not key=value: write seed=1"),
        (["seed", "=1"], "seed is not key=value: write seed=1"),
        (["epochs:", "5"], "epochs: is not key=value: write epochs=5"),
        (["--seed", "1"], "--seed is not a flag: write seed=1"),
        (["optimizer.lr", "0.1"], "optimizer.lr is not key=value: write optimizer.lr=0.1"),
        (["penalty=[l2,", "l1]"], "penalty=[l2, l1] has been cut at its spaces by the shell: write it in quotes, "
         "'penalty=[l2, l1]'"),
        (["sweep.arms={a:", "{penalty:", "l2}}"], "sweep.arms={a: {penalty: l2}} has been cut at its spaces"),
        ([""], "an empty word stands among the options: leave it out"),
        (["#", "the", "first", "run"], "# begins no comment here: leave it out, with all that follows"),
    ],
)  # fmt: skip
def test_words_that_belong_together_are_one_mistake(words: list[str], sentence: str) -> None:
    lines, problems = read([*words, "batch_size=7"] if words[0] != "#" else ["batch_size=7", *words])
    (said,) = problems.values()
    assert said.startswith(sentence)
    assert lines == ["batch_size=7"]


def test_names_of_files_are_told_as_the_work_of_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines, problems = read(["LICENSE", "README.md", "conf", "data", "docs", "epochs=5"])
    (said,) = problems.values()
    assert said.startswith("LICENSE README.md conf ...: names of files, which the shell puts for a *")
    assert lines == ["epochs=5"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.root=~/data", "~/data"),
        ("init_from=runs/l2/l2=0.01_ab", "runs/l2/l2=0.01_ab"),
        ("name=größe", "größe"),
        ("data.path=/données/мнист.npz", "/données/мнист.npz"),
        ("init_from=/my runs/l2=0.01_ab", "/my runs/l2=0.01_ab"),
        ("hydra.sweeper.storage=sqlite:///~/a.db", "sqlite:///~/a.db"),
        ("name=a=b", "a=b"),
        ("epochs=5", 5),
        ("penalty=[l2,l1]", ["l2", "l1"]),
    ],
)
def test_text_that_only_the_grammar_forbids_is_taken(word: str, value: object) -> None:
    assert parsed(as_read(word)).value() == value
    assert as_read(as_read(word)) == as_read(word)


def test_a_path_with_a_comma_is_one_value_where_it_exists(tmp_path: Path) -> None:
    run = tmp_path / "l2=0.01,seed=1_ab"
    word = f"init_from={run}"
    assert parsed(as_read(word)).is_sweep_override()
    run.mkdir()
    assert parsed(as_read(word)).value() == str(run)


def test_each_text_of_a_sweep_is_taken() -> None:
    override = parsed(as_read("init_from=runs/l2=1_ab,runs/l2=2_cd"))
    assert [value.text for value in override.sweep_iterator()] == ["runs/l2=1_ab", "runs/l2=2_cd"]


def test_a_path_below_the_home_folder_is_expanded_however_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    typed = ["data=mnist", as_read("data.root=~/data"), "runs_dir='~/runs'", as_read("init_from=~/l2=1_ab")]
    values = project_composer().compose(typed).values
    assert values["data"]["root"] == "/home/me/data"
    assert values["runs_dir"] == "/home/me/runs"
    assert values["init_from"] == "/home/me/l2=1_ab"
    referring = project_composer().compose(["runs_dir='~/runs'", "name=${runs_dir}"]).values  # not by the fast way
    assert referring["runs_dir"] == "/home/me/runs"


def test_the_other_mistakes_are_told_beside_those_of_the_grammar(refused: Refused) -> None:
    typed = ["penalty=[l2", "penalty.l2.every=0", "epochs=0", "optimizer.lrr=1", "seed = 1", "~scheduler", "data=mnits"]
    named = [re.split(r"[ =]", sentence)[0] for sentence in refused(*typed)]
    # Whether there is a key penalty.l2.every depends on the word that cannot be read.
    assert named == ["penalty", "seed", "~scheduler", "data", "optimizer.lrr", "epochs"]


def test_a_flag_that_was_meant_counts_for_the_other_mistakes(refused: Refused) -> None:
    assert refused("–m", "seed=1,2") == ["–m holds '–' (en dash), which means nothing here: write -m"]


PIECES = (
    *re.findall(r"\S+", "epochs penalty optimizer.lr sweep.arms model.network l2 mlp 0.1 null = == : , ; [ ] { }"),
    *re.findall(
        r"\S+", "( ) range glob interval choice sort tag * ~ ~/ + ++ @ # ' \" \\ $ ${ ${seed} – “ é ١ / -m -- |"
    ),
    *" \t\n\r\u200b\u2028",
)
INNER = re.compile("Traceback|mismatched|LexerNo|[Nn]o ?[Vv]iable|extraneous|token recognition|<EOF>|hydra.cc|full_key")


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=3))
@example(["epochs=range(0,1,0)"])
@example(["optimizer=glob(*)"])
@example(["seed=1\u2028x"])
@example(["name=~nobody=x"])
@example(["-m", "++hydra.sweeper.params=x"])
@example(["-m", "++sweep=5"])
@example(["-m", "sweep.arms={a: {penalty: '[l2'}}"])
def test_any_words_pass_or_are_refused_in_sentences(words: list[str]) -> None:
    said, code = io.StringIO(), None
    with contextlib.redirect_stderr(said):
        try:
            command_line.read_command(words)
        except SystemExit as leaving:
            code = leaving.code
    assert code in (None, 2)
    sentences = said.getvalue().splitlines()
    assert bool(sentences) == (code == 2)
    assert len(sentences) == said.getvalue().count("\n")
    assert all(sentence.strip() and not INNER.search(sentence) for sentence in sentences)
