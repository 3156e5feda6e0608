"""Every question to every registered network, at its small size."""

import json
from functools import cache
from math import isqrt

import pytest
import torch
from safetensors import torch as safetensors
from torch.nn.functional import cross_entropy

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError
from sentio.core.multi_exit import ExitSpec, MultiExit, add_exits
from sentio.core.profiling import profile
from sentio.core.staged import Staged, create_network, reset_classifier

torch.set_num_threads(1)
NETWORKS = registry.names("network")


def build(name: str, seed: int = 0) -> Staged:
    """A small member with running statistics that are not the starting ones, in eval mode."""
    entry = registry.find("network", name)
    torch.manual_seed(seed)
    net = create_network(name, **entry.small)
    if entry.small_shapes:
        net.input_shapes = dict(entry.small_shapes)
    with torch.no_grad():
        for turn in range(3):
            net.train()(net.example(8, seed=turn))
    return net.eval()


@cache
def shared(name: str) -> Staged:
    """The same small member for tests that do not change it."""
    return build(name)


def classes(name: str) -> int:
    return registry.find("network", name).small["classes"]


def rows(x, start: int, stop: int):
    """Some samples of an input, which may be several named tensors."""
    return {key: rows(part, start, stop) for key, part in x.items()} if isinstance(x, dict) else x[start:stop]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_entry_says_what_it_is(name):
    entry = registry.find("network", name)
    assert entry.summary
    assert entry.input_shapes
    assert "classes" in entry.options()
    assert create_network(name, **entry.small).spec == {"network": name, "options": entry.small}


