"""Sources and what `prepare` makes of them."""

import gzip
import hashlib
import importlib
import inspect
import io
import itertools
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import data
from data.files import File
from data.public import NAMES

CONF = Path(__file__).parents[1] / "conf/data"
COMMON = {"train_size", "per_class", "validation_size", "normalize", "label_noise", "seed"}


def numbered(train=100, test=20, classes=4):
    """A classification whose single feature is the example's number: 0.. to train, 1000.. to test."""

    def split(first, count):
        numbers = torch.arange(first, first + count)
        return data.Split(numbers.float().unsqueeze(1), numbers % classes)

    return data.Raw(split(0, train), split(1000, test), classes)


def numbers(split):
    return split.inputs.flatten().int().tolist()


def plain(raw, **options):
    return data.prepare(raw, **{"normalize": "none", **options})


# ---------------------------------------------------------------- sources


def test_digits():
    raw = data.Digits().load()
    assert raw.train.inputs.shape == (1437, 1, 28, 28)
    assert raw.test.inputs.shape == (360, 1, 28, 28)
    assert raw.train.inputs.dtype == torch.uint8
    assert raw.classes == 10
    share = raw.test.targets.bincount() / (raw.test.targets.bincount() + raw.train.targets.bincount())
    assert (share - 0.2).abs().max() < 0.006
    again = data.Digits().load()
    assert torch.equal(raw.test.inputs, again.test.inputs)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    raw = data.Digits().load()
    pooled = torch.nn.functional.avg_pool2d(raw.train.inputs[..., 2:-2, 2:-2].double(), 3).flatten(1)
    originals = torch.from_numpy(load_digits().images).flatten(1)
    # Each resembles one original, which has its label; none is used twice, but that two originals are alike.
    match = torch.corrcoef(torch.cat([pooled, originals]))[: len(pooled), len(pooled) :].max(1)
    assert match.values.min() > 0.95
    assert torch.equal(torch.from_numpy(load_digits().target)[match.indices], raw.train.targets)
    assert len(match.indices.unique()) >= 1435


def test_line_and_plateaus():
    line = data.Line().load()
    assert line.train.inputs.flatten().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert torch.equal(line.train.inputs, line.train.targets)
    assert torch.equal(line.test.inputs, line.train.inputs)
    plateaus = data.Plateaus().load()
    assert plateaus.train.inputs.shape == plateaus.train.targets.shape == (3, 1)
    assert line.classes is plateaus.classes is None
    nine = data.Plateaus(distorted=True, shift=0.25).load()
    assert nine.train.inputs.flatten().tolist() == [-1.25, -1, -0.75, -0.25, 0, 0.25, 0.75, 1, 1.25]
    assert nine.train.targets[::3].equal(plateaus.train.targets)
    assert nine.train.targets[2::3].equal(plateaus.train.targets)
    assert nine.train.inputs[1::3].equal(plateaus.train.inputs)
    assert data.Plateaus(shift=0.25).load().test.inputs.equal(nine.train.inputs)  # both are tested on the same points


@pytest.mark.parametrize("shift", [0.0, -0.1, float("inf"), float("nan")])
def test_plateaus_refuse_a_shift_that_is_none(shift):
    with pytest.raises(ValueError, match=r"^shift must be positive and finite, got "):
        data.Plateaus(shift=shift)


def test_sine():
    raw = data.Sine(n=2000, noise=0.3, seed=1).load()
    residual = raw.train.targets - torch.sin(torch.pi * raw.train.inputs)
    assert residual.std().item() == pytest.approx(0.3, rel=0.06)
    assert raw.train.inputs.abs().max() <= 1
    torch.testing.assert_close(raw.test.targets, torch.sin(torch.pi * raw.test.inputs))
    same, other = data.Sine(2000, 0.3, 1).load(), data.Sine(2000, 0.3, 2).load()
    assert torch.equal(same.train.targets, raw.train.targets)
    assert not torch.equal(other.train.targets, raw.train.targets)
    clean = data.Sine(2000, 0.0, 1).load()
    assert torch.equal(clean.train.inputs, raw.train.inputs)
    torch.testing.assert_close(clean.train.targets, torch.sin(torch.pi * clean.train.inputs))


