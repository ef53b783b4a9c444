"""Every experiment preset composes, holds only what differs from the defaults, tells what it gave, and trains."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data import Sine
from runner.config.command_line import read_command
from runner.config.conf_files import CONF

PRESETS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
IMAGES = ("epochs=1", "data.train_size=40", "batch_size=20", "data.validation_size=10")  # two steps
CURVES = ("epochs=2",)  # a step each


def text_of(preset: str) -> str:
    return (CONF / "experiment" / f"{preset}.yaml").read_text()


def chosen(preset: str) -> dict[str, Any]:
    """Return what a preset chooses of each group."""
    entries = yaml.safe_load(text_of(preset))["defaults"]
    return {key.removeprefix("override /"): option for entry in entries for key, option in entry.items()}


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of all that is no mapping; a list is one value."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def commands_of(preset: str) -> list[list[str]]:
    """Return the arguments of each command in a preset's comment, less remarks in parentheses behind them."""
    text = text_of(preset).replace("\\\n#     ", "")
    return [shlex.split(line.split("   ")[0]) for line in re.findall(r"^#   uv run train\.py (.*)$", text, re.M)]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of arrays of the shape of CIFAR-10."""
    path = tmp_path_factory.mktemp("npz") / "colours.npz"
    images = np.random.RandomState(0).randint(0, 256, (60, 3, 32, 32)).astype(np.uint8)
    labels = np.arange(60) % 10
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:20], test_labels=labels[:20])
    return path


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_trains(train: Callable[..., dict[str, Any]], colours: Path, preset: str) -> None:
    cuts = {
        "digits": IMAGES,
        "mnist": (*IMAGES, "data=digits"),
        "cifar10": (*IMAGES, "data=npz", f"data.path={colours}"),
    }
    result = train(f"experiment={preset}", *cuts.get(chosen(preset).get("data", "digits"), CURVES))
    assert result["status"] == "done"
    assert math.isfinite(result["train/objective"])
    probes = chosen(preset).get("probe", [])
    assert all(any(key.startswith(f"probe/{probe}/") for key in result) for probe in probes)


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_holds_only_what_differs_from_the_defaults(composed: Callable[..., Any], preset: str) -> None:
    choices = [f"{group}={option}".replace("'", "").replace(" ", "") for group, option in chosen(preset).items()]
    default = dict(leaves(composed(*choices).config))
    own = {key: value for key, value in yaml.safe_load(text_of(preset)).items() if key != "defaults"}
    for path, value in leaves(own):
        assert path in default, path
        assert default[path] != value, f"{path}={value} is the default"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_choice_differs_from_the_defaults(preset: str) -> None:
    main = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    usual = {group: option for entry in main if isinstance(entry, dict) for group, option in entry.items()}
    assert {group for group, option in chosen(preset).items() if usual[group] == option} == set()


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_tells_its_command_and_what_it_gave(preset: str) -> None:
    head = text_of(preset).partition("defaults:")[0]
    assert head.startswith("# @package _global_\n")
    assert commands_of(preset)
    for command in commands_of(preset):
        assert f"experiment={preset}" in command
        read_command(command)  # leaves if there is a mistake in it
    assert re.search(r"^# Measured \d{4}-\d\d, \d+ seeds?", head, re.M), "no result, or no number of seeds"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_key_of_a_preset_says_why(preset: str) -> None:
    lines = text_of(preset).partition("defaults:")[2].splitlines()
    keys = [line for line in lines if re.match(r" *[a-z_0-9]+: *[^ #]", line)]
    assert [line for line in keys if "#" not in line] == []


def test_the_derivatives_of_a_sine_are_given_at_its_own_points(composed: Callable[..., Any]) -> None:
    config = composed("experiment=fit_derivatives").config
    sine = Sine(**{key: config["data"][key] for key in ("n", "noise", "seed")}).load().train
    given = config["penalty"]["tangent_prop"]["tangents"]["derivatives"]
    assert given == pytest.approx((math.pi * (math.pi * sine.inputs).cos()).flatten().tolist(), abs=1e-4)
    assert sine.targets.flatten().tolist() == pytest.approx((math.pi * sine.inputs).sin().flatten().tolist(), abs=1e-6)
