"""ViTKD: its sizes and scale, the masks, tokens and maps, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sentio.core import registry
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.multi_exit import MultiExit
from sentio.core.staged import create_network
from sentio.tasks.classification import Classification
from sentio.techniques.distillation_vitkd import FeatureLosses, Generator, draw_mask
from sentio.techniques.objective import Setting, TrainingBatch


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def label_loss(output, targets):
    return cross_entropy(output, targets)


def ready(small, net, teacher, features=True, **options):
    (phase,) = registry.build("technique", "distillation", net, teacher=teacher, features=features, **options)
    phase.objective.check(net, Setting(Classification(["cat", "dog", "owl"]), small.frontend()))
    return phase


def batch(phase, net, samples=5):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (samples,), generator=generator)
    return TrainingBatch(
        net.backbone.example(samples), targets, torch.arange(samples), phase.losses, 0, generator
    )


def zeroed(losses):
    for parameter in losses.parameters():
        nn.init.zeros_(parameter)
    return losses


def test_what_is_trained_beside_the_student_has_the_published_sizes():
    with torch.device("meta"):
        losses = FeatureLosses([(256, 768), (256, 768)], (256, 768))
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in losses.named_children()}
    assert sizes["align"] == 2 * 197_376 and sizes["align_last"] == 197_376
    assert losses.generator.mask_token.numel() == 768
    assert sizes["generator"] == 768 + 10_618_368
    assert sum(sizes.values()) == 11_211_264


def test_scale_at_unit_error():
    """108 patches of width 768, all parameters zero, so that the error of each element is the target, one."""
    losses = zeroed(FeatureLosses([(4, 768), (4, 768)], (4, 768), normalise=False))
    ours, theirs = torch.randn(2, 108, 4), torch.ones(2, 108, 768)
    mimicking = losses.mimicking([ours, ours], [theirs, theirs]).item()
    assert mimicking == 165_888
    assert mimicking * 3e-5 == pytest.approx(4.98, abs=5e-3)
    generation = losses.generation(ours, theirs, draw_mask(2, 108, 0.5), (9, 12)).item()
    assert generation == 41_472 / 0.5
    assert generation * 3e-6 == pytest.approx(0.249, abs=5e-4)


def test_layer_norm_makes_it_independent_of_the_teachers_scale():
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 12, 4), torch.randn(2, 12, 64)
    for normalise in (True, False):
        losses = FeatureLosses([(4, 64)], (4, 64), normalise=normalise)
        mask = draw_mask(2, 12, 0.5)
        for name, pair in {
            "mimicking": [losses.mimicking([ours], [k * theirs]).item() for k in (1, 100)],
            "generation": [losses.generation(ours, k * theirs, mask, (4, 3)).item() for k in (1, 100)],
        }.items():
            if normalise:
                assert pair[0] == pytest.approx(pair[1], rel=3e-5), name
            else:
                assert pair[1] > 1000 * pair[0], name


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.5, 54), (0.501, 55), (0.001, 1), (1.0, 108)])
def test_exactly_so_many_tokens_of_each_sample_are_masked(share, count):
    masked = draw_mask(7, 108, share, torch.Generator().manual_seed(0))
    assert masked.sum(1).tolist() == [count] * 7
    assert share in (0, 1) or len({tuple(row.tolist()) for row in masked}) > 1
    assert torch.equal(masked, draw_mask(7, 108, share, torch.Generator().manual_seed(0)))


def test_rounding_does_not_add_a_token():
    assert 0.28 * 25 > 7
    assert draw_mask(1, 25, 0.28).sum() == 7


def test_only_masked_tokens_count():
    torch.manual_seed(0)
    losses = FeatureLosses([], (4, 6))
    ours, theirs, masked = torch.randn(2, 12, 4), torch.randn(2, 12, 6), draw_mask(2, 12, 0.5)
    before = losses.generation(ours, theirs, masked, (4, 3))
    other = torch.where(masked[..., None], theirs, torch.randn(2, 12, 6))
    assert losses.generation(ours, other, masked, (4, 3)).item() == before.item()
    other = torch.where(masked[..., None], torch.randn(2, 12, 6), theirs)
    assert losses.generation(ours, other, masked, (4, 3)).item() != before.item()


def test_no_mask_is_no_loss_and_all_masked_does_not_depend_on_the_student():
    torch.manual_seed(0)
    theirs = torch.randn(2, 12, 6)
    none = FeatureLosses([], (4, 6), mask=0.0)
    assert none.generation(torch.randn(2, 12, 4), theirs, draw_mask(2, 12, 0.0), (4, 3)).item() == 0
    losses = FeatureLosses([], (4, 6), mask=1.0)
    everything = draw_mask(2, 12, 1.0)
    found = [losses.generation(torch.randn(2, 12, 4), theirs, everything, (4, 3)).item() for _ in range(2)]
    assert found[0] == found[1] > 0


def test_tokens_lie_on_the_true_grid():
    """A token is generated from its neighbours on 4 x 3 places, not from those on a square."""
    torch.manual_seed(0)
    generator = Generator(5)
    tokens = torch.randn(1, 12, 5, requires_grad=True)
    image = generator(tokens, torch.zeros(1, 12, dtype=torch.bool), (4, 3))
    image[0, 4].sum().backward()  # row 1, column 1: two 3x3 convolutions see rows 0-3 and columns 0-2
    assert tokens.grad[0].any(1).tolist() == [True] * 12
    tokens.grad = None
    generator(tokens, torch.zeros(1, 12, dtype=torch.bool), (12, 1))[0, 4].sum().backward()
    assert tokens.grad[0].any(1).nonzero().flatten().tolist() == [2, 3, 4, 5, 6]


def test_tokens_of_transformers_without_the_special_ones(small, small_vit):
    net, teacher = small_vit(), small_vit(seed=1, dim=12, blocks=4)
    phase = ready(small, net, teacher, features={"normalise": False})
    term = phase.objective.terms[1]
    assert [(our.read[0], their.read[0]) for our, their in term.pairs] == [
        ("block1", "block1"),
        ("block2", "block2"),
        ("block2", "block4"),
    ]
    assert [(our.grid, our.width, our.special) for our, _ in term.pairs] == [((4, 3), 8, 2)] * 3
    given = batch(phase, net)
    found = phase.objective.losses(net, given, label_loss)
    expected = 0
    for (our, their), align in zip(term.pairs, term.losses.align, strict=False):
        ours = dict(net.backbone.boundaries(given.inputs))[our.read[0]]["main"][:, 2:]
        theirs = dict(teacher.backbone.boundaries(given.inputs))[their.read[0]]["main"][:, 2:]
        expected += 3e-5 * (align(ours) - theirs).square().sum().item() / 5
    assert found["mimicking"].item() == pytest.approx(expected, rel=1e-5)
    assert list(found) == ["labels", "distillation", "mimicking", "generation"]
    assert found["generation"].item() > 0
    sum(found.values()).backward()
    assert [name for name, p in phase.objective.named_parameters() if p.grad is None] == []
    assert phase.objective.teachers.members[0].net.backbone.stage("block1").mlp[1].weight.grad is None


def test_equal_networks_mimic_exactly_with_identity_alignment(small, small_vit):
    net = small_vit()
    phase = ready(small, net, small_vit(), features={"normalise": False})
    for align in phase.objective.terms[1].losses.align:
        nn.init.eye_(align.weight)
        nn.init.zeros_(align.bias)
    found = phase.objective.losses(net, batch(phase, net), label_loss)
    assert found["mimicking"].item() == 0 < found["generation"].item(), "a generator is no identity"


@pytest.mark.parametrize("name", ["tiny-cnn", "phinet", "dcase2024-baseline"])
def test_maps_of_convolutional_networks(small, name):
    """A wider twin teaches: same grids, other widths."""
    torch.manual_seed(0)
    wider = {"tiny-cnn": {"width": 12}, "phinet": {"alpha": 0.5}, "dcase2024-baseline": {"base_channels": 16}}
    entry = registry.find("network", name)
    options = {**entry.small, "classes": 3}
    nets = [MultiExit(create_network(name, **o)) for o in (options, {**options, **wider[name]})]
    for net in nets:
        net.backbone.input_shapes = dict(entry.small_shapes or entry.input_shapes)
    phase = ready(small, nets[0], nets[1])
    pairs = phase.objective.terms[1].pairs
    assert all(ours.special == 0 and ours.grid == theirs.grid for ours, theirs in pairs)
    given = batch(phase, nets[0])
    found = phase.objective.losses(nets[0].train(), given, label_loss)
    assert min(part.item() for part in found.values()) > 0
    sum(found.values()).backward()


def test_what_is_not_weighed_is_not_there(small, small_vit):
    only = {"alpha": ({"beta": 0}, ["mimicking"]), "beta": ({"alpha": 0}, ["generation"])}
    for options, names in only.values():
        net = small_vit()
        phase = ready(small, net, small_vit(seed=1), features=options)
        found = phase.objective.losses(net, batch(phase, net), label_loss)
        assert list(found)[2:] == names
        parameters = [name for name, _ in phase.objective.named_parameters()]
        assert any("generator" in name for name in parameters) == (names == ["generation"])
        sum(found.values()).backward()
        assert all(p.grad is not None for p in phase.objective.parameters()), "ddp would wait for it"


def test_the_start_depends_on_the_seed_only(small, small_vit):
    starts = []
    for seed in (1, 2):
        net, teacher = small_vit(), small_vit(seed=1)
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        starts.append(ready(small, net, teacher).objective.state_dict())
        assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0]) and starts[0]


def test_a_student_that_leaves_patches_out_alone_is_refused(small, small_vit):
    net = small_vit(patchout=2)
    phase = ready(small, net, small_vit(seed=1))
    with pytest.raises(
        ConfigError, match="The student has 10 patches behind stage 'block1' and the teacher 12"
    ):
        phase.objective.losses(net.train(), batch(phase, net), label_loss)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ({"alpha": -1}, ConfigError, "'alpha' of features takes a number from 0 up"),
        ({"mask": 1.1}, ConfigError, "'mask' of features takes a number from 0 to 1, got 1.1"),
        ({"alpha": 0, "beta": 0}, ConfigError, "no features are compared"),
        ({"gamma": 1}, UnknownNameError, "Unknown option of features 'gamma'"),
        ("vitkd", ConfigError, "features is true or takes options alpha, beta"),
        ({"mimic": ["block9"]}, UnknownNameError, "Unknown stage 'block9'"),
        ({"mimic": "block1"}, ConfigError, "mimic lists one stage or more"),
        ({"mimic": ["block1"]}, ConfigError, "2 stages of the student cannot be compared with 3 of teacher"),
        ({"mimic": ["block1", "head"]}, ConfigError, "behind stage 'head' of the student have shape"),
    ],
)
def test_features_that_cannot_be(small, small_vit, features, error, message):
    with pytest.raises(error, match=message):
        ready(small, small_vit(), small_vit(seed=1), features=features)


def test_teachers_that_cannot_be(small, small_vit):
    with pytest.raises(ConfigError, match="those of one teacher; name one"):
        ready(small, small_vit(), [small_vit(), small_vit(seed=1)])
    with pytest.raises(ConfigError, match=r"lie on a grid of \(4, 3\) and those behind 'block1' .* \(7, 5\)"):
        ready(small, small_vit(), small_vit(stride=1))
    with pytest.raises(ConfigError, match="neither its features"):
        ready(small, small_vit(), small_vit(seed=1), cache=True)
