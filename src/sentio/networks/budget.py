"""Hardware-aware scaling: the member of a family of networks that fits a machine."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, Protocol, TypeVar

import torch

from sentio.core import registry
from sentio.core.counting import count
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.core.memory import peak_activations
from sentio.core.staged import Staged, create_network

#: Family -> the options that scale it and the values to choose from. The first is the width, ascending,
#: with which no cost may fall. A network that is not here but has an option ``width`` is scaled by that.
SCALING: dict[str, dict[str, Sequence[Any]]] = {
    "phinet": {
        "alpha": [step / 20 for step in (*range(2, 21), *range(22, 41, 2))],
        "t0": [2.0, 3.0, 4.0, 5.0, 6.0],
    },
    "phinet-icassp": {
        "alpha": [step / 20 for step in (*range(2, 21), *range(22, 41, 2))],
        "n_blocks": [2, 3, 4],
        "t0": [2.0, 4.0, 6.0],
    },
    "phinet-1d": {
        "filters": [1, 2, 3, 4, 6, 8, 12, 16, 24, 32],
        "stride": [300, 500, 1600],
        "n_layers": [3, 4],
        "depth_multiplier": [1.5, 2.5, 4.5],
    },
    "bc-resnet": {"width": [4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96]},
    "cp-mobile": {
        "base_channels": list(range(8, 129, 8)),
        "channels_multiplier": [1.5, 1.9, 2.3],
        "expansion": [1.75, 2.0, 2.5, 3.0],
    },
    "dcase2024-baseline": {"base_channels": list(range(8, 129, 8))},
}
#: Widths of the other families, relative to their own.
WIDTHS = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1, 5 / 4, 3 / 2, 7 / 4, 2, 5 / 2, 3, 4)


class Costs(Protocol):
    """What a budget can limit."""

    @property
    def params(self) -> int: ...
    @property
    def macs(self) -> int: ...
    @property
    def ram(self) -> int: ...


M = TypeVar("M", bound=Costs)


class Member:
    """One size of a family; each cost is worked out, on the meta device, when it is asked for.

    Args:
        family: name of the network.
        options: all that it is built with.
        shape: of the input, without the batch axis.
    """

    def __init__(self, family: str, options: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        self.family = family
        self.options = dict(options)
        self.shape = shape

    @cached_property
    def params(self) -> int:
        """Numbers in the parameters."""
        return sum(parameter.numel() for parameter in self._net.parameters())

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates for one sample."""
        return count(self._net, self._example).total

    @cached_property
    def ram(self) -> int:
        """Bytes of int8 activations alive at once, for one sample: `sentio.core.memory.peak_activations`."""
        return peak_activations(self._net, self._example)

    @cached_property
    def _net(self) -> Staged:
        with torch.device("meta"):
            return create_network(self.family, **self.options)

    @property
    def _example(self) -> torch.Tensor:
        return torch.empty(1, *self.shape, device="meta")


def fit_budget(
    family: str,
    *,
    params: int | None = None,
    macs: int | None = None,
    ram: int | None = None,
    shape: Sequence[int] | None = None,
    classes: int = 10,
) -> Staged:
    """The largest network of a family within all limits: the one with most MACs, then with most parameters.

    More work for a sample is what goes with accuracy inside a family; so a higher limit never gives a
    network that does less. The weights are fresh, ``spec`` says which options were chosen, and
    `sentio.profile` shows the costs.

    Args:
        family: a registered network that comes in several sizes: ``phinet``, ``phinet-icassp``,
            ``phinet-1d``, ``bc-resnet``, ``cp-mobile``, ``dcase2024-baseline``, or any with an option
            ``width``.
        params: most parameters; folding batch norms into convolutions leaves fewer.
        macs: most multiply-accumulates for one sample.
        ram: most bytes of activations alive at once for one sample, each number taking one byte (int8; a
            float32 network needs four times as much); see `sentio.core.memory.peak_activations`.
        shape: of the input without the batch axis, ``(channel, time, frequency)``; the family's own if None.
        classes: width of the output.

    Raises:
        UnknownNameError: no such network.
        ConfigError: the network comes in one size, no limit or an impossible one, a shape that the family
            does not take, or nothing that fits.

    Example:
        ```python
        net = sentio.fit_budget("phinet", params=30_000, macs=5_000_000, ram=100_000, classes=50)
        net.spec["options"]  # {'alpha': ..., 't0': ..., 'in_channels': 1, 'classes': 50}
        ```
    """
    limits = {
        name: limit for name, limit in (("params", params), ("macs", macs), ("ram", ram)) if limit is not None
    }
    if not limits:
        raise ConfigError("fit_budget() needs at least one limit: params, macs or ram")
    for name, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
            raise ConfigError(f"fit_budget() needs {name} to be a number above 0, got {limit!r}")
    shape = _input_shape(family, shape)
    rows = _members(family, shape, classes)
    try:
        best = largest_within(rows, limits)
        if best is None:
            raise ConfigError(_nothing_fits(min((row[0] for row in rows), key=_size), limits))
    except (RuntimeError, InputError) as error:
        raise ConfigError(
            f"Family {family!r} cannot take inputs of shape {_text(shape)}; give it larger ones"
        ) from error
    net = create_network(family, **best.options)
    net.input_shapes = {"main": shape}
    return net


