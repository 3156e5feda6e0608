"""DeiT's token and patchout that student and teacher share."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from sentio.core import registry
from sentio.core.anytime import FINAL
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import MultiExit, add_exits
from sentio.tasks.classification import Classification
from sentio.techniques.distillation_logits import distillation_loss
from sentio.techniques.distillation_patchout import SharedPatchout
from sentio.techniques.objective import Setting, TrainingBatch

LABELS = ["cat", "dog", "owl"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def label_loss(output, targets):
    return cross_entropy(output, targets)


def batch(phase, seed=0, samples=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 1, 8, 6, generator=generator)
    targets = torch.randint(3, (samples,), generator=generator)
    return TrainingBatch(x, targets, torch.arange(samples), phase.losses, 0, generator)


def ready(small, net, **options):
    (phase,) = registry.build("technique", "distillation", net, **options)
    phase.objective.check(net, Setting(Classification(LABELS), small.frontend()))
    return phase


def separate(net, x):
    return net.backbone.stage("head").separate(net.backbone.before(net.stage_names[-2])(x))


def test_labels_teach_one_head_and_the_teacher_the_other(small, small_vit):
    net, teacher = small_vit(), small_vit(seed=1, dim=12)
    for kind, options in (("soft", {"temperature": 3, "weight": 0.7}), ("hard", {})):
        phase = ready(small, net, teacher=teacher, token=kind, **options)
        given = batch(phase)
        found = phase.objective.losses(net, given, label_loss)
        logits, says = separate(net, given.inputs), teacher(given.inputs)[FINAL]
        hard = cross_entropy(logits["class"], given.targets).item()
        if kind == "soft":
            far = distillation_loss(logits["distillation"], says, 3).item()
            expected = 0.3 * hard, 0.7 * far
        else:
            expected = 0.5 * hard, 0.5 * cross_entropy(logits["distillation"], says.argmax(1)).item()
        assert found["labels"].item() == pytest.approx(expected[0], rel=1e-5)
        assert found["distillation"].item() == pytest.approx(expected[1], rel=1e-5)


def test_a_certain_teacher_at_temperature_one_is_the_hard_loss(small, small_vit):
    """With half the weight, and labels as what the teacher is certain of."""
    net = small_vit()
    given = batch(ready(small, net, teacher=small_vit(seed=1), token="hard"))
    logits = separate(net, given.inputs)
    certain = 1e4 * one_hot(given.targets, 3).float()
    soft = distillation_loss(logits["distillation"], certain).item()
    assert soft == pytest.approx(cross_entropy(logits["distillation"], given.targets).item(), rel=1e-6)


def test_without_the_teachers_part_the_class_path_follows_labels_only(small, small_vit):
    net, teacher = small_vit(), small_vit(seed=1)
    phase = ready(small, net, teacher=teacher, token="soft", weight=0.6)
    given = batch(phase)
    parts = phase.objective.losses(net, given, label_loss)
    head = net.backbone.stage("head")
    heads = (head.fc.weight, head.distillation.weight)
    ours = torch.autograd.grad(parts["labels"], heads, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(parts["distillation"], heads, allow_unused=True)
    assert ours[1] is None and theirs[0] is None
    expected = 0.4 * cross_entropy(separate(net, given.inputs)["class"], given.targets)
    torch.testing.assert_close(ours[0], torch.autograd.grad(expected, head.fc.weight)[0])


def test_the_answer_is_made_of_both_heads_and_all_of_the_network_learns(small, small_vit):
    net = small_vit()
    phase = ready(small, net, teacher=small_vit(seed=1), token="soft")
    given = batch(phase)
    mean = torch.stack([z.softmax(1) for z in separate(net, given.inputs).values()]).mean(0)
    torch.testing.assert_close(net(given.inputs)[FINAL].softmax(1), mean)
    sum(phase.objective.losses(net.train(), given, label_loss).values()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_exits_learn_from_the_teacher_beside_the_token(small, small_vit):
    backbone = small_vit().backbone
    net = MultiExit(backbone, {"e": small.branch(1, 3)}, [_spec("e", "block1")])
    net.branches["e"].forward = lambda x: x[:, 0, :3]
    teacher = small_vit(seed=1)
    phase = ready(small, net, teacher=teacher, token="soft", weight=0.5)
    given = batch(phase)
    found = phase.objective.losses(net, given, label_loss)
    z, says, logits = net(given.inputs)["e"], teacher(given.inputs)[FINAL], separate(net, given.inputs)
    expected = 0.5 * (distillation_loss(z, says, 2) + distillation_loss(logits["distillation"], says, 2))
    assert found["distillation"].item() == pytest.approx(expected.item(), rel=1e-5)
    expected = 0.5 * (cross_entropy(z, given.targets) + cross_entropy(logits["class"], given.targets))
    assert found["labels"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_network_without_a_token_is_refused(small, small_vit):
    with pytest.raises(ConfigError, match=r"Stage 'head' has no logits of a distillation token; build"):
        registry.build("technique", "distillation", small.multi_exit(), teacher=small_vit(), token="soft")
    with pytest.raises(ConfigError, match="learns soft or hard, got 'firm'"):
        registry.build("technique", "distillation", small_vit(), teacher=small_vit(), token="firm")
    net = small_vit()
    net.backbone.stage("head").distillation = torch.nn.Linear(8, 5)
    with pytest.raises(ConfigError, match=r"gives distillation logits of shape \(5,\) .* has 3 classes"):
        net.backbone.stage("head").forward = lambda x: x[:, 0, :3]
        ready(small, net, teacher=small_vit(seed=1), token="soft")


@pytest.mark.parametrize("option", [{"token": "soft"}, {"features": True}, {"patchout": [0, 1]}])
def test_what_needs_another_network_does_not_go_with_self(small, option):
    with pytest.raises(ConfigError, match="needs another network as teacher"):
        registry.build("technique", "distillation", small.multi_exit(), teacher="self", **option)


# Patches that both leave out


def seen_by(net):
    """What a network was given, noted at its first stage, and how many tokens came out."""
    noted = []
    net.backbone.stage("patches").register_forward_hook(lambda _, x, y: noted.append((x[0], y.shape[1])))
    return noted


def test_student_and_teacher_keep_the_same_patches(small, small_vit):
    net, teacher = small_vit(patchout=3), small_vit(seed=1, dim=12)
    phase = ready(small, net, teacher=teacher, patchout=[1, 1])
    (held,) = phase.objective.teachers.members
    ours, theirs = seen_by(net), seen_by(held.net)
    kept = []
    for seed in range(3):
        phase.objective.losses(net.train(), batch(phase, seed), label_loss)
        (ours_x, count), (theirs_x, other) = ours[-1], theirs[-1]
        assert count == other == 2 + 3 * 2
        assert torch.equal(ours_x["keep"], theirs_x["keep"])
        assert torch.equal(ours_x["keep"], ours_x["keep"][:1].expand(5, -1)), "one draw for the batch"
        kept.append(tuple(ours_x["keep"][0].tolist()))
    assert len(set(kept)) > 1
    phase.objective.losses(net, batch(phase, 2), label_loss)
    assert tuple(ours[-1][0]["keep"][0].tolist()) == kept[-1], "it follows the batch's own generator"


def test_the_sheets_grid_keeps_54_of_108(small_vit):
    net = small_vit()
    net.backbone.stage("patches").conv = torch.nn.Conv2d(1, 8, 16, stride=10)
    shared = SharedPatchout([0, 6])
    inputs, grid = shared.draw(net, torch.randn(2, 1, 100, 128), torch.Generator().manual_seed(0))
    assert grid == (9, 6)
    assert inputs["keep"].shape == (2, 54)


def test_equal_networks_on_equal_patches_agree_and_on_others_do_not(small, small_vit):
    net, teacher = small_vit(), small_vit()
    features = {"beta": 0.0, "normalise": False}
    phase = ready(small, net, teacher=teacher, patchout=[1, 1], features=features, weight=1.0)
    losses = phase.objective.terms[1].losses
    for align in losses.align:
        torch.nn.init.eye_(align.weight)
        torch.nn.init.zeros_(align.bias)
    given = batch(phase)
    found = phase.objective.losses(net, given, label_loss)
    assert found["mimicking"].item() == 0 and abs(found["distillation"].item()) < 1e-6
    grid_of = net.backbone.stage("patches").grid_of(given.inputs)
    draws = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = [phase.objective.patchout.draw(net, given.inputs, draw)[0] for draw in draws]
    assert grid_of == (4, 3) and not torch.equal(both[0]["keep"], both[1]["keep"])
    (z, taps), (t, others) = (
        n.tapped(x, (FINAL,), [("block1", "main")]) for n, x in zip((net, teacher), both, strict=True)
    )
    assert distillation_loss(z[FINAL], t[FINAL]).item() > 1e-6
    tokens = taps["block1", "main"][:, 2:], others["block1", "main"][:, 2:]
    assert losses.mimicking([tokens[0]] * 2, [tokens[1]] * 2).item() > 1


def test_patches_that_cannot_be_shared(small, small_vit):
    with pytest.raises(ConfigError, match="The student has no patches to leave out"):
        ready(small, small.multi_exit(), teacher=small.multi_exit(seed=1), patchout=[1, 0])
    with pytest.raises(
        ConfigError, match=r"grid of 4x3 patches of 2x2 every 2x2 .* and teacher 'teacher' a grid of 7x5"
    ):
        ready(small, small_vit(), teacher=small_vit(stride=1), patchout=[1, 0])
    with pytest.raises(ConfigError, match="Patchout drops 0 to 2 of 3 frequency positions, got 3"):
        ready(small, small_vit(), teacher=small_vit(seed=1), patchout=[0, 3])
    for wrong in (1, [1], [1, -1], [True, 0], "12"):
        with pytest.raises(ConfigError, match="patchout takes two whole numbers"):
            ready(small, small_vit(), teacher=small_vit(seed=1), patchout=wrong)
    with pytest.raises(ConfigError, match="take cache out"):
        ready(small, small_vit(), teacher=small_vit(seed=1), patchout=[1, 0], cache=True)


def _spec(name, after):
    from sentio.core.multi_exit import ExitSpec

    return ExitSpec(name, "small-branch", after, ((after, "main"),), 3)


@pytest.mark.skipif("vit-medium" not in registry.names("network"), reason="there is no transformer here yet")
def test_registered_transformers_teach_each_other(small):
    """Token, features and shared patchout at once, between networks of different widths and depths."""
    from sentio.core.staged import create_network

    torch.manual_seed(0)
    options = {**registry.find("network", "vit-medium").small, "classes": 3, "head": "deit"}
    net = add_exits(create_network("vit-medium", **options), "pooled-linear", at=["block1"], classes=3)
    teacher = create_network(
        "vit-large", **{**options, "dim": 24, "layers": 3, "head": "class", "patchout": (0, 0)}
    )
    phase = ready(small, net, teacher=teacher, token="soft", features=True, patchout=[1, 1])
    given = TrainingBatch(
        net.backbone.example(5),
        torch.tensor([0, 1, 2, 0, 1]),
        torch.arange(5),
        phase.losses,
        0,
        torch.Generator(),
    )
    parts = phase.objective.losses(net.train(), given, label_loss)
    assert list(parts) == ["labels", "distillation", "mimicking", "generation"]
    sum(parts.values()).backward()
    assert [
        n for n, p in [*net.named_parameters(), *phase.objective.named_parameters()] if p.grad is None
    ] == []
