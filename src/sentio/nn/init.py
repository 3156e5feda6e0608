"""Starting weights."""

from __future__ import annotations

from torch import nn


def he_init(module: nn.Module) -> nn.Module:
    """He initialisation of every convolution and linear layer in ``module``, biases zero; gives it back.

    K. He et al., *Delving Deep into Rectifiers*, ICCV 2015: normal, variance 2 / fan-in.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def xavier_init(module: nn.Module) -> nn.Module:
    """Xavier initialisation of every convolution and linear layer in ``module``, biases zero; gives it back.

    X. Glorot and Y. Bengio, *Understanding the Difficulty of Training Deep Feedforward Neural Networks*,
    AISTATS 2010: uniform, variance 2 / (fan-in + fan-out).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def truncated_normal_init(module: nn.Module, std: float = 0.02) -> nn.Module:
    """Weights of convolutions and linear layers normal with ``std``, cut at ±2, biases zero; gives it back.

    A. Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, as in its public implementations.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
