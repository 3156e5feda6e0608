"""Patch, width and heads of SL-ViT within a limit of parameters, such as those of CNN-EE on the same map."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sentio.core import registry
from sentio.core.errors import ConfigError
from sentio.exits.head import Shape, one_map

#: widths of a token and numbers of heads that are looked at, ascending
DIMS = tuple(range(8, 129, 4))
HEADS = (1, 2, 4, 8, 12, 16, 24)


@dataclass(frozen=True)
class Candidate:
    """One SL-ViT branch: ``add_exits(net, "sl-vit", at=[...], classes=..., **candidate.options)``.

    Args:
        patch: side of a patch.
        dim: width of a token.
        heads: of the attention, each as wide as the tokens.
        parameters: of the branch, head included.
        macs: multiply-accumulates for one sample.
        score: what was measured, None where nothing was.
    """

    patch: int
    dim: int
    heads: int
    parameters: int
    macs: int
    score: float | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Options of exit ``sl-vit``."""
        return {"patch": self.patch, "dim": self.dim, "heads": self.heads}


def candidates(
    shape: Shape,
    outputs: int,
    *,
    limit: int | None = None,
    patches: Sequence[int] | None = None,
    dims: Sequence[int] = DIMS,
    heads: Sequence[int] = HEADS,
) -> list[Candidate]:
    """For each patch and number of heads the widest SL-ViT within the limit, the one with most MACs first.

    Narrower ones are left out: with the same patch and heads they do less for no gain in what is limited.

    Args:
        shape: ``(C, H, W)`` of the map that the branch reads.
        outputs: width of its output.
        limit: most parameters; those of ``cnn-ee`` on the same map if None.
        patches: sides to look at; by default all that divide the map into at least four patches.
        dims: widths of a token to look at.
        heads: numbers of heads to look at.

    Raises:
        ConfigError: another shape, nothing to look at, or nothing within the limit.
    """
    channels, height, width = map_ = one_map("sl-vit", (shape,))
    if limit is None:
        limit = cnn_parameters(map_, outputs)
    if patches is None:
        sides = range(1, min(height, width) // 2 + 1)
        patches = [side for side in sides if height % side == 0 and width % side == 0]
    for name, values in (("patches", patches), ("dims", dims), ("heads", heads)):
        if not values or not all(isinstance(value, int) and value >= 1 for value in values):
            raise ConfigError(f"A search for SL-ViT needs {name} of whole numbers from 1 up, got {values!r}")
    wrong = [side for side in patches if height % side or width % side]
    if wrong:
        raise ConfigError(
            f"Patches of {wrong[0]}x{wrong[0]} do not divide a {height}x{width} map; leave them out"
        )
    found = []
    for patch in patches:
        for number in heads:
            row = [_candidate(map_, outputs, patch, dim, number) for dim in sorted(set(dims))]
            fitting = bisect_right(row, limit, key=lambda each: each.parameters)
            found += row[fitting - 1 : fitting] if fitting else []
    if not found:
        least = min(
            (_candidate(map_, outputs, patch, min(dims), min(heads)) for patch in patches),
            key=lambda each: each.parameters,
        )
        raise ConfigError(
            f"No SL-ViT on a {channels}x{height}x{width} map has at most {limit:,} parameters; the smallest "
            f"that was looked at has {least.parameters:,}"
        )
    return sorted(found, key=lambda each: (-each.macs, -each.parameters, each.patch, each.heads))


def search_sl_vit(
    shape: Shape,
    outputs: int,
    score: Callable[[Candidate], float] | None = None,
    **limits: Any,
) -> list[Candidate]:
    """The grid search of the SL-ViT paper: the candidates within the limit, the best first.

    Args:
        shape, outputs: as in `candidates`.
        score: trains and measures one candidate on validation data; larger is better. Without it the one
            with most MACs is the best, as in `sentio.fit_budget`.
        limits: ``limit``, ``patches``, ``dims``, ``heads`` of `candidates`.

    Returns:
        All candidates with their scores, the best first; of equal ones the cheaper.

    Raises:
        ConfigError: as `candidates`.
    """
    found = candidates(shape, outputs, **limits)
    if score is None:
        return found
    measured = [
        Candidate(each.patch, each.dim, each.heads, each.parameters, each.macs, float(score(each)))
        for each in found
    ]
    return sorted(measured, key=lambda each: (-(each.score or 0.0), each.macs))


def cnn_parameters(shape: Shape, outputs: int, **options: Any) -> int:
    """Parameters of ``cnn-ee`` on a map.

    Raises:
        ConfigError: the exit does not fit the map.
    """
    with torch.device("meta"):
        branch = registry.build("exit", "cnn-ee", (tuple(shape),), outputs, **options)
    return sum(parameter.numel() for parameter in branch.parameters())


def _candidate(shape: tuple[int, int, int], outputs: int, patch: int, dim: int, heads: int) -> Candidate:
    channels, height, width = shape
    tokens = (height // patch) * (width // patch)
    inner, hidden = heads * dim, 256
    embedded = patch * patch * channels
    encoder = 3 * (dim + 1) * inner + (inner + 1) * dim + 4 * dim * dim + 3 * dim + 4 * dim
    head = (tokens * dim + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * outputs
    parameters = (embedded + 1) * dim + tokens * dim + encoder + head
    projected = tokens * (embedded * dim + 4 * dim * inner + 4 * dim * dim)
    attended = 2 * heads * tokens * tokens * dim
    macs = projected + attended + tokens * dim * hidden + hidden * hidden + hidden * outputs
    return Candidate(patch, dim, heads, parameters, macs)
