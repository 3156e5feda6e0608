"""aiSFX: its count, its spectrograms, and its authors' weights from what their package holds."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

import sentio
from sentio.audio.frontend import LogMel
from sentio.core.errors import ConfigError, InputError
from sentio.core.staged import create_network
from sentio.networks.aisfx import CHECKPOINT, FRONT_END, load_aisfx


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Weights as the package keeps them: theirs under their names, nine classifiers, and numpy's numbers."""
    generator = torch.Generator().manual_seed(3)
    weights = {}
    channels = 1
    for block, width in enumerate((64, 128, 256, 512), start=1):
        for layer in (1, 2):
            name = f"embedding_net.conv_block{block}"
            weights[f"{name}.conv{layer}.weight"] = torch.randn(width, channels, 3, 3, generator=generator)
            for key in ("weight", "bias", "running_mean", "running_var"):
                weights[f"{name}.bn{layer}.{key}"] = torch.rand(width, generator=generator)
            weights[f"{name}.bn{layer}.num_batches_tracked"] = torch.tensor(7)
            channels = width
    weights["fc.0.0.weight"] = torch.zeros(256, 512)
    path = tmp_path_factory.mktemp("aisfx") / "checkpoint.pth"
    torch.save((weights, {"prosfx": (np.int64(0), 78)}), path)
    return path, weights


def test_count_and_shape():
    net = create_network("aisfx").eval()
    # 9 (64 + 64**2 + 64 * 128 + 128**2 + 128 * 256 + 256**2 + 256 * 512 + 512**2) and 4 * 960 of norms.
    assert sum(p.numel() for p in net.parameters()) == 4_686_144 + 513 * 512
    assert net(torch.rand(2, 1, 87, 96)).shape == (2, 512)
    assert create_network("aisfx", classes=7)(torch.rand(2, 1, 16, 16)).shape == (2, 7)


def test_an_embedding_is_a_mean_over_bands_and_a_maximum_over_time():
    net = create_network("aisfx", width=8, classes=64).eval()
    x = torch.rand(1, 1, 40, 32)
    maps = x
    for name in net.stage_names[:-1]:
        maps = net.stage(name)(maps)
    assert maps.shape == (1, 64, 5, 4)
    torch.testing.assert_close(net(x), maps.mean(3).max(2).values)


def test_weights_come_from_the_wheel_the_folder_or_the_file(checkpoint, tmp_path):
    path, weights = checkpoint
    with zipfile.ZipFile(tmp_path / "aisfx.whl", "w") as wheel:
        wheel.write(path, CHECKPOINT)
    (tmp_path / "aisfx" / "models").mkdir(parents=True)
    (tmp_path / "aisfx" / "models" / "checkpoint.pth").write_bytes(path.read_bytes())
    for source in (path, tmp_path / "aisfx.whl", tmp_path / "aisfx", tmp_path):
        net = create_network("aisfx", classes=3)
        head = net.state_dict()["stages.head.fc.weight"].clone()
        load_aisfx(net, source)
        found = net.state_dict()
        assert torch.equal(
            found["stages.block2.conv2.conv.weight"], weights["embedding_net.conv_block2.conv2.weight"]
        )
        assert torch.equal(
            found["stages.block4.conv1.bn.running_var"], weights["embedding_net.conv_block4.bn1.running_var"]
        )
        assert torch.equal(found["stages.head.fc.weight"], head)


def test_what_is_not_aisfx_is_refused(checkpoint, tmp_path):
    path, _ = checkpoint
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "empty.whl").write_bytes(b"PK\x05\x06" + 18 * b"\0")
    for name in ("missing.pth", "empty.whl", "."):
        with pytest.raises(InputError, match="cannot be read from"):
            load_aisfx(create_network("aisfx"), tmp_path / name)
    torch.save(({"embedding_net.conv_block1.conv1.weight": 3}, {}), tmp_path / "numbers.pth")
    torch.save(({"embedding_net.conv_block1": torch.zeros(2)}, {}), tmp_path / "names.pth")
    for name in ("text.pth", "numbers.pth", "names.pth"):
        with pytest.raises(InputError, match="holds no checkpoint of aiSFX"):
            load_aisfx(create_network("aisfx"), tmp_path / name)
    for net in (create_network("aisfx", width=8), create_network("tiny-cnn")):
        with pytest.raises(ConfigError, match="fit network 'aisfx' of width 64"):
            load_aisfx(net, path)


def test_nothing_is_run_that_a_file_brings(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-run"), "w"))

    torch.save(({"a": Evil()}, {}), tmp_path / "evil.pth")
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_aisfx(create_network("aisfx"), tmp_path / "evil.pth")
    assert not (tmp_path / "was-run").exists()


def test_its_spectrograms():
    """Of bands that are means over bins: log10(1e4 power + 1) by its largest value in their training."""
    settings = LogMel(**FRONT_END)
    samples = np.random.default_rng(0).standard_normal(44_100) * 0.1
    found = settings(samples)
    assert found.shape == (44, 96)
    frame = np.pad(samples, 1024)[10 * 1024 :][:2048] * np.hanning(2048)
    power = np.abs(np.fft.rfft(frame)) ** 2
    mel = 1127.0 * np.log1p(np.arange(1025) * 44_100 / 2048 / 700)
    edges = np.linspace(0, 1127.0 * np.log1p(22_050 / 700), 98)
    for band in (0, 40, 95):
        low, middle, high = edges[band : band + 3]
        weights = np.maximum(0, np.minimum((mel - low) / (middle - low), (high - mel) / (high - middle)))
        expected = np.log10(1e4 * (weights @ power) / weights.sum() + 1) / 9.457798957824707
        assert found[10, band] == pytest.approx(expected, rel=1e-4)


def test_it_streams():
    net = create_network("aisfx", width=4).eval()
    assert sentio.stream(net, window=64) is not None
