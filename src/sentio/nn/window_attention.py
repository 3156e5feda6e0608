"""Self-attention over a window of time, for streams."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentio.core.errors import ConfigError, InputError
from sentio.nn.streaming import Flow, Form, Moment, Plan, streams

Output = Literal["causal", "last", "window"]


class WindowAttention(nn.MultiheadAttention):
    """Self-attention of each unit to the last ``window`` units, itself included: ``(batch, time, dim)``.

    Its weights have the names and shapes of ``nn.MultiheadAttention``'s, so either loads the other's.

    - ``causal`` gives one output for each unit; the first units see what there is.
    - ``last`` gives the same once a whole window is there, so ``time - window + 1`` outputs: full attention
      over each window, read at its last unit (*single-output* attention).
    - ``window`` gives full attention over each window, all of its outputs (*retroactive* attention):
      ``(batch, time - window + 1, window, dim)``. A step computes the newest unit's scores alone and keeps
      the others.

    L. Hedegaard, A. Bakhtiarnia, A. Iosifidis, *Continual Transformers: Redundancy-Free Attention for Online
    Inference*, ICLR 2023. There the retroactive form carries sums from which the oldest unit is subtracted;
    here the scores themselves are kept, so nothing drifts on an endless stream.

    Args:
        dim: width of a unit.
        heads: number of heads, dividing ``dim``.
        window: units that are attended to.
        output: which outputs.
        bias: whether the projections have biases.
    """

    def __init__(
        self, dim: int, heads: int, window: int, *, output: Output = "causal", bias: bool = True
    ) -> None:
        if window < 1:
            raise ConfigError(f"An attention window has at least 1 unit, got {window}")
        if output not in ("causal", "last", "window"):
            raise ConfigError(f"WindowAttention gives 'causal', 'last' or 'window' outputs, got {output!r}")
        super().__init__(dim, heads, bias=bias, batch_first=True)
        self.window, self.output = window, output

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """A whole clip.

        Raises:
            InputError: it is shorter than a window that has to be full.
        """
        time = x.shape[1]
        if self.output != "causal" and time < self.window:
            raise InputError(f"Attention over windows of {self.window} units was given {time}; give more")
        query, key, value = self.project(x)
        if self.output == "window":
            # (batch, head, window, unit of the window, width)
            query, key, value = (
                part.unfold(2, self.window, 1).transpose(-1, -2) for part in (query, key, value)
            )
            return self.merge(F.scaled_dot_product_attention(query, key, value))
        distance = torch.arange(time, device=x.device)[:, None] - torch.arange(time, device=x.device)
        mask = (distance >= 0) & (distance < self.window)
        y = self.merge(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
        return y if self.output == "causal" else y[:, self.window - 1 :]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each ``(batch, head, time, dim / heads)``."""
        joint = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = joint.unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def merge(self, heads: Tensor) -> Tensor:
        """Heads ``(batch, head, ..., dim / heads)`` side by side, through the output projection."""
        return self.out_proj(heads.movedim(1, -2).flatten(-2))


@streams(WindowAttention)
def _window_attention(module: WindowAttention) -> Form:
    return _Retroactive(module) if module.output == "window" else _Newest(module)


class _Attention(Form):
    def __init__(self, module: WindowAttention) -> None:
        self.module = module

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        if flow.axis != 1 or flow.ndim not in (None, 3):
            raise plan.refusal(f"it takes (batch, time, dim), and time is axis {flow.axis}")
        window = self.module.window
        self.units, self.delay, self.keep = plan.units(flow), flow.delay, window - 1
        full = self.module.output != "causal"
        frames = flow.frames
        if full and frames is not None:
            frames -= self.keep
            if frames < 1:
                raise plan.refusal(f"its windows of {window} units are longer than the network's own")
        if not full:
            plan.blanks(replace(flow, delay=flow.delay + self.keep))
        return replace(
            flow,
            ndim=4 if self.module.output == "window" else 3,
            frames=frames,
            delay=flow.delay + (self.keep if full else 0),
            before=flow.before + (0 if full else self.keep * flow.stride),
            after=flow.after + (self.keep * flow.stride if full else 0),
            past=flow.past + self.keep * flow.stride,
        )

    def clip(self, x: Tensor) -> Tensor:
        return self.module(x)


class _Newest(_Attention):
    """The newest units' outputs: keys and values of the window are kept."""

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        out = super().plan(flow, plan)
        self.keys = (plan.key("key"), plan.key("value"))
        return out

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        units = x.shape[1]
        causal = self.module.output == "causal"
        if causal:  # blanked, or a zero weight would meet something infinite
            x = moment.blank(x, 1, self.units, self.delay)
        query, key, value = self.module.project(x)
        keys = moment.window(self.keys[0], key, 2, self.keep)
        values = moment.window(self.keys[1], value, 2, self.keep)
        count = units + self.keep
        mask = None
        if units > 1:
            # Unit u is unit u + keep of the window.
            distance = torch.arange(units, device=x.device)[:, None] + self.keep
            distance = distance - torch.arange(count, device=x.device)
            mask = ((distance >= 0) & (distance <= self.keep))[None, None]
        if causal and not moment.warm:
            lived = moment.lived(count, self.units, self.delay + self.keep)[:, None, None, :]
            # A unit before the start sees itself alone, so that it sees anything.
            own = torch.arange(units, device=x.device)[:, None] + self.keep
            lived = lived | (own == torch.arange(count, device=x.device))
            mask = lived if mask is None else mask & lived
        return self.module.merge(F.scaled_dot_product_attention(query, keys, values, attn_mask=mask))


class _Retroactive(_Attention):
    """All outputs of the last window: its queries, keys and values are kept, and their scores."""

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        out = super().plan(flow, plan)
        self.projected = [plan.key(label) for label in ("query", "key", "value")]
        self.scores = plan.key("scores")
        return out

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        projected = self.module.project(x)
        query, key, value = (
            moment.window(name, part, 2, self.keep)
            for name, part in zip(self.projected, projected, strict=True)
        )
        if not self.keep:
            return self.module.merge(value.unsqueeze(3))
        batch, heads, _, width = query.shape
        query = query * width**-0.5
        scores = moment.buffer(self.scores, x, (batch, heads, self.keep, self.keep))
        outputs = []
        for unit in range(x.shape[1]):
            rows = slice(unit, unit + self.keep + 1)
            q, k, v = query[:, :, rows], key[:, :, rows], value[:, :, rows]
            column = q[:, :, :-1] @ k[:, :, -1:].transpose(2, 3)
            row = q[:, :, -1:] @ k.transpose(2, 3)
            whole = torch.cat((torch.cat((scores, column), 3), row), 2)
            outputs.append(whole.softmax(3) @ v)
            scores = whole[:, :, 1:, 1:]
        moment.new[self.scores] = scores
        return self.module.merge(torch.stack(outputs, 2))
