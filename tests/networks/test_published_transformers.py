"""Transformers against the figures of their sheet, thesis and papers; large ones on the meta device."""

import pytest
import torch

from sentio.core.counting import count
from sentio.core.errors import ConfigError, InputError
from sentio.core.multi_exit import add_exits
from sentio.core.staged import create_network, reset_classifier
from sentio.networks.mobilevit import SIZES
from sentio.networks.vit import DEIT_SIZES
from sentio.nn.patchout import draw_patchout

torch.set_num_threads(1)

SMALL = {"classes": 4, "size": (26, 20), "patch": 8, "stride": 6, "dim": 16, "layers": 2, "heads": 2}


def on_meta(name, **options):
    with torch.device("meta"):
        return create_network(name, **options).eval()


def numbers(net):
    return sum(p.numel() for p in net.parameters())


def macs(net, **named):
    image = torch.empty(1, *net.input_shapes["main"], device="meta")
    return count(net, {"main": image, **named} if named else image).total


def small(name="vit-medium", seed=0, **options):
    torch.manual_seed(seed)
    return create_network(name, **{**SMALL, **options}).double().eval()


def formula(tokens, special, patch, dim, layers, ratio, classes=10):
    n = tokens + special
    encoder = n * (4 * dim**2 + 2 * ratio * dim**2) + 2 * n**2 * dim
    return tokens * patch**2 * dim + layers * encoder + dim * classes


# Counts


def test_large():
    net = on_meta("vit-large")
    assert numbers(net) == 85_345_546
    assert numbers(net.stage("block1")) == 7_087_872
    patches, head = net.stage("patches"), net.stage("head")
    assert patches.grid == (9, 12)
    assert numbers(patches.conv) == 197_376
    assert patches.special.numel() == 768
    assert numbers(patches.positions) == (108 + 1) * 768 == 83_712
    assert numbers(head.norm) == 1_536
    assert numbers(head.fc) == 7_690


def test_large_macs_with_and_without_patchout():
    net = on_meta("vit-large")
    whole = macs(net)
    half = macs(net, keep=torch.empty(1, 54, dtype=torch.int64, device="meta"))
    assert whole == formula(108, 1, 16, 768, 12, 4)
    assert round(whole / 1e9, 3) == 9.498
    # All patches go through the convolution; half of them are then dropped.
    assert half == formula(54, 1, 16, 768, 12, 4) + 54 * 256 * 768
    assert round(half / 1e9, 3) == 4.748
    assert round(whole / half, 4) == 2.0003


def test_small():
    net = on_meta("vit-small")
    assert numbers(net) == 103_150
    assert net.stage("patches").grid == (8, 10)
    rows = [numbers(net.stage(name)) for name in net.stage_names]
    assert rows[1:5] == [22_200] * 4
    assert rows[0] == 8_700 + 60 + 81 * 60
    assert rows[5] == 120 + 610
    found = count(net, torch.empty(1, 1, 100, 128, device="meta"))
    assert found.total == formula(80, 1, 12, 60, 4, 1) == 10_839_480 < 30e6
    products = [found.of(f"stages.block{i}.attention") - 4 * 81 * 60**2 for i in range(1, 5)]
    assert sum(products) == 4 * 2 * 81**2 * 60 == 3_149_280
    assert numbers(net) / 1024 < 128 < 2 * numbers(net) / 1024


@pytest.mark.parametrize(
    ("layers", "ratio", "parameters", "overlapping", "apart"),
    [
        (7, 4, 5_625_354, 649.7, 281.5),
        (8, 3, 5_364_490, 627.2, 269.9),
        (8, 4, 6_415_114, 741.5, 321.3),
        (9, 3, 6_022_922, 704.7, 303.2),
        (9, 4, 7_204_874, 833.3, 361.0),
        (12, 2, 6_422_282, 765.8, 326.2),
        (12, 3, 7_998_218, 937.3, 403.3),
        (7, 2, 3_786_762, None, None),
        (7, 3, 4_706_058, None, None),
        (8, 2, 4_313_866, None, None),
        (9, 2, 4_840_970, None, None),
        (12, 4, 9_574_154, None, None),
    ],
)
@pytest.mark.parametrize("heads", [4, 8])
def test_medium(layers, ratio, heads, parameters, overlapping, apart):
    net = on_meta("vit-medium", layers=layers, ratio=ratio, heads=heads)
    assert numbers(net) == parameters
    assert net.boundary_shapes()["patches"]["main"] == (109, 256)
    if overlapping:
        assert round(macs(net) / 1e6, 1) == overlapping
        other = on_meta("vit-medium", layers=layers, ratio=ratio, heads=heads, stride=16)
        assert other.stage("patches").grid == (6, 8)
        assert round(macs(other) / 1e6, 1) == apart


