"""Arrays of a user's own: what is recognised, what is odd, what is refused with the line that mends it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data
from runner.config.check import ConfigError
from runner.results import export, load_model
from runner.run import train_run
from runner.storage.identity import ids
from runner.training.build import build

Composed = Callable[..., Any]
NAMES = ("train_images", "train_labels", "test_images", "test_labels")
TABLE = ("train_inputs", "train_targets", "test_inputs", "test_targets")
KERAS = ("x_train", "y_train", "x_test", "y_test")
QUIET = ("pictures=false", "histograms=false", "model=mlp", "model.widths=[8]", "data=npz")
LABELS = np.arange(60) % 3


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    images = np.random.RandomState(seed).randint(0, 256, (60, *shape)).astype(np.uint8)
    images[0].flat[:2] = images[50].flat[:2] = 0, 255
    return images


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., data.Npz]:
    """Return a function of inputs and labels that writes a file of 40 and 20 of them, and returns its source."""

    def written(inputs: np.ndarray, labels: np.ndarray, names: Any = NAMES, **options: Any) -> data.Npz:
        arrays = dict(zip(names, (inputs[:40], labels[:40], inputs[40:], labels[40:]), strict=True))
        more = {key: options.pop(key) for key in [*options] if key not in ("range", "channels")}
        np.savez(tmp_path / "mine.npz", **arrays, **more)
        return data.Npz(str(tmp_path / "mine.npz"), **options)

    return written


def refusal(source: data.Npz) -> str:
    with pytest.raises(data.DataError) as caught:
        source.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mended(sentence: str, line: str, **arrays: Any) -> dict[str, Any]:
    """Run the line of numpy that a sentence ends in, as a user would type it, and return the arrays."""
    assert line in sentence
    names = {"np": np, **arrays}
    exec(sentence[sentence.index(line) :].partition("; to regress")[0], names)
    return names


# ---- ranges


@pytest.mark.parametrize(
    ("change", "limits"),
    [
        (lambda images: images, (0, 255)),
        (lambda images: images.astype(np.int64), (0, 255)),
        (lambda images: images.astype(np.float64), (0, 255)),
        (lambda images: images * np.float32(0.999), (0, 255)),
        (lambda images: images / 255, (0, 1)),
        (lambda images: (images / 255).astype(np.float16), (0, 1)),
        (lambda images: images > 127, (0, 1)),
        (lambda images: images / 127.5 - 1, (-1, 1)),
        (lambda images: images / 100 - 1, (-1, 1.55)),
        (lambda images: images.astype(np.uint16) * 200, (0, 51_000)),
    ],
)
def test_the_range_of_images_is_recognised_or_seen(npz: Any, change: Any, limits: tuple[float, float]) -> None:
    raw = npz(change(pictures(8, 8)), LABELS).load()
    found = data.prepare(raw, normalize="auto").range
    assert found == pytest.approx(limits)


def test_whole_numbers_from_0_to_255_are_the_same_data_as_bytes(npz: Any) -> None:
    images = pictures(8, 8)
    byte, whole = (data.prepare(npz(a, LABELS).load()) for a in (images, images.astype(np.float32)))
    assert torch.equal(byte.train.inputs, whole.train.inputs)
    assert torch.equal(byte.test.inputs, whole.test.inputs)


def test_an_attack_is_as_strong_on_floats_as_on_the_same_bytes(npz: Any, composed: Composed) -> None:
    images = pictures(8, 8)
    found = {}
    for name, array in {
        "bytes": images,
        "0..255": images * 1.0,
        "0..1": images / 255,
        "-1..1": images / 127.5 - 1,
    }.items():
        path = npz(array, LABELS).path
        probe = ("probe=[pgd,noise]", "probe.pgd.sizes=[0.1]", "epochs=30", "optimizer.lr=0.5", "evaluate_every=0")
        result = train_run(composed(*QUIET, f"data.path={path}", *probe, f"name=n{len(found)}"), io.StringIO())
        found[name] = result["probe/pgd/0.1"], result["probe/noise/0.3"]
    assert found["0..255"] == found["bytes"]
    assert found["bytes"][0] > 0.3
    for name in ("0..1", "-1..1"):
        assert found[name] == pytest.approx(found["bytes"], abs=0.051)  # a picture, for float32 rounds otherwise


def test_a_given_range_is_used_and_must_hold_all_inputs(npz: Any) -> None:
    images = pictures(8, 8) / 255
    given = data.prepare(npz(images, LABELS, range=[-2, 3]).load())
    assert given.range == (-2, 3)
    assert given.unit == 5
    sentence = refusal(npz(images, LABELS, range=[0, 0.5]))
    assert "data.range must be [low,high] and hold all inputs, 0 to 1, got [0, 0.5]" in sentence
    table = data.prepare(npz(images.reshape(60, -1), LABELS, TABLE, range=[0, 1]).load(), normalize="auto")
    assert table.range[0].shape == table.offset.shape == (64,)


def test_splits_on_different_scales_are_refused(npz: Any) -> None:
    images = pictures(8, 8).astype(np.float32)
    images[40:] /= 255
    assert "the images of the test split go from 0 to 1 and those of the train split to 255" in refusal(
        npz(images, LABELS)
    )
    images[40:] = 0
    assert "the images of the test split are 0 everywhere" in refusal(npz(images, LABELS))


def test_bytes_that_stay_dark_are_told(npz: Any) -> None:
    raw = npz(pictures(8, 8) // 16, LABELS).load()
    assert raw.warnings == (
        "train_images are bytes, 0 to 255, and none is above 15: add data.range=[0,15] if that is white",
    )
    assert not npz(pictures(8, 8) // 16, LABELS, range=[0, 15]).load().warnings


# ---- channels


@pytest.mark.parametrize(
    ("shape", "axis", "is_told"),
    [
        *[((channels, 8, 8), 1, False) for channels in (1, 2, 3, 4)],
        *[((8, 8, channels), 3, False) for channels in (1, 2, 3, 4)],
        *[((9, 6, channels), 3, False) for channels in (1, 2, 3, 4)],
        ((3, 5, 4), 1, True),
        ((4, 4, 3), 3, True),
        ((3, 9, 3), 1, True),
        ((1, 9, 1), 1, True),
        ((16, 8, 8), 1, True),
    ],
)
def test_the_channels_of_images_are_recognised(npz: Any, shape: Any, axis: int, is_told: bool) -> None:
    images = pictures(*shape)
    raw = npz(images, LABELS).load()
    assert np.array_equal(raw.train.inputs.numpy(), np.moveaxis(images[:40], axis, 1))
    assert np.array_equal(raw.test.inputs.numpy(), np.moveaxis(images[40:], axis, 1))
    assert ("channels last" in raw.notes) == (axis == 3)
    assert bool(raw.warnings) == is_told
    other = "last" if axis == 1 else "first"
    assert all(f"add data.channels={other} if not" in sentence for sentence in raw.warnings)


@pytest.mark.parametrize("shape", [(1, 9, 3), (3, 9, 1), (2, 7, 4), (8, 8, 8), (8, 8, 16), (7, 5, 6)])
def test_channels_that_cannot_be_told_are_asked_for(npz: Any, shape: Any) -> None:
    images = pictures(*shape)
    assert "add data.channels=first or data.channels=last" in refusal(npz(images, LABELS))
    for channels, axis in (("first", 1), ("last", 3)):
        raw = npz(images, LABELS, channels=channels).load()
        assert np.array_equal(raw.train.inputs.numpy(), np.moveaxis(images[:40], axis, 1))
        assert not raw.warnings


@pytest.mark.parametrize(("shape", "axis"), [((3, 50), 1), ((50, 3), 2), ((9, 50), 1), ((9, 9), 1), ((4, 3), 1)])
def test_the_channels_of_sequences_are_recognised(npz: Any, shape: Any, axis: int) -> None:
    sequences = np.random.RandomState(0).randn(60, *shape)
    raw = npz(sequences, LABELS, ("train_inputs", "train_labels", "test_inputs", "test_labels")).load()
    assert np.array_equal(raw.train.inputs.numpy(), np.moveaxis(sequences[:40], axis, 1))
    assert bool(raw.warnings) == (shape in [(9, 9), (4, 3)])


def test_long_sequences_of_many_channels_are_asked_for(npz: Any) -> None:
    sequences = np.random.RandomState(0).randn(60, 50, 9)
    assert "add data.channels=first or data.channels=last" in refusal(npz(sequences, LABELS, KERAS))
    assert npz(sequences, LABELS, KERAS, channels="last").load().train.inputs.shape == (40, 9, 50)


def test_volumes_are_refused(npz: Any) -> None:
    assert "train_images must be numbers (N, H, W) or (N, C, H, W), got uint8 (40, 1, 4, 8, 8)" in refusal(
        npz(pictures(1, 4, 8, 8), LABELS)
    )


# ---- names


@pytest.mark.parametrize(
    "names",
    [
        KERAS,
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("Xtrain", "ytrain", "Xtest", "ytest"),
        ("training_images", "training_labels", "test_images", "test_labels"),
        ("train_data", "train_target", "test_data", "test_target"),
        ("images_train", "labels_train", "images_test", "labels_test"),
        ("train-features", "train-labels", "test-features", "test-labels"),
    ],
)
def test_names_of_other_programs_are_taken(npz: Any, names: tuple[str, ...]) -> None:
    images = pictures(8, 8)
    raw = npz(images, LABELS.astype(np.uint8), names).load()
    assert np.array_equal(raw.train.inputs.numpy()[:, 0], images[:40])
    assert np.array_equal(raw.test.targets.numpy(), LABELS[40:])
    assert raw.classes == 3


@pytest.mark.parametrize("word", ["val", "valid", "validation", "dev"])
def test_a_validation_split_of_the_file_is_used(npz: Any, word: str) -> None:
    images, more = pictures(8, 8), pictures(8, 8, seed=1)[:10]
    source = npz(images, LABELS[:, None], **{f"{word}_images": more, f"{word}_labels": LABELS[:10, None]})
    made = data.prepare(source.load(), normalize="none")
    assert (len(made.train), len(made.validation), len(made.test)) == (40, 10, 20)
    torch.testing.assert_close(made.validation.inputs[:, 0] * 255, torch.from_numpy(more).float())
    for size in (0, 5):
        with pytest.raises(ValueError, match=rf"^validation_size must be null .* of their own, got {size}$"):
            data.prepare(source.load(), validation_size=size)


def test_what_nobody_reads_is_told_and_two_of_a_kind_are_refused(npz: Any) -> None:
    images = pictures(8, 8)
    raw = npz(images, LABELS, train_masks=images, names_of=np.array(["a", None], object)).load()
    assert raw.warnings == ("of mine.npz these arrays are not read: names_of, train_masks",)
    assert "train_images or train_inputs, and has both: leave one out" in refusal(
        npz(images, LABELS, train_inputs=images)
    )
    assert "must hold val_labels" in refusal(npz(images, LABELS, val_images=images)).replace("validation", "val")


@pytest.mark.parametrize("names", [("X", "y"), ("data", "target"), ("images", "labels")])
def test_examples_that_are_not_divided_are_refused_with_the_lines(tmp_path: Path, names: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("all.npz", **dict(zip(names, (pictures(8, 8), LABELS), strict=True)))
    sentence = refusal(data.Npz("all.npz"))
    exec(sentence[sentence.index("file = np.load") :].replace("FILE", "all.npz"), {"np": np})
    raw = data.Npz("mine.npz", channels=None).load()
    assert (len(raw.train), len(raw.test), raw.classes) == (48, 12, 3)


# ---- labels


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:, None],
        LABELS.astype(np.float32),
        LABELS[:, None].astype(np.float64),
        np.eye(3)[LABELS],
        np.eye(3, dtype=np.int64)[LABELS],
        LABELS.astype(np.uint8),
    ],
)
def test_labels_of_any_kind_are_taken(npz: Any, labels: np.ndarray) -> None:
    raw = npz(pictures(8, 8), labels).load()
    assert raw.classes == 3
    assert raw.train.targets.tolist() == LABELS[:40].tolist()
    told = any(note.startswith(("train_labels", "labels")) for note in raw.notes)
    assert told == (labels.ndim == 2 or labels.dtype.kind == "f")


def test_bool_labels_are_two_classes(npz: Any) -> None:
    raw = npz(pictures(8, 8), LABELS > 0).load()
    assert raw.classes == 2
    assert raw.train.targets.tolist() == (LABELS[:40] > 0).astype(int).tolist()


@pytest.mark.parametrize(
    "labels",
    [
        LABELS + 1,
        LABELS * 50,
        LABELS + 1990,
        LABELS - 1,
        LABELS * 10**9,
        1 - 2 * (LABELS > 0),
        np.array([*"abc"])[LABELS],
    ],
)
def test_labels_that_are_no_classes_are_refused_with_the_line_that_makes_them(npz: Any, labels: np.ndarray) -> None:
    sentence = refusal(npz(pictures(8, 8), labels))
    made = mended(sentence, "labels = np.unique(", train_labels=labels[:40], test_labels=labels[40:])
    raw = npz(pictures(8, 8), np.concatenate([made["train_labels"], made["test_labels"]])).load()
    assert raw.train.targets.tolist() == np.unique(labels, return_inverse=True)[1][:40].tolist()
    assert raw.test.targets.tolist() == np.unique(labels, return_inverse=True)[1][40:].tolist()


def test_a_class_without_examples_is_named_and_stays(npz: Any) -> None:
    labels = LABELS * 2 % 4  # 0, 2, 0: a file that misses class 1 by chance
    made = data.prepare(npz(pictures(8, 8), labels).load())
    assert made.classes == 3
    assert "none of 1" in " ".join(made.facts.lines)
    assert made.facts.record["targets"]["empty"] == [1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            LABELS / 2,
            "train_labels must be whole numbers, got float64 such as 0.5: to regress values, call them train_targets",
        ),
        (
            np.stack([LABELS > 0, LABELS > 1], 1),
            "one-hot; for several values of each example: train_targets = train_labels",
        ),
        (np.where(LABELS == 1, np.nan, LABELS), "targets that are nan or infinite"),
        (LABELS * 1j, "got complex128"),
        (np.array(["2020-01-01"] * 60, "datetime64[D]"), "train_labels = train_labels.astype('datetime64[s]')"),
    ],
)
def test_other_labels_are_refused(npz: Any, labels: np.ndarray, words: str) -> None:
    assert words in refusal(npz(pictures(8, 8), labels))


@pytest.mark.parametrize("targets", [np.arange(60) + 1950, np.random.RandomState(0).permutation(60), LABELS * 7])
def test_whole_numbers_called_targets_must_be_classes_without_doubt(npz: Any, targets: np.ndarray) -> None:
    sentence = refusal(npz(pictures(8, 8), targets, TABLE))
    assert "to regress values: train_targets = train_targets.astype(np.float32)" in sentence
    assert "labels = np.unique(" in sentence
    assert npz(pictures(8, 8), targets.astype(np.float32), TABLE).load().classes is None
    assert npz(pictures(8, 8), LABELS, TABLE).load().classes == 3


@pytest.mark.parametrize("targets", [LABELS * 1.0, np.eye(3)[LABELS]])
def test_floats_that_look_like_classes_are_told_of(npz: Any, targets: np.ndarray) -> None:
    raw = npz(table()[0], targets, TABLE).load()
    assert raw.classes is None
    assert raw.warnings == ("train_targets look like classes and are taken as values; for classes call them labels",)


def test_a_criterion_of_classes_says_how_values_become_labels(npz: Any, composed: Composed) -> None:
    path = npz(pictures(8, 8), LABELS * 1.0, TABLE).path
    with pytest.raises(ConfigError, match=r"choose loss=mse for a regression; for classes store .* labels.*argmax"):
        build(composed(*QUIET, f"data.path={path}").config)


# ---- tables


def table(outputs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs of very different units, and targets that are linear in them, of very different units, too."""
    draw = np.random.RandomState(0)
    plain = draw.randn(60, 3)
    return plain * [1, 1000, 0.01] + [0, 5000, 3], (plain @ draw.randn(3, outputs)) * 10.0 ** np.arange(outputs)[
        ::-1
    ] + 50


