"""The torch twin, held to the front end of record."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.autograd import forward_ad  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from sentio.audio import torch_frontend  # noqa: E402
from sentio.audio.frontend import LogMel  # noqa: E402
from sentio.audio.torch_frontend import TorchLogMel  # noqa: E402
from sentio.core.errors import InputError  # noqa: E402

SETTINGS = {
    "dcase": LogMel(rate=32000, n_fft=4096, win_length=3072, hop_length=500, n_mels=256),
    "htk": LogMel(
        rate=16000, n_fft=512, win_length=400, hop_length=160, n_mels=40, mel_scale="htk", norm=None
    ),
    "magnitude": LogMel(rate=16000, n_fft=1024, hop_length=512, n_mels=64, power=1.0, f_min=50.0),
    "reflect": LogMel(rate=16000, n_fft=1001, win_length=801, hop_length=250, n_mels=48, pad_mode="reflect"),
    "not-centred": LogMel(rate=16000, n_fft=1024, win_length=800, hop_length=512, n_mels=40, center=False),
    "ref-max": LogMel(rate=16000, n_fft=512, hop_length=160, n_mels=40, ref="max", top_db=60.0),
    "top-db": LogMel(rate=16000, n_fft=1024, hop_length=256, n_mels=64, top_db=30.0),
    "ln": LogMel(rate=16000, n_fft=512, hop_length=160, n_mels=64, log="ln", offset=0.01),
    "standardised": LogMel(rate=16000, n_fft=512, hop_length=160, n_mels=64, mean=-40.0, std=15.0),
    "per-band": LogMel(n_fft=512, n_mels=3, mean=(-40.0, -50.0, -60.0), std=(15.0, 10.0, 5.0)),
}


def clips(samples: int = 16000) -> np.ndarray:
    """Float64 noise fading by 80 dB, and a tone, shape ``(2, 1, time)``."""
    time = np.linspace(0, 1, samples)
    noise = np.random.default_rng(0).standard_normal(samples) * 10 ** (-4 * time)
    return np.stack([0.5 * noise, 0.5 * np.sin(3000 * time)])[:, None]


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("name", SETTINGS)
def test_it_agrees_with_numpy_in_double_precision(name: str, gradient: bool) -> None:
    settings = SETTINGS[name]
    twin = TorchLogMel(settings, dtype=torch.float64)
    found = twin(torch.from_numpy(clips()).requires_grad_(gradient))
    assert found.dtype == torch.float64 and found.requires_grad == gradient
    np.testing.assert_allclose(found.detach().numpy(), settings(clips()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("name", SETTINGS)
def test_it_agrees_with_numpy_in_single_precision(name: str, gradient: bool) -> None:
    settings = SETTINGS[name]
    samples = torch.from_numpy(clips()).float().requires_grad_(gradient)
    found = TorchLogMel(settings)(samples).detach().numpy()
    expected = settings(clips().astype(np.float32))
    assert found.dtype == np.float32 and found.shape == expected.shape
    near = clips_near_their_maximum(settings)
    np.testing.assert_allclose(found[near], expected[near], rtol=0, atol=1e-3)


def clips_near_their_maximum(settings: LogMel) -> np.ndarray:
    """Which features lie within 60 dB of their clip's maximum, before standardisation."""
    power = LogMel(
        **{
            name: getattr(settings, name)
            for name in ("rate", "n_fft", "win_length", "hop_length", "n_mels", "f_min", "f_max", "mel_scale")
        },
        norm=settings.norm,
        center=settings.center,
        pad_mode=settings.pad_mode,
    )(clips())
    return power > power.max(axis=(-2, -1), keepdims=True) - 60


@pytest.mark.parametrize("name", ["dcase", "magnitude", "ln"])
def test_it_is_differentiable(name: str) -> None:
    twin = TorchLogMel(SETTINGS[name])
    samples = torch.from_numpy(clips(8000)).float().requires_grad_()
    twin(samples).sum().backward()
    assert torch.isfinite(samples.grad).all() and samples.grad.abs().max() > 0


def test_silence_has_a_finite_gradient() -> None:
    for name in ("dcase", "magnitude", "ln"):
        samples = torch.zeros(1, 8000, requires_grad=True)
        TorchLogMel(SETTINGS[name])(samples).sum().backward()
        assert torch.isfinite(samples.grad).all()


