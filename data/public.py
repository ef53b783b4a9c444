"""Public image sets in torchvision's layout below `root`: downloaded on first use, verified at every load."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.files import DataError, File, read, verified
from data.raw import Raw, Split

CACHE = "~/.cache/penalty-lab"
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class MNIST:
    """60,000 training and 10,000 test digits, 1x28x28.

    Args:
        root: folder that holds MNIST/raw/*-ubyte, unpacked or as *.gz (absent: downloaded there).

    Raises:
        DataError: in `load`, a file cannot be had or is damaged.

    Source: LeCun, Cortes, Burges (1998).
    """

    FOLDER = "MNIST/raw"
    BASES: tuple[str, ...] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    )
    # sha256 of NAMES, packed as published
    PACKED: tuple[str, ...] = (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    )
    # and unpacked; none where the unpacked files have no published sum: then only packed ones are read
    UNPACKED: tuple[str, ...] = (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    )

    def __init__(self, root: str = CACHE) -> None:
        self.root = Path(root).expanduser()

    def load(self) -> Raw:
        """Read all four files."""
        contents = read(self._files(), self.root)
        images, labels, test_images, test_labels = (_idx(content) for content in contents)
        train = Split(images.unsqueeze(1), labels.long())
        return Raw(train, Split(test_images.unsqueeze(1), test_labels.long()), classes=10)

    def _files(self) -> list[File]:
        files = [
            File(f"{self.FOLDER}/{name}.gz", sha, self.BASES) for name, sha in zip(NAMES, self.PACKED, strict=True)
        ]
        for index, digest in enumerate(self.UNPACKED):
            name = f"{self.FOLDER}/{NAMES[index]}"
            if (self.root / name).exists():
                files[index] = File(name, digest)
        return files


class FashionMNIST(MNIST):
    """60,000 training and 10,000 test images of clothes in 10 classes, 1x28x28.

    Args:
        root: folder that holds FashionMNIST/raw/*-ubyte.gz (absent: downloaded there).

    Raises:
        DataError: in `load`, a file cannot be had or is damaged.

    Source: Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747.
    """

    FOLDER = "FashionMNIST/raw"
    BASES = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
    PACKED = (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    )
    UNPACKED = ()


class CIFAR10:
    """50,000 training and 10,000 test images in 10 classes, 3x32x32.

    Args:
        root: folder that holds cifar-10-binary.tar.gz (absent: downloaded there), or torchvision's folder
            cifar-10-batches-py.

    Raises:
        DataError: in `load`, a file cannot be had or is damaged.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """

    # The binary version holds the same pixels as torchvision's, and nothing that runs when it is read.
    ARCHIVE = File(
        "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ("https://www.cs.toronto.edu/~kriz/",),
    )
    TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))

    def __init__(self, root: str = CACHE) -> None:
        self.root = Path(root).expanduser()

    def load(self) -> Raw:
        """Read the archive, or torchvision's unpacked files where only they are there."""
        if not (self.root / self.ARCHIVE.name).exists() and (self.root / "cifar-10-batches-py").is_dir():
            return Raw(self._torchvision(train=True), self._torchvision(train=False), classes=10)
        (archive,) = read([self.ARCHIVE], self.root)
        with tarfile.open(fileobj=io.BytesIO(archive)) as members:
            batches = {Path(m.name).name: members.extractfile(m).read() for m in members if m.isfile()}  # type: ignore[union-attr]
        train = _cifar(b"".join(batches[name] for name in self.TRAIN))
        return Raw(train, _cifar(batches["test_batch.bin"]), classes=10)

    def _torchvision(self, train: bool) -> Split:
        from torchvision import datasets  # late: pulls torch._dynamo, seconds

        # Its reader unpickles, hence every file is verified before.
        for name, md5 in datasets.CIFAR10.train_list if train else datasets.CIFAR10.test_list:
            verified(self.root / datasets.CIFAR10.base_folder / name, md5)
        try:
            published = datasets.CIFAR10(str(self.root), train=train)
        except RuntimeError as error:
            raise DataError(
                f"{self.root / datasets.CIFAR10.base_folder} is incomplete: put the rest there or delete it"
            ) from error
        images = torch.from_numpy(published.data).permute(0, 3, 1, 2).contiguous()
        return Split(images, torch.tensor(published.targets))


def _idx(contents: bytes) -> Tensor:
    """Decode an IDX file: two zeros, type 8, the number of dimensions, the dimensions, the values."""
    if contents[:2] == b"\x1f\x8b":
        contents = gzip.decompress(contents)
    dimensions = contents[3]
    shape = np.frombuffer(contents, dtype=">i4", count=dimensions, offset=4).tolist()
    return torch.frombuffer(bytearray(contents), dtype=torch.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _cifar(contents: bytes) -> Split:
    """Decode rows of 1 + 3072 bytes: the label, then 32x32 red, green and blue values."""
    rows = torch.frombuffer(bytearray(contents), dtype=torch.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return Split(rows[:, 1:].reshape(-1, 3, 32, 32).contiguous(), rows[:, 0].long())
