"""Distillation of logits: the published figures, the exits, teachers and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from sentio.core import registry
from sentio.core.anytime import FINAL
from sentio.core.errors import ArtifactError, ConfigError, InputError, UnknownNameError
from sentio.core.multi_exit import add_exits
from sentio.core.staged import create_network
from sentio.core.torch_artifact import save
from sentio.tasks.classification import Classification
from sentio.techniques.distillation_logits import FORMS, distillation_loss
from sentio.techniques.distillation_teacher import Teacher, average_logits, fingerprint
from sentio.techniques.objective import Objective, Setting, TrainingBatch

STUDENT, TEACHER = (torch.tensor([z], dtype=torch.float64) for z in ([2.0, 1.0, 0.0], [3.0, 0.0, 0.0]))
LABELS = ["cat", "dog", "owl"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def logits(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def label_loss(output, targets):
    return cross_entropy(output, targets)


def batch(net, phase, seed=0, samples=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 1, 8, 8, generator=generator)
    targets = torch.randint(3, (samples,), generator=generator)
    return TrainingBatch(x, targets, torch.arange(samples), phase.losses, 0, generator)


def setting(small, labels=LABELS, **frontend):
    return Setting(Classification(labels), small.frontend(**frontend))


def ready(small, net, **options):
    """The phases of a distillation whose teachers fit."""
    phases = registry.build("technique", "distillation", net, **options)
    for phase in phases:
        phase.objective.check(net, setting(small))
        phase.objective.prepare(net, setting(small), small.features(6))
    return phases


# The loss


def test_the_worked_example():
    assert distillation_loss(STUDENT, TEACHER).item() == pytest.approx(0.176848, abs=5e-7)
    assert distillation_loss(TEACHER, STUDENT).item() == pytest.approx(0.266805, abs=5e-7)
    soft = distillation_loss(STUDENT, TEACHER, 10)
    assert soft.item() == pytest.approx(0.346864, abs=5e-7)
    assert soft.item() / 100 == pytest.approx(0.00346864, abs=5e-9)
    hard = cross_entropy(STUDENT, torch.tensor([0])).item()
    assert hard == pytest.approx(0.407606, abs=5e-7)
    assert 0.2 * hard + 0.8 * soft.item() == pytest.approx(0.359012, abs=5e-7)
    assert 0.2 * hard + 0.8 * soft.item() / 100 == pytest.approx(0.084296, abs=5e-7)


@pytest.mark.parametrize("temperature", [100, 1e4, 1e6])
def test_single_precision_reaches_the_limit_of_high_temperatures(temperature):
    found = distillation_loss(STUDENT.float(), TEACHER.float(), temperature)
    centred = (STUDENT - STUDENT.mean()) - (TEACHER - TEACHER.mean())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(centred.square().sum().item() / 2 / 3, rel=0.01)


def test_logits_of_other_shapes_are_refused():
    for shape in ((1, 3), (4, 1), (4, 5)):
        with pytest.raises(InputError, match=r"got logits of shapes \(4, 3\)"):
            distillation_loss(torch.zeros(4, 3), torch.zeros(shape))


def test_it_is_zero_for_logits_that_are_equal_but_for_a_shift():
    student = logits(4, 5)
    for temperature in (0.5, 1, 10):
        assert abs(distillation_loss(student, student + 3.0, temperature).item()) < 1e-15 * 100
        assert distillation_loss(student, logits(4, 5, seed=1), temperature).item() > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 2.0, 10.0])
def test_its_gradient_is_the_difference_of_softened_answers(temperature):
    student, teacher = logits(7, 10).requires_grad_(), logits(7, 10, seed=1)
    distillation_loss(student, teacher, temperature).backward()
    p, q = ((z / temperature).softmax(1) for z in (student.detach(), teacher))
    torch.testing.assert_close(student.grad, temperature * (p - q) / 7, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("temperature", "gap"), [(1000.0, 8e-5), (100.0, 8e-4)])
def test_at_high_temperature_it_compares_centred_logits(temperature, gap):
    """The sheet's gaps are of one draw of standard normal logits; another draw is of the same order."""
    student, teacher = logits(256, 10), logits(256, 10, seed=1)
    centred = [z - z.mean(1, keepdim=True) for z in (student, teacher)]
    limit = (centred[0] - centred[1]).square().sum(1).mean() / (2 * 10)
    found = distillation_loss(student, teacher, temperature)
    assert abs(found / limit - 1) < 3 * gap


