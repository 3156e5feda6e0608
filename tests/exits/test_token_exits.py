"""Exits for transformers and exits that read two senses: the sheets' identities, options, refusals."""

import re

import pytest
import torch
from torch import nn

import sentio
from sentio.core import registry
from sentio.core.errors import ConfigError, InputError
from sentio.core.staged import create_network

torch.set_num_threads(1)
CNN = ("cnn-ignore-ee", "cnn-add-ee", "cnn-project-ee")
TOKENS = (*CNN, "mlp-ee", "vit-ee", "mlp-mixer-ee", "resmlp-ee")


def exit_of(kind, *shapes, outputs=3, **options):
    torch.manual_seed(0)
    return registry.build("exit", kind, shapes, outputs, **options).double().eval()


def tokens(count=17, width=8, seed=1):
    return torch.randn(2, count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shuffled_patches(x):
    order = torch.randperm(x.shape[1] - 1, generator=torch.Generator().manual_seed(2))
    return torch.cat([x[:, :1], x[:, 1:][:, order]], 1)


def test_cnn_add_is_cnn_ignore_where_the_class_token_is_zero():
    ignore, add = exit_of("cnn-ignore-ee", (17, 8)), exit_of("cnn-add-ee", (17, 8))
    add.load_state_dict(ignore.state_dict())
    x = tokens()
    assert not torch.allclose(ignore(x), add(x))
    x[:, 0] = 0
    assert torch.equal(ignore(x), add(x))


def test_each_exit_reads_the_tokens_that_it_says():
    x = tokens()
    other_class, other_patches = x.clone(), x.clone()
    other_class[:, 0, 0] += 1
    other_patches[:, 1:, 0] += 1
    ignore, mlp = exit_of("cnn-ignore-ee", (17, 8)), exit_of("mlp-ee", (17, 8))
    assert torch.equal(ignore(x), ignore(other_class))
    assert torch.equal(mlp(x), mlp(other_patches))
    assert not torch.allclose(ignore(x), ignore(other_patches))
    assert not torch.allclose(mlp(x), mlp(other_class))


def test_cnn_project_with_equal_halves_is_cnn_add():
    add, project = exit_of("cnn-add-ee", (17, 8)), exit_of("cnn-project-ee", (17, 8))
    state = add.state_dict()
    state["cnn.conv.weight"] = state["cnn.conv.weight"].repeat(1, 2, 1, 1)
    project.load_state_dict(state)
    torch.testing.assert_close(project(tokens()), add(tokens()))


def test_only_vit_ee_does_not_mind_the_order_of_patches():
    x = tokens()
    for kind in TOKENS:
        branch = exit_of(kind, (17, 8))
        same = torch.allclose(branch(x), branch(shuffled_patches(x)), atol=1e-12)
        assert same == (kind in ("vit-ee", "mlp-ee")), kind


def test_mixing_layers_without_their_last_layers_are_the_mean():
    x = tokens()
    res, mixer = exit_of("resmlp-ee", (17, 8)), exit_of("mlp-mixer-ee", (17, 8))
    for affine in (res.layer.after1, res.layer.after2):
        nn.init.zeros_(affine.alpha)
    for layers in (mixer.layer.across, mixer.layer.along):
        nn.init.zeros_(layers[2].weight)
        nn.init.zeros_(layers[2].bias)
    for branch in (res, mixer):
        assert torch.equal(branch(x), branch.head(x.mean(1)))


def test_resmlp_layer_is_its_formula():
    layer = exit_of("resmlp-ee", (17, 8)).layer
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "alpha" in name or "beta" in name:
                parameter.normal_()
    x = tokens()

    def aff(norm, value):
        return norm.alpha * value + norm.beta

    mixed = torch.einsum("st,btc->bsc", layer.across.weight, aff(layer.before1, x))
    u = x + aff(layer.after1, mixed + layer.across.bias[:, None])
    torch.testing.assert_close(layer(x), u + aff(layer.after2, layer.along(aff(layer.before2, u))))


def test_patches_lie_in_raster_order():
    """One bright patch of a picture is one bright cell of the map that the convolution is given."""
    net = create_network(
        "vit-b16", classes=3, size=(32, 48), patch=8, stride=8, dim=16, layers=1, heads=2
    ).double()
    picture = torch.zeros(1, 3, 32, 48, dtype=torch.float64)
    picture[:, :, 8:16, 24:32] = 1
    dark = net.before("patches")(torch.zeros_like(picture))
    difference = net.before("patches")(picture) - dark
    changed = difference.abs().sum(2)[0].nonzero().flatten().tolist()
    assert changed == [1 + 1 * 6 + 3]
    branch = exit_of("cnn-ignore-ee", (25, 16), grid=(4, 6))
    seen = []
    branch.cnn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    branch(difference)
    assert seen[0].shape == (1, 16, 4, 6)
    assert seen[0].abs().sum(1)[0].nonzero().tolist() == [[1, 3]]


def test_a_map_is_read_as_its_mean_and_its_positions():
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    as_tokens = torch.cat([x.flatten(2).mean(2, keepdim=True), x.flatten(2)], 2).transpose(1, 2)
    for kind in TOKENS:
        ours, theirs = exit_of(kind, (8, 4, 4)), exit_of(kind, (17, 8))
        torch.testing.assert_close(ours(x), theirs(as_tokens), msg=kind)


def test_cnn_exits_ask_for_the_grid_where_patches_are_no_square():
    with pytest.raises(ConfigError, match=r"how 12 patches lie behind 1 special tokens; give .*grid="):
        exit_of("cnn-add-ee", (13, 8))
    with pytest.raises(ConfigError, match="must hold 12 patches"):
        exit_of("cnn-add-ee", (13, 8), grid=(3, 5))
    assert exit_of("cnn-add-ee", (14, 8), special=2, grid=(3, 4))(tokens(14)).shape == (2, 3)
    with pytest.raises(ConfigError, match="'special' of exit 'cnn-add-ee'"):
        exit_of("cnn-add-ee", (13, 8), special=0)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("vit-ee", {"heads": 3}, "3 heads do not divide the width 8"),
        ("vit-ee", {"ratio": 0}, "'ratio' of exit 'vit-ee' must be above 0"),
        ("vit-ee", {"ratio": "4"}, "'ratio' of exit 'vit-ee' must be above 0, got '4'"),
        ("vit-ee", {"ratio": float("inf")}, "'ratio' of exit 'vit-ee' must be above 0"),
        ("cnn-add-ee", {"grid": 4}, "'grid' of exit 'cnn-add-ee' must hold 16 patches .* got 4"),
        ("cnn-add-ee", {"grid": (2.0, 8.0)}, "'grid' of exit 'cnn-add-ee' must hold 16 patches"),
        ("cnn-add-ee", {"grid": (-4, -4)}, "'grid' of exit 'cnn-add-ee' must hold 16 patches"),
        ("mlp-ee", {"hidden": 0}, "'hidden' of exit 'mlp-ee'"),
        ("mlp-mixer-ee", {"token_hidden": 0}, "'token_hidden'"),
        ("resmlp-ee", {"channel_hidden": -1}, "'channel_hidden'"),
        ("resmlp-ee", {"dropout": 1.5}, "'dropout'"),
        ("cnn-project-ee", {"filters": 0}, "'filters'"),
    ],
)
def test_options_out_of_range_are_refused_in_one_sentence(kind, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        exit_of(kind, (17, 8), **options)
    assert ". " not in str(error.value)


@pytest.mark.parametrize("kind", TOKENS)
def test_vectors_and_several_tensors_are_refused(kind):
    with pytest.raises(ConfigError, match=re.escape("got shape (8,)")):
        exit_of(kind, (8,))
    with pytest.raises(ConfigError, match="reads one tensor, got 2"):
        exit_of(kind, (17, 8), (17, 8))


@pytest.mark.parametrize("kind", [*CNN, "mlp-mixer-ee", "resmlp-ee"])
def test_another_number_of_tokens_is_refused(kind):
    with pytest.raises(InputError, match=rf"Exit '{kind}' was built for features of shape \(17, 8\)"):
        exit_of(kind, (17, 8))(tokens(26))


def test_mixer_may_have_a_norm_before_the_mean():
    branch = exit_of("mlp-mixer-ee", (17, 8), norm=True)
    x = tokens()
    torch.testing.assert_close(branch(x), branch.head(branch.norm(branch.layer(x)).mean(1)))


# Exits that read two senses


def test_the_shared_token_is_a_patch_of_the_tiled_vector():
    branch = exit_of("av-sl-vit", (6, 8, 8), (6,), patch=4, dim=4, heads=3)
    vector = torch.randn(2, 6, dtype=torch.float64)
    tiled = vector.repeat(1, 4 * 4)  # row, column, channel
    torch.testing.assert_close(branch._token(vector), branch.embedding.linear(tiled))


def test_av_sl_vit_without_its_last_token_is_sl_vit():
    both = exit_of("av-sl-vit", (6, 8, 8), (5,), patch=4, dim=4, heads=3)
    alone = exit_of("sl-vit", (6, 8, 8), patch=4, dim=4, heads=3)
    state = {k: v for k, v in both.state_dict().items() if k in alone.state_dict()}
    state["position"], state["head.1.weight"] = state["position"][:4], state["head.1.weight"][:, :16]
    alone.load_state_dict(state)
    seen = []
    both.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    alone.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x, vector = torch.randn(2, 6, 8, 8).double(), torch.randn(2, 5).double()
    both(x, vector), alone(x)
    assert seen[0].shape == (2, 5, 4)
    assert torch.equal(seen[0][:, :4], seen[1])
    torch.testing.assert_close(seen[0][:, 4], both.projection(vector) + both.position[4])


def test_any_visual_layer_goes_with_any_sound_layer():
    net = create_network("audio-csrnet", width=4, size=(32, 32), audio_size=(32, 16), answer="count").eval()
    pairs = [(v, a) for v in ("visual2", "visual3", "visual4") for a in ("audio1", "audio3", "audio4")]
    multi = sentio.add_exits(
        net,
        "av-sl-vit",
        at=[a for _, a in pairs],
        names=[f"{v}+{a}" for v, a in pairs],
        reads=[[(v, "main"), (a, "audio")] for v, a in pairs],
        classes=1,
    ).eval()
    x = net.example(2)
    with torch.no_grad():
        outputs = multi(x)
        silent = multi({**x, "audio": torch.zeros_like(x["audio"])})
    assert set(outputs) == {*(f"{v}+{a}" for v, a in pairs), "final"}
    for name, output in outputs.items():
        assert output.shape == (2, 1)
        assert not torch.equal(output, silent[name]), name


def test_sound_scales_and_shifts_the_convolution_of_cnn_ee():
    branch = exit_of("cnn-ee", (6, 8, 8), (5,), padding=1)
    x, vector = torch.randn(2, 6, 8, 8).double(), torch.randn(2, 5).double()
    gamma, beta = branch.film.linear(vector).chunk(2, 1)
    normed = branch.bn(branch.conv(x))
    expected = branch.head(branch.pool((gamma[..., None, None] * normed + beta[..., None, None]).relu()))
    torch.testing.assert_close(branch(x, vector), expected)
    assert [name for name, _ in branch.bn.named_parameters()] == []


@pytest.mark.parametrize("kind", ["cnn-ee", "av-sl-vit"])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (5, 3, 4)])
def test_the_other_sense_is_averaged_to_a_vector(kind, shape):
    branch = exit_of(kind, (6, 8, 8), shape)
    x, other = torch.randn(2, 6, 8, 8).double(), torch.randn(2, *shape).double()
    mean = {1: lambda t: t, 2: lambda t: t.mean(1), 3: lambda t: t.mean((2, 3))}[len(shape)](other)
    torch.testing.assert_close(branch(x, other), branch(x, mean))


