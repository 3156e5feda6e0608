"""X3D and Slow a frame at a time: CoX3D and CoSlow, with the clip network's weights and answers."""

import pytest
import torch

import sentio
from sentio.core.errors import ConfigError
from sentio.core.staged import create_network

torch.set_num_threads(1)
SIZES = {
    "x3d-s": {"classes": 4, "width": 8, "blocks": [1, 2, 2, 1], "hidden": 16, "squeeze": "frame"},
    "slow": {"classes": 4, "width": 4, "blocks": [1, 1, 2, 2]},
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def build(name, dtype=torch.float64, **options):
    torch.manual_seed(0)
    net = create_network(name, **{**SIZES[name], **options})
    net.input_shapes = {"main": (3, 4, 32, 32)}
    with torch.no_grad():
        for seed in range(3):
            net.train()(net.example(4, seed=seed))
    return net.to(dtype).eval()


def video(frames, dtype=torch.float64, batch=1, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, frames, 32, 32, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "last", "delay"), [("x3d-s", "features", 8), ("slow", "res5", 4)])
def test_features_are_those_of_the_padded_clip(on_stream, name, last, delay, dtype):
    """Output t of the stream is frame t of the clip; only the last frames of a clip see its end."""
    net = build(name, dtype).before(last)
    stream = sentio.stream(net)
    x = video(26, dtype, batch=2)
    got = on_stream(stream, x)
    with torch.no_grad():
        want = net(x)
    assert stream.delay == stream.warm_up == delay
    assert got.shape[2] == 26 - delay
    error = (got - want[:, :, : 26 - delay]).abs().max() / want.abs().max()
    assert error <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SIZES)
def test_answers_equal_the_clip_form(on_stream, name, dtype):
    stream = sentio.stream(build(name, dtype), window=5)
    x = video(20, dtype)
    got, want = on_stream(stream, x), stream.clip(x)
    count = got.shape[1]
    assert count == 20 - stream.warm_up >= 3
    assert (got - want[:, :count]).abs().max() <= TOLERANCE[dtype] * want.abs().max()


def test_squeeze_over_the_clip_is_asked_for_by_frame(on_stream):
    """A network that was trained over the clip streams with the same weights as the one by the frame."""
    clip, frame = build("x3d-s", squeeze="clip"), build("x3d-s")
    frame.load_state_dict(clip.state_dict())
    with pytest.raises(ConfigError, match=r"SqueezeExcitation.*squeeze='frame'"):
        sentio.stream(clip)
    x = video(14)
    got = on_stream(sentio.stream(clip, squeeze="frame"), x)
    assert torch.equal(got, on_stream(sentio.stream(frame), x))
    assert not torch.allclose(clip(x), frame(x))


def test_a_still_picture_gives_one_answer_once_the_start_is_forgotten(on_stream):
    """Behind the receptive field, frames before the stream no longer count; the mean of equals is one."""
    net = build("x3d-s")
    short, long = (sentio.stream(net, window=window) for window in (1, 6))
    x = video(1).expand(-1, -1, 30, -1, -1)
    settled = [on_stream(stream, x)[:, -1] for stream in (short, long)]
    assert torch.allclose(*settled, rtol=0, atol=1e-12)
    assert torch.allclose(on_stream(long, x)[:, -4:], settled[1][:, None], rtol=0, atol=1e-12)


def test_a_stream_begun_later_agrees_behind_the_receptive_field(on_stream):
    net = build("x3d-s").before("features")
    stream = sentio.stream(net)
    x = video(34)
    whole, late = on_stream(stream, x), on_stream(stream, x[:, :, 5:])
    # The late stream's own first outputs see zeros where the other saw frames.
    differ = (whole[:, :, 5:] - late).abs().amax((0, 1, 3, 4))
    reach = (int(stream.receptive_field) - 1) // 2
    assert differ[0] > 1e-6
    assert differ[reach:].max() <= 1e-12


def test_two_streams_that_take_turns_do_not_mix():
    stream = sentio.stream(build("slow"), window=2)
    videos = [video(14, seed=seed) for seed in (1, 2)]
    states, apart = [None, None], [None, None]
    for frame in range(14):
        for row in (0, 1):
            turn = stream.step(videos[row][:, :, frame], states[row])
            states[row] = turn.state
    for row in (0, 1):
        for frame in range(14):
            alone = stream.step(videos[row][:, :, frame], apart[row])
            apart[row] = alone.state
        assert alone.state.keys() == states[row].keys()
        assert all(torch.equal(alone.state[key], states[row][key]) for key in states[row])


def test_a_frame_costs_a_frame():
    net = build("x3d-s")
    clip = sentio.core.counting.count(net, net.example()).total
    assert sentio.stream(net).macs().total < clip / 3