def families() -> list[str]:
    """Names of the networks that `fit_budget` can scale."""
    return [name for name in registry.names("network") if _scaling(name)]


def largest_within(rows: Iterable[Sequence[M]], limits: Mapping[str, float]) -> M | None:
    """The member with most MACs, then most parameters, that exceeds no limit; None if all do.

    Args:
        rows: of members; along each no cost falls, so few of them are looked at.
        limits: ``params``, ``macs`` or ``ram`` -> the most that is allowed; cheapest to work out first.
    """

    def exceeds(member: M) -> bool:
        return any(getattr(member, name) > limit for name, limit in limits.items())

    fitting = [row[:end] for row in rows if (end := bisect_right(row, False, key=exceeds))]
    return max((row[-1] for row in fitting), key=_size, default=None)


def _size(member: Costs) -> tuple[int, int]:
    return member.macs, member.params


def _scaling(name: str) -> Mapping[str, Sequence[Any]]:
    """The options that scale a network and their values; empty for one that comes in one size."""
    if name in SCALING:
        return SCALING[name]
    entry = registry.find("network", name)
    width = entry.options().get("width")
    if width is None or not isinstance(width.default, int | float) or len(entry.input_shapes) != 1:
        return {}
    whole = isinstance(width.default, int)
    values = [max(1, round(width.default * scale)) if whole else width.default * scale for scale in WIDTHS]
    return {"width": sorted(set(values))}


def _members(family: str, shape: tuple[int, ...], classes: int) -> list[list[Member]]:
    """All members, a row for each choice of what is not the width."""
    scaling = _scaling(family)
    width, *others = scaling
    known = registry.find("network", family).options()
    given = {"in_channels": shape[0], "bands": shape[-1], "classes": classes}
    # Where bands are None by default they choose another network, such as sound-resnet's other head.
    fixed = {
        name: value for name, value in given.items() if name in known and known[name].default is not None
    }
    return [
        [
            Member(family, {width: value, **dict(zip(others, chosen, strict=True)), **fixed}, shape)
            for value in scaling[width]
        ]
        for chosen in product(*(scaling[name] for name in others))
    ]


def _input_shape(family: str, shape: Sequence[int] | None) -> tuple[int, ...]:
    if family not in registry.names("network"):
        raise UnknownNameError("family", family, families())
    if not _scaling(family):
        raise ConfigError(f"Network {family!r} comes in one size; choose one of: {', '.join(families())}")
    own = registry.find("network", family).input_shapes["main"]
    if shape is None:
        return own
    if len(shape) != len(own) or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ConfigError(
            f"Family {family!r} takes inputs with {len(own)} axes behind the batch's, such as {_text(own)}, "
            f"got shape {tuple(shape)}"
        )
    return tuple(shape)


def _nothing_fits(smallest: Member, limits: Mapping[str, float]) -> str:
    wanted = ", ".join(f"{name}={limit:,}" for name, limit in limits.items())
    return (
        f"No member of family {smallest.family!r} fits {wanted} for inputs of shape {_text(smallest.shape)}; "
        f"the smallest has {smallest.params:,} parameters, {smallest.macs:,} MACs and {smallest.ram:,} bytes "
        "of activations"
    )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
