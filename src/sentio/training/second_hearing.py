"""The windows of a training part once more, through another front end than the network's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core import registry
from sentio.core.errors import ConfigError
from sentio.core.features import FrontEnd, rows_of
from sentio.data.features import FeatureSet


def heard_through(
    other: FrontEnd, own: FrontEnd, windows: FeatureSet, compute: Callable[[FrontEnd], FeatureSet]
) -> Any:
    """What ``other`` makes of the same windows, as far as it cuts them so.

    It keeps the length of its windows and takes them as far apart as ``own``; for each window it gives the
    one of the same recording whose middle is nearest.

    Args:
        other: the other front end.
        own: that made the windows.
        windows: what is trained on.
        compute: a front end -> its windows of the whole data set.

    Returns:
        A row for each window.

    Raises:
        ConfigError: it takes something else than ``own``.
        InputError: recordings cannot be read.
    """
    ours, theirs = own.settings(), other.settings()
    if ("hop" in ours) != ("hop" in theirs):
        raise ConfigError(
            f"A front end {other.name!r} cannot take what is trained on by {own.name!r}; choose a teacher of "
            "the same kind of data"
        )
    if "hop" in ours:
        hop = ours["hop"] or ours["window"]
        other = registry.build("frontend", other.name, **{**theirs, "hop": hop})
    found = compute(other)
    return rows_of(found.inputs, _nearest(_keys(windows), _keys(found), other.name))


def _keys(windows: FeatureSet) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The recording of each window, and its middle in seconds."""
    middles = np.zeros(len(windows)) if windows.times is None else windows.times.mean(axis=1)
    return windows.rows, np.where(np.isfinite(middles), middles, 0.0)


def _nearest(
    wanted: tuple[NDArray[np.int64], NDArray[np.float64]],
    found: tuple[NDArray[np.int64], NDArray[np.float64]],
    name: str,
) -> NDArray[np.intp]:
    rows, middles = found
    places = np.empty(len(wanted[0]), np.intp)
    for row in np.unique(wanted[0]):
        candidates = np.flatnonzero(rows == row)
        if not len(candidates):
            raise ConfigError(f"Front end {name!r} gives no window of a recording that is trained on")
        asked = np.flatnonzero(wanted[0] == row)
        distance = np.abs(middles[candidates][None] - wanted[1][asked][:, None])
        places[asked] = candidates[distance.argmin(axis=1)]
    return places