def test_a_distillation_token_costs_a_token_a_position_and_a_head():
    plain, distilled = on_meta("vit-medium"), on_meta("vit-medium", head="deit")
    assert numbers(distilled) - numbers(plain) == 3_082
    assert distilled.boundary_shapes()["patches"]["main"] == (110, 256)


@pytest.mark.parametrize("frames", [98, 100, 101, 105])
def test_every_framing_of_a_second_gives_the_same_grid(frames):
    assert on_meta("vit-medium", size=(frames, 128)).stage("patches").grid == (9, 12)


def test_ast_on_audioset():
    net = on_meta("ast")
    assert numbers(net) == 86_594_063
    assert net.stage("patches").grid == (101, 12)
    assert net.boundary_shapes()["block12"]["main"] == (1_212 + 2, 768)


def test_passt_on_audioset():
    net = on_meta("passt")
    assert numbers(net) == 86_153_758
    assert net.boundary_shapes()["patches"]["main"] == (1_190, 768)
    positions = net.stage("patches").positions
    assert numbers(positions) == (99 + 12 + 2) * 768
    assert numbers(on_meta("passt", classes=10)) == 85_358_612
    # What the answer needs: the distillation token's own layer is for training.
    assert numbers(on_meta("passt", head="ast")) == 86_153_758 - (768 + 1) * 527


@pytest.mark.parametrize(
    ("options", "tokens"), [({}, 1_190), ({"tokens": 400}, 790), ({"time": 40, "frequency": 4}, 474)]
)
def test_tokens_of_passt_with_patchout(options, tokens):
    net = on_meta("passt", dim=12, heads=2, layers=1)
    keep = draw_patchout(net.stage("patches").grid, **options)
    with torch.device("meta"):
        shapes = net.before("patches")({"main": torch.empty(1, 1, 998, 128), "keep": keep.to("meta")})
    assert shapes.shape[1] == tokens


@pytest.mark.parametrize(
    ("size", "plain", "distilled"),
    [
        ("tiny", 5_717_416, 5_910_800),
        ("small", 22_050_664, 22_436_432),
        ("base", 86_567_656, 87_338_192),
    ],
)
def test_deit(size, plain, distilled):
    assert numbers(on_meta("deit", **DEIT_SIZES[size])) == distilled
    assert numbers(on_meta("deit", **DEIT_SIZES[size], head="class")) == plain


@pytest.mark.parametrize(
    ("size", "images", "audio"),
    [
        ("s", 5_578_632, 4_943_754),
        ("xs", 2_317_848, 1_936_410),
        ("xxs", 1_272_024, 953_946),
    ],
)
def test_mobilevit(size, images, audio):
    assert numbers(on_meta("mobilevit", **SIZES[size])) == images
    net = on_meta("mobilevit", **SIZES[size], in_channels=1, classes=10)
    net.input_shapes = {"main": (1, 100, 128)}
    assert numbers(net) == audio
    assert net.boundary_shapes()["features"]["main"][1:] == (4, 4)


# Invariants