def test_moons():
    raw = data.Moons(n=301, noise=0.0, seed=1).load()
    x, y = raw.train.inputs.T
    labels = raw.train.targets
    assert labels[:4].tolist() == [0, 1, 0, 1]  # balanced at every size
    turned = labels == 1
    x, y = torch.where(turned, 1 - x, x), torch.where(turned, 0.5 - y, y)
    torch.testing.assert_close(x.square() + y.square(), torch.ones(301))  # both become the upper half circle
    assert y.min() > -1e-6
    angle = torch.atan2(y, x)
    assert angle.mean().item() == pytest.approx(torch.pi / 2, abs=0.15)
    assert angle.std().item() == pytest.approx(torch.pi / 12**0.5, abs=0.1)
    assert raw.test.inputs.shape == (1000, 2)
    assert raw.classes == 2
    noisy = data.Moons(n=301, noise=0.3, seed=1).load()
    difference = noisy.train.inputs - raw.train.inputs
    assert difference.std(0).tolist() == pytest.approx([0.3, 0.3], rel=0.15)
    assert torch.corrcoef(difference.T)[0, 1].abs() < 0.2


def test_moons_are_drawn_by_the_seed_alone():
    few, many, other = data.Moons(10).load(), data.Moons(20).load(), data.Moons(10, seed=1).load()
    assert torch.equal(few.test.inputs, many.test.inputs)
    assert not torch.equal(few.train.inputs, other.train.inputs)
    assert not torch.equal(few.test.inputs, other.test.inputs)
    assert not torch.isin(few.train.inputs, few.test.inputs).any()