def test_a_table_is_scaled_by_column_and_a_regression_learns_in_its_own_units(npz: Any, composed: Composed) -> None:
    inputs, targets = table(outputs=3)
    path = npz(inputs, targets, TABLE).path
    options = (*QUIET, f"data.path={path}", "loss=mse", "epochs=60", "optimizer=adam", "optimizer.lr=0.02")
    build(composed(*options, "objective_metric=best/validation/rmse/2").config)
    with pytest.raises(ConfigError, match=r"objective_metric must be one of test/rmse/2, "):
        build(composed(*options, "objective_metric=test/rmse/3").config)
    run = composed(*options, "evaluate_every=0")
    result = train_run(run, io.StringIO())
    outputs = load_model(run.path)(inputs[40:]).numpy()
    errors = np.sqrt(np.square(outputs - targets[40:]).mean(0))
    for index, error in enumerate(errors):
        assert result[f"test/rmse/{index}"] == pytest.approx(error, rel=1e-4)
        assert error < 0.5 * targets[:, index].std()
    dataset = build(run.config).dataset
    torch.testing.assert_close(dataset.train.inputs.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(dataset.train.targets.std(0, correction=0), torch.ones(3))
    assert result["best/test/rmse/0"] > 0
    file = export(run.path, run.path.parent / "out")
    from safetensors.torch import load_file

    assert torch.equal(load_file(file)["target_scale"], dataset.target_scale)


def test_sequences_are_scaled_by_channel(npz: Any) -> None:
    sequences = np.random.RandomState(0).randn(60, 2, 9) * [[1], [1000]] + [[0], [70]]
    made = data.prepare(npz(sequences, LABELS, KERAS).load(), normalize="auto", validation_size=0)
    torch.testing.assert_close(made.train.inputs.std((0, 2), correction=0), torch.ones(2))
    assert made.scale.shape == made.shape == (2, 9)
    assert made.range[0].shape == (2, 1)


def test_images_in_a_row_are_scaled_as_images(npz: Any) -> None:
    made = data.prepare(npz(pictures(8, 8).reshape(60, 64), LABELS).load(), normalize="auto")
    assert made.scale.dim() == 0
    assert made.range == (0, 255)


def test_targets_are_left_alone_unless_all_is_normalised_as_usual(npz: Any) -> None:
    inputs, targets = table()
    for normalize in ("none", "scalar", "component"):
        made = data.prepare(npz(inputs, targets, TABLE).load(), normalize=normalize, validation_size=0)
        np.testing.assert_allclose(made.train.targets.numpy(), targets[:40], rtol=1e-6)


# ---- what is odd


def test_a_sorted_file_and_its_first_examples_are_refused() -> None:
    labels = torch.arange(10).repeat_interleave(100)
    split = data.Split(torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)), labels)
    raw = data.Raw(split, split, 10)
    with pytest.raises(
        ValueError, match=r"^train_size must .* got 40, none of them of class 1, 2.* choose data.per_class=4$"
    ):
        data.prepare(raw, train_size=40)
    assert data.prepare(raw, per_class=4).train.targets.bincount().tolist() == [4] * 10
    shuffled = split[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    made = data.prepare(data.Raw(shuffled, split, 10), train_size=12)  # some are missing by chance: told
    assert any("test examples are of classes without a training example" in odd for odd in made.facts.warnings)


def test_one_class_in_all_is_told_at_the_start_and_error_0_is_no_failure(npz: Any, composed: Composed) -> None:
    run = composed(*QUIET, f"data.path={npz(pictures(8, 8), LABELS * 0).path}", "epochs=1")
    stream = io.StringIO()
    result = train_run(run, stream)
    assert result["train/error"] == 0
    assert "warning: all training examples are of class 0: there is nothing to tell apart" in stream.getvalue()
    assert "nothing was learned" not in stream.getvalue()


def test_test_examples_that_were_trained_on_are_told(npz: Any) -> None:
    images = pictures(8, 8)
    assert not npz(images, LABELS).load().warnings
    images[45:50] = images[3]
    images[50:52] = images[7:9]
    assert npz(images, LABELS).load().warnings == ("7 of 20 test examples are training examples, too",)


def test_constant_columns_and_columns_of_nan_are_named(npz: Any) -> None:
    inputs, targets = table()
    inputs[:, 1] = 4
    made = data.prepare(npz(inputs, targets, TABLE).load(), normalize="auto")
    assert made.facts.warnings == ("the inputs of the training split are constant in column 1, counted from 0",)
    inputs[[2, 5], 2] = np.nan
    sentence = refusal(npz(inputs, targets, TABLE))
    assert (
        "the training set has inputs that are nan or infinite (in float32): 2 of 40 examples in columns 2" in sentence
    )
    made = mended(sentence, "keep = np.", inputs=inputs[:40], labels=targets[:40])
    assert made["inputs"].shape == (38, 3)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (np.ones((60, 4)) * 1j, "train_inputs = np.concatenate([train_inputs.real, train_inputs.imag], 1)"),
        (np.zeros((60, 2), "datetime64[s]"), "train_inputs = train_inputs.astype('datetime64[s]').astype(np.float64)"),
        (np.arange(60.0), "train_inputs = train_inputs[:, None] for one number each"),
        (np.array([["1", "2"]] * 60), "train_inputs = train_inputs.astype(np.float32), if its words are numbers"),
        (
            np.zeros(60, [("a", float), ("b", int)]),
            "np.stack([train_inputs[name] for name in train_inputs.dtype.names], 1)",
        ),
        (
            np.array([np.zeros(2), np.zeros(3)] * 30, object),
            "train_inputs = np.stack(list(train_inputs)), all of one shape",
        ),
    ],
)
def test_inputs_that_are_no_numbers_are_refused_with_the_line(npz: Any, inputs: np.ndarray, words: str) -> None:
    assert words in refusal(npz(inputs, table()[1], TABLE))


