"""Log-mel spectrograms of a stream of samples: overlapping frames, as the torch front end computes them."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sentio.audio.log_mel_stream import frame_span, stream_problem
from sentio.audio.torch_frontend import TorchLogMel
from sentio.nn.streaming import Flow, Moment, Plan, streams
from sentio.nn.streaming_windows import Sliding


@streams(TorchLogMel)
class StreamedLogMel(Sliding):
    """Samples ``(..., time)`` to ``(..., time, mel)``; the samples that frames share are kept."""

    def __init__(self, module: TorchLogMel) -> None:
        self.module = module

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        if flow.ndim is None or flow.axis != flow.ndim - 1:
            raise plan.refusal(
                "it takes (..., time), so time has to be the last axis; pass axis= or example="
            )
        problem = stream_problem(self.module.settings)
        if problem is not None:
            raise plan.refusal(problem)
        self.emphasis = self.module.settings.pre_emphasis
        if self.emphasis is not None:
            # Emphasised sample n needs sample n + 1, so the one that a chunk begins with lies before it.
            self.last = plan.key("last")
            flow = replace(
                flow,
                delay=flow.delay + 1,
                after=flow.after + flow.stride,
                past=flow.past + flow.stride,
                frames=None if flow.frames is None else flow.frames - 1,
            )
        out = super().plan(flow, plan)
        return replace(out, ndim=flow.ndim + 1)

    def settings(self, flow: Flow, plan: Plan) -> None:
        self.span, self.pad = frame_span(self.module.settings)
        self.stride = self.module.settings.hop_length

    def out_frames(self, frames: int | None, plan: Plan) -> int | None:
        emphasised = self.emphasis is not None
        return None if frames is None else self.module.settings.frames(frames + emphasised)

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        if self.emphasis is not None:
            x = self._emphasised(moment.window(self.last, x, self.axis, 1))
        return super().step(x, moment)

    def clip(self, x: Tensor) -> Tensor:
        return super().clip(x if self.emphasis is None else self._emphasised(x))

    def run(self, window: Tensor) -> Tensor:
        frames = window.to(self.module.window.dtype).unfold(-1, self.span, self.stride)
        return self.module.features(frames)

    def _emphasised(self, x: Tensor) -> Tensor:
        assert self.emphasis is not None
        return x[..., 1:] - self.emphasis * x[..., :-1]
