"""Data sets as tensors on a device, tangent vectors of images, and augmentations."""

from data.augment import Adversarial, Augmentation, Distortion, GaussianNoise, Unchanged
from data.dataset import Dataset, normalized, prepare
from data.files import DataError
from data.npz import Npz
from data.public import CIFAR10, MNIST, FashionMNIST
from data.raw import Raw, Split
from data.sources import Digits, Line, Moons, Plateaus, Sine
from data.tangents import Tangents

__all__ = [
    "CIFAR10",
    "MNIST",
    "Adversarial",
    "Augmentation",
    "DataError",
    "Dataset",
    "Digits",
    "Distortion",
    "FashionMNIST",
    "GaussianNoise",
    "Line",
    "Moons",
    "Npz",
    "Plateaus",
    "Raw",
    "Sine",
    "Split",
    "Tangents",
    "Unchanged",
    "normalized",
    "prepare",
]