def test_the_gradient_is_the_slope() -> None:
    settings = LogMel(rate=8000, n_fft=64, hop_length=32, n_mels=5, log="ln")
    samples = torch.from_numpy(clips(160)[0]).requires_grad_()
    assert torch.autograd.gradcheck(TorchLogMel(settings, dtype=torch.float64), (samples,))


def test_what_follows_operations_sees_them() -> None:
    """Numpy computes where nobody does; in a graph what it gives would be a constant."""
    twin = TorchLogMel(SETTINGS["ln"])
    first, second = torch.from_numpy(clips()).float()
    expected = twin(second)
    slope = torch.func.jvp(twin, (first,), (second,))[1]
    ways = {
        "make_fx": make_fx(twin)(first)(second),
        "export": torch.export.export(twin, (first,)).module()(second),
        "trace": torch.jit.trace(twin, first, check_trace=False)(second),
        "compile": torch.compile(twin, fullgraph=True, backend="eager")(second),
        "vmap": torch.func.vmap(twin)(second[None])[0],
        "functionalize": torch.func.functionalize(twin)(second),
    }
    for name, found in ways.items():
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4, msg=name)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(twin(forward_ad.make_dual(first, second)))
    assert slope.abs().max() > 0 and torch.equal(dual.tangent, slope)


def with_gradient(twin: TorchLogMel, samples: Any) -> Any:
    """What torch's own operations give."""
    return twin(samples.clone().requires_grad_()).detach()


def test_tables_and_methods_of_its_own_count_without_a_gradient_too() -> None:
    samples = torch.from_numpy(clips()).float()
    louder, moved, replaced = (TorchLogMel(SETTINGS["standardised"]) for _ in range(3))
    louder.filters.mul_(10)
    moved.mean.fill_(-50.0)
    replaced.window = torch.hamming_window(512)
    for twin in (louder, moved, replaced):
        assert torch.equal(twin(samples), with_gradient(twin, samples))

    learned = TorchLogMel(SETTINGS["ln"])
    del learned._buffers["filters"]
    learned.filters = torch.nn.Parameter(torch.rand(257, 64))
    assert learned(samples).requires_grad

    class Halved(TorchLogMel):
        def features(self, frames: Any) -> Any:
            return super().features(frames) / 2

    halved = Halved(SETTINGS["ln"])
    assert torch.equal(halved(samples), with_gradient(halved, samples))


def test_copies_are_as_fast_and_those_of_older_releases_work(monkeypatch: pytest.MonkeyPatch) -> None:
    twin, samples = TorchLogMel(SETTINGS["ln"]), torch.from_numpy(clips()).float()
    copies = [copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))]
    state = twin.__getstate__()
    del state["_made"]
    older = TorchLogMel.__new__(TorchLogMel)
    older.__setstate__(state)
    assert torch.equal(older(samples), with_gradient(twin, samples))
    monkeypatch.setattr(torch_frontend, "log_mel", lambda *_: np.zeros(3))
    assert all(made(samples).shape == (3,) for made in [twin, *copies])


def test_many_threads_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    twin, samples = TorchLogMel(SETTINGS["ln"]), torch.from_numpy(clips()).float()
    asked: list[int] = []
    monkeypatch.setattr(torch_frontend, "log_mel", lambda *_: asked.append(1) or np.zeros(3))
    for threads, by_numpy in ((1, True), (2, True), (3, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        asked.clear()
        twin(samples)
        assert bool(asked) == by_numpy


def test_it_stores_no_weights_and_follows_the_module() -> None:
    twin = TorchLogMel(SETTINGS["per-band"])
    assert not twin.state_dict() and not list(twin.parameters())
    assert twin.to("meta")(torch.zeros(2, 8000, device="meta")).shape == (2, 26, 3)


def test_autocast_does_not_lower_its_precision() -> None:
    twin = TorchLogMel(SETTINGS["htk"])
    samples = torch.from_numpy(clips()).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = twin(samples)
    assert torch.equal(found, twin(samples))


def test_unusable_samples_are_refused() -> None:
    twin = TorchLogMel(SETTINGS["not-centred"])
    with pytest.raises(InputError, match=r"takes float samples, got torch\.int16"):
        twin(torch.zeros(2000, dtype=torch.int16))
    with pytest.raises(InputError, match="A clip of 1000 samples is too short: the front end needs 1024"):
        twin(torch.zeros(2, 1000))