# ---- files of other kinds


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("one.npy", "np.load('"),
        ("t.csv", "pd.read_csv('"),
        ("t.TSV", "pd.read_csv('"),
        ("t.pt", "torch.load('"),
        ("t.zip", "shutil.unpack_archive('"),
        ("t.h5", "h5py.File('"),
        ("t.mat", "scipy.io.loadmat('"),
        ("t.pkl", "pd.read_pickle('"),
        ("folder", "PIL.Image.open(f)"),
    ],
)
def test_files_of_other_kinds_are_refused_with_the_lines_that_make_arrays(tmp_path: Path, name: str, line: str) -> None:
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_bytes(b"1,2\n")
    sentence = refusal(data.Npz(str(path)))
    assert f"{path} is no sound .npz file of arrays: make one with " in sentence
    assert line in sentence
    assert "np.savez('mine.npz', train_inputs=" in sentence
    assert "pickle" not in sentence.replace("read_pickle", "").replace("t.pkl", "")


def test_the_lines_for_a_table_and_for_a_folder_work(tmp_path: Path, monkeypatch: Any) -> None:
    import pathlib

    import pandas as pd
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"a": np.arange(50.0), "b": 1.5 * np.arange(50), "class": np.arange(50) % 2}).to_csv(
        "t.csv", index=False
    )
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(pictures(9, 7, 3)[number]).save(f"photos/{name}/{number}.png")
    for path in ("t.csv", "photos"):
        sentence = refusal(data.Npz(path))
        exec(
            sentence.partition("make one with ")[2], {"np": np, "pd": pd, "pathlib": pathlib, "PIL": __import__("PIL")}
        )
        assert data.Npz("mine.npz").load().classes == 2


