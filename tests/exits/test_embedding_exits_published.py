"""Exits that give embeddings: parameters and work of the metric-learning sheet, the backbone, behaviour."""

import pytest
import torch

import sentio
from sentio.core import registry
from sentio.core.errors import ConfigError, InputError
from sentio.tasks.metrics.verification import pair_distances

torch.set_num_threads(1)
TAPS = ("unit4", "unit9", "unit13")
SHAPES = ((128, 28, 28), (256, 14, 14), (256, 14, 14))
WHOLE = 6_296_485_888


def on_meta(kind):
    """IR-50 with an exit of a kind at the sheet's places."""
    with torch.device("meta"):
        net = sentio.create_network("ir-50")
        return net if kind is None else sentio.add_exits(net, kind, at=TAPS, classes=512)


def face():
    return torch.empty(1, 3, 112, 112, device="meta")


def test_the_backbone_has_the_published_layers():
    net = on_meta(None)
    assert sum(p.numel() for p in net.parameters()) == 43_574_976
    found = sentio.profile(net, face(), measure=False)
    assert found.macs == WHOLE
    share = {row.name: round(100 * row.cumulative_macs / WHOLE, 1) for row in found.rows}
    names = ("unit3", "unit4", "unit7", "unit8", "unit9", "unit12", "unit13", "unit21")
    assert [share[name] for name in names] == [16.9, 22.5, 33.5, 39.1, 42.8, 53.8, 57.5, 86.8]
    shapes = net.boundary_shapes(face())
    assert tuple(shapes[tap]["main"] for tap in TAPS) == SHAPES
    assert net.stage_names == ("stem", *(f"unit{n}" for n in range(1, 25)), "head")


@pytest.mark.parametrize(
    ("kind", "parameters", "work"),
    [
        ("linear-regressor", (65_536, 131_072, 131_072), (65_536, 131_072, 131_072)),
        (
            "bag-of-features",
            (327_681, 393_217, 393_217),
            (51_380_224 + 262_144, 14 * 14 * 512 * 256 + 262_144, 14 * 14 * 512 * 256 + 262_144),
        ),
    ],
)
def test_parameters_and_work_of_every_published_exit(kind, parameters, work):
    rows = [row for row in sentio.profile(on_meta(kind), face(), measure=False).rows if row.kind == "exit"]
    assert tuple(row.parameters for row in rows) == parameters
    assert tuple(row.macs for row in rows) == work
    assert [row.output_shapes for row in rows] == [{"main": (512,)}] * 3


@pytest.mark.parametrize(("channels", "outputs", "codewords"), [(3, 5, 7), (256, 512, 512)])
def test_closed_form_of_the_parameters(channels, outputs, codewords):
    with torch.device("meta"):
        branch = registry.build("exit", "bag-of-features", ((channels, 4, 4),), outputs, codewords=codewords)
    assert sum(p.numel() for p in branch.parameters()) == (channels + outputs) * codewords + 1


def test_the_head_is_tied_to_its_size():
    net = sentio.create_network("ir-50", classes=5, size=(32, 48), width=4, depths=(1, 1, 1, 1)).eval()
    assert net(torch.randn(2, 3, 32, 48)).shape == (2, 5)
    with pytest.raises(InputError, match="give option 'size'"):
        net(torch.randn(2, 3, 48, 48))
    with pytest.raises(ConfigError, match="from 16x16 up, got 8x112"):
        sentio.create_network("ir-50", size=(8, 112))
    with pytest.raises(ConfigError, match=r"four groups of one unit or more, got depths \[1, 2\]"):
        sentio.create_network("ir-50", depths=(1, 2))


@pytest.mark.parametrize("kind", ["raw", "linear-regressor", "bag-of-features"])
@pytest.mark.parametrize("shape", [(6, 5, 7), (6, 2, 3, 4), (9, 6), (6,)])
def test_takes_maps_tokens_and_vectors_of_any_size(kind, shape):
    options = {"codewords": 4} if kind == "bag-of-features" else {}
    branch = registry.build("exit", kind, (shape,), 8, **options)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    assert branch(x).shape == (3, 8)
    if len(shape) > 2:
        torch.testing.assert_close(branch(x.repeat(1, 1, *[2] * (len(shape) - 1))), branch(x))


def test_raw_is_the_mean_and_zeros_change_no_distance():
    branch = registry.build("exit", "raw", ((6, 5, 7),), 8)
    x = torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    assert list(branch.parameters()) == []
    assert torch.equal(branch(x)[:, :6], x.flatten(2).mean(2)) and not branch(x)[:, 6:].any()
    bare, filled = x.flatten(2).mean(2).numpy(), branch(x).numpy()
    assert pair_distances(filled[:2], filled[2:]) == pytest.approx(pair_distances(bare[:2], bare[2:]))
    with pytest.raises(ConfigError, match=r"gives the 6 channels that it reads, and .* has only 4"):
        registry.build("exit", "raw", ((6, 5, 7),), 4)


@pytest.mark.parametrize("kind", ["raw", "linear-regressor", "bag-of-features"])
def test_reads_one_tensor(kind):
    with pytest.raises(ConfigError, match=f"Exit '{kind}' reads one tensor, got 2"):
        registry.build("exit", kind, ((6, 5, 7), (6,)), 8)
    with pytest.raises(ConfigError, match="without axes"):
        registry.build("exit", kind, ((),), 8)


def test_a_linear_regressor_may_have_a_bias():
    branch = registry.build("exit", "linear-regressor", ((6, 5, 7),), 8, bias=True)
    assert sum(p.numel() for p in branch.parameters()) == 6 * 8 + 8


def test_a_codebook_of_none_is_refused():
    with pytest.raises(ConfigError, match="'codewords' of exit 'bag-of-features'"):
        registry.build("exit", "bag-of-features", ((6, 5, 7),), 8, codewords=0)