@pytest.mark.parametrize("source", [data.Sine, data.Moons])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0}, "n must be 1 or more, got 0"),
        ({"noise": -1.0}, "noise must be 0 or more and finite, got -1.0"),
        ({"noise": float("nan")}, "noise must be 0 or more and finite, got nan"),
        ({"seed": -1}, "seed must be 0 to 4294967295, got -1"),
    ],
)
def test_drawn_data_refuse(source, arguments, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        source(**arguments)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


@pytest.fixture
def digits_like():
    """Contents of the four files, in the order of NAMES, with sizes that tell the axes apart."""
    random = np.random.RandomState(0)
    shapes = [(30, 7, 5), (30,), (12, 7, 5), (12,)]
    arrays = [random.randint(0, 10, shape).astype(np.uint8) for shape in shapes]
    return arrays, [idx(array) for array in arrays]


def sums(contents):
    return tuple(hashlib.sha256(content).hexdigest() for content in contents)


@pytest.mark.parametrize("packed", [(), (0, 1, 2, 3), (1, 2)])
def test_mnist_reads_packed_and_unpacked_files(tmp_path, monkeypatch, digits_like, packed):
    arrays, contents = digits_like
    archives = [gzip.compress(content) for content in contents]
    monkeypatch.setattr(data.MNIST, "UNPACKED", sums(contents))
    monkeypatch.setattr(data.MNIST, "PACKED", sums(archives))
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for index, name in enumerate(NAMES):
        if index in packed:
            (folder / f"{name}.gz").write_bytes(archives[index])
        else:
            (folder / name).write_bytes(contents[index])
    raw = data.MNIST(str(tmp_path)).load()
    assert np.array_equal(raw.train.inputs.numpy()[:, 0], arrays[0])
    assert np.array_equal(raw.train.targets.numpy(), arrays[1])
    assert np.array_equal(raw.test.inputs.numpy()[:, 0], arrays[2])
    assert np.array_equal(raw.test.targets.numpy(), arrays[3])


def test_checksums_are_those_that_were_compared():
    """No digit changes by accident; a digest cannot tell whether they are the right ones.

    That was seen in December 2026: other projects, such as torchvision's port to Ruby, have the same ones.
    """
    published = (*data.MNIST.PACKED, *data.MNIST.UNPACKED, *data.FashionMNIST.PACKED, data.CIFAR10.ARCHIVE.digest)
    assert sums([" ".join(published).encode()])[0] == "abedcde916cd1e71f9bf3a5df32c92e2165b30511922d4699ecfdfbc733b0f5b"


def test_files_are_named_and_ordered_as_by_torchvision():
    from torchvision import datasets

    for source in (datasets.MNIST, datasets.FashionMNIST):
        assert [name for name, _ in source.resources] == [f"{name}.gz" for name in NAMES]


def test_mnist_one_flipped_byte(tmp_path, monkeypatch, digits_like):
    contents = digits_like[1]
    monkeypatch.setattr(data.MNIST, "UNPACKED", sums(contents))
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for name, content in zip(NAMES, contents, strict=True):
        (folder / name).write_bytes(content)
    data.MNIST(str(tmp_path)).load()
    flipped = bytearray(contents[2])
    flipped[200] ^= 1
    (folder / NAMES[2]).write_bytes(flipped)
    with pytest.raises(data.DataError, match=r"MNIST/raw/t10k-images-idx3-ubyte is truncated or damaged"):
        data.MNIST(str(tmp_path)).load()


def test_fashion_mnist_has_a_folder_of_its_own(tmp_path, monkeypatch, digits_like):
    arrays, contents = digits_like
    archives = [gzip.compress(content) for content in contents]
    monkeypatch.setattr(data.FashionMNIST, "PACKED", sums(archives))
    folder = tmp_path / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    for name, archive in zip(NAMES, archives, strict=True):
        (folder / f"{name}.gz").write_bytes(archive)
    raw = data.FashionMNIST(str(tmp_path)).load()
    assert np.array_equal(raw.test.inputs.numpy()[:, 0], arrays[2])


def test_mnist_offline_says_what_goes_where(tmp_path, monkeypatch):
    monkeypatch.setattr(data.MNIST, "BASES", ("http://127.0.0.1:1/",))
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(data.DataError) as caught:
        data.MNIST(str(tmp_path)).load()
    for name in NAMES:
        assert f"{name}.gz" in str(caught.value)
    assert f"into {tmp_path / 'MNIST/raw'}, or set data.root" in str(caught.value)


def cifar_like(random, count):
    images = random.randint(0, 256, (count, 3, 32, 32)).astype(np.uint8)
    labels = random.randint(0, 10, count).astype(np.uint8)
    return images, labels


def test_cifar10_reads_the_binary_archive(tmp_path, monkeypatch):
    random = np.random.RandomState(0)
    batches = {name: cifar_like(random, 4) for name in (*data.CIFAR10.TRAIN, "test_batch.bin")}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, (images, labels) in reversed(batches.items()):  # the order in the archive must not matter
            rows = np.concatenate([labels[:, None], images.reshape(4, -1)], axis=1).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(rows)
            archive.addfile(member, io.BytesIO(rows))
    contents = buffer.getvalue()
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(contents)
    file = File("cifar-10-binary.tar.gz", hashlib.sha256(contents).hexdigest())
    monkeypatch.setattr(data.CIFAR10, "ARCHIVE", file)
    raw = data.CIFAR10(str(tmp_path)).load()
    train = [batches[f"data_batch_{number}.bin"] for number in range(1, 6)]
    assert np.array_equal(raw.train.inputs.numpy(), np.concatenate([images for images, _ in train]))
    assert np.array_equal(raw.train.targets.numpy(), np.concatenate([labels for _, labels in train]))
    assert np.array_equal(raw.test.inputs.numpy(), batches["test_batch.bin"][0])


class Published:
    """Stands for torchvision's class: what its reader gives, whatever is in the files."""

    base_folder = "cifar-10-batches-py"
    train_list = (("data_batch_1", hashlib.md5(b"train").hexdigest()),)
    test_list = (("test_batch", hashlib.md5(b"test").hexdigest()),)

    def __init__(self, root, train):
        self.data = np.arange(2 * 32 * 32 * 3, dtype=np.int64).astype(np.uint8).reshape(2, 32, 32, 3)
        self.targets = [3, 1 if train else 2]


def test_cifar10_reads_torchvisions_folder_after_verifying_it(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Published)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"train")
    (folder / "test_batch").write_bytes(b"test")
    raw = data.CIFAR10(str(tmp_path)).load()
    assert raw.train.targets.tolist() == [3, 1]
    assert raw.test.targets.tolist() == [3, 2]
    assert np.array_equal(raw.train.inputs.numpy().transpose(0, 2, 3, 1), Published(tmp_path, True).data)
    (folder / "test_batch").write_bytes(b"tset")
    with pytest.raises(data.DataError, match="cifar-10-batches-py/test_batch is truncated or damaged"):
        data.CIFAR10(str(tmp_path)).load()