def test_forms_differ_by_known_factors():
    student, teacher, tau = logits(6, 10), logits(6, 10, seed=1), 2.0
    found = {form: distillation_loss(student, teacher, tau, form).item() for form in FORMS}
    assert found["hinton"] == pytest.approx(10 * found["cp-jku-2023"], rel=1e-13)
    assert found["hinton"] == pytest.approx(4 * 10 * found["cp-jku-2022"], rel=1e-13)
    q = (teacher / tau).softmax(1)
    entropy = -(q * q.log()).sum(1).mean().item()
    assert found["phinet"] == pytest.approx(found["hinton"] / 4 + entropy, rel=1e-13)
    # PyTorch's two names for the sum and the average over classes.
    pair = (student / tau).log_softmax(1), q
    with pytest.warns(UserWarning, match="divides the total loss by both"):
        both = [kl_div(*pair, reduction=reduction).item() for reduction in ("batchmean", "mean")]
    assert found["hinton"] == pytest.approx(4 * both[0], rel=1e-13)
    assert both[0] == pytest.approx(10 * both[1], rel=1e-13)


def test_the_phinet_form_has_the_gradient_of_the_divergence():
    student, teacher = logits(6, 10).requires_grad_(), logits(6, 10, seed=1)
    (phinet,) = torch.autograd.grad(distillation_loss(student, teacher, 2.0, "phinet"), student)
    (hinton,) = torch.autograd.grad(distillation_loss(student, teacher, 2.0), student)
    torch.testing.assert_close(phinet, hinton / 4, rtol=1e-12, atol=1e-15)


def test_published_weights_as_shares_of_the_summed_divergence():
    """CP-JKU's 50 beside 0.5 is a share of 0.909 for ten classes, and 0.98 beside 0.02 one of 0.83."""
    student, teacher = logits(6, 10), logits(6, 10, seed=1)
    for form, weight, label_weight, tau, share in (
        ("cp-jku-2022", 50, 0.5, 1.0, 0.909),
        ("cp-jku-2023", 0.98, 0.02, 2.0, 0.83),
    ):
        theirs = weight * distillation_loss(student, teacher, tau, form).item()
        ours = distillation_loss(student, teacher, tau).item()
        assert theirs / (theirs + label_weight * ours) == pytest.approx(share, abs=5e-3)


