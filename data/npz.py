"""A user's own file: which of its arrays is which, and the lines that make such a file of others."""

import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from numpy.lib import format as numpy_format
from torch import Tensor

from data.arrays import Array, Reading, inputs_of, targets_of
from data.files import DataError
from data.raw import Raw, Split

SPLITS = {"training": "train", "validation": "validation", "testing": "test", "train": "train", "test": "test"}
SPLITS |= dict.fromkeys(("valid", "val", "dev"), "validation")  # a longer word before its beginning
KINDS = dict.fromkeys(("images", "inputs", "image", "input", "imgs", "x", "data", "features"), "inputs")
KINDS |= dict.fromkeys(("labels", "targets", "label", "target", "y", "classes"), "targets")
SAVE = (
    "train, test = np.split(np.random.default_rng(0).permutation(len(inputs)), [len(inputs) * 4 // 5]); "
    "np.savez('mine.npz', train_inputs=inputs[train], train_labels=labels[train], test_inputs=inputs[test], "
    "test_labels=labels[test])"
)
LINES = {  # that make inputs and labels of files of other kinds, by their endings
    "/": "files = sorted(pathlib.Path('{0}').glob('*/*.*')); labels = np.unique([f.parent.name for f in files], "
    "return_inverse=True)[1]; inputs = np.stack([np.asarray(PIL.Image.open(f).convert('RGB').resize((32, 32))) "
    "for f in files])",
    ".npy": "inputs, labels = np.load('{0}'), np.load('LABELS.npy')",
    ".csv": "table = pd.read_csv('{0}').to_numpy(); inputs, labels = table[:, :-1], table[:, -1]",
    ".pt": "inputs, labels = (tensor.numpy() for tensor in torch.load('{0}'))",
    ".pkl": "inputs, labels = pd.read_pickle('{0}')",
    ".mat": "file = scipy.io.loadmat('{0}'); inputs, labels = file['X'], file['y']",
    ".h5": "file = h5py.File('{0}'); inputs, labels = file['x'][:], file['y'][:]",
}
LINES[".zip"] = "shutil.unpack_archive('{0}', 'FOLDER'); " + LINES["/"].format("FOLDER")
ALIKE = {".tsv": ".csv", ".txt": ".csv", ".data": ".csv", ".pth": ".pt", ".hdf5": ".h5", ".pickle": ".pkl"}
DAMAGES = (OSError, ValueError, EOFError, RuntimeError, TypeError, KeyError, zipfile.BadZipFile, zlib.error)
MOST_COMPARED = 2**28  # bytes of a split, when examples that stand in two of them are looked for


class Npz:
    """Arrays of a file written by `numpy.savez` or `savez_compressed`; docs/data.md has all names, shapes and types.

    It holds, for `train_` and `test_` each, and for `val_` too if it has a validation split, `images` or `inputs` and
    `labels` or `targets`; or the same under the names of other programs, such as `x_train`:

        images  bytes or floats (N, C, H, W), (N, H, W, C) or (N, H, W), brought to (N, C, H, W)
        inputs  numbers (N, D), sequences (N, C, L) or (N, L, C), or images as above
        labels  whole numbers 0 to classes - 1 (N,), bool, or one-hot (N, classes): classification
        targets floats (N,) or (N, C): regression

    Args:
        path: the file.
        range: lowest and highest value of the inputs, of which sizes of noise and attacks are fractions (None: of
            images 0 and 255, 0 and 1, or -1 and 1, if they fill it, else what they hold; of tables that by column).
        channels: where the channels stand, `first` or `last` (None: recognised).

    Raises:
        DataError: in `load`, naming the file, where it is missing, damaged (by the checksums it holds) or does not
            hold what is said above.
    """

    def __init__(
        self, path: str, range: list[float] | None = None, channels: Literal["first", "last"] | None = None
    ) -> None:
        self.path = Path(path).expanduser()
        self.range, self.channels = range, channels

    def load(self) -> Raw:
        """Read the arrays.

        Raises:
            DataError: the file is not what it must be.
        """
        self._check_kind()
        reading = Reading()
        arrays = self._arrays(reading)
        try:
            return self._raw(arrays, reading)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error

    def _check_kind(self) -> None:
        if not self.path.exists():
            what = f"is a link to {self.path.readlink()}, which" if self.path.is_symlink() else "is not there: it"
            raise DataError(f"{self.path} {what} is not there: set data.path to an .npz file of yours")
        ending = "/" if self.path.is_dir() else self.path.suffix.lower()
        ending = ALIKE.get(ending, ending)
        if ending in LINES:
            line = LINES[ending].format(self.path)
            raise DataError(f"{self.path} is no sound .npz file of arrays: make one with {line}; {SAVE}")

    def _arrays(self, reading: Reading) -> dict[tuple[str, str], tuple[str, Array]]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                chosen = _chosen(names)
                if unread := ", ".join(sorted({*names} - {*chosen.values()})):
                    reading.warnings.append(f"of {self.path.name} these arrays are not read: {unread}")
                return {key: (name, _read(archive, name)) for key, name in chosen.items()}
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error
        except PermissionError as error:
            raise DataError(f"{self.path} may not be read: chmod u+r '{self.path}' permits it") from error
        except DAMAGES as error:
            raise DataError(f"{self.path} is no sound .npz file of arrays: it is damaged, write it anew") from error

    def _raw(self, arrays: Mapping[tuple[str, str], tuple[str, Array]], reading: Reading) -> Raw:
        splits = [split for split in ("train", "test", "validation") if (split, "inputs") in arrays]
        inputs, limits = inputs_of({s: arrays[s, "inputs"] for s in splits}, self.channels, self.range, reading)
        targets, classes = targets_of({s: arrays[s, "targets"] for s in splits}, reading)
        made = {split: Split(inputs[split], targets[split]) for split in splits}
        for split in splits[1:]:
            if shared := _shared(inputs["train"], inputs[split]):
                reading.warnings.append(f"{shared} of {len(inputs[split])} {split} examples are training examples, too")
        told = tuple(reading.notes), tuple(reading.warnings)
        return Raw(made["train"], made["test"], classes, made.get("validation"), limits, *told)


