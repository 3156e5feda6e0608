"""Blocks on a stream: layers in a row, and branches that wait for each other.

A block is written down once more, beside its class:

    @streams(MyBlock)
    def _my_block(block: MyBlock) -> Form:
        return Chain(Sum(Chain(block.conv, block.bn), Identity()), block.act)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from sentio.nn.streaming import Flow, Form, Item, Moment, Plan, streams


class Identity(Form):
    """The input as it came: the shortcut of a residual."""

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        return flow

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return x

    def clip(self, x: Tensor) -> Tensor:
        return x


class Chain(Form):
    """Modules and forms one after the other."""

    def __init__(self, *items: Item) -> None:
        self.items = items
        self.forms: list[Form] = []

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        self.forms = []
        for item in self.items:
            form, flow = plan.run(item, flow)
            if not isinstance(form, Identity):
                self.forms.append(form)
        return flow

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        for form in self.forms:
            x = form.step(x, moment)
        return x

    def clip(self, x: Tensor) -> Tensor:
        for form in self.forms:
            x = form.clip(x)
        return x


class Delay(Form):
    """The input ``units`` later."""

    def __init__(self, units: int) -> None:
        self.units = units

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        if flow.axis is None:
            raise plan.refusal("a branch behind a pooling over time cannot be delayed; pool behind the join")
        self.axis = flow.axis
        self.key = plan.key("delay")
        return replace(flow, delay=flow.delay + self.units, past=flow.past + self.units * flow.stride)

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return moment.window(self.key, x, self.axis, self.units).narrow(self.axis, 0, x.shape[self.axis])

    def clip(self, x: Tensor) -> Tensor:
        return x


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
        outs = [out for _, out in planned]
        if len({(out.axis, out.stride) for out in outs}) > 1:
            raise plan.refusal(
                "its branches have different strides in time: " + ", ".join(str(out.stride) for out in outs)
            )
        latest = max(out.delay for out in outs)
        self.forms: list[Form] = []
        for index, (branch, (form, out)) in enumerate(zip(self.branches, planned, strict=True)):
            lag = Delay(latest - out.delay)
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


class Planned(Form):
    """Forms that are planned already, one after the other."""

    def __init__(self, *forms: Form) -> None:
        self.forms = forms

    step = Chain.step  # type: ignore[assignment]
    clip = Chain.clip  # type: ignore[assignment]


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
        super().__init__(lambda outputs: torch.cat(outputs, dim), *branches)
        self.dim = dim

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        out = super().plan(flow, plan)
        if out.axis == self.dim:
            raise plan.refusal(f"it joins its branches on axis {self.dim}, which is time")
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
