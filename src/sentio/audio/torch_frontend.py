"""The front ends in torch: differentiable, on any device; twins of `frontend`, `scalogram` and `waveform`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sentio.audio.frontend import Library, LogMel, hann_window, log_mel, mel_filters
from sentio.audio.scalogram import SCALES, Scalogram, filter_bank
from sentio.audio.waveform import Waveform
from sentio.core.errors import InputError
from sentio.nn.following import is_followed

#: up to so many threads numpy's part, which has one, is not what a twin waits for
FEW_THREADS = 2


def twin(settings: LogMel | Scalogram | Waveform, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module that computes what the settings do: samples ``(..., time)`` to features."""
    if isinstance(settings, Waveform):
        return TorchWaveform(settings)
    kind = TorchScalogram if isinstance(settings, Scalogram) else TorchLogMel
    return kind(settings, dtype=dtype)  # type: ignore[arg-type]


class TorchLogMel(nn.Module):
    """Log-mel spectrograms of tensors, for training and streams.

    It has no weights and adds nothing to a ``state_dict``: its settings are all there is to store. It
    computes in the type of its tables also under autocast, since half precision cannot hold band powers.

    Where nobody asks for a gradient, on a CPU with one or two threads, numpy computes it, in chunks that stay
    in the cache, with torch's FFT: on clips of several seconds faster than either library alone.

    Args:
        settings: what to compute.
        dtype: type of the tables and of the arithmetic, float32 or float64.
    """

    window: Tensor
    filters: Tensor
    mean: Tensor | None
    std: Tensor | None
    #: the tables as they were made, and the version of each; None where that is not known
    _made: tuple[tuple[Tensor | None, int], ...] | None = None

    def __init__(self, settings: LogMel, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.settings = settings
        window = hann_window(settings.win_length or settings.n_fft, symmetric=settings.symmetric)
        tables = {"window": window, "filters": mel_filters(settings).T.copy()}
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table).to(dtype), persistent=False)
        for name, value in (("mean", settings.mean), ("std", settings.std)):
            given = None if value is None else torch.tensor(value, dtype=dtype)
            self.register_buffer(name, given, persistent=False)
        self._made = self._tables()

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
        _check(s, samples)
        array = self._array(samples)
        if array is not None:
            return torch.from_numpy(log_mel(s, array, _LIBRARY))
        with _full_precision(samples.device.type):
            clips = samples.to(self.window.dtype).reshape(-1, samples.shape[-1])
            if s.pre_emphasis is not None:
                clips = clips[:, 1:] - s.pre_emphasis * clips[:, :-1]
            if s.center:
                clips = F.pad(clips, (s.n_fft // 2, s.n_fft // 2), mode=s.pad_mode)
            first = 0 if s.frames_of == "window" else (s.n_fft - len(self.window)) // 2
            frames = clips[:, first:].unfold(-1, len(self.window), s.hop_length)
            features = self.features(frames[:, : s.frames(samples.shape[-1])])
        return features.reshape(*samples.shape[:-1], *features.shape[1:])

    def _array(self, samples: Tensor) -> NDArray[Any] | None:
        """The samples in numpy's hands; None where it cannot compute, or torch would be faster or has to see
        the operations: elsewhere than on a CPU, with other tables than were made or other methods than these,
        for a gradient, where operations are compiled, traced or watched.
        """
        if (
            is_followed()  # first: what is compiled must not meet what comes behind it
            or type(self) is not TorchLogMel
            or type(samples) is not Tensor
            or not samples.device.type == self.window.device.type == "cpu"
            or torch.get_num_threads() > FEW_THREADS
            or (torch.is_grad_enabled() and samples.requires_grad)
            or not self._as_made()
        ):
            return None
        array: NDArray[Any] = samples.detach().to(self.window.dtype).resolve_neg().numpy()
        return array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": self._as_made()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_made": None})
        # A copy's tables are tensors of its own; what an older release pickled says nothing about them.
        if state.get("_made"):
            self._made = self._tables()

    def _as_made(self) -> bool:
        """Whether the tables are those of the settings: neither replaced, converted nor written to."""
        return self._made is not None and all(
            now is then and version == before
            for (now, version), (then, before) in zip(self._tables(), self._made, strict=True)
        )

    def _tables(self) -> tuple[tuple[Tensor | None, int], ...]:
        tables = (self.window, self.filters, self.mean, self.std)
        # Tensors made in inference mode count no versions.
        return tuple((t, 0 if t is None or t.is_inference() else t._version) for t in tables)

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
        elif s.log == "ln-floor":
            mel = mel.clamp_min(s.amin ** (s.power / 2)).log()
        else:
            mel = mel.clamp_min(s.amin ** (s.power / 2)).log10() * (20 / s.power)
            if s.ref == "max":
                mel = mel - mel.amax(dim=(-2, -1), keepdim=True)
            if s.top_db is not None:
                mel = torch.maximum(mel, mel.amax(dim=(-2, -1), keepdim=True) - s.top_db)
        if s.frame_peak:
            peak = mel.abs().amax(dim=-1, keepdim=True)
            mel = mel / torch.where(peak > 0, peak, 1.0)
        if self.mean is not None:
            mel = (mel - self.mean) / self.std  # type: ignore[operator]
        return mel

    def extra_repr(self) -> str:
        return repr(self.settings)


