"""Planned forms made fast: weights of their own, batch norms folded, activations where the output lies.

A small step costs as much around its operations as in them, so there should be few. What a frozen form gives
is what the form gave, up to rounding, with channels last in memory (`sentio.nn.streaming_frozen_conv`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentio.nn.streaming import Delay, Form, Moment, PerFrame, Planned
from sentio.nn.streaming_buffers import order
from sentio.nn.streaming_frozen_conv import FrozenConv
from sentio.nn.streaming_joins import Concat, Join, Product, Sum
from sentio.nn.streaming_pooling import OverWindow
from sentio.nn.streaming_windows import Conv

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
#: what does nothing in eval mode
_NOTHING = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
#: activations that may overwrite what they are given
_IN_PLACE: dict[type, Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu_,
    nn.ReLU6: partial(F.hardtanh_, min_val=0.0, max_val=6.0),
    nn.SiLU: partial(F.silu, inplace=True),
    nn.Hardswish: partial(F.hardswish, inplace=True),
    nn.Sigmoid: torch.sigmoid_,
    nn.Tanh: torch.tanh_,
}
#: modules whose input may have its axes in any order in memory
_ANY_ORDER = ("torch.nn.", "sentio.")
#: class of a module that treats each unit of time by itself -> the same with folded weights
FROZEN: dict[type, Callable[[Any], nn.Module]] = {}


def freezes(*kinds: type) -> Callable[[Callable[[Any], nn.Module]], Callable[[Any], nn.Module]]:
    """Decorator: in a frozen stream, what the function gives runs in place of a module of these classes.

    For modules that run frame by frame and have batch norms inside.
    """

    def add(make: Callable[[Any], nn.Module]) -> Callable[[Any], nn.Module]:
        FROZEN.update(dict.fromkeys(kinds, make))
        return make

    return add


def freeze(form: Form) -> tuple[Form, nn.ModuleList]:
    """A planned form as a stream steps it in eval mode, and the modules that hold its new weights."""
    held = nn.ModuleList()
    row: list[Form] = []
    for part in _flat(form):
        last = row[-1] if row else None
        if type(part).step is not PerFrame.step:
            row.append(_frozen(part, held))
            continue
        module: Any = part.run  # type: ignore[attr-defined]
        kind = type(module)
        if kind in _NOTHING:
            continue
        if kind in _NORMS:
            scale, shift = scale_and_shift(module)
            if last is None or not _take(last, scale, shift):
                row.append(_held(_Affine(scale, shift, module.running_mean), held))
        elif kind in _IN_PLACE and last is not None and _gives_its_own(last):
            row[-1] = _Activated(last, _IN_PLACE[kind])
        elif kind in FROZEN:
            row.append(_held(FROZEN[kind](module), held))
        elif module.__module__.startswith(_ANY_ORDER):
            row.append(part)
        else:
            row.append(_Contiguous(part))
    return (row[0] if len(row) == 1 else Planned(*row)), held.requires_grad_(False)


def runs_alike(form: Form) -> bool:
    """Whether what a frozen form does depends on sizes and ages alone, and not on what it is given.

    A module from elsewhere may decide by that.
    """
    return not isinstance(form, _Contiguous) and all(runs_alike(part) for part in _within(form))


def repack(form: Form) -> None:
    """Have a frozen form's packed weights made anew, where others are loaded or these go elsewhere.

    Weights that inference mode has made do not count how often they were written to, and what was packed of
    weights that have moved would be kept for nothing.
    """
    if isinstance(form, FrozenConv):
        form.packed.forget()
    for part in _within(form):
        repack(part)


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """A batch norm in eval mode as ``scale * x + shift``, in double precision."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
        return scale, shift * scale + norm.bias.detach().double()
    return scale, shift * scale


def fold(layer: Any, scale: Tensor, shift: Tensor) -> None:
    """Let a convolution, in place, compute ``scale * y + shift`` of its output channels."""
    weight = layer.weight.detach()
    scaled = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
    bias = shift if layer.bias is None else shift + scale * layer.bias.detach().double()
    layer.weight = nn.Parameter(scaled.to(weight), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(weight), requires_grad=False)


class _Activated(Form):
    """An activation over the output of what was planned before it."""

    def __init__(self, form: Form, act: Callable[[Tensor], Tensor]) -> None:
        self.form, self.act = form, act

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return self.act(self.form.step(x, moment))

    def clip(self, x: Tensor) -> Tensor:
        return self.act(self.form.clip(x))


class _Contiguous(Form):
    """What may count on its input's order in memory."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return self.form.step(x.contiguous(), moment)

    def clip(self, x: Tensor) -> Tensor:
        return self.form.clip(x)


class _Affine(nn.Module):
    """What is left of a batch norm that nothing before it can take."""

    def __init__(self, scale: Tensor, shift: Tensor, like: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(part.to(like), requires_grad=False) for part in (scale, shift))

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))


def _take(form: Form, scale: Tensor, shift: Tensor) -> bool:
    """Fold ``scale * y + shift`` into the convolutions whose output or sum ``y`` is, if it is."""
    convs = [_last(branch) for branch in form.forms] if type(form) is Sum else [_last(form)]
    if not all(isinstance(conv, FrozenConv) for conv in convs):
        return False
    for index, conv in enumerate(convs):
        fold(conv.module, scale, shift if index == 0 else torch.zeros_like(shift))
        conv.lay()
    return True


def _within(form: Form) -> list[Form]:
    forms = list(getattr(form, "forms", ()))
    return [*forms, form.form] if hasattr(form, "form") else forms


def _last(form: Form) -> Any:
    return _last(form.forms[-1]) if isinstance(form, Planned) and form.forms else form


def _flat(form: Form) -> Iterator[Form]:
    if isinstance(form, Planned):
        for part in form.forms:
            yield from _flat(part)
    else:
        yield form


def _frozen(form: Form, held: nn.ModuleList) -> Form:
    if type(form) is Conv:
        conv = FrozenConv(form)
        held.append(conv.module)
        return conv
    if type(form) is OverWindow:
        return _Contiguous(form)
    if type(form) is Delay and form.ndim is not None and form.axis > 1:
        delay = copy.copy(form)
        others = [axis for axis in range(2, form.ndim) if axis != form.axis]
        delay.lies = order(0, form.axis, *others, 1, axis=form.axis)
        return delay
    if isinstance(form, Join):
        join = copy.copy(form)
        join.forms = []
        for branch in form.forms:
            frozen, modules = freeze(branch)
            join.forms.append(frozen)
            held.extend(modules)
        if type(join) is Sum and _gives_its_own(join.forms[0]):
            join.combine = _added
        return join
    return form


def _added(outputs: list[Tensor]) -> Tensor:
    """The sum, where the first output lies if nothing is wider."""
    total = outputs[0]
    for output in outputs[1:]:
        total = total.add_(output) if output.shape == total.shape else total + output
    return total


def _held(module: nn.Module, held: nn.ModuleList) -> Form:
    held.append(module)
    return PerFrame(module)


def _gives_its_own(form: Form) -> bool:
    """Whether nothing else may see what a form gives: no input, no state."""
    if isinstance(form, Planned):
        return bool(form.forms) and _gives_its_own(form.forms[-1])
    return isinstance(form, FrozenConv) or (type(form) in (Sum, Product, Concat) and len(form.forms) > 1)
