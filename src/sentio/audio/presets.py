"""Named settings: the log-mel spectrograms that published networks were trained on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from sentio.core.errors import UnknownNameError

#: What torchaudio's mel spectrogram does where nothing is said.
_TORCHAUDIO = {"mel_scale": "htk", "norm": None, "pad_mode": "reflect", "log": "ln"}
_PHINET = {
    "window": 4.0,
    "rate": 16_000,
    "n_fft": 2048,
    "hop_length": 512,
    "n_mels": 40,
    "ref": "max",
    "top_db": 80.0,
}
#: CP-JKU's: pre-emphasis, Kaldi's filters, and a fixed scale in place of standardisation.
_CP_JKU = {
    "window": 1.0,
    "rate": 32_000,
    "symmetric": True,
    "f_max": 15_500.0,
    "mel_scale": "htk",
    "triangles": "mel",
    "norm": None,
    "pre_emphasis": 0.97,
    "pad_mode": "reflect",
    "log": "ln",
    "offset": 1e-5,
    "mean": -4.5,
    "std": 5.0,
}
_DETECTION = {"window": 10.24, "n_mels": 40, "drop_last": True}
_TAGGING = {"window": 1.0, "n_mels": 64, "drop_last": True}

#: preset -> options of the front end ``log-mel``
PRESETS: dict[str, dict[str, Any]] = {
    "bc-resnet": {
        **_TORCHAUDIO,
        "window": 1.0,
        "rate": 16_000,
        "n_fft": 512,
        "win_length": 480,
        "hop_length": 160,
        "n_mels": 40,
        "offset": 1e-6,
    },
    "cp-mobile": {**_CP_JKU, "n_fft": 4096, "win_length": 3072, "hop_length": 500, "n_mels": 256},
    "dcase2024-baseline": {
        **_TORCHAUDIO,
        "window": 1.0,
        "rate": 32_000,
        "n_fft": 4096,
        "win_length": 3072,
        "hop_length": 500,
        "n_mels": 256,
        "offset": 1e-5,
    },
    "passt": {**_CP_JKU, "n_fft": 1024, "win_length": 800, "hop_length": 320, "n_mels": 128},
    # -80 to 0 dB becomes -1 to 1.
    "phinet": {**_PHINET, "mean": -40.0, "std": 40.0},
    # Each frame between -1 and 0; a mean of 0 and a deviation of 1 keep it there in training.
    "phinet-per-frame": {**_PHINET, "frame_peak": True, "mean": 0.0, "std": 1.0},
    "sed-detection": {**_DETECTION, "rate": 16_000, "n_fft": 2048, "win_length": 1280, "hop_length": 640},
    "sed-detection-44k": {
        **_DETECTION,
        "rate": 44_100,
        "n_fft": 4096,
        "win_length": 3528,
        "hop_length": 1764,
    },
    "sed-tagging": {**_TAGGING, "rate": 16_000, "n_fft": 1024, "win_length": 640, "hop_length": 320},
    "sed-tagging-44k": {**_TAGGING, "rate": 44_100, "n_fft": 2048, "win_length": 1764, "hop_length": 882},
    "sp4asc": {
        "window": 10.0,
        "rate": 44_100,
        "n_fft": 2048,
        "hop_length": 1024,
        "n_mels": 256,
        "pad_mode": "reflect",
    },
    # 96 frames of 25 ms, magnitudes, the natural logarithm.
    "vggish": {
        "window": 0.975,
        "rate": 16_000,
        "n_fft": 512,
        "win_length": 400,
        "hop_length": 160,
        "n_mels": 64,
        "f_min": 125.0,
        "f_max": 7_500.0,
        "mel_scale": "htk",
        "norm": None,
        "power": 1.0,
        "center": False,
        "frames_of": "window",
        "log": "ln",
        "offset": 0.01,
    },
}

F = TypeVar("F", bound=Callable[..., Any])


def with_presets(build: F) -> F:
    """A builder that also takes ``preset``: the name of options that those given beside it change."""

    @wraps(build)
    def building(*, preset: str | None = None, **options: Any) -> Any:
        if preset is None:
            return build(**options)
        if preset not in PRESETS:
            raise UnknownNameError("preset", preset, sorted(PRESETS))
        return build(**{**PRESETS[preset], **options})

    known = inspect.signature(build)
    first = inspect.Parameter("preset", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None")
    building.__signature__ = known.replace(parameters=[first, *known.parameters.values()])  # type: ignore[attr-defined]
    return building  # type: ignore[return-value]
