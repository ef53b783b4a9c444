"""Models, their initialisation, frozen batch norm, and the autograd functions of EE-559's lecture 5.7."""

from models.batch_norm import freeze_batch_norm
from models.convnet import Convnet
from models.functions import AbsoluteProduct, KillHead, absolute_product, kill_head
from models.init import (
    LSUV,
    Initialisation,
    KaimingNormal,
    KaimingUniform,
    Normal,
    Orthogonal,
    TorchDefault,
    XavierNormal,
    XavierUniform,
)
from models.layers import Feedforward
from models.mlp import MLP
from models.own import own_network
from models.published import CIFAR10Convnet, LargeMarginConvnet, MNISTConvnet
from models.torchvision import torchvision_classifier

__all__ = [
    "LSUV",
    "MLP",
    "AbsoluteProduct",
    "CIFAR10Convnet",
    "Convnet",
    "Feedforward",
    "Initialisation",
    "KaimingNormal",
    "KaimingUniform",
    "KillHead",
    "LargeMarginConvnet",
    "MNISTConvnet",
    "Normal",
    "Orthogonal",
    "TorchDefault",
    "XavierNormal",
    "XavierUniform",
    "absolute_product",
    "freeze_batch_norm",
    "kill_head",
    "own_network",
    "torchvision_classifier",
]
