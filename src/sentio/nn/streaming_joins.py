"""Blocks on a stream: layers in a row, and branches that wait for each other.

A block is written down once more, beside its class:

    @streams(MyBlock)
    def _my_block(block: MyBlock) -> Form:
        return Chain(Sum(Chain(block.conv, block.bn), Identity()), block.act)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from sentio.nn.streaming import Delay, Flow, Form, Item, Moment, PerFrame, Plan, Planned, streams


class Identity(Form):
    """The input as it came: the shortcut of a residual."""

    takes_lead = True

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        return flow

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return x

    def clip(self, x: Tensor) -> Tensor:
        return x


class Chain(Planned):
    """Modules and forms one after the other."""

    takes_lead = True

    def __init__(self, *items: Item) -> None:
        self.items = items

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        forms = []
        for item in self.items:
            form, flow = plan.run(item, flow)
            if not isinstance(form, Identity):
                forms.append(form)
        self.forms = tuple(forms)
        return flow


class Join(Form):
    """Branches on one input, delayed until they meet, then one function of all of them.

    A branch that keeps nothing itself is delayed at its input, any other at its output.

    Args:
        combine: the branches' outputs to one tensor, unit by unit.
        branches: modules and forms that take the same input.
    """

    def __init__(self, combine: Callable[[list[Tensor]], Tensor], *branches: Item) -> None:
        self.combine, self.branches = combine, branches

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        planned = [plan.run(branch, flow) for branch in self.branches]
        if len(planned) > 1 and any(_overwrites(form) for form, _ in planned):
            raise plan.refusal(
                "a branch begins with an activation in place, so what the others get depends on which comes "
                "first; set its inplace to False"
            )
        outs = [out for _, out in planned]
        if len({(out.axis, out.stride) for out in outs}) > 1:
            raise plan.refusal(
                "its branches have different strides in time: " + ", ".join(str(out.stride) for out in outs)
            )
        # From 0 on, since what the branches give in place of units that are never given may differ.
        latest = max(0, *(out.delay for out in outs))
        self.forms: list[Form] = []
        for index, (branch, (form, out)) in enumerate(zip(self.branches, planned, strict=True)):
            lag = Delay(latest - out.delay, out.lead)
            if lag.units and out.past == flow.past and out.stride == flow.stride:
                form, outs[index] = plan.run(Chain(lag, branch), flow)
            elif lag.units:
                delayed, outs[index] = plan.run(lag, out)
                form = Planned(form, delayed)
            self.forms.append(form)
        self.axis = outs[0].axis
        frames = [out.frames for out in outs if out.frames is not None]
        return replace(
            outs[0],
            ndim=next((out.ndim for out in outs if out.ndim), None),
            frames=min(frames) if frames else None,
            before=max(out.before for out in outs),
            after=max(out.after for out in outs),
            past=max(out.past for out in outs),
        )

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return self.combine([form.step(x, moment) for form in self.forms])

    def clip(self, x: Tensor) -> Tensor:
        outputs = [form.clip(x) for form in self.forms]
        if self.axis is not None:
            shared = min(y.shape[self.axis] for y in outputs)
            outputs = [y.narrow(self.axis, 0, shared) for y in outputs]
        return self.combine(outputs)


def _overwrites(form: Form) -> bool:
    """Whether what a form does first overwrites what it is given."""
    if isinstance(form, Join):
        return any(_overwrites(branch) for branch in form.forms)
    if isinstance(form, Planned):
        return bool(form.forms) and _overwrites(form.forms[0])
    return isinstance(form, PerFrame) and form.overwrites


class Sum(Join):
    """The sum of branches: a residual is ``Sum(Chain(...), Identity())``."""

    def __init__(self, *branches: Item) -> None:
        super().__init__(_sum, *branches)


class Product(Join):
    """The product of branches."""

    def __init__(self, *branches: Item) -> None:
        super().__init__(_product, *branches)


class Concat(Join):
    """Branches side by side on axis ``dim``, the channels by default."""

    def __init__(self, *branches: Item, dim: int = 1) -> None:
        super().__init__(partial(torch.cat, dim=dim), *branches)
        self.dim = dim

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        out = super().plan(flow, plan)
        if self.dim < 0 and out.ndim is None:
            raise plan.refusal("it counts axes from the last; pass an example=")
        if out.axis == (self.dim if self.dim >= 0 else self.dim + (out.ndim or 0)):
            raise plan.refusal(f"it joins its branches on axis {out.axis}, which is time")
        return out


def _sum(outputs: list[Tensor]) -> Tensor:
    total = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total


def _product(outputs: list[Tensor]) -> Tensor:
    product = outputs[0]
    for output in outputs[1:]:
        product = product * output
    return product


@streams(nn.Sequential)
def _sequential(module: nn.Sequential) -> Form:
    return Chain(*module)