# ---------------------------------------------------------------- a user's arrays


def arrays(**changes):
    random = np.random.RandomState(0)
    good = {
        "train_images": random.randint(0, 256, (6, 3, 5, 4)).astype(np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": random.randint(0, 256, (2, 3, 5, 4)).astype(np.uint8),
        "test_labels": np.array([2, 0]),
    }
    return {name: array for name, array in {**good, **changes}.items() if array is not None}


def npz(path, **changes):
    np.savez_compressed(path / "mine.npz", **arrays(**changes))
    return data.Npz(str(path / "mine.npz"))


def test_npz_images(tmp_path):
    raw = npz(tmp_path).load()
    assert raw.classes == 3
    assert raw.train.inputs.dtype == torch.uint8
    assert np.array_equal(raw.train.inputs.numpy(), arrays()["train_images"])
    assert raw.train.targets.dtype == torch.int64
    assert data.prepare(raw, validation_size=0).shape == (3, 5, 4)


@pytest.mark.parametrize("layout", ["last", "grey", "grey last"])
def test_npz_layouts(tmp_path, layout):
    good = arrays()
    move = {
        "last": lambda array: array.transpose(0, 2, 3, 1),
        "grey": lambda array: array[:, 0],
        "grey last": lambda array: array[:, 0, :, :, None],
    }[layout]
    raw = npz(tmp_path, **{key: move(good[key]) for key in ("train_images", "test_images")}).load()
    channels = slice(None) if layout == "last" else slice(1)
    assert np.array_equal(raw.train.inputs.numpy(), good["train_images"][:, channels])


@pytest.mark.parametrize(("channels", "option"), [(3, None), (1, "first")])  # the second one is refused without
def test_channels_first_stay_first_where_the_last_axis_could_be_channels_too(tmp_path, channels, option):
    images = np.arange(6 * channels * 5 * 3, dtype=np.uint8).reshape(6, channels, 5, 3)
    source = npz(tmp_path, train_images=images, test_images=images[:2])
    raw = data.Npz(str(source.path), channels=option).load()
    assert np.array_equal(raw.train.inputs.numpy(), images)


def test_npz_regression(tmp_path):
    inputs, targets = np.linspace(0, 1, 12).reshape(6, 2), np.linspace(3, 4, 6)
    np.savez(
        tmp_path / "r.npz",
        train_inputs=inputs,
        train_targets=targets,
        test_inputs=inputs,
        test_targets=targets,
    )
    raw = data.Npz(str(tmp_path / "r.npz")).load()
    assert raw.classes is None
    assert raw.train.targets.dtype == torch.float32
    assert data.prepare(raw, validation_size=0).train.inputs.dtype == torch.float32
    np.testing.assert_allclose(raw.train.targets.numpy(), targets[:, None], rtol=1e-6)
    assert data.prepare(raw, validation_size=0).outputs == 1


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.int64])
def test_npz_inputs_of_three_dimensions_are_sequences(tmp_path, kind):
    inputs = np.arange(24).reshape(2, 3, 4).astype(kind)
    labels = np.array([0, 1])
    np.savez(tmp_path / "s.npz", train_inputs=inputs, train_labels=labels, test_inputs=inputs, test_labels=labels)
    dataset = plain(data.Npz(str(tmp_path / "s.npz")).load(), validation_size=0)
    assert dataset.shape == (3, 4)
    assert np.array_equal(dataset.train.inputs.numpy(), inputs)


