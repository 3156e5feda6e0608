"""The front end in torch: differentiable, on any device; a twin of `sentio.audio.frontend`."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentio.audio.frontend import LogMel, hann_window, mel_filters
from sentio.core.errors import InputError


class TorchLogMel(nn.Module):
    """Log-mel spectrograms of tensors, for training and streams.

    It has no weights and adds nothing to a ``state_dict``: its settings are all there is to store. It
    computes in the type of its tables also under autocast, since half precision cannot hold band powers.

    Args:
        settings: what to compute.
        dtype: type of the tables and of the arithmetic, float32 or float64.
    """

    window: Tensor
    filters: Tensor
    mean: Tensor | None
    std: Tensor | None

    def __init__(self, settings: LogMel, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.settings = settings
        window = hann_window(settings.win_length or settings.n_fft)
        tables = {"window": window, "filters": mel_filters(settings).T.copy()}
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table).to(dtype), persistent=False)
        for name, value in (("mean", settings.mean), ("std", settings.std)):
            given = None if value is None else torch.tensor(value, dtype=dtype)
            self.register_buffer(name, given, persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Log-mel spectrograms.

        Args:
            samples: floats at the settings' rate, shape ``(..., time)``, on the module's device.

        Returns:
            Shape ``(..., time, mel)``, of the tables' type.

        Raises:
            InputError: the samples are no floats, or too few for one frame.
        """
        s = self.settings
        if not samples.is_floating_point():
            raise InputError(
                f"The front end takes float samples, got {samples.dtype}; divide by full scale first"
            )
        s.check_length(samples.shape[-1] if samples.ndim else 0)
        device = samples.device.type
        amp = torch.amp.is_autocast_available(device)
        with torch.autocast(device, enabled=False) if amp else nullcontext():
            clips = samples.to(self.window.dtype).reshape(-1, samples.shape[-1])
            if s.center:
                clips = F.pad(clips, (s.n_fft // 2, s.n_fft // 2), mode=s.pad_mode)
            frames = clips[:, (s.n_fft - len(self.window)) // 2 :].unfold(-1, len(self.window), s.hop_length)
            features = self.features(frames[:, : s.frames(samples.shape[-1])])
        return features.reshape(*samples.shape[:-1], *features.shape[1:])

    def features(self, frames: Tensor) -> Tensor:
        """The bands of frames that are cut out already: ``(..., window)`` to ``(..., mel)``."""
        s = self.settings
        spectrum = torch.fft.rfft(frames * self.window, n=s.n_fft)
        # abs() has the gradient 0 at 0, where the square root of a power has none.
        power = spectrum.abs() if s.power == 1 else spectrum.real.square() + spectrum.imag.square()
        return self._logarithm(power @ self.filters)

    def _logarithm(self, mel: Tensor) -> Tensor:
        s = self.settings
        if s.log == "ln":
            mel = (mel + s.offset).log()
        else:
            mel = mel.clamp_min(s.amin ** (s.power / 2)).log10() * (20 / s.power)
            if s.ref == "max":
                mel = mel - mel.amax(dim=(-2, -1), keepdim=True)
            if s.top_db is not None:
                mel = torch.maximum(mel, mel.amax(dim=(-2, -1), keepdim=True) - s.top_db)
        if self.mean is not None:
            mel = (mel - self.mean) / self.std  # type: ignore[operator]
        return mel

    def extra_repr(self) -> str:
        return repr(self.settings)
