"""Convolution, pooling and padding: what a stream gives is what PyTorch's layer gives for the clip."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

import sentio
from sentio.core.errors import ConfigError

torch.set_num_threads(1)
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
AVERAGES = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
MAXIMA = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
QUICK = settings(deadline=None, max_examples=60)


def hold_to(got, want, dtype=torch.float64):
    """Equal to the clip's first outputs, relative to the largest magnitude; all of them but the last few."""
    count = got.shape[2]
    assert count
    want = want.narrow(2, 0, count)
    assert got.shape == want.shape
    assert (got - want).abs().max() <= TOLERANCE[dtype] * want.abs().max()


def clip_for(dims, time, channels, *, axis=2, dtype=torch.float64, seed=0):
    sizes = [2, channels, *[5, 4, 6][:dims]]
    sizes[axis] = time
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype)


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 2, 4]))
    kernel, dilation, stride = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, dilation * (kernel - 1)))
    others = dims - 1
    module = CONVS[dims](
        4,
        draw(st.sampled_from([4, 8])),
        (kernel, *[draw(st.sampled_from([1, 3])) for _ in range(others)]),
        stride=(stride, *[draw(st.sampled_from([1, 2])) for _ in range(others)]),
        padding=(padding, *[draw(st.integers(0, 1)) for _ in range(others)]),
        dilation=(dilation, *[1] * others),
        groups=groups,
        bias=draw(st.booleans()),
    )
    return module, dims, draw(st.integers(1, 3))


@QUICK
@given(convolutions(), st.sampled_from([torch.float32, torch.float64]))
def test_a_convolution_equals_its_clip(on_stream, drawn, dtype):
    module, dims, hops = drawn
    module = module.to(dtype)
    hop = hops * module.stride[0]
    stream = sentio.stream(module, hop=hop, example=clip_for(dims, 40, 4, dtype=dtype))
    x = clip_for(dims, 48, 4, dtype=dtype)
    got = on_stream(stream, x)
    hold_to(got, module(x), dtype)
    # Every output whose window has come whole is there.
    span = module.dilation[0] * (module.kernel_size[0] - 1) + 1
    whole = (48 // hop * hop + module.padding[0] - span) // module.stride[0] + 1
    assert whole - 2 * hops < got.shape[2] <= whole
    assert stream.delay == span - 1 - module.padding[0]
    assert stream.receptive_field == span
    assert stream.stride == module.stride[0]


@QUICK
@given(
    dims=st.integers(1, 3),
    maximum=st.booleans(),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    ceil_mode=st.booleans(),
    data=st.data(),
)
def test_a_pool_equals_its_clip(on_stream, dims, maximum, kernel, stride, dilation, ceil_mode, data):
    padding = data.draw(st.integers(0, kernel // 2))
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    sides = [min(kernel, 3)] * (dims - 1)
    inner = {"stride": (stride, *sides), "padding": (padding, *[0] * (dims - 1)), "ceil_mode": ceil_mode}
    if maximum:
        module = MAXIMA[dims]((kernel, *sides), dilation=(dilation, *[1] * (dims - 1)), **inner)
    elif dims == 1:
        module = nn.AvgPool1d(kernel, **options)
    else:
        module = AVERAGES[dims]((kernel, *sides), **inner)
    x = clip_for(dims, 40, 3)
    hold_to(on_stream(sentio.stream(module, example=x), x), module(x))


@QUICK
@given(
    kernels=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 2)), min_size=2, max_size=4
    ),
    hops=st.integers(1, 2),
    dims=st.integers(1, 2),
)
def test_layers_in_a_row_see_zeros_of_their_own_before_the_start(on_stream, kernels, hops, dims):
    """The bias and the norm of a padded layer's predecessor must not reach into its padding."""
    torch.manual_seed(len(kernels))
    layers = []
    for kernel, dilation, stride in kernels:
        conv = CONVS[dims](
            3, 3, kernel, stride=stride, dilation=dilation, padding=dilation * (kernel - 1) // 2
        )
        norm = NORMS[dims](3)
        nn.init.normal_(norm.bias)
        layers += [conv, norm, nn.ReLU(), MAXIMA[dims](3, stride=1, padding=1)]
    net = nn.Sequential(*layers).double().eval()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn([2, 3, 192, *[40] * (dims - 1)], generator=generator, dtype=torch.float64)
    stream = sentio.stream(net, example=x)
    stream = sentio.stream(net, example=x, hop=hops * stream.hop)
    hold_to(on_stream(stream, x), net(x))


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_padding_and_another_axis_of_time(on_stream, axis, padding):
    conv = nn.Conv2d(3, 4, (4, 3), padding=padding).double()
    x = clip_for(2, 20, 3, axis=axis)
    got, want = on_stream(sentio.stream(conv, axis=axis, example=x), x), conv(x)
    want = want.narrow(axis, 0, got.shape[axis])
    assert got.shape[axis] > 14
    assert torch.allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_causal_padding_delays_nothing(on_stream, value):
    net = nn.Sequential(nn.ConstantPad1d((4, 0), value), nn.Conv1d(3, 2, 5), nn.ConstantPad1d((2, 0), value))
    net = nn.Sequential(*net, nn.Conv1d(2, 2, 3)).double()
    x = clip_for(1, 20, 3)
    stream = sentio.stream(net, example=x)
    assert (stream.delay, stream.warm_up, stream.receptive_field) == (0, 0, 7)
    got = on_stream(stream, x)
    assert got.shape == net(x).shape
    hold_to(got, net(x))