def test_a_teacher_that_is_certain_is_the_label():
    student, labels = logits(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    certain = 1e4 * torch.nn.functional.one_hot(labels, 4).double()
    assert distillation_loss(student, certain).item() == pytest.approx(cross_entropy(student, labels).item())


def test_half_precision_is_widened():
    student, teacher = logits(6, 10).half(), logits(6, 10, seed=1).half()
    found = distillation_loss(student, teacher, 10)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(
        distillation_loss(student.double(), teacher.double(), 10).item(), rel=1e-5
    )


# Several teachers


def test_averages_of_logits_and_of_probabilities_differ():
    members, tau = logits(3, 5, 4), 2.0
    by_logits, by_probabilities = (average_logits(members, tau, how) for how in ("logits", "probabilities"))
    torch.testing.assert_close(by_logits, members.mean(0))
    expected = (members / tau).softmax(2).mean(0)
    torch.testing.assert_close((by_probabilities / tau).softmax(1), expected)
    assert (by_logits / tau).softmax(1).sub(expected).abs().max() > 1e-3


def test_averages_are_equal_for_equal_members():
    members = logits(1, 5, 4).expand(3, 5, 4)
    for how in ("logits", "probabilities"):
        found = average_logits(members, 2.0, how).softmax(1)
        torch.testing.assert_close(found, members[0].softmax(1))


# The technique


def test_every_exit_learns_from_labels_and_teacher_by_its_weights(small):
    net, teacher = small.multi_exit(), small.multi_exit(seed=5)
    base = {"name": "end-to-end", "options": {"weights": {"e1": 0.5, "e2": 2.0}}}
    (phase,) = ready(small, net, teacher=teacher, temperature=3, weight={"e1": 0.9, FINAL: 0.4}, phases=base)
    assert dict(phase.losses) == {"e1": 0.5, "e2": 2.0, FINAL: 1.0}
    assert isinstance(phase.objective, Objective)
    given = batch(net, phase)
    found = phase.objective.losses(net, given, label_loss)
    with torch.no_grad():
        z, says = net(given.inputs), teacher(given.inputs)[FINAL]
    hard = {name: cross_entropy(z[name], given.targets).item() for name in z}
    soft = {name: distillation_loss(z[name], says, 3).item() for name in z}
    assert found["labels"].item() == pytest.approx(0.05 * hard["e1"] + 2 * hard["e2"] + 0.6 * hard[FINAL])
    assert found["distillation"].item() == pytest.approx(0.45 * soft["e1"] + 0.4 * soft[FINAL])


def test_weight_zero_is_the_loss_on_labels_and_one_leaves_labels_unused(small):
    net, teacher = small.multi_exit(), small.multi_exit(seed=5)
    (phase,) = ready(small, net, teacher=teacher, weight=0.0)
    given = batch(net, phase)
    found = phase.objective.losses(net, given, label_loss)
    expected = sum(cross_entropy(z, given.targets) for z in net(given.inputs).values())
    assert sum(found.values()).item() == pytest.approx(expected.item())
    (phase,) = ready(small, net, teacher=teacher, weight=1.0)

    def unused(*_):
        raise AssertionError("labels were read")

    assert phase.objective.losses(net, given, unused)["labels"].item() == 0


def test_published_weights_need_not_sum_to_one(small):
    net, teacher = small.multi_exit(), small.multi_exit(seed=5)
    options = {"weight": {FINAL: 50}, "label_weight": 0.5, "form": "cp-jku-2022", "temperature": 1}
    (phase,) = ready(
        small, net, teacher=teacher, phases={"name": "end-to-end", "options": {"weights": 0}}, **options
    )
    given = batch(net, phase)
    found = phase.objective.losses(net, given, label_loss)
    z, says = net(given.inputs)[FINAL], teacher(given.inputs)[FINAL]
    assert found["labels"].item() == pytest.approx(0.5 * cross_entropy(z, given.targets).item())
    assert found["distillation"].item() == pytest.approx(50 * distillation_loss(z, says).item() / 3, rel=1e-5)


def test_the_teacher_is_asked_about_the_same_batch_and_stays_as_it_was(small):
    net, teacher = small.multi_exit(), small.multi_exit(seed=5).train()
    before = copy.deepcopy(teacher.state_dict())
    (phase,) = ready(small, net, teacher=teacher)
    (held,) = phase.objective.teachers.members
    seen = []
    held.net.backbone.stage("a").register_forward_hook(lambda _, x, __: seen.append(x[0]))
    given = batch(net, phase)
    net.train()
    sum(phase.objective.losses(net, given, label_loss).values()).backward()
    assert torch.equal(seen[0], given.inputs) and len(seen) == 1
    assert teacher.training and not held.net.training
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert fingerprint(held.net) == fingerprint(teacher) == held.identity()
    assert all(p.grad is None for p in held.net.parameters())
    assert all(p.grad is not None for p in net.parameters())


def test_the_teacher_is_no_part_of_what_is_saved_or_trained(small):
    net = small.multi_exit()
    (phase,) = ready(small, net, teacher=small.multi_exit(seed=5))
    assert list(phase.objective.parameters()) == [] and phase.objective.state_dict() == {}


def test_a_teacher_that_is_not_needed_is_not_run(small):
    net = small.multi_exit()
    phases = ready(small, net, teacher=small.multi_exit(seed=5), weight={"e1": 0.5}, phases="classifier-wise")
    assert [phase.name for phase in phases] == ["backbone", "exits"]
    (held,) = phases[0].objective.teachers.members
    ran = []
    held.net.register_forward_hook(lambda *_: ran.append(1))
    held.net.backbone.stage("a").register_forward_hook(lambda *_: ran.append(1))
    found = phases[0].objective.losses(net, batch(net, phases[0]), label_loss)
    assert ran == [] and found["distillation"].item() == 0
    phases[1].objective.losses(net, batch(net, phases[1]), label_loss)
    assert ran


def test_several_teachers_answer_as_one(small):
    net, teachers = small.multi_exit(), [small.multi_exit(seed=seed) for seed in (5, 6)]
    for how in ("logits", "probabilities"):
        (phase,) = ready(small, net, teacher=teachers, average=how, temperature=2, weight={FINAL: 1.0})
        given = batch(net, phase)
        z = net(given.inputs)[FINAL]
        members = torch.stack([teacher(given.inputs)[FINAL] for teacher in teachers])
        expected = distillation_loss(z, average_logits(members, 2, how), 2).item()
        found = phase.objective.losses(net, given, label_loss)["distillation"].item()
        assert found == pytest.approx(expected)


def test_the_last_exit_teaches_the_others(small):
    net = small.multi_exit()
    (phase,) = ready(small, net, teacher="self", temperature=2, weight=0.7)
    given = batch(net, phase)
    found = phase.objective.losses(net, given, label_loss)
    z = net(given.inputs)
    hard = {name: cross_entropy(z[name], given.targets).item() for name in z}
    soft = {name: distillation_loss(z[name], z[FINAL], 2).item() for name in z}
    assert found["labels"].item() == pytest.approx(0.3 * hard["e1"] + 0.3 * hard["e2"] + hard[FINAL])
    assert found["distillation"].item() == pytest.approx(0.7 * soft["e1"] + 0.7 * soft["e2"])
    found["distillation"].backward()
    head = net.backbone.stage("head").linear.weight
    assert head.grad is None, "the teacher learns from labels alone"
    assert net.branch("e1").linear.weight.grad.any()


def test_all_exits_together_teach_each(small):
    net = small.multi_exit()
    (phase,) = ready(small, net, teacher="exits", temperature=2, weight={"e1": 0.7, FINAL: 0.4})
    given = batch(net, phase)
    found = phase.objective.losses(net, given, label_loss)
    z = net(given.inputs)
    hard = {name: cross_entropy(z[name], given.targets).item() for name in z}
    mean = sum(z.values()).detach() / 3
    soft = {name: distillation_loss(z[name], mean, 2) for name in z}
    assert found["labels"].item() == pytest.approx(0.3 * hard["e1"] + hard["e2"] + 0.6 * hard[FINAL])
    assert found["distillation"].item() == pytest.approx(0.7 * soft["e1"].item() + 0.4 * soft[FINAL].item())
    heads = [net.branch("e1").linear.weight, net.backbone.stage("head").linear.weight]
    expected = torch.autograd.grad(0.7 * soft["e1"] + 0.4 * soft[FINAL], heads)
    found["distillation"].backward()
    for head, gradient in zip(heads, expected, strict=True):
        torch.testing.assert_close(head.grad, gradient)
    assert net.branch("e2").linear.weight.grad is None, "what they say together has no gradient"


def test_an_exit_that_is_trained_alone_has_nobody_to_learn_from(small):
    net = small.multi_exit()
    for phase in ready(small, net, teacher="exits", weight=1.0, phases="layer-wise"):
        given = batch(net, phase)
        found = phase.objective.losses(net, given, label_loss)
        (name,) = given.losses
        expected = cross_entropy(net(given.inputs)[name], given.targets).item()
        assert (found["labels"].item(), found["distillation"].item()) == (pytest.approx(expected), 0.0)


def test_the_last_exit_teaches_exits_on_a_frozen_backbone(small):
    net = small.multi_exit()
    phases = ready(small, net, teacher="self", weight=1.0, phases="classifier-wise")
    found = phases[1].objective.losses(net, batch(net, phases[1]), label_loss)
    assert found["labels"].item() == 0 < found["distillation"].item()


# Teachers that fit and teachers that do not


def test_classes_in_another_order_are_put_in_the_students(small, tmp_path):
    model = small.model(task=Classification(["owl", "cat", "dog"]), frontend=small.frontend())
    with pytest.MonkeyPatch.context() as patch:
        small.register(patch)
        save(model, tmp_path / "teacher")
        teacher = Teacher(tmp_path / "teacher")
        teacher.fit(setting(small))
    x = torch.from_numpy(small.features(4))
    expected = model.network(x)[FINAL]
    assert torch.equal(teacher.run(x)[0], expected[:, [1, 2, 0]])
    assert teacher.identity() == Teacher(tmp_path / "teacher").identity() != ""


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", "cow", "dog"], "'small' does not know owl and knows cow, which the data has not"),
        (["cat", "dog"], "'small' does not know owl; choose"),
        (["cat", "dog", "owl", "ox"], "'small' knows ox, which the data has not"),
    ],
)
def test_other_classes_are_refused(small, labels, message):
    model = small.model(task=Classification(labels))
    with pytest.raises(ConfigError, match=message):
        Teacher(model).fit(setting(small))


