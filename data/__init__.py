"""Data sets as tensors on a device, and tangent vectors of images."""

from data.dataset import Dataset, Raw, Split, normalized, prepare
from data.files import DataError
from data.npz import Npz
from data.public import CIFAR10, MNIST, FashionMNIST
from data.sources import Digits, Line, Moons, Plateaus, Sine
from data.tangents import Tangents

__all__ = [
    "CIFAR10",
    "MNIST",
    "DataError",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "Line",
    "Moons",
    "Npz",
    "Plateaus",
    "Raw",
    "Sine",
    "Split",
    "Tangents",
    "normalized",
    "prepare",
]
