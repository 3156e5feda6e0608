"""Log-mel spectrograms of a stream of samples: overlapping frames, as the torch front end computes them."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sentio.audio.torch_frontend import TorchLogMel
from sentio.nn.streaming import Flow, Plan, streams
from sentio.nn.streaming_windows import Sliding


@streams(TorchLogMel)
class StreamedLogMel(Sliding):
    """Samples ``(..., time)`` to ``(..., time, mel)``; the samples that frames share are kept."""

    def __init__(self, module: TorchLogMel) -> None:
        self.module = module

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        settings = self.module.settings
        if flow.ndim is None or flow.axis != flow.ndim - 1:
            raise plan.refusal(
                "it takes (..., time), so time has to be the last axis; pass axis= or example="
            )
        if settings.log != "ln" and (settings.ref == "max" or settings.top_db is not None):
            raise plan.refusal(
                "ref='max' and top_db measure by the loudest moment of the clip; use a fixed reference"
            )
        if settings.center and settings.pad_mode != "constant":
            raise plan.refusal(
                f"center=True with pad_mode={settings.pad_mode!r} mirrors samples that have not come yet; "
                "use center=False or pad_mode='constant'"
            )
        out = super().plan(flow, plan)
        return replace(out, ndim=flow.ndim + 1)

    def settings(self, flow: Flow, plan: Plan) -> None:
        s = self.module.settings
        self.span, self.stride = len(self.module.window), s.hop_length
        lead = (s.n_fft - self.span) // 2
        self.pad = (s.n_fft // 2 if s.center else 0) - lead

    def out_frames(self, frames: int | None, plan: Plan) -> int | None:
        return None if frames is None else self.module.settings.frames(frames)

    def run(self, window: Tensor) -> Tensor:
        frames = window.to(self.module.window.dtype).unfold(-1, self.span, self.stride)
        return self.module.features(frames)