def test_a_bare_network_of_another_width_is_refused(small):
    net = small.multi_exit()
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))
    with pytest.raises(ConfigError, match=r"gives \(5,\) for each sample and the data has 3 classes"):
        ready(small, net, teacher=teacher)
    with pytest.raises(ConfigError, match="does not take the student's features: mat1 and mat2"):
        ready(small, net, teacher=torch.nn.Linear(5, 3))


def test_a_plain_module_can_teach(small):
    net = small.multi_exit()
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    (phase,) = ready(small, net, teacher=teacher, weight={FINAL: 1.0})
    given = batch(net, phase)
    expected = distillation_loss(net(given.inputs)[FINAL], teacher(given.inputs), 2).item()
    assert phase.objective.losses(net, given, label_loss)["distillation"].item() == pytest.approx(expected)


@pytest.mark.parametrize(("channels", "last"), [(1, False), (3, False), (3, True)])
def test_a_teacher_is_laid_out_as_its_inputs_are_and_only_then(channels, last):
    class Written(torch.nn.Module):
        """As many are: with kernels of several ranks, and sure of how its maps lie in memory."""

        def __init__(self):
            super().__init__()
            self.flat = torch.nn.Sequential(torch.nn.Conv2d(channels, 4, 3), torch.nn.Conv2d(4, 4, 1))
            self.deep = torch.nn.Conv3d(1, 2, (1, 3, 3))
            self.linear = torch.nn.Linear(4 * 6 * 6, 3)

        def forward(self, x):
            maps = self.flat(x)
            seen = maps.flatten(1) if last else maps.view(len(x), -1)
            return self.linear(seen) + self.deep(x[:, None]).mean()

    network = Written()
    teacher = Teacher(network)
    teacher.fit(Setting(Classification(LABELS), None))
    x = torch.randn(2, channels, 8, 8)
    given = x.contiguous(memory_format=torch.channels_last) if last else x
    torch.testing.assert_close(teacher.run(given)[0], network(x).detach(), rtol=1e-4, atol=1e-5)
    first, _ = (each for each in teacher.net.modules() if isinstance(each, torch.nn.Conv2d))
    if channels > 1:  # else it lies the same either way
        assert first.weight.is_contiguous(memory_format=torch.channels_last) == last