@pytest.mark.parametrize("name", NETWORKS)
def test_has_stages_and_ends_in_head(name):
    net = shared(name)
    assert len(net.stage_names) >= 3
    assert net.stage_names[-1] == "head"
    with torch.no_grad():
        assert net(net.example(5)).shape == (5, classes(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_before_and_after_compose_at_every_cut(name):
    net = shared(name)
    x = net.example(2)
    first = net.stage_names[0]
    assert net.after(first).input_shapes == net.boundary_shapes()[first]
    # Without shapes of its own it works out none, which would be a run for every cut.
    bare = Staged([(stage, net.stage(stage)) for stage in net.stage_names])
    with torch.no_grad():
        whole = net(x)
        for stage in net.stage_names[:-1]:
            assert torch.equal(bare.after(stage)(bare.before(stage)(x)), whole), stage


#: exits that read two tensors: here one of the other sense where there is one, else the same twice
READS_TWO = {"av-sl-vit"}
#: exits that need a map, and those that take tokens too, as many as a square has cells
NEEDS_MAP = {"cnn-ee", "av-sl-vit", "density-ee"}
NEEDS_GRID = {"cnn-ignore-ee", "cnn-add-ee", "cnn-project-ee"}
#: exits that give the channels they read, and so no more of them than outputs
NEEDS_FEW_CHANNELS = {"raw"}


def reads_of(kind: str, stage: str, tensors: dict) -> list[tuple[str, str]]:
    other = next((name for name in tensors if name != "main"), "main")
    return [(stage, "main"), (stage, other)] if kind in READS_TWO else [(stage, "main")]


def has_grid(shape: tuple[int, ...], kind: str) -> bool:
    """Not vectors, video, waveforms' maps of one column, tokens that are no square behind a class token."""
    if len(shape) == 2 and kind in NEEDS_GRID:
        return shape[0] >= 5 and isqrt(shape[0] - 1) ** 2 == shape[0] - 1
    return len(shape) == 3 and shape[-1] > 1


@pytest.mark.parametrize("name", NETWORKS)
def test_exits_attach_and_anytime_equals_forward(name):
    backbone = shared(name)
    shapes = backbone.boundary_shapes()
    branches, specs = {}, []
    for kind in registry.names("exit"):
        attached = 0
        for stage in backbone.stage_names:
            wanted = reads_of(kind, stage, shapes[stage])
            found = tuple(shapes[boundary][tensor] for boundary, tensor in wanted)
            try:
                branch = registry.build("exit", kind, found, 4)
            except ConfigError as error:
                assert kind != "pooled-linear", f"{stage}: {error}"
                continue
            attached += 1
            # One early and one late place for each kind: every place for the kind that fits everywhere.
            if kind != "pooled-linear" and attached > 2:
                continue
            key = f"{kind} at {stage}".replace(".", "-")
            branches[key] = branch
            specs.append(ExitSpec(key, kind, stage, tuple(wanted), 4, shapes=found))
        if not attached and kind in NEEDS_FEW_CHANNELS:
            assert min(s[-1] if len(s) == 2 else s[0] for s in (b["main"] for b in shapes.values())) > 4
        elif not attached:
            assert kind in NEEDS_MAP | NEEDS_GRID
            assert [b["main"] for b in shapes.values() if has_grid(b["main"], kind)] == [], kind
    net = MultiExit(backbone, branches, specs).eval()
    x = backbone.example(2)
    with torch.no_grad():
        outputs = net(x)
        steps = {step.exit: step.output for step in net.anytime(x)}
    assert list(steps) == list(outputs) == list(net.exit_names)
    for exit_name, output in outputs.items():
        assert output.shape == (2, classes(name) if exit_name == "final" else 4)
        assert torch.equal(steps[exit_name], output), exit_name
    assert torch.equal(outputs["final"], backbone(x))


def multiplies_nothing(stage: torch.nn.Module) -> bool:
    return not any(
        hasattr(m, "weight") and m.weight is not None and m.weight.dim() > 1 for m in stage.modules()
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_profile_is_complete(name):
    net = add_exits(shared(name), "pooled-linear", at=shared(name).stage_names[:2], classes=4)
    found = profile(net, repeats=1, warmup=0)
    first, second = net.stage_names[:2]
    assert [(row.kind, row.name) for row in found.rows] == [
        ("stage", first),
        ("exit", first),
        ("stage", second),
        ("exit", second),
        *(("stage", stage) for stage in net.stage_names[2:]),
    ]
    for row in found.rows:
        assert row.parameters > 0 or row.kind == "stage"
        # A pooling, or the sum at the end of a residual block, multiplies nothing.
        assert row.macs > 0 or (row.kind == "stage" and multiplies_nothing(net.backbone.stage(row.name)))
        assert row.output_shapes
        assert row.ms > 0
        assert row.p95_ms > 0
        assert row.boundary_bytes > 0 if row.kind == "stage" else row.boundary_bytes is None
    assert found.macs == sum(row.macs for row in found.rows)
    assert found.parameters == sum(p.numel() for p in net.parameters())
    assert json.loads(json.dumps(found.to_dict()))["macs"] == found.macs


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_survive_safetensors(name):
    net = shared(name)
    data = safetensors.save({key: value.contiguous() for key, value in net.state_dict().items()})
    other = build(name, seed=1)
    x = net.example(2)
    with torch.no_grad():
        assert not torch.equal(other(x), net(x))
        other.load_state_dict(safetensors.load(data))
        assert torch.equal(other(x), net(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_reset_classifier_keeps_the_backbone(name):
    net = shared(name)
    fresh = reset_classifier(net, 7).eval()
    x = net.example(2)
    with torch.no_grad():
        assert fresh(x).shape == (2, 7)
        assert net(x).shape == (2, classes(name))
        last = net.stage_names[-2]
        assert torch.equal(fresh.before(last)(x), net.before(last)(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_autocast_agrees(name):
    net = shared(name)
    x = net.example(4)
    with torch.no_grad():
        full = net(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = net(x).float()
    assert half.isfinite().all()
    assert (half - full).abs().max() <= 0.05 * full.abs().max() + 0.02


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sample_does_not_depend_on_its_batch(name):
    net = shared(name)
    x = net.example(5)
    with torch.no_grad():
        together = net(x)
        alone = torch.cat([net(rows(x, i, i + 1)) for i in range(5)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_finite_gradient(name):
    net = build(name).train()
    target = torch.arange(6) % classes(name)
    cross_entropy(net(net.example(6)), target).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.dim() == 1 or parameter.grad.any(), key


@pytest.mark.parametrize("value", [0, -1, 2.5, "ten", None])
@pytest.mark.parametrize("name", NETWORKS)
def test_classes_are_a_whole_number_from_1_up(name, value):
    options = {**registry.find("network", name).small, "classes": value}
    with pytest.raises(ConfigError, match="'classes'"):
        create_network(name, **options)


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        (
            "small-resnet",
            "dropout",
            2,
            r"Network 'small-resnet' cannot be built with dropout=2: dropout prob",
        ),
        ("small-resnet", "widths", [-8] * 5, "Network 'small-resnet' cannot be built with widths="),
        ("sp4asc", "bands", 0, "Option 'bands' of network 'sp4asc' is a whole number from 1 up, got 0"),
        ("cnn6", "width", 0, "Option 'width' of network 'cnn6' is a whole number from 1 up, got 0"),
        ("cnn6", "width", "wide", "Option 'width' of network 'cnn6' is a whole number from 1 up, got 'wide'"),
        ("bc-resnet", "sub_bands", 0, "Option 'sub_bands' of network 'bc-resnet' must be 1 or more, got 0"),
        ("phinet", "alpha", float("inf"), "Network 'phinet' cannot be built with alpha=inf"),
        ("phinet", "t0", "4", "Network 'phinet' cannot be built with t0='4'"),
        ("phinet-1d", "filters", None, "Network 'phinet-1d' cannot be built with filters=None"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name, option, value, message):
    with pytest.raises(ConfigError, match=message) as error:
        create_network(name, **{option: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_unknown_option_is_refused_in_one_sentence(name):
    with pytest.raises(ConfigError, match=r"has no option 'colour'; it takes: .*classes") as error:
        create_network(name, colour="red")
    assert ". " not in str(error.value)


@pytest.mark.parametrize("name", ["cnn6", "cnn10", "sp4asc", "sound-resnet"])
def test_an_input_that_does_not_fit_is_refused_in_a_sentence(name):
    net = create_network(name, **registry.find("network", name).small).eval()
    channels, _, bands = net.input_shapes["main"]
    for frames in (0, 1, 3):
        with pytest.raises(InputError, match=r"is too small for the network, whose own is \(batch, 1, "):
            net(torch.zeros(1, channels, frames, bands))
    for wrong in (torch.zeros(channels, 32, bands), torch.zeros(1, channels + 1, 32, bands)):
        with pytest.raises(InputError, match="give as many axes and channels"):
            net(wrong)
    with pytest.raises(InputError, match="is int64 and the network's weights are float32"):
        net(torch.zeros(1, channels, 32, bands, dtype=torch.int64))
