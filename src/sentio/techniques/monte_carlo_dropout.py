"""Monte Carlo dropout: how unsure a network is, from passes with dropout left on.

Y. Gal and Z. Ghahramani, *Dropout as a Bayesian Approximation*, ICML 2016; mutual information as in Houlsby
et al., *Bayesian Active Learning for Classification and Preference Learning*, 2011.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from sentio.core.anytime import FINAL
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.staged import evaluating


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """What passes with dropout say about each sample.

    Args:
        mean: probability of each class, ``(batch, class)``.
        spread: standard deviation of that probability from pass to pass, at most 0.5, ``(batch, class)``.
        entropy: of the mean, in nats, ``(batch,)``: all uncertainty.
        mutual_information: the entropy less the passes' mean entropy, ``(batch,)``: what more training data
            could take away.
        passes: probabilities of each pass, ``(pass, batch, class)``.
    """

    mean: Tensor
    spread: Tensor
    entropy: Tensor
    mutual_information: Tensor
    passes: Tensor

    def accuracies(self, targets: Tensor) -> Tensor:
        """The accuracy of each pass by itself against class numbers ``(batch,)``; ``(pass,)``."""
        return (self.passes.argmax(-1) == targets.to(self.passes.device)).double().mean(1)


def monte_carlo(
    net: nn.Module,
    x: Any,
    *,
    passes: int = 100,
    seed: int = 0,
    average: Literal["probabilities", "logits"] = "probabilities",
    exit: str = FINAL,
) -> Uncertainty:
    """Answers of a classifier with its dropout layers drawing, and all else in eval mode.

    Works on any network whose dropout is in layers of ``torch.nn`` (``nn.Dropout`` and its kin). PyTorch's
    own generator and the network's mode are left as they were.

    Args:
        net: gives logits ``(batch, class)``, or with exits one such tensor for each.
        x: what it takes, batch first.
        passes: how many.
        seed: of what is dropped.
        average: ``logits`` takes the softmax of the mean logits for ``mean`` and ``entropy``.
        exit: which answer, of a network with exits.

    Raises:
        ConfigError: the network has no dropout layer, so that all passes would be alike and say nothing; or
            an option out of range.
        UnknownNameError: no such exit.
    """
    if passes < 1:
        raise ConfigError(f"Monte Carlo dropout needs a pass or more, got {passes}")
    if average not in ("probabilities", "logits"):
        raise ConfigError(f"Monte Carlo dropout averages 'probabilities' or 'logits', got {average!r}")
    if not any(isinstance(layer, _DropoutNd) for layer in net.modules()):
        raise ConfigError(
            "Monte Carlo dropout needs a network with dropout layers, and this one has none; build it with "
            "dropout above 0"
        )
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    devices = [device] if device.type == "cuda" else []
    with dropping(net), torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        logits = torch.stack([_output(net(x), exit) for _ in range(passes)])
    return uncertainty(logits, average=average)


def uncertainty(
    logits: Tensor, *, average: Literal["probabilities", "logits"] = "probabilities"
) -> Uncertainty:
    """What logits ``(pass, batch, class)`` of several passes, or of several networks, say."""
    found = logits.double().softmax(-1)
    mean = found.mean(0) if average == "probabilities" else logits.double().mean(0).softmax(-1)
    entropy = _entropy(mean)
    information = (_entropy(found.mean(0)) - _entropy(found).mean(0)).clamp(min=0)
    return Uncertainty(mean, found.std(0, correction=0), entropy, information, found)


@contextmanager
def dropping(net: nn.Module) -> Iterator[None]:
    """Within this context dropout layers drop and all else is in eval mode; then modes are as before."""
    with evaluating(net):
        for layer in net.modules():
            if isinstance(layer, _DropoutNd):
                layer.training = True
        yield


def _output(found: Any, exit: str) -> Tensor:
    if not isinstance(found, Mapping):
        return found
    if exit not in found:
        raise UnknownNameError("exit", exit, tuple(found))
    return found[exit]


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)