def test_other_features_are_refused_and_other_scales_are_converted(small):
    teacher = Teacher(small.model(frontend=small.frontend(gain=2.0)))
    with pytest.raises(
        ConfigError, match=r"other features than the student: gain is 2\.0 there and 1\.0 here"
    ):
        teacher.fit(setting(small))

    class Scaled(small.frontend):
        def __init__(self, mean, std):
            self.mean, self.std = mean, std

        def settings(self):
            return {"mean": self.mean, "std": self.std}

    raw = torch.from_numpy(small.features(4))
    model = small.model(frontend=Scaled(1.0, 2.0))
    teacher = Teacher(model)
    for mean, std in ((1.0, 2.0), (None, None), (-3.0, [0.5] * 8)):
        teacher.fit(Setting(Classification(LABELS), Scaled(mean, std)))
        student = (raw - (mean or 0)) / (1 if std is None else torch.tensor(std))
        expected = model.network((raw - 1.0) / 2.0)[FINAL]
        torch.testing.assert_close(teacher.run(student.float())[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "Distillation needs a teacher"),
        ({"teacher": []}, ConfigError, "Distillation needs a teacher"),
        ({"teacher": "no-such-thing"}, ArtifactError, "No artifact at no-such-thing"),
        ({"teacher": "not/there"}, ArtifactError, "there is no such file or folder"),
        ({"teacher": 3}, ConfigError, "an artifact, a Model or a network, got int"),
        ({"teacher": "self", "cache": True}, ConfigError, "take cache out"),
        ({"teacher": "self", "weight": {FINAL: 1}}, ConfigError, "no other exit to teach"),
        ({"teacher": "exits", "weight": 0.0}, ConfigError, "no other exit to teach"),
        ({"teacher": "exits", "cache": True}, ConfigError, "changes as it learns; take cache out"),
        ({"teacher": "self", "temperature": 0}, ConfigError, "number above 0, got 0"),
        ({"teacher": "self", "temperature": True}, ConfigError, "number above 0"),
        ({"teacher": "self", "weight": 1.5}, ConfigError, "from 0 to 1, or more where label_weight"),
        ({"teacher": "self", "weight": {"e3": 0.5}}, UnknownNameError, "Unknown exit 'e3'"),
        ({"teacher": "self", "label_weight": -1}, ConfigError, "from 0 up"),
        ({"teacher": "self", "form": "hintn"}, UnknownNameError, "did you mean 'hinton'"),
        ({"teacher": "self", "phases": "distillation"}, ConfigError, "needs a teacher"),
        ({"teacher": "self", "phases": {"nam": "x"}}, ConfigError, "phases names a technique"),
        (
            {"teacher": "self", "phases": {"name": "distillation", "options": {"teacher": "self"}}},
            ConfigError,
            "has a loss of its own",
        ),
    ],
)
def test_options_that_cannot_be(small, options, error, message):
    with pytest.raises(error, match=message):
        registry.build("technique", "distillation", small.multi_exit(), **options)