def test_av_sl_vit_refuses_what_it_cannot_read():
    with pytest.raises(ConfigError, match="reads two tensors, a map and another sense, got 1"):
        exit_of("av-sl-vit", (6, 8, 8))
    with pytest.raises(ConfigError, match="cannot share the embedding of 6 channels with a vector of 5"):
        exit_of("av-sl-vit", (6, 8, 8), (5,), token="shared")
    with pytest.raises(ConfigError, match="'token' of exit 'av-sl-vit' is shared or own"):
        exit_of("av-sl-vit", (6, 8, 8), (6,), token="tiled")
    with pytest.raises(ConfigError, match="Patches of 3x3 do not divide the 8x8 map of exit 'av-sl-vit'"):
        exit_of("av-sl-vit", (6, 8, 8), (6,), patch=3)
    with pytest.raises(ConfigError, match="without axes"):
        exit_of("av-sl-vit", (6, 8, 8), ())


def test_several_convolutions_keep_the_map_behind_the_first():
    branch = exit_of("cnn-ee", (6, 12, 12), convolutions=3, kernel=5, dilation=2, padding=4)
    x = torch.randn(2, 6, 12, 12).double()
    maps = branch.act(branch.conv(x))
    assert branch.more(maps).shape == maps.shape
    with pytest.raises(ConfigError, match="needs an odd kernel, got 4"):
        exit_of("cnn-ee", (6, 12, 12), convolutions=2, kernel=4)
