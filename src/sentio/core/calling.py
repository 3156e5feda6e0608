"""How a module is called, and what it gives, in named tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sentio.core.anytime import MAIN, Boundary
from sentio.core.errors import StageError, UnknownNameError


@dataclass(frozen=True)
class Call:
    """How a module is called with named tensors, and which of its outputs count.

    Args:
        inputs: their names, in order.
        keywords: passed by name, as a mapping's entries are; else by position.
        output: the output that becomes ``main``; None to choose by `named_outputs`.
    """

    inputs: tuple[str, ...]
    keywords: bool
    output: str | None

    def run(self, module: nn.Module, boundary: Mapping[str, Tensor]) -> Boundary:
        tensors = {name: boundary[name] for name in self.inputs}
        value = module(**tensors) if self.keywords else module(*tensors.values())
        return named_outputs(value, self.output)

    def boundary(self, x: Any) -> Boundary:
        """An input as the user gives it, as named tensors.

        Raises:
            StageError: not the inputs of the example that the network was cut with.
        """
        if isinstance(x, Mapping):
            given = dict(x)
        else:
            values = (x,) if isinstance(x, Tensor) else tuple(x)
            given = dict(zip(self.inputs, values, strict=False)) if len(values) == len(self.inputs) else {}
        if given.keys() != set(self.inputs):
            raise StageError(
                f"The network takes {', '.join(self.inputs)} as in the example it was cut with, "
                f"got {', '.join(map(str, given)) or type(x).__name__}"
            )
        return given


def read_example(module: nn.Module, example: Any, output: str | None) -> tuple[Call, Boundary]:
    """How the example calls the module, and its tensors by name, two samples of each.

    Raises:
        StageError: an entry is no tensor, has no batch axis, or their batch sizes differ.
    """
    if isinstance(example, Tensor):
        tensors: dict[str, Any] = {MAIN: example}
    elif isinstance(example, Mapping):
        tensors = {str(name): value for name, value in example.items()}
    elif isinstance(example, (tuple, list)) and example:
        tensors = dict(zip(_parameter_names(module, len(example)), example, strict=True))
    else:
        raise StageError(
            f"The example must be a tensor, a tuple or a mapping of tensors, got {type(example).__name__}"
        )
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise StageError(
                f"Entry {name!r} of the example is no tensor but {type(value).__name__}; leave it out, "
                "or wrap the module so that it is fixed there"
            )
        if value.dim() == 0 or not len(value):
            raise StageError(f"Entry {name!r} of the example needs a batch axis and at least one sample")
    if len({len(value) for value in tensors.values()}) > 1:
        sizes = ", ".join(f"{name} {len(value)}" for name, value in tensors.items())
        raise StageError(f"The example's entries differ in batch size ({sizes}); give equally many samples")
    call = Call(tuple(tensors), isinstance(example, Mapping), output)
    return call, {name: _two(value.detach()) for name, value in tensors.items()}


def _two(x: Tensor) -> Tensor:
    return x[:2].clone() if len(x) > 1 else x.repeat(2, *[1] * (x.dim() - 1))


def _parameter_names(module: nn.Module, count: int) -> list[str]:
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in signature(module.forward).parameters.values() if p.kind in kinds]
    return [names[i] if i < len(names) else f"input{i}" for i in range(count)]


def named_outputs(value: Any, output: str | None = None) -> Boundary:
    """A module's output as a boundary.

    Args:
        value: a tensor, or tensors in a mapping, a dataclass or a tuple; nested ones are named with dots,
            entries that are no tensors are left out.
        output: the one that becomes ``main``; None for ``logits`` where there is such an entry, else the
            only tensor; where there are several, all of them under their own names.

    Raises:
        StageError: there is no tensor.
        UnknownNameError: there is no such output.
    """
    found = dict(_named_tensors(value))
    if not found:
        raise StageError(f"The module gives no tensor but {type(value).__name__}")
    if output is not None and output not in found:
        raise UnknownNameError("output", output, tuple(found))
    chosen = output or ("logits" if "logits" in found else None)
    if chosen is None and len(found) == 1:
        chosen = next(iter(found))
    return found if chosen is None else {MAIN: found[chosen]}


def _named_tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix or MAIN, value
        return
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        items = list(value._asdict().items())
    elif isinstance(value, (tuple, list)):
        items = list(enumerate(value))
    elif is_dataclass(value):
        items = [(field.name, getattr(value, field.name)) for field in fields(value)]
    else:
        return
    for name, entry in items:
        yield from _named_tensors(entry, f"{prefix}.{name}" if prefix else str(name))


def first_tensor(output: Any) -> Tensor | None:
    """What counts as a submodule's output: the first tensor in it."""
    return next((leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)), None)


@contextmanager
def separate_operations() -> Iterator[None]:
    """Keep PyTorch's transformer layers from running as one operation, past their own submodules."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