@pytest.mark.parametrize("shape", [(64, 60, 3), (64, 60, 1)])
def test_channels_last_is_refused_with_the_fix(shape):
    """From a class of a user's own; `Npz` moves the channels itself."""
    split = data.Split(torch.zeros(2, *shape, dtype=torch.uint8), torch.tensor([0, 1]))
    words = (
        f"the training set has images of shape 64x60x{shape[2]}, channels last, and must have them first, "
        f"{shape[2]}x64x60: use images.permute(0, 3, 1, 2)"
    )
    with pytest.raises(data.DataError, match=f"^{re.escape(words)}$"):
        data.Raw(split, split, 2)
    first = data.Split(split.inputs.permute(0, 3, 1, 2), split.targets)
    assert data.Raw(first, first, 2).train is first


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_labels": None}, "must hold test_labels or test_targets, it has test_images, train_images"),
        ({"train_labels": np.arange(5)}, "training set has 6 inputs and 5 targets"),
        (
            {"train_labels": np.array([0, 1, 2, 0, 1, -2])},
            "train_labels must be classes, 0 to their number - 1, got -2, 0, 1, 2: labels = np.unique(",
        ),
        ({"test_labels": np.array([2, 3])}, "test set must have labels 0 to 2, got 2 to 3"),
        ({"test_labels": np.array([0.5, 1.0])}, "test_labels must be whole numbers, got float64 such as 0.5"),
        ({"train_labels": None, "train_targets": np.ones(6)}, "both be integers or both be floats"),
        ({"train_labels": np.zeros((6, 1, 1), int)}, "train_labels must be integers (N,) or floats"),
        ({"train_labels": np.full(6, np.nan), "test_labels": np.ones(2)}, "targets that are nan or infinite"),
        ({"train_images": np.full((6, 3, 5, 4), np.nan)}, "inputs that are nan or infinite"),
        ({"train_images": np.array(["a"] * 6)}, "train_images must be numbers (N, H, W) or (N, C, H, W), got <U1 (6,)"),
        ({"test_images": arrays()["train_images"].reshape(5, 3, 6, 4)[:2]}, "same shape, got (3, 5, 4) and (3, 6, 4)"),
        ({"train_images": np.zeros((0, 3, 5, 4), np.uint8), "train_labels": np.zeros(0, int)}, "is empty"),
    ],
)
def test_npz_that_holds_something_else(tmp_path, changes, words):
    with pytest.raises(data.DataError, match=re.escape(words)) as caught:
        npz(tmp_path, **changes).load()
    assert str(caught.value).startswith(f"{tmp_path / 'mine.npz'}: ")
    assert "\n" not in str(caught.value)