def test_an_average_that_is_not_known(small):
    with pytest.raises(ConfigError, match="logits or probabilities, got 'votes'"):
        registry.build(
            "technique", "distillation", small.multi_exit(), teacher=small.multi_exit(), average="votes"
        )


# Answers kept for each clip


def test_kept_answers_are_those_of_the_clips(small):
    net, teacher = small.multi_exit(), small.multi_exit(seed=5)
    (phase,) = registry.build(
        "technique", "distillation", net, teacher=teacher, cache=True, weight={FINAL: 1.0}
    )
    inputs = small.features(150)
    phase.objective.check(net, setting(small))
    phase.objective.prepare(net, setting(small), inputs)
    items = torch.tensor([149, 3, 70])
    x = torch.from_numpy(inputs[items.numpy()])
    given = TrainingBatch(x, torch.tensor([0, 1, 2]), items, phase.losses, 0, torch.Generator())
    expected = distillation_loss(net(x)[FINAL], teacher(x)[FINAL], 2).item()
    found = phase.objective.losses(net, given, label_loss)["distillation"].item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_is_kept_about_a_mixture_is_the_mixture_of_what_is_kept(small):
    net, teacher = small.multi_exit(), small.multi_exit(seed=5)
    (phase,) = registry.build(
        "technique", "distillation", net, teacher=teacher, cache=True, weight={FINAL: 1.0}, temperature=3.0
    )
    inputs = small.features(8)
    phase.objective.check(net, setting(small))
    phase.objective.prepare(net, setting(small), inputs)
    items, shares = torch.tensor([5, 2]), torch.tensor([[1.0, 0.0], [0.3, 0.7]])
    x = torch.from_numpy(inputs[items.numpy()])
    mixed = (shares @ x.flatten(1)).view_as(x)
    given = TrainingBatch(mixed, torch.eye(3)[:2], items, phase.losses, 0, torch.Generator(), shares)
    said = shares @ (teacher(x)[FINAL] / 3).softmax(1)
    far = kl_div((net(mixed)[FINAL] / 3).log_softmax(1), said, reduction="batchmean") * 9
    found = phase.objective.losses(net, given, lambda output, _: output.sum())["distillation"].item()
    assert found == pytest.approx(far.item(), rel=1e-5)


