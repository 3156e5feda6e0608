"""Loops over the places of several arrays at once, as few and as long ones as their strides allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """An axis of a loop.

    Args:
        size: how often.
        strides: of each array, in numbers.
    """

    size: int
    strides: tuple[int, ...]


def merged(axes: Sequence[Axis]) -> list[Axis]:
    """The same places with neighbouring axes made one where all arrays run through both at one stride."""
    result: list[Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        last = result[-1] if result else None
        if last and all(a == b * axis.size for a, b in zip(last.strides, axis.strides, strict=True)):
            result[-1] = Axis(last.size * axis.size, axis.strides)
        else:
            result.append(axis)
    return result


def axes_of(shape: Sequence[int], *strides: Sequence[int]) -> list[Axis]:
    """The axes of arrays of one shape, from the longest stride of the first array on."""
    axes = [Axis(size, tuple(one)) for size, *one in zip(shape, *strides, strict=True)]
    return sorted(axes, key=lambda axis: tuple(-stride for stride in axis.strides))


def nest(axes: Sequence[Axis], body: Sequence[str], free: bool = True, first: str = "i") -> list[str]:
    """Loops with a body.

    Args:
        free: whether no pass of the innermost loop needs another's result, so that they may run at once.
        first: what the loops' counters are called, with numbers behind.
    """
    lines = list(body)
    for index in reversed(range(len(axes))):
        head = f"for (long {first}{index} = 0; {first}{index} < {axes[index].size}; {first}{index}++) {{"
        hint = ["IVDEP"] if free and index + 1 == len(axes) else []
        lines = [*hint, head, *("  " + line for line in lines), "}"]
    return lines


def at(axes: Sequence[Axis], array: int, first: str = "i", offset: int = 0) -> str:
    """The index of an array's number within such loops."""
    terms = [
        f"{first}{index}" if axis.strides[array] == 1 else f"{first}{index} * {axis.strides[array]}"
        for index, axis in enumerate(axes)
        if axis.strides[array]
    ]
    if offset:
        terms.append(str(offset))
    return " + ".join(terms) if terms else "0"