def test_patches_may_come_in_any_order_with_their_positions():
    net = small()
    x = net.example(3).double()
    order = torch.stack([torch.randperm(12) for _ in range(3)])
    with torch.no_grad():
        torch.testing.assert_close(net({"main": x, "keep": order}), net(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("head", ["class", "deit", "ast"])
def test_patchout_of_nothing_is_the_plain_network(head):
    net = small(head=head)
    x = net.example(3).double()
    keep = draw_patchout(net.stage("patches").grid, batch=3)
    with torch.no_grad():
        assert torch.equal(net({"main": x, "keep": keep}), net(x))
        assert torch.equal(small(head=head, patchout=(1, 1), patchout_tokens=2)(x), net(x))
        assert torch.equal(small(head=head).train()(x), net(x))


def test_patchout_in_training_keeps_special_tokens_and_whole_columns():
    net = small(head="deit", patchout=(1, 2)).train()
    grid, x = net.stage("patches").grid, net.example(2).double()
    with torch.no_grad():
        whole = net.eval().before("patches")(x)
        some = net.train().before("patches")(x)
    assert whole.shape == (2, 2 + 12, 16)
    assert some.shape == (2, 2 + (grid[0] - 1) * (grid[1] - 2), 16)
    assert torch.equal(some[:, :2], whole[:, :2])
    rows = [next(i for i in range(12) if torch.equal(whole[0, 2 + i], token)) for token in some[0, 2:]]
    assert rows == sorted(rows)
    assert len({row % grid[1] for row in rows}) == grid[1] - 2


def test_patchout_in_training_follows_the_seed():
    net = small(patchout_tokens=6).train()
    x = net.example(2).double()
    torch.manual_seed(1)
    first = net(x)
    torch.manual_seed(1)
    assert torch.equal(net(x), first)
    assert not torch.equal(net(x), first)


def test_teacher_and_student_see_the_same_patches():
    teacher, student = small(dim=32), small(head="deit").train()
    x = teacher.example(4).double()
    keep = draw_patchout((4, 3), frequency=1, batch=4, generator=torch.Generator().manual_seed(0))
    other = draw_patchout((4, 3), frequency=1, batch=4, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(keep, other)
    with torch.no_grad():
        features = [net.before("block1")({"main": x, "keep": keep}) for net in (teacher, student)]
        assert [feature.shape[1] for feature in features] == [1 + 8, 2 + 8]
        same, different = (teacher({"main": x, "keep": given}) for given in (keep, other))
        assert torch.equal(small(dim=32).train()({"main": x, "keep": keep}), same)
    assert not torch.allclose(same, different)


def test_each_sample_may_keep_its_own_patches():
    net = small()
    x = net.example(2).double()
    keep = torch.tensor([[0, 3, 5], [1, 2, 11]])
    with torch.no_grad():
        together = net({"main": x, "keep": keep})
        alone = [net({"main": x[i : i + 1], "keep": keep[i : i + 1]}) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-13)


def test_disentangled_positions_equal_the_joint_table_of_their_sums():
    net, joint = small(positions="disentangled"), small()
    state = {name: value for name, value in net.state_dict().items() if "positions" not in name}
    joint.load_state_dict(state, strict=False)
    joint.stage("patches").positions = net.stage("patches").positions.joint()
    x = net.example(2).double()
    with torch.no_grad():
        torch.testing.assert_close(net(x), joint(x), rtol=0, atol=1e-14)
    # At the thesis' size 22 vectors in place of 109, the class token's own among the latter alone.
    assert numbers(on_meta("vit-large", positions="disentangled")) - 85_345_546 == (21 + 1 - 109) * 768


def test_disentangled_positions_take_shorter_clips_and_joint_ones_do_not():
    net, x = small(positions="disentangled"), torch.randn(2, 1, 20, 20).double()
    with torch.no_grad():
        assert net(x).shape == (2, 4)
    with pytest.raises(InputError, match=r"makes 3x3 patches .* for 4x3"):
        small()(x)
    with pytest.raises(InputError, match="makes 4x2 patches"):
        net(torch.randn(1, 1, 26, 14).double())
    with pytest.raises(InputError, match="makes 5x3 patches"):
        net(torch.randn(1, 1, 32, 20).double())
    with pytest.raises(InputError, match="smaller than a patch of 8x8"):
        net(torch.randn(1, 1, 7, 20).double())


# Heads


def test_deits_answer_is_the_mean_of_both_softmaxes():
    net = small(head="deit")
    x = net.example(3).double()
    with torch.no_grad():
        both = net.stage("head").separate(net.before("block2")(x))
        mean = (both["class"].softmax(-1) + both["distillation"].softmax(-1)) / 2
        torch.testing.assert_close(net(x).softmax(-1), mean, rtol=0, atol=1e-14)
        torch.testing.assert_close(net(x).exp(), mean, rtol=0, atol=1e-14)
    assert (both["class"] - both["distillation"]).abs().max() > 1e-3


def test_each_of_deits_heads_learns_on_its_own():
    net = small(head="deit").train()
    net.stage("head").separate(net.before("block2")(net.example(3).double()))["class"].sum().backward()
    assert net.stage("head").fc.weight.grad.any()
    assert net.stage("head").distillation.weight.grad is None


def test_passts_answer_is_one_layer_on_the_mean_of_both_tokens():
    net = small(head="passt", positions="disentangled")
    head = net.stage("head")
    x = net.example(3).double()
    with torch.no_grad():
        tokens = head.norm(net.before("block2")(x))
        expected = head.fc(head.head_norm((tokens[:, 0] + tokens[:, 1]) / 2))
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-14)
        assert set(head.separate(net.before("block2")(x))) == {"class", "distillation"}
    with pytest.raises(ConfigError, match="no layer of its own"):
        small(head="ast").stage("head").separate(tokens)


def test_a_new_classifier_keeps_the_last_norm():
    net = create_network("vit-medium", **SMALL)
    torch.nn.init.uniform_(net.stage("head").norm.weight)
    fresh = reset_classifier(net, 7)
    assert torch.equal(fresh.stage("head").norm.weight, net.stage("head").norm.weight)
    assert fresh.stage("head").fc.out_features == 7


# Exits on tokens


@pytest.mark.parametrize(
    ("kind", "options"),
    [("pooled-linear", {}), ("pooled-linear", {"over": "first"}), ("sl-vit", {"heads": 2})],
)
def test_exits_read_tokens_and_learn(kind, options):
    torch.manual_seed(0)
    net = add_exits(
        create_network("vit-medium", **SMALL), kind, at=["patches", "block1"], classes=4, **options
    )
    outputs = net.train()(net.backbone.example(4))
    assert [output.shape for output in outputs.values()] == [(4, 4)] * 3
    sum(output.square().mean() for output in outputs.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_an_exit_of_the_mean_works_while_patches_are_dropped():
    net = add_exits(
        create_network("vit-medium", **SMALL, patchout=(2, 1)), "pooled-linear", at=["block1"], classes=4
    )
    assert net.train()(net.backbone.example(2))["block1"].shape == (2, 4)
    tied = add_exits(
        create_network("vit-medium", **SMALL, patchout=(2, 1)), "sl-vit", at=["block1"], classes=4
    )
    with pytest.raises(InputError, match="built for features of shape"):
        tied.train()(tied.backbone.example(2))


def test_samples_leave_at_tokens():
    net = add_exits(create_network("vit-medium", **SMALL), "pooled-linear", at=["block1"], classes=4).eval()
    x = net.backbone.example(3)
    keep = draw_patchout((4, 3), time=1, batch=3)
    with torch.no_grad():
        whole = net({"main": x, "keep": keep})["final"]
        steps = []
        for step in net.anytime({"main": x, "keep": keep}):
            steps.append(step)
            if step.exit == "block1":
                step.drop(torch.tensor([True, False, True]).numpy())
    torch.testing.assert_close(steps[-1].output, whole[1:2])


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "3 heads do not divide tokens of width 16"),
        ({"size": (6, 20)}, "patch of 8x8 does not fit into size 6x20"),
        ({"size": 26}, "'size' is two whole numbers"),
        ({"dim": 0}, "'dim' of a vision transformer is a whole number from 1 up, got 0"),
        ({"ratio": 0}, "'ratio' of a vision transformer must be above 0"),
        ({"positions": "sine"}, "'positions' is one of joint, disentangled"),
        ({"head": "mean"}, "'head' is one of class, deit, ast, passt"),
        ({"patchout": (4, 0)}, "drops 0 to 3 of 4 time positions, got 4"),
        ({"patchout": (0, -1)}, "drops 0 to 2 of 3 frequency positions, got -1"),
        ({"patchout": (3, 1), "patchout_tokens": 2}, "drops 0 to 1 single patches of the 2 left, got 2"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        create_network("vit-medium", **{**SMALL, **options})
    assert ". " not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "5 heads do not divide tokens"),
        ({"dims": (16, 24)}, "'dims' of MobileViT is 3 whole numbers"),
        ({"channels": (16,) * 6 + (0,)}, "'channels' of MobileViT is 7 whole numbers"),
    ],
)
def test_mobilevits_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        create_network("mobilevit", **options)
