"""How much memory the activations of a network need, worked out without computing anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sentio.core.staged import evaluating


def peak_activations(module: nn.Module, *inputs: Any) -> int:
    """The most numbers alive at once while a module runs in eval mode, its input and output included.

    As in a runtime for microcontrollers, a tensor is freed after its last use, an operation that goes
    element by element (a norm, an activation, a sum) writes over an input that nobody needs afterwards, and
    everything else needs room for what it reads and what it writes. What a shortcut keeps counts, weights do
    not. Stored as int8 the result is bytes, as float32 a quarter of the bytes.

    Args:
        module: on the meta device nothing is computed; elsewhere it runs.
        inputs: its arguments, tensors or named tensors on the same device, one sample each.
    """
    with torch.no_grad(), evaluating(module), _Recording() as recording:
        output = module(*inputs)
    return _peak(
        recording.operations,
        first=list(_buffers(inputs)),
        last=list(_buffers(output)),
        weights={key for key, _ in _buffers([*module.parameters(), *module.buffers()])},
    )


@dataclass(frozen=True)
class _Operation:
    """What was read and written, each as (buffer, numbers in it)."""

    elementwise: bool
    reads: list[tuple[int, int]]
    writes: list[tuple[int, int]]


_DispatchMode: Any = TorchDispatchMode  # untyped in PyTorch


class _Recording(_DispatchMode):  # type: ignore[misc]
    """Writes down every operation while active."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []
        self._kept: list[Any] = []  # or a buffer's address could be given to another one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self._kept.append((args, kwargs, output))
        elementwise = torch.Tag.pointwise in func.tags or func.overloadpacket in _UNTAGGED
        reads = list(_buffers((args, kwargs)))
        self.operations.append(_Operation(elementwise, reads, list(_buffers(output))))
        return output


_ATEN = torch.ops.aten
#: Element by element too, though PyTorch does not tag them so; a batch norm is in eval mode.
_UNTAGGED = {
    _ATEN.hardswish,
    _ATEN.native_batch_norm,
    _ATEN._native_batch_norm_legit,
    _ATEN._native_batch_norm_legit_no_training,
    _ATEN.cudnn_batch_norm,
}


def _peak(
    operations: list[_Operation],
    *,
    first: list[tuple[int, int]],
    last: list[tuple[int, int]],
    weights: set[int],
) -> int:
    last_use = {key: index for index, operation in enumerate(operations) for key, _ in operation.reads}
    last_use |= {key: len(operations) for key, _ in last}
    alive = dict(first)
    peak = sum(alive.values())
    for index, operation in enumerate(operations):
        # Buffers that nobody reads, such as the indices of a maximum, need not be written.
        new = {
            key: size
            for key, size in operation.writes
            if key not in alive and key not in weights and key in last_use
        }
        dying = [key for key in alive if last_use.get(key, -1) <= index]
        if operation.elementwise:
            for size in new.values():
                free = next((key for key in dying if alive[key] == size), None)
                if free is not None:
                    dying.remove(free)
                    del alive[free]
        alive |= new
        peak = max(peak, sum(alive.values()))
        for key in dying:
            del alive[key]
    return peak


def _buffers(value: Any) -> Iterator[tuple[int, int]]:
    """The storage behind each tensor in a nest, and the numbers that it holds; views share one."""
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor):
            storage = leaf.untyped_storage()
            yield storage._cdata, storage.nbytes() // leaf.element_size()