def test_cropping_the_start_skips_units(on_stream):
    net = nn.Sequential(nn.ZeroPad2d((1, 1, -3, 0)), nn.Conv2d(3, 2, 3, stride=(2, 1))).double()
    x = clip_for(2, 24, 3)
    hold_to(on_stream(sentio.stream(net, example=x), x), net(x))


def test_the_clip_has_start_padding_and_no_end_padding():
    conv = nn.Conv1d(3, 2, 5, padding=2).double()
    x = clip_for(1, 20, 3)
    clip = sentio.stream(conv, example=x).clip(x)
    assert clip.shape == (2, 2, 18)
    assert torch.allclose(clip, conv(x)[:, :, :18], rtol=0, atol=1e-12)


def test_strides_fix_the_hop():
    net = nn.Sequential(nn.Conv1d(2, 2, 3, stride=2), nn.AvgPool1d(3), nn.Conv1d(2, 2, 2, stride=2))
    assert sentio.stream(net).hop == 12
    with pytest.raises(ConfigError, match="stride 12; use a multiple"):
        sentio.stream(net, hop=6)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), "padding_mode 'circular'"),
        (nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect"), "padding_mode 'reflect'"),
        (nn.AvgPool1d(3, padding=1, count_include_pad=False), "count_include_pad"),
        (nn.MaxPool1d(2, return_indices=True), "return_indices"),
        (nn.ReflectionPad1d(2), "ReflectionPad1d"),
        (nn.ConvTranspose1d(2, 2, 3), "ConvTranspose1d"),
        (nn.Upsample(scale_factor=2), "Upsample"),
    ],
)
def test_what_needs_the_future_is_refused_by_name(module, reason):
    with pytest.raises(ConfigError, match=r"Layer '1' .* cannot run on a stream: ") as caught:
        sentio.stream(nn.Sequential(nn.ReLU(), module), example=torch.zeros(1, 2, 20))
    assert reason in str(caught.value)


def test_a_layer_of_other_axes_is_refused():
    with pytest.raises(ConfigError, match="it takes 4 axes, and here are 3"):
        sentio.stream(nn.Conv2d(2, 2, 3), example=torch.zeros(1, 2, 20))
    with pytest.raises(ConfigError, match="time is axis 1, over which it does not slide"):
        sentio.stream(nn.Conv1d(2, 2, 3), axis=1)