class TorchScalogram(nn.Module):
    """Scalograms of tensors; like `TorchLogMel` in all else.

    Its tables are made for a length of clip when that is first seen, and kept for the last one.
    """

    empty: Tensor
    mean: Tensor | None
    std: Tensor | None

    def __init__(self, settings: Scalogram, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.settings = settings
        #: nothing, where the tables shall be and of their type
        self.register_buffer("empty", torch.empty(0, dtype=dtype), persistent=False)
        #: the last length of clips, and its tables; in one, since several threads may ask
        self._kept: tuple[int, Tensor] = (0, self.empty)
        for name, value in (("mean", settings.mean), ("std", settings.std)):
            given = None if value is None else torch.tensor(value, dtype=dtype)
            self.register_buffer(name, given, persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Decibels ``(..., time, scale)`` of floats ``(..., time)``.

        Raises:
            InputError: the samples are no floats, or too few for one column.
        """
        s = self.settings
        _check(s, samples)
        length = samples.shape[-1]
        columns, _ = s.shape(length)
        filters = self._filters(length)
        with _full_precision(samples.device.type):
            clips = samples.to(filters.dtype).reshape(-1, 1, length)
            spectrum = torch.fft.fft(clips, n=filters.shape[1])
            parts = []
            for first in range(0, s.n_scales, SCALES):
                wavelet = torch.fft.ifft(spectrum * filters[first : first + SCALES])
                # abs() has the gradient 0 at 0.
                magnitude = wavelet[..., : columns * s.hop_length].abs()
                parts.append(magnitude.unflatten(-1, (columns, s.hop_length)).mean(dim=-1))
            features = torch.cat(parts, dim=1).transpose(1, 2).clamp_min(s.amin).log10() * 20
            if self.mean is not None:
                features = (features - self.mean) / self.std  # type: ignore[operator]
        return features.reshape(*samples.shape[:-1], *features.shape[1:])

    def _filters(self, length: int) -> Tensor:
        """The tables for clips of that many samples."""
        kept, filters = self._kept
        if kept == length and (filters.dtype, filters.device) == (self.empty.dtype, self.empty.device):
            return filters
        with torch.inference_mode(False):  # else no gradient could ever pass through them
            filters = torch.from_numpy(filter_bank(self.settings, length)).to(self.empty)
        if not is_followed():  # what is exported must not leave its stand-ins behind
            self._kept = (length, filters)
        return filters

    def extra_repr(self) -> str:
        return repr(self.settings)


class TorchWaveform(nn.Module):
    """Clips scaled to their peak: floats ``(..., time)`` to the same shape and type."""

    def __init__(self, settings: Waveform) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, samples: Tensor) -> Tensor:
        """Scaled clips.

        Raises:
            InputError: the samples are no floats, or there are none.
        """
        _check(self.settings, samples)
        if not self.settings.peak:
            return samples
        peak = samples.abs().amax(dim=-1, keepdim=True)
        return samples / torch.where(peak > 0, peak, 1.0)

    def extra_repr(self) -> str:
        return repr(self.settings)


def _check(settings: LogMel | Scalogram | Waveform, samples: Tensor) -> None:
    if not samples.is_floating_point():
        raise InputError(
            f"The front end takes float samples, got {samples.dtype}; divide by full scale first"
        )
    settings.check_length(samples.shape[-1] if samples.ndim else 0)


def _multiply(frames: NDArray[Any], window: NDArray[Any], out: NDArray[Any]) -> None:
    torch.mul(torch.from_numpy(frames), torch.from_numpy(window), out=torch.from_numpy(out))


def _rfft(frames: NDArray[Any]) -> NDArray[Any]:
    spectra: NDArray[Any] = torch.fft.rfft(torch.from_numpy(frames)).numpy()
    return spectra


#: torch's FFT for arrays in numpy's hands
_LIBRARY = Library(_multiply, _rfft)


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Half precision cannot hold band powers, so nothing here runs under autocast."""
    amp = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if amp else nullcontext()