def test_npz_damaged(tmp_path):
    source = npz(tmp_path)
    contents = source.path.read_bytes()
    random = np.random.RandomState(0)
    header, directory = contents.index(b"PK\3\4"), contents.index(b"PK\1\2")
    facts = [*range(header, header + 30), *range(directory, directory + 46)]  # what zipfile goes by
    for place, bit in [
        *itertools.product(facts, range(8)),
        *zip(random.randint(len(contents), size=40), range(40), strict=True),
    ]:
        flipped = bytearray(contents)
        flipped[place] ^= 1 << bit % 8
        source.path.write_bytes(flipped)
        try:
            raw = source.load()
        except data.DataError as error:
            assert str(source.path) in str(error)  # noqa: PT017
        else:  # the byte was one of the archive's that says nothing about the arrays, a date for instance
            assert np.array_equal(raw.train.inputs.numpy(), arrays()["train_images"])
            assert np.array_equal(raw.train.targets.numpy(), arrays()["train_labels"])
    for length in (0, 10, len(contents) // 2, len(contents) - 1):
        source.path.write_bytes(contents[:length])
        with pytest.raises(data.DataError, match=r"mine\.npz is no sound \.npz file"):
            source.load()


def test_npz_absent_or_something_else(tmp_path):
    with pytest.raises(data.DataError, match=r"mine\.npz is not there"):
        data.Npz(str(tmp_path / "mine.npz")).load()
    with pytest.raises(data.DataError, match="is no sound"):
        data.Npz(str(tmp_path)).load()
    for contents in (b"<html>", b"text"):
        (tmp_path / "mine.npz").write_bytes(contents)
        with pytest.raises(data.DataError, match="is no sound"):
            data.Npz(str(tmp_path / "mine.npz")).load()
    np.save(tmp_path / "one.npy", np.arange(3))
    with pytest.raises(data.DataError, match="is no sound"):
        data.Npz(str(tmp_path / "one.npy")).load()


class Payload:
    """An object that touches a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_npz_runs_nothing(tmp_path):
    mark = tmp_path / "touched"
    source = npz(tmp_path, train_labels=np.array([Payload(mark)] * 6, dtype=object))
    with pytest.raises(data.DataError, match="train_labels holds Python objects"):
        source.load()
    assert not mark.exists()


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("train_size", "validation_size", "train", "validation"),
    [
        (None, None, 90, 10),
        (None, 0, 100, 0),
        (50, None, 50, 5),
        (95, None, 86, 9),
        (95, 5, 95, 5),
        (40, 60, 40, 60),
    ],
)
def test_splits(train_size, validation_size, train, validation):
    made = plain(numbered(), train_size=train_size, validation_size=validation_size)
    kept = numbers(made.validation) if made.validation else []
    assert (len(made.train), len(kept), len(made.test)) == (train, validation, 20)
    first = train_size or 100
    assert numbers(made.train) == [n for n in range(first) if n not in kept]  # in their order
    if 0 < validation <= 100 - first:
        assert min(kept) >= first
    assert len(set(kept)) == validation
    assert not set(kept) & {*numbers(made.train), *numbers(made.test)}
    assert numbers(made.test) == list(range(1000, 1020))
    for split in (made.train, made.test, made.validation):
        if split:
            assert split.targets.tolist() == [n % 4 for n in numbers(split)]


@pytest.mark.parametrize(("train_size", "in_order"), [(50, range(50, 55)), (None, range(10)), (95, range(9))])
def test_validation_split_is_drawn_by_the_seed(train_size, in_order):
    """From beyond `train_size` where enough is left there, else out of the first, as for all data by default."""
    splits = [numbers(plain(numbered(), train_size=train_size, seed=seed).validation) for seed in (0, 0, 1, 2)]
    assert splits[0] == splits[1]
    assert len({tuple(split) for split in (*splits, in_order)}) == 4


def unbalanced(classes=4):
    """Three classes of 12, 24 and 36 examples, in an order of no pattern; of the classes number 3 does not occur."""
    labels = torch.tensor([0, 1, 1, 2, 2, 2] * 12)[torch.randperm(72, generator=torch.Generator().manual_seed(0))]
    split = data.Split(torch.arange(72.0).unsqueeze(1), labels)
    return data.Raw(split, split, classes)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_per_class_takes_the_first_of_each_class(count):
    raw = unbalanced()
    made = plain(raw, per_class=count)
    assert made.train.targets.bincount().tolist() == [count] * 3
    wanted = [n for n in range(72) if (raw.train.targets[:n] == raw.train.targets[n]).sum() < count]
    assert numbers(made.train) == wanted
    assert made.train.targets.tolist() == raw.train.targets[wanted].tolist()


def test_validation_never_unbalances_the_classes():
    raw = unbalanced()
    for size, wanted in ((None, 3), (0, 0), (36, 36)):
        made = plain(raw, per_class=12, validation_size=size)
        kept = numbers(made.validation) if made.validation else []
        assert (len(made.train), len(set(kept))) == (36, wanted)
        assert not set(kept) & set(numbers(made.train))
    balanced = numbered(train=40)
    assert plain(balanced, per_class=10).validation is None  # nothing is left for it
    assert len(plain(balanced, per_class=9).validation) == 3
    with pytest.raises(ValueError, match=r"^validation_size must be 0 to 36 with 36 of 72 examples .* got 37$"):
        plain(raw, per_class=12, validation_size=37)


def test_prepare_describes_the_data():
    made = plain(numbered())
    assert (made.shape, made.classes, made.outputs) == ((1,), 4, 4)
    line = plain(data.Line().load(), validation_size=0)
    assert (line.shape, line.classes, line.outputs, line.validation) == ((1,), None, 1, None)
    assert plain(data.Line().load()).validation is None  # a tenth of five points


# ---------------------------------------------------------------- label noise


@pytest.mark.parametrize("fraction", [0.25, 0.8, 1.0])
def test_label_noise(fraction):
    raw = numbered(train=4000)
    clean = plain(raw)
    noisy = plain(raw, label_noise=fraction)
    assert torch.equal(noisy.train.inputs, clean.train.inputs)
    changed = noisy.train.targets != clean.train.targets
    assert changed.sum() == round(fraction * 3600)
    steps = ((noisy.train.targets - clean.train.targets) % 4)[changed].bincount(minlength=4)
    expected = len(changed) * fraction / 3
    assert ((steps[1:] - expected).abs() < 4 * expected**0.5).all()
    assert torch.equal(noisy.validation.targets, clean.validation.targets)
    assert torch.equal(noisy.test.targets, clean.test.targets)
    assert torch.equal(raw.train.targets, numbered(train=4000).train.targets)
    assert not torch.equal(plain(raw, label_noise=fraction, seed=1).train.targets, noisy.train.targets)


@pytest.mark.parametrize(("fraction", "count"), [(0.29, 29), (0.296, 30), (0.004, 0)])  # .29 * 100 is below 29
def test_as_many_labels_are_noisy_as_is_said_to_the_nearest_one(fraction, count):
    clean, noisy = (plain(numbered(), validation_size=0, label_noise=noise).train.targets for noise in (0, fraction))
    assert (clean != noisy).sum() == count


def test_label_noise_and_validation_split_are_drawn_apart():
    options = {"train_size": 50, "validation_size": 25}
    clean, noisy = (plain(numbered(), label_noise=fraction, **options) for fraction in (0, 0.5))
    wrong = (clean.train.targets != noisy.train.targets).nonzero().flatten().tolist()
    assert numbers(noisy.validation) == numbers(clean.validation)
    assert wrong != [number - 50 for number in numbers(clean.validation)]


# ---------------------------------------------------------------- normalisation


def pictures(seed=0, count=300):
    random = np.random.RandomState(seed)
    images = torch.from_numpy(random.randint(0, 200, (count, 2, 4, 3)).astype(np.uint8))
    images[:, 0, 0, 0] = 7  # a constant pixel
    bright = torch.full((50, 2, 4, 3), 255, dtype=torch.uint8)  # must not enter the statistics
    labels = torch.zeros(count, dtype=torch.int64)
    return data.Raw(data.Split(images, labels), data.Split(bright, labels[:50]), 1)


@pytest.mark.parametrize("normalize", ["scalar", "component"])
def test_normalize_uses_the_training_split_alone(normalize):
    raw = pictures()
    raw.train.inputs[200:] = 255
    made = data.prepare(raw, train_size=200, normalize=normalize)
    used = raw.train.inputs[:200].numpy().astype(np.float64)
    axis = 0 if normalize == "component" else None
    mean, std = used.mean(axis), used.std(axis)
    std = np.where(std == 0, 1, std)
    for split, images in ((made.train, used), (made.test, raw.test.inputs.numpy())):
        np.testing.assert_allclose(split.inputs.numpy(), (images - mean) / std, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made.validation.inputs.numpy()[0], (255 - np.zeros((2, 4, 3)) - mean) / std, rtol=1e-5)
    np.testing.assert_allclose(made.offset.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(made.scale.numpy(), std, rtol=1e-6)
    assert made.train.inputs.dtype == torch.float32
    assert raw.train.inputs.dtype == torch.uint8


def test_normalize_none_keeps_values_and_maps_images_to_0_1():
    raw = pictures()
    images = plain(raw, validation_size=0).train.inputs
    torch.testing.assert_close(images, raw.train.inputs.float() / 255)
    assert plain(raw).range == data.prepare(raw).range == (0, 255)
    sine = data.Sine().load()
    made = plain(sine, validation_size=0)
    assert torch.equal(made.train.inputs, sine.train.inputs)
    assert made.range is None
    assert made.train.inputs.data_ptr() != sine.train.inputs.data_ptr()


def test_statistics_of_features_far_from_zero():
    years = torch.linspace(2_000_000, 2_000_100, 1000).unsqueeze(1)
    raw = data.Raw(data.Split(years, years), data.Split(years, years), None)
    for normalize in ("scalar", "component"):
        made = data.prepare(raw, normalize=normalize, validation_size=0)
        assert made.scale.item() == pytest.approx(years.double().std(correction=0).item(), rel=1e-6)


@pytest.mark.parametrize("normalize", ["scalar", "component"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float64])
def test_inputs_far_from_zero_are_centred(normalize, stored):
    """The mean of these, which needs more than float32's 24 bits, is subtracted before anything is rounded."""
    inputs = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)).double() + 1_000_003.14
    split = data.Split(inputs.to(stored), torch.zeros(1000, 1))
    made = data.prepare(data.Raw(split, split, None), normalize=normalize, validation_size=0).train.inputs.double()
    assert abs(made.mean().item()) < 1e-7
    exact = (split.inputs.double() - split.inputs.double().mean()) / split.inputs.double().std(correction=0)
    torch.testing.assert_close(made, exact, rtol=1e-6, atol=1e-6)