@pytest.mark.parametrize("frozen", [False, True])
def test_what_stands_in_padding_goes_through_the_layers_behind_it(on_stream, frozen):
    """A 1×1 convolution makes its bias of the zeros that were padded."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.ZeroPad1d((2, 0)), nn.Conv1d(2, 3, 1), nn.Conv1d(3, 2, 3)).double()
    x = clip_for(1, 12, 2)
    stream = sentio.stream(net, example=x, frozen=frozen)
    got = on_stream(stream, x)
    assert got.shape[2] == 10
    hold_to(got, net(x))


def test_padding_by_nothing_leaves_what_was_padded_before(on_stream):
    net = nn.Sequential(nn.ConstantPad1d((2, 0), 1.5), nn.ZeroPad1d((0, 1)), nn.Conv1d(2, 2, 3)).double()
    x = clip_for(1, 12, 2)
    hold_to(on_stream(sentio.stream(net, example=x), x), net(x))
    both = nn.Sequential(nn.ConstantPad2d((0, 0, 2, 0), 1.5), nn.ZeroPad2d((1, 1, 0, 0)), nn.Conv2d(2, 2, 3))
    with pytest.raises(ConfigError, match=r"\(ZeroPad2d\) .* pads with 0 what was padded with 1.5 before"):
        sentio.stream(both, example=clip_for(2, 12, 2))


@pytest.mark.parametrize("padding", [1, "same"])
def test_padding_with_the_clip_itself_is_refused_however_it_is_said(padding):
    module = nn.Conv1d(2, 2, 3, padding=padding, padding_mode="circular")
    with pytest.raises(ConfigError, match=r"Conv1d cannot run on a stream: padding_mode 'circular'"):
        sentio.stream(module)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", [nn.ReflectionPad2d, nn.CircularPad2d, nn.ReplicationPad2d])
def test_padding_with_what_is_there_streams_over_other_axes_than_time(on_stream, kind, frozen):
    net = nn.Sequential(nn.Conv2d(2, 2, (2, 1)), kind((1, 2, 0, 0)), nn.Conv2d(2, 3, 3)).double()
    x = clip_for(2, 12, 2)
    hold_to(on_stream(sentio.stream(net, example=x, frozen=frozen), x), net(x))
    with pytest.raises(ConfigError, match=rf"\({kind.__name__}\) .* units that have not come yet"):
        sentio.stream(nn.Sequential(nn.ReLU(), kind((1, 1, 1, 0))), example=x)
    over_bands = nn.Conv2d(2, 2, (2, 3), padding=(0, 1), padding_mode="reflect")
    with pytest.raises(ConfigError, match="'reflect' is known as a layer of its own alone"):
        sentio.stream(over_bands, example=x)


@pytest.mark.parametrize("window", range(5, 12))
def test_a_window_has_as_many_units_behind_a_pool_as_pytorch_gives(on_stream, window):
    """With ceil_mode no window begins behind the last unit."""
    net = nn.Sequential(nn.MaxPool1d(1, stride=3, ceil_mode=True), nn.AdaptiveAvgPool1d(1)).double()
    x = clip_for(1, 30, 2)
    got = on_stream(sentio.stream(net, window=window, example=x), x)
    want = torch.stack([net(x[:, :, t : t + window]) for t in range(0, 30 - window + 1, 3)], 1)
    assert torch.allclose(got[:, : want.shape[1]], want, rtol=0, atol=1e-12)


def test_weights_that_a_hook_makes_are_those_of_now(on_stream):
    """The convolution itself is never called, so hooks in front of it were not."""
    nets = [nn.Sequential(prune.l1_unstructured(nn.Conv1d(2, 2, 3), "weight", 0.5)) for _ in range(2)]
    x = clip_for(1, 12, 2, dtype=torch.float32)
    stream = sentio.stream(nets[0], example=x)
    nets[0].load_state_dict(nets[1].state_dict())
    hold_to(on_stream(stream, x), nets[1](x), torch.float32)
    for _ in range(2):  # the graph of a weight that was made once would be gone
        stream.clip(x).sum().backward()


def test_the_clip_gives_no_window_that_its_end_cuts_short(on_stream):
    """With ceil_mode the last one was of what there was, which a stream never gives."""
    net = nn.Sequential(nn.MaxPool1d(2, ceil_mode=True), nn.Conv1d(2, 2, 2)).double()
    x = clip_for(1, 21, 2)
    stream = sentio.stream(net, example=x)
    got = on_stream(stream, x)
    assert stream.clip(x).shape[2] == got.shape[2] == 9
    assert torch.allclose(stream.clip(x), got, rtol=0, atol=1e-12)