def test_links_to_nothing_and_files_that_may_not_be_read(tmp_path: Path, npz: Any, monkeypatch: Any) -> None:
    (tmp_path / "link.npz").symlink_to(tmp_path / "gone.npz")
    assert f"is a link to {tmp_path / 'gone.npz'}, which is not there" in refusal(data.Npz(str(tmp_path / "link.npz")))
    source = npz(pictures(8, 8), LABELS)

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(zipfile, "ZipFile", forbidden)
    assert f"may not be read: chmod u+r '{source.path}'" in refusal(source)


def test_a_header_that_lies_is_told_of_the_file(tmp_path: Path, npz: Any) -> None:
    source = npz(pictures(8, 8), LABELS)
    with zipfile.ZipFile(source.path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    honest = members["train_images.npy"]
    members["train_images.npy"] = honest.replace(b"(40, 8, 8), }        ", b"(4000000000, 8, 8), }")
    assert members["train_images.npy"] != honest
    with zipfile.ZipFile(source.path, "w") as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    sentence = refusal(source)
    assert "train_images is said to be uint8 (4000000000, 8, 8) and has" in sentence
    assert "batch_size" not in sentence


def test_arrays_beyond_the_memory_are_told_of_the_file(npz: Any, composed: Composed, monkeypatch: Any) -> None:
    def too_large(*_: Any, **__: Any) -> None:
        raise MemoryError

    run = composed(*QUIET, f"data.path={npz(pictures(8, 8), LABELS).path}")
    monkeypatch.setattr("data.npz.numpy_format.read_array", too_large)
    with pytest.raises(ConfigError, match=r"GB, too many for this machine: keep fewer examples"):
        build(run.config)
    monkeypatch.undo()
    monkeypatch.setattr("data.dataset.normalized", too_large)
    with pytest.raises(ConfigError, match=r"the examples are too many for this machine: keep fewer"):
        build(run.config)


# ---- what a run says


def test_a_run_says_what_it_read_on_the_console_in_the_log_and_in_its_result(npz: Any, composed: Composed) -> None:
    images = pictures(9, 7, 3) / 255
    stream = io.StringIO()
    run = composed(*QUIET, f"data.path={npz(images, LABELS).path}", "data.train_size=40", "epochs=1")
    result = train_run(run, stream)
    text = " ".join(stream.getvalue().split())
    for words in (
        "data: train_size=40: 36 to train, 4 to validate, 20 to test",
        "3 channels of 9x7, float64 from 0 to 1",
        "3 classes of 1",
        "inputs normalised by mean 0.4",
        "channels last; train_images float64 (40, 9, 7, 3); range 0 to 1",
    ):
        assert words in text
    assert "data: train_size=40" in run.log.read_text()
    facts = result["data"]
    assert facts["examples"] == {"train": 36, "validation": 4, "test": 20}
    assert facts["inputs"] == {"shape": [3, 9, 7], "dtype": "float64", "low": 0.0, "high": 1.0}
    assert (sum(facts["targets"]["counts"]), facts["targets"]["empty"]) == (36, [])
    assert facts["normalize"]["kind"] == "auto"
    assert run.result()["data"] == facts


@pytest.mark.parametrize(
    "overrides",
    [
        ("data=digits",),
        ("data=moons", "model=mlp"),
        ("data=sine", "model=mlp", "loss=mse"),
        ("data=digits", "data.per_class=3"),
    ],
)
def test_there_are_at_most_three_lines_of_120_characters(composed: Composed, overrides: tuple[str, ...]) -> None:
    lines = build(composed(*overrides).config).dataset.facts.lines
    assert 1 <= len(lines) <= 3
    assert max(map(len, lines)) <= 120
    assert lines[0].startswith("data: ")


def test_many_facts_are_cut_to_three_lines(npz: Any) -> None:
    targets = np.random.RandomState(0).randn(60, 40)
    lines = data.prepare(npz(table()[0], targets, TABLE).load(), normalize="auto").facts.lines
    assert len(lines) <= 3
    assert max(map(len, lines)) <= 120


# ---- trained networks


def test_a_trained_network_refuses_inputs_on_another_scale_or_in_another_shape(npz: Any, composed: Composed) -> None:
    images = pictures(9, 7, 3)
    for number, array in enumerate((images, images / 255)):
        run = composed(*QUIET, f"data.path={npz(array, LABELS).path}", "epochs=1", f"name=n{number}")
        train_run(run, io.StringIO())
        model = load_model(run.path)
        ready = np.moveaxis(array, 3, 1)
        assert model(ready).shape == (60, 3)
        assert model(ready[:1] * 0).shape == (1, 3)  # a black one
        noisy = ready + 0.3 * array.max() * np.random.RandomState(0).randn(*ready.shape)
        assert model(noisy).shape == (60, 3)
        for wrong in (ready / 255, ready * 255.0, (ready - ready.mean()) / ready.std() - 7):
            with pytest.raises(
                ValueError, match=r"^inputs must be on the scale of those in training, 0 to (255|1), got .*: give"
            ):
                model(wrong)
        with pytest.raises(ValueError, match=r"got \(60, 9, 7, 3\): images.transpose\(0, 3, 1, 2\) puts"):
            model(array)


def test_a_trained_network_of_a_table_refuses_columns_that_were_normalised(npz: Any, composed: Composed) -> None:
    inputs, targets = table()
    inputs += [500, 0, 0]
    run = composed(*QUIET, f"data.path={npz(inputs, targets, TABLE).path}", "epochs=1", "loss=mse")
    train_run(run, io.StringIO())
    model = load_model(run.path)
    assert model(inputs[:1]).shape == (1, 1)
    with pytest.raises(ValueError, match=r"^inputs must be on the scale of those in training"):
        model((inputs - inputs.mean(0)) / inputs.std(0))


# ---- batch norm


NORMED = ("data=moons", "model=module", "model.network={_target_: torch.nn.BatchNorm1d, num_features: 2}")


def test_a_last_batch_of_one_is_refused_before_training_where_batch_norm_cannot_take_it(composed: Composed) -> None:
    options = (*NORMED, "allow_targets=[torch]", "data.validation_size=0")
    words = r"^batch_size=50 leaves a mini-batch with one of the 101 training .* two: choose batch_size=49 or 51$"
    with pytest.raises(ConfigError, match=words):
        build(composed(*options, "data.n=101", "batch_size=50").config)
    with pytest.raises(ConfigError, match=r"^batch_size=1 leaves .* choose batch_size=2 or 3$"):
        build(composed(*options, "data.n=200", "batch_size=1").config)
    for size in (49, 51, 101, 200):
        build(composed(*options, "data.n=101", f"batch_size={size}").config)


def test_a_last_batch_of_one_image_is_fine_where_each_channel_has_many_numbers(composed: Composed) -> None:
    options = ("data=digits", "model=convnet", "model.norm=batch", "model.channels=[4,4]", "data.validation_size=0")
    build(composed(*options, "data.train_size=101", "batch_size=50").config)


# ---- the data that come with the project


BITS = {  # of main before arrays were recognised: a digest of all splits, offset and scale; and the id
    ("data=digits",): "88243838617c4108",
    ("data=digits", "data.normalize=component", "data.train_size=500"): "17fa53acd192b1a5",
    ("data=digits", "data.per_class=10", "data.label_noise=0.2"): "f972146ddb9eeebb",
    ("data=line", "model=mlp", "loss=mse"): "cf5c2a3121d641c7",
    ("data=plateaus", "model=mlp", "loss=mse"): "53307725bf8138e1",
}


MOONS = [0.8093827366828918, 0.8606828451156616, 0.14156001806259155, -0.18623314797878265], [0, 1]
SINE = [0.09762700647115707, 0.4303787350654602], [0.18540339171886444, 1.0662583112716675]


def digest(dataset: data.Dataset) -> str:
    parts = [split for split in (dataset.train, dataset.validation, dataset.test) if split is not None]
    tensors = [tensor for split in parts for tensor in (split.inputs, split.targets)]
    found = hashlib.sha256()
    for tensor in (*tensors, dataset.offset, dataset.scale):
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("overrides", BITS, ids=" ".join)
def test_the_data_of_the_project_keep_their_bits(composed: Composed, overrides: tuple[str, ...]) -> None:
    assert digest(build(composed(*overrides).config).dataset) == BITS[overrides]


def test_the_values_of_drawn_data_are_those_of_before(composed: Composed) -> None:
    """To seven digits: sine and cosine differ between machines in the last ones."""
    for name, expected in {"moons": MOONS, "sine": SINE}.items():
        loss = ("loss=mse",) if name == "sine" else ()
        dataset = build(composed(f"data={name}", "model=mlp", *loss).config).dataset
        assert dataset.train.inputs[:2].flatten().tolist() == pytest.approx(expected[0], rel=1e-6)
        assert dataset.train.targets[:2].flatten().tolist() == pytest.approx(np.ravel(expected[1]), rel=1e-6)


def test_keys_that_say_nothing_are_in_no_id(npz: Any, composed: Composed) -> None:
    path = npz(pictures(8, 8), LABELS).path
    config = composed(*QUIET, f"data.path={path}").config
    without = {
        **config,
        "data": {key: value for key, value in config["data"].items() if key not in ("range", "channels")},
    }
    assert ids(config) == ids(without)
    assert ids(composed(*QUIET, f"data.path={path}", "data.range=[0,255]").config) != ids(config)
    assert ids(composed(*QUIET, f"data.path={path}", "data.channels=last").config) != ids(config)


def test_slopes_that_are_wanted_need_targets_in_their_units(npz: Any, composed: Composed) -> None:
    x = np.linspace(0, 9, 60)[:, None]
    options = (*QUIET, f"data.path={npz(x, 7 * x, TABLE).path}", "loss=mse", "penalty=tangent_prop")
    slopes = "penalty.tangent_prop.tangents.derivatives=7.0"
    build(composed(*options, "model.activation=tanh").config)
    build(composed(*options, slopes, "data.normalize=none", "model.activation=tanh").config)
    with pytest.raises(ConfigError, match=r"the targets are scaled: add data.normalize=none"):
        build(composed(*options, slopes, "model.activation=tanh").config)
