"""Progressive growth: a network's widths and depth, found by training it again and again a little larger.

N. Heidari and A. Iosifidis, *Progressive Spatio-Temporal Bilinear Network with Monte Carlo Dropout for
Landmark-based Facial Expression Recognition with Uncertainty Estimation*, MMSP 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError, InputError
from sentio.core.staged import Staged

Widths = tuple[int, ...]


@dataclass(frozen=True)
class Trial:
    """One training while growing.

    Args:
        widths: of the layers.
        loss: what the training came to.
        accepted: whether its last block was kept.
    """

    widths: Widths
    loss: float
    accepted: bool


@dataclass(frozen=True, eq=False)
class Grown:
    """What growth found.

    Args:
        net: the network, trained.
        widths: of its layers.
        trials: all trainings, in order.
    """

    net: Staged
    widths: Widths
    trials: tuple[Trial, ...]


def grow(
    build: Callable[[Widths], Staged],
    train: Callable[[Staged], float],
    *,
    block: int = 5,
    width_tolerance: float = 1e-4,
    depth_tolerance: float = 1e-4,
    max_layers: int = 10,
    max_blocks: int = 10,
    fine_tune: bool = False,
    report: Callable[[Trial], None] | None = None,
) -> Grown:
    """Widen the last layer block by block, then add a layer, until neither lowers the loss enough.

    Each network starts with the weights of the one before it, see `inherit`. A block whose gain is below
    ``width_tolerance`` of the loss is taken away again, and the layer is finished; a layer whose gain is
    below ``depth_tolerance`` too, and then the network is. A layer's first block is always kept until its
    depth is judged.

    Args:
        build: a network for widths of its layers, e.g. ``lambda widths: create_network("st-bln",
            widths=widths)``. Its stages are named alike whatever the widths; the last is the classifier.
        train: trains all of a network in place and gives the loss that is compared, above 0: the training
            loss of the last epoch as in the paper, or a validation loss, which also sees over-fitting.
        block: channels of a block.
        width_tolerance, depth_tolerance: least gain, as shares of the loss.
        max_layers, max_blocks: where growth ends at the latest.
        fine_tune: train once more at the end.
        report: is told of each training.

    Raises:
        ConfigError: an option out of range.
        InputError: a loss that is not finite.
    """
    for name, value in (("block", block), ("max_layers", max_layers), ("max_blocks", max_blocks)):
        if value < 1:
            raise ConfigError(f"Growth needs {name} of at least 1, got {value!r}")
    trials: list[Trial] = []

    def note(trial: Trial) -> None:
        trials.append(trial)
        if report is not None:
            report(trial)

    def attempt(widths: Widths, former: Staged | None, *, new_layer: bool) -> tuple[Staged, float]:
        net = build(widths)
        if former is not None:
            inherit(former, net, skip=net.stage_names[-1:] if new_layer else ())
        loss = float(train(net))
        if not 0 <= loss < inf:
            raise InputError(
                f"Training at widths {list(widths)} came to a loss of {loss}; lower the learning rate"
            )
        return net, loss

    accepted: tuple[Staged, Widths, float] | None = None
    for _ in range(max_layers):
        former = accepted
        current: tuple[Staged, Widths, float] | None = None
        before = () if former is None else former[1]
        for number in range(1, max_blocks + 1):
            widths = (*before, number * block)
            start = current or former
            net, loss = attempt(widths, start and start[0], new_layer=number == 1)
            keep = current is None or _gain(current[2], loss) >= width_tolerance
            note(Trial(widths, loss, keep))
            if not keep:
                break
            current = (net, widths, loss)
        assert current is not None
        if former is not None and _gain(former[2], current[2]) < depth_tolerance:
            break
        accepted = current
    assert accepted is not None
    net, widths, _ = accepted
    if fine_tune:
        note(Trial(widths, float(train(net)), True))
    return Grown(net, widths, tuple(trials))


def inherit(
    former: nn.Module, net: nn.Module, *, skip: Collection[str] = (), zero_rest: bool = False
) -> list[str]:
    """Copy each tensor of a smaller network into the leading part of its namesake in a larger one.

    Parameters and statistics alike; what is new keeps its starting values.

    Args:
        former: the smaller one.
        net: changed in place.
        skip: stages of which nothing is copied.
        zero_rest: put zeros into the new part of tensors that are copied, and into those without a namesake:
            then the network answers like the smaller one, as long as no shortcut turned from the input itself
            into a convolution or back.

    Returns:
        Names of the tensors that were not filled.

    Raises:
        ConfigError: a namesake is smaller, or has other axes.
    """
    old = former.state_dict()
    unfilled = []
    stages = tuple(f"stages.{name}." for name in skip)
    with torch.no_grad():
        for name, target in net.state_dict(keep_vars=True).items():
            source = old.get(name)
            if source is None or name.startswith(stages):
                unfilled.append(name)
                if zero_rest and source is None and target.is_floating_point():
                    target.zero_()
                continue
            if source.ndim != target.ndim or any(
                small > large for small, large in zip(source.shape, target.shape, strict=True)
            ):
                raise ConfigError(
                    f"Tensor {name!r} of shape {tuple(source.shape)} does not fit into "
                    f"{tuple(target.shape)}; growth only widens"
                )
            if zero_rest:
                target.zero_()
            _leading(target, source).copy_(source)
    return unfilled


def _leading(target: Tensor, source: Tensor) -> Tensor:
    """The part of ``target`` that has the shape of ``source``."""
    return target[tuple(slice(0, size) for size in source.shape)]


def _gain(before: float, after: float) -> float:
    return (before - after) / before if before > 0 else 0.0