def test_kept_answers_are_asked_for_anew_where_the_training_part_changes(small):
    net, teacher = small.multi_exit(), small.multi_exit(seed=5)
    phases = registry.build(
        "technique", "distillation", net, teacher=teacher, cache=True, phases="classifier-wise"
    )
    runs, ask = [], Teacher.run
    first = small.features(20)
    both = np.concatenate([first, small.features(10, seed=1)])[::-1].copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "run", lambda self, x, *rest: (runs.append(len(x)), ask(self, x, *rest))[1])
        for phase in phases:
            phase.objective.check(net, setting(small))
        runs.clear()
        for inputs in (first, both):
            for phase in phases:
                phase.objective.prepare(net, setting(small), inputs)
    # Once for all phases of a training, and the second time only what is new in it.
    assert len(phases) > 1 and sum(runs) == 30
    items = torch.tensor([25, 0])
    expected = teacher(torch.from_numpy(both[items.numpy()]))[FINAL]
    torch.testing.assert_close(phases[0].objective.teachers.kept(items), expected.detach())


@pytest.mark.parametrize("name", sorted(set(registry.names("network")) - {"audio-csrnet"}))  # two inputs
def test_every_registered_network_learns_and_teaches(small, name):
    """From a twin with other weights and from a plain module; with an exit where one fits."""
    entry = registry.find("network", name)
    torch.manual_seed(0)
    net, twin = (create_network(name, **entry.small) for _ in range(2))
    for each in (net, twin):
        each.input_shapes = dict(entry.small_shapes or entry.input_shapes)
    student = add_exits(net, "pooled-linear", at=[net.stage_names[0]], classes=entry.small["classes"])
    plain = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(net.example(1).numel(), entry.small["classes"])
    )
    labels = [f"label {number}" for number in range(entry.small["classes"])]
    (phase,) = registry.build("technique", "distillation", student, teacher=[twin, plain])
    phase.objective.check(student, setting(small, labels))
    x = net.example(4)
    given = TrainingBatch(x, torch.tensor([0, 1, 0, 1]), torch.arange(4), phase.losses, 0, torch.Generator())
    before = fingerprint(twin)
    student.train()
    parts = phase.objective.losses(student, given, label_loss)
    assert all(torch.isfinite(part) and part > 0 for part in parts.values())
    (gradient,) = torch.autograd.grad(
        parts["distillation"], next(net.stage(net.stage_names[0]).parameters()), retain_graph=True
    )
    assert gradient.any(), "the teacher's answer reaches the first stage"
    sum(parts.values()).backward()
    assert [n for n, p in student.named_parameters() if p.grad is None] == []
    assert fingerprint(twin) == before == phase.objective.teachers.members[0].identity()


def test_a_student_comes_closer_to_its_teacher(small):
    net, teacher = small.multi_exit(), small.multi_exit(seed=5)
    (phase,) = ready(small, net, teacher=teacher, weight=1.0)
    given = batch(net, phase, samples=32)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    values = []
    for _ in range(30):
        loss = phase.objective.losses(net, given, label_loss)["distillation"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.5 * values[0]


def test_a_fingerprint_is_of_any_precision():
    net = create_network("tiny-cnn", classes=3, width=4)
    assert len({fingerprint(net), fingerprint(net.bfloat16()), fingerprint(net.half())}) == 3


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_class_that_the_teacher_rules_out_costs_no_more_than_its_share(form):
    student = torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    far = torch.tensor([[2.0, 0.0, -1e6]], dtype=torch.float64)
    ruled_out = torch.tensor([[2.0, 0.0, float("-inf")]], dtype=torch.float64)
    losses = [distillation_loss(student, teacher, form=form) for teacher in (far, ruled_out)]
    losses[1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-12)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("low", [-1e6, float("-inf")])
def test_a_class_that_both_rule_out_costs_nothing_and_gradients_go_to_both(form, low):
    given = [[[1.0, 2.0, value], [0.5, -1.0, 0.0]] for value in (low, 0.5)]
    taught = [[[2.0, 0.0, low], [1.0, 0.0, -2.0]]] * 2
    for student, teacher in zip(given, taught, strict=True):
        pair = [
            torch.tensor(logits, dtype=torch.float64, requires_grad=True) for logits in (student, teacher)
        ]
        loss = distillation_loss(*pair, form=form)
        loss.backward()
        assert loss.isfinite()
        assert all(logits.grad.isfinite().all() and logits.grad.any() for logits in pair)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (5,), ()])
def test_logits_without_samples_or_classes_are_refused(shape):
    with pytest.raises(InputError, match=r"shape \(batch, class\).*at least one sample and one class"):
        distillation_loss(torch.zeros(shape), torch.zeros(shape))