def _chosen(names: list[str]) -> dict[tuple[str, str], str]:
    """Return the name of the array for each split and kind."""
    chosen: dict[tuple[str, str], str] = {}
    for name in names:
        word = re.search("|".join(SPLITS), name.lower())
        rest = re.sub("[^a-z]", "", name.lower().replace(word[0], "", 1)) if word else ""
        if word and rest in KINDS:
            key = SPLITS[word[0]], KINDS[rest]
            if key in chosen:
                raise DataError(f"it must hold {chosen[key]} or {name}, and has both: leave one out")
            chosen[key] = name
    for split in dict.fromkeys(("train", "test", *(split for split, _ in chosen))):
        for kind, words in (("inputs", ("images", "inputs")), ("targets", ("labels", "targets"))):
            if (split, kind) not in chosen:
                wanted = " or ".join(f"{split}_{word}" for word in words)
                held = f"{', '.join(sorted(names)[:10])}{', ...' * (len(names) > 10)}" if names else "nothing"
                raise DataError(f"it must hold {wanted}, it has {held}{_remedy(names)}")
    return chosen


def _remedy(names: list[str]) -> str:
    if names and all(Path(name).suffix for name in names):
        return f": make arrays with {LINES['.zip'].format('FILE')}; {SAVE}"
    pair = {KINDS[name.lower()]: name for name in names if name.lower() in KINDS}
    if len(pair) < 2:
        return ""
    return f": file = np.load('FILE'); inputs, labels = file['{pair['inputs']}'], file['{pair['targets']}']; {SAVE}"


def _read(archive: zipfile.ZipFile, name: str) -> Array:
    """Read an array, once its header is in order."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        read = {(1, 0): numpy_format.read_array_header_1_0}.get(numpy_format.read_magic(file))
        shape, _, dtype = (read or numpy_format.read_array_header_2_0)(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise DataError(f"{name} holds Python objects: {name} = np.stack(list({name})), all of one shape")
        if file.tell() + size != info.file_size:
            raise DataError(f"{name} is said to be {dtype} {shape} and has {info.file_size:,} bytes: write it anew")
    try:
        with archive.open(info) as file:
            return numpy_format.read_array(file, allow_pickle=False)
    except MemoryError as error:
        raise DataError(f"{name} has {size / 2**30:.3g} GB, too many for this machine: keep fewer examples") from error


def _shared(train: Tensor, other: Tensor) -> int:
    """Return how many inputs of a split are inputs of the training split, to the bit; 0 if that would take long."""
    if train.dtype != other.dtype or max(train.nbytes, other.nbytes) > MOST_COMPARED:
        return 0
    known = {row.tobytes() for row in train.numpy()}
    return sum(row.tobytes() in known for row in other.numpy())