def test_npz_of_float64_loses_nothing_before_it_is_centred(tmp_path):
    seconds = 1_700_000_000 + np.arange(100.0).reshape(50, 2)  # float32 knows them to 128 seconds
    arrays = {f"{split}_{kind}": seconds for split in ("train", "test") for kind in ("inputs", "targets")}
    np.savez(tmp_path / "t.npz", **arrays)
    dataset = data.prepare(data.Npz(str(tmp_path / "t.npz")).load(), normalize="component", validation_size=0)
    np.testing.assert_allclose(dataset.train.inputs, (seconds - seconds.mean(0)) / seconds.std(0), rtol=1e-6)


def test_normalisation_leaves_the_raw_data_alone():
    inputs = torch.arange(10.0).double().unsqueeze(1)
    split = data.Split(inputs, torch.zeros(10, 1))
    data.prepare(data.Raw(split, split, None), validation_size=0)
    assert inputs.flatten().tolist() == list(range(10))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_size": 101}, "train_size must be 1 to 100 (all) or null, got 101"),
        ({"train_size": 0}, "train_size must be 1 to 100 (all) or null, got 0"),
        (
            {"validation_size": 100},
            "validation_size must be 0 to 99 with 100 of 100 examples to train on, or null, got 100",
        ),
        (
            {"validation_size": -1},
            "validation_size must be 0 to 99 with 100 of 100 examples to train on, or null, got -1",
        ),
        (
            {"train_size": 20, "validation_size": 81},
            "validation_size must be 0 to 80 with 20 of 100 examples to train on, or null, got 81",
        ),
        ({"per_class": 26}, "per_class must be 1 to 25 (all of the rarest class) or null, got 26"),
        ({"per_class": 0}, "per_class must be 1 to 25 (all of the rarest class) or null, got 0"),
        (
            {"per_class": 5, "train_size": 20},
            "per_class must be null beside train_size=20, got 5: leave one null",
        ),
        ({"normalize": "batch"}, "normalize must be auto, scalar, component or none, got batch"),
        ({"label_noise": 1.5}, "label_noise must be a fraction, 0 to 1, got 1.5"),
        ({"label_noise": float("nan")}, "label_noise must be a fraction, 0 to 1, got nan"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        data.prepare(numbered(), **options)


def test_label_noise_needs_classes():
    with pytest.raises(ValueError, match=r"^label_noise must be 0 where there are no two classes, got 0.1$"):
        data.prepare(data.Line().load(), label_noise=0.1, validation_size=0)


def test_per_class_needs_classes():
    with pytest.raises(ValueError, match=r"^per_class must be null where there are no classes, got 1: choose train_s"):
        data.prepare(data.Line().load(), per_class=1, validation_size=0)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_files_name_real_classes_and_options(path):
    config = OmegaConf.to_container(OmegaConf.load(path))
    package, name = config.pop("_target_").rsplit(".", 1)
    source = getattr(importlib.import_module(package), name)
    parameters = inspect.signature(source).parameters
    assert set(config) <= set(parameters) | COMMON
    for option, parameter in parameters.items():
        assert config[option] == ("???" if parameter.default is parameter.empty else parameter.default)
    for line in path.read_text().splitlines():
        assert line.startswith("#") or re.search(r"  # .*\(.+\)", line), line


def test_there_is_a_config_file_for_every_source():
    targets = {OmegaConf.load(path)["_target_"] for path in CONF.rglob("*.yaml")}
    assert targets == {f"data.{name}" for name in data.__all__ if hasattr(getattr(data, name), "load")}


@pytest.mark.process
def test_small_sources_import_nothing_slow():
    loads = "data.Line().load(); data.Digits().load(); data.Moons().load()"
    code = f"import sys, data; {loads}; print({{'torchvision', 'sklearn'}} & {{*sys.modules}})"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
