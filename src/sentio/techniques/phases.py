"""A technique is a list of phases: what is trained when, on which exits' losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.multi_exit import MultiExit
from sentio.techniques.objective import Objective, SampleOrder


@dataclass(frozen=True)
class Phase:
    """One stretch of training.

    Args:
        name: for logs and messages.
        stages: those whose parameters are trained; all others are frozen and in eval mode, so that their
            buffers (batch-norm statistics) do not move either.
        branches: exits whose parameters are trained.
        losses: exit -> weight of its loss in the sum; only these exits are computed.
        objective: what is minimised instead of that sum; validation goes by the sum all the same.
        order: which samples batches are drawn from; None for all of them, each once in an epoch.
    """

    name: str
    stages: tuple[str, ...]
    branches: tuple[str, ...]
    losses: Mapping[str, float]
    objective: Objective | None = None
    order: SampleOrder | None = None


def trained_modules(net: MultiExit, phase: Phase) -> list[nn.Module]:
    """The network's modules whose parameters the phase trains."""
    return [*(net.backbone.stage(name) for name in phase.stages), *(net.branch(b) for b in phase.branches)]


def set_mode(net: MultiExit, phase: Phase) -> None:
    """Put what the phase trains in train mode, everything else in eval mode, without its gradients."""
    net.eval().requires_grad_(False)
    if set(phase.stages) == set(net.stage_names):
        # The backbone itself too: cut from a third-party module, it then runs that module as it always did.
        net.backbone.train()
    for module in trained_modules(net, phase):
        module.train().requires_grad_(True)


def loss_weights(net: MultiExit, weights: float | Mapping[str, float]) -> dict[str, float]:
    """One weight for each early exit.

    Args:
        net: the network.
        weights: one for all, or by exit.

    Raises:
        UnknownNameError: a weight for an exit that is not there.
        ConfigError: an exit without weight, or one that is negative or no number.
    """
    names = [spec.name for spec in net.specs]
    given = dict(weights) if isinstance(weights, Mapping) else dict.fromkeys(names, weights)
    for name, weight in given.items():
        if name not in names:
            raise UnknownNameError("exit", name, names)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ConfigError(f"The loss of exit {name!r} has weight {weight!r}; it takes a number from 0 up")
    missing = [name for name in names if name not in given]
    if missing:
        raise ConfigError(f"Exits without a loss weight: {', '.join(missing)}; give each of them one")
    return {name: float(given[name]) for name in names}
