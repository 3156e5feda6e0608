"""CRNN and its light form: published counts, what a frame depends on, and frames on a stream."""

import pytest
import torch

import sentio
from sentio.core.counting import count
from sentio.core.errors import ConfigError
from sentio.core.staged import create_network

torch.set_num_threads(1)
SMALL = {"bands": 8, "width": 6, "pools": [4, 2], "classes": 3}


def parameters(net) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "options", "at_3", "at_4", "at_16"),
    [
        ("crnn", {}, 3_681_027, 3_681_284, 3_684_368),
        ("crnn", {"separable": True}, 615_939, 616_196, 619_280),
        ("crnn-desed", {}, 288_771, 310_532, 571_664),
        ("crnn-desed", {"kernel": 5}, 292_099, 313_604, 571_664),
        ("crnn-desed", {"kernel": 7}, 298_243, 319_748, 577_808),
        ("crnn-desed", {"separable": False}, 3_353_859, 3_375_620, 3_636_752),
        # Variants that round to the 3.5 million which a later report calls typical.
        ("crnn", {"hidden": 64, "layers": 2, "bidirectional": True}, 3_484_035, None, None),
        ("crnn", {"hidden": 192}, 3_545_283, None, None),
        ("crnn", {"hidden": 128, "layers": 2}, 3_533_187, None, None),
    ],
)
def test_parameters(name, options, at_3, at_4, at_16):
    for classes, wanted in ((3, at_3), (4, at_4), (16, at_16)):
        if wanted is not None:
            with torch.device("meta"):
                assert parameters(create_network(name, classes=classes, **options)) == wanted


@pytest.mark.parametrize(
    ("name", "options", "macs"),
    [
        ("crnn", {}, 4_360_699_904),
        ("crnn", {"separable": True}, 1_021_640_704),
        ("crnn-desed", {}, 987_627_520),
        ("crnn-desed", {"kernel": 5}, 1_074_921_472),
        ("crnn-desed", {"kernel": 7}, 1_207_042_048),
    ],
)
def test_operations_of_ten_seconds(name, options, macs):
    with torch.device("meta"):
        net = create_network(name, **options)
        assert count(net, net.example(1)).total == macs


def test_trunks_and_shapes():
    with torch.device("meta"):
        plain, light = create_network("crnn"), create_network("crnn-desed")
    trunk = ("block1", "block2", "block3")
    assert sum(parameters(plain.stage(name)) for name in trunk) == 3_285_504
    assert [parameters(light.stage(name)) for name in trunk] == [73_472] * 3
    assert plain.boundary_shapes()["block3"] == {"main": (256, 256, 1)}
    assert light.boundary_shapes()["context"] == {"main": (256, 256, 85)}


def shaken(name, **options):
    """With running statistics of its own, in double precision."""
    torch.manual_seed(0)
    net = create_network(name, **SMALL, **options).double()
    with torch.no_grad():
        net.train()(torch.randn(8, 1, 60, 8, dtype=torch.float64))
    return net.eval()


def touched(net, frames=256, at=128):
    """Offsets of the outputs that change with one frame of the input."""
    x = torch.randn(1, 1, frames, 8, dtype=torch.float64)
    other = x.clone()
    other[:, :, at] += 1.0
    with torch.no_grad():
        a, b = net(x), net(other)
    changed = (a != b).any(2) if a.ndim == 3 else (a != b).any(3).any(1)
    return changed[0].nonzero()[:, 0] - at


def test_what_a_frame_depends_on():
    """Two convolutions of five taps here, so two frames less on either side than the paper's three give."""
    crnn = touched(shaken("crnn", hidden=5))
    assert crnn.min() == -4 and crnn.max() > 20  # a GRU carries on
    trunk = touched(shaken("crnn", hidden=5).before("block2"))
    assert (trunk.min(), trunk.max()) == (-4, 4)
    near = touched(shaken("crnn-desed", maps=5, dilation=1))
    assert near.tolist() == list(range(-5, 6))
    far = touched(shaken("crnn-desed", maps=5, dilation=50)).tolist()
    assert far == [offset + tap for tap in (-50, 0, 50) for offset in range(-4, 5)]


@pytest.mark.parametrize(("name", "delay"), [("crnn", 4), ("crnn-desed", 4 + 10)])
@pytest.mark.parametrize("frozen", [False, True])
def test_frames_on_a_stream(name, delay, frozen):
    net = shaken(name)
    stream = sentio.stream(net, frozen=frozen)
    assert (stream.hop, stream.delay, stream.stride) == (1, delay, 1)
    x = torch.randn(2, 1, 70, 8, dtype=torch.float64)
    state, given = None, []
    for frame in x.unbind(2):
        output, valid, state = stream.step(frame, state)
        if valid.all():
            given.append(output)
    with torch.no_grad():
        want = net(x)
    got = torch.cat(given, 1)
    # The clip's last answers read padding in place of frames that a stream still waits for.
    assert got.shape == (2, 70 - delay, 3)
    torch.testing.assert_close(got, want[:, : 70 - delay], rtol=1e-10, atol=1e-12)


def test_a_clip_s_answer_is_the_mean_of_its_frames():
    net = shaken("crnn-desed")
    clip = create_network("crnn-desed", **SMALL, answer="clip").double().eval()
    clip.load_state_dict(net.state_dict())
    x = torch.randn(3, 1, 40, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(clip(x), net(x).mean(1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("crnn", {"bands": 64}, "has to leave one of 64 bands; their product is 40"),
        ("crnn-desed", {"bands": 64}, "has to leave one of 64 bands"),
        ("crnn", {"hidden": 0}, "at least one layer of one"),
        ("crnn-desed", {"kernel": 4}, "an odd kernel of at most 256"),
        ("crnn-desed", {"answer": "words"}, "answer"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        create_network(name, **options)


def test_a_gru_both_ways_cannot_stream():
    with pytest.raises(
        ConfigError, match=r"context.gru' \(GRU\) cannot run on a stream: it is bidirectional"
    ):
        sentio.stream(create_network("crnn", **SMALL, hidden=4, bidirectional=True))
