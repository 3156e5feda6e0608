"""Cutting modules into stages: what crosses, what is refused, and training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sentio.core.cutting import CutNetwork, stage
from sentio.core.errors import StageError, UnknownNameError
from sentio.core.multi_exit import ExitSpec, MultiExit
from sentio.core.staged import Staged, as_value

torch.set_num_threads(1)


class Block(nn.Module):
    """A residual block with batch norm and activations in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.act2(y)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.layer1 = nn.Sequential(Block(4), Block(4))
        self.layer2 = Block(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc1 = nn.Conv2d(1, 4, 3, padding=1)
        self.enc2 = nn.Conv2d(4, 6, 3, padding=1)
        self.middle = nn.Conv2d(6, 6, 3, padding=1)
        self.dec2 = nn.Conv2d(12, 4, 3, padding=1)
        self.dec1 = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enc1(x).relu()
        b = self.enc2(F.max_pool2d(a, 2)).relu()
        c = self.middle(F.max_pool2d(b, 2)).relu()
        d = self.dec2(torch.cat([F.interpolate(c, scale_factor=2), b], 1)).relu()
        return self.dec1(torch.cat([F.interpolate(d, scale_factor=2), a], 1)) + x


class TimeFirst(nn.Module):
    """Attention with the batch in the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x).transpose(0, 1)
        y = self.norm(y + self.attention(y, y, y)[0])
        return self.out(y.mean(0))


class Patches(nn.Module):
    """Four patches per sample, unfolded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.reshape(-1, 6))
        return self.second(torch.tanh(y)).reshape(x.shape[0], -1)


class Masked(nn.Module):
    """What a text network makes beside its features: positions, a mask, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.register_buffer("positions", torch.linspace(0, 1, 9), persistent=False)
        self.block1 = nn.Linear(8, 8)
        self.block2 = nn.Linear(8, 8)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        batch, steps = tokens.shape
        x = self.embed(tokens) + self.positions[:, None] + torch.tensor([0.5])
        allowed = mask.bool()[:, None, :].expand(batch, steps, steps)
        causal = torch.arange(steps, device=x.device)[:, None] >= torch.arange(steps, device=x.device)
        bias = torch.zeros(batch, steps, steps, device=x.device, dtype=x.dtype).masked_fill(
            ~(allowed & causal), -1e4
        )
        shift, zeros = torch.full_like(x, 0.25), x.new_zeros(batch, 1, 1)
        for block in (self.block1, self.block2):
            x = torch.softmax(x @ x.transpose(1, 2) + bias, -1) @ block(x) + shift + zeros
        return {"features": x, "logits": x.mean(1)}


def image(batch: int = 1) -> Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(batch))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().eval()


TOKENS = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0, 0]])

#: network -> builder, cuts, example
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str], Any]] = {
    "sequential": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(True), nn.Flatten()),
        ["0", "2"],
        image(),
    ),
    "sequential-inside": (
        lambda: nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Flatten(), nn.Linear(72, 3)),
        ["0.0", "1"],
        image(),
    ),
    "residual": (Residual, ["stem", "layer1.0.bn1", "layer1.0", "layer1.1.conv2", "layer2"], image()),
    "unet": (UNet, ["enc1", "enc2", "middle", "dec2"], image()),
    "time-first": (TimeFirst, ["embed", "attention", "norm"], torch.randn(1, 5, 3)),
    "patches": (Patches, ["first", "second"], torch.randn(1, 4, 6)),
    "masked": (Masked, ["embed", "block1", "block2"], {"tokens": TOKENS, "mask": MASK}),
    "gru": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 4, batch_first=True)),
        ["0"],
        torch.randn(1, 5, 3),
    ),
}


def cut(name: str, **options: Any) -> tuple[nn.Module, Staged]:
    build, at, example = NETWORKS[name]
    module = seeded(build)
    return module, stage(module, at, example, **options)


def inputs(name: str, batch: int) -> Any:
    example = NETWORKS[name][2]
    torch.manual_seed(batch)
    if isinstance(example, Tensor):
        return torch.randn(batch, *example.shape[1:])
    lengths = torch.arange(batch) % 9 + 1
    mask = (torch.arange(9) < lengths[:, None]).long()
    return {"tokens": torch.randint(0, 11, (batch, 9)), "mask": mask}


def answer(module: nn.Module, x: Any) -> Any:
    value = module(**x) if isinstance(x, dict) else module(x)
    return value["logits"] if isinstance(value, dict) else value


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_answer_as_the_module_at_any_batch_size(name: str) -> None:
    module, net = cut(name, output="0" if name == "gru" else None)
    for batch in (1, 2, 7):
        x = inputs(name, batch)
        with torch.no_grad():
            expected = answer(module, x)
            expected = expected[0] if isinstance(expected, tuple) else expected
            torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-6)
            shapes = net.boundary_shapes()
            for stage_name, boundary in net.boundaries(x):
                assert {k: tuple(t.shape[1:]) for k, t in boundary.items()} == shapes[stage_name]
                assert all(len(tensor) == batch for tensor in boundary.values())


@pytest.mark.parametrize("name", ["residual", "unet", "time-first", "patches", "masked"])
def test_before_and_after_meet_at_every_boundary(name: str) -> None:
    _, net = cut(name, check=False)
    x = inputs(name, 3)
    with torch.no_grad():
        expected = net(x)
        for stage_name in net.stage_names[:-1]:
            head, tail = net.before(stage_name), net.after(stage_name)
            torch.testing.assert_close(tail(head(x)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["residual", "unet", "time-first", "patches", "masked"])
def test_a_sample_answers_the_same_when_others_have_left(name: str) -> None:
    _, net = cut(name, check=False)
    exits = [ExitSpec(f"after {s}", "mean", s, ((s, "main"),), 1) for s in net.stage_names[:-1]]
    multi = MultiExit(net, {e.name: nn.Flatten() for e in exits}, exits).eval()
    x = inputs(name, 4)
    leaves = dict(zip([e.name for e in exits], (2, 0, 3), strict=False))
    with torch.no_grad():
        alone = [multi({k: v[i : i + 1] for k, v in x.items()} if isinstance(x, dict) else x[i : i + 1])
                 for i in range(4)]  # fmt: skip
        remaining = set(range(4))
        for step in multi.anytime(x):
            assert set(step.samples) == remaining
            for row, sample in zip(step.output, step.samples, strict=True):
                torch.testing.assert_close(row, alone[sample][step.exit][0], rtol=1e-5, atol=1e-5)
            if step.exit in leaves:
                step.drop(step.samples == leaves[step.exit])
                remaining.discard(leaves[step.exit])
    assert len(remaining) == 4 - len(leaves)


class TestSequential:
    def test_a_split_keeps_the_modules(self) -> None:
        module, net = cut("sequential")
        assert type(net) is Staged
        assert net.stage_names == ("0", "2", "rest")
        assert net.stages["2"][0] is module[1]

    def test_nothing_is_added_where_nothing_lies_behind(self) -> None:
        module = seeded(NETWORKS["sequential"][0])
        assert stage(module, ["3", "0"], image()).stage_names == ("0", "3")

    def test_a_subclass_with_its_own_forward_is_cut_by_graph(self) -> None:
        class Twice(nn.Sequential):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) * 2

        module = Twice(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
        net, x = stage(module, ["0"], torch.randn(1, 3)), torch.randn(5, 3)
        assert isinstance(net, CutNetwork)
        torch.testing.assert_close(net(x), module(x))


class TestWhatCrosses:
    def test_main_is_what_a_hook_sees_even_if_it_is_changed_in_place_afterwards(self) -> None:
        module, net = cut("residual")
        seen: list[Tensor] = []
        module.get_submodule("layer1.0.bn1").register_forward_hook(lambda m, a, out: seen.append(out.clone()))
        x = image(3)
        with torch.no_grad():
            module(x)
            boundary = dict(net.boundaries(x))["layer1.0.bn1"]
        torch.testing.assert_close(boundary["main"], seen[0])
        assert (boundary["main"] < 0).any()

    def test_inside_a_residual_block_the_shortcut_crosses_under_its_stage_name(self) -> None:
        _, net = cut("residual")
        shapes = net.boundary_shapes()
        assert shapes["layer1.0.bn1"] == {"main": (4, 8, 8), "stem": (4, 8, 8)}
        assert shapes["layer1.1.conv2"].keys() == {"main", "layer1.0"}
        assert shapes["layer2"].keys() == {"main"}

    def test_skips_cross_until_they_are_read(self) -> None:
        _, net = cut("unet")
        shapes = net.boundary_shapes()
        assert shapes["enc1"] == {"main": (4, 8, 8), "input": (1, 8, 8)}
        assert shapes["middle"].keys() == {"main", "input", "enc1.relu", "enc2.relu"}
        assert shapes["dec2"].keys() == {"main", "input", "enc1.relu"}
        assert shapes["rest"] == {"main": (1, 8, 8)}

    def test_a_batch_in_another_axis_crosses_batch_first(self) -> None:
        module, net = cut("time-first")
        seen: list[Tensor] = []
        module.norm.register_forward_hook(lambda m, a, out: seen.append(out))
        x = torch.randn(2, 5, 3)
        with torch.no_grad():
            module(x)
            boundary = dict(net.boundaries(x))["norm"]
        torch.testing.assert_close(boundary["main"], seen[0].transpose(0, 1))

    def test_rows_that_belong_to_one_sample_cross_together(self) -> None:
        _, net = cut("patches")
        assert net.boundary_shapes()["first"] == {"main": (4, 6)}

    def test_positions_masks_and_constants_are_made_anew_and_the_given_mask_crosses(self) -> None:
        _, net = cut("masked")
        shapes = net.boundary_shapes()
        assert shapes["embed"] == {"main": (9, 8), "mask": (9,)}
        # The attention of the first block was made before its linear layer ran; the second makes its own.
        assert shapes["block1"] == {"main": (9, 8), "mask.slice_1": (9,), "embed.softmax": (9, 9)}

    def test_shapes_come_from_the_meta_device(self) -> None:
        _, net = cut("masked")
        value = as_value({k: v.to("meta") for k, v in inputs("masked", 2).items()})
        for name in net.stage_names:
            module = net.stage(name)
            state = {k: v.to("meta") for k, v in [*module.named_parameters(), *module.named_buffers()]}
            value = torch.func.functional_call(module, state, (value,))
        assert value.is_meta and value.shape == (2, 8)

    def test_a_stage_without_its_tensors_says_which_is_missing(self) -> None:
        _, net = cut("unet")
        with pytest.raises(
            StageError, match=r"reads tensor '.*', which the boundary before it does not hold"
        ):
            net.stage("dec2")(torch.zeros(1, 6, 2, 2))

    def test_every_stage_can_be_captured_again_with_a_dynamic_batch(self) -> None:
        _, net = cut("unet")
        value: Any = image(2)
        for name in net.stage_names:
            module, batch = net.stage(name), torch.export.Dim.DYNAMIC
            shapes = {0: batch} if isinstance(value, Tensor) else {k: {0: batch} for k in value}
            program = torch.export.export(module, (value,), dynamic_shapes=(shapes,))
            value = module(value)
            assert program.graph_signature.user_outputs


class TestInputsAndOutputs:
    def test_a_tuple_is_named_by_the_parameters_of_forward(self) -> None:
        module = seeded(Masked)
        net = stage(module, ["block1"], (TOKENS, MASK))
        assert net.input_shapes == {"tokens": (9,), "mask": (9,)}
        x = inputs("masked", 3)
        with torch.no_grad():
            torch.testing.assert_close(net((x["tokens"], x["mask"])), module(**x)["logits"])
            torch.testing.assert_close(net(x), module(**x)["logits"])

    def test_other_inputs_than_the_example_are_refused(self) -> None:
        _, net = cut("masked")
        with pytest.raises(StageError, match="takes tokens, mask as in the example"):
            net({"tokens": TOKENS})

    def test_the_networks_own_example_has_the_dtypes_of_the_given_one(self) -> None:
        _, net = cut("masked")
        example = net.example(3)
        assert example["tokens"].dtype == torch.int64 and example["tokens"].shape == (3, 9)

    def test_another_output_can_be_chosen(self) -> None:
        module, x = seeded(Masked), inputs("masked", 2)
        net = stage(module, ["block1"], {"tokens": TOKENS, "mask": MASK}, output="features")
        with torch.no_grad():
            torch.testing.assert_close(net(x), module(**x)["features"])

    def test_an_unknown_output_is_offered_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'features'"):
            stage(seeded(Masked), ["block1"], {"tokens": TOKENS, "mask": MASK}, output="feature")

    def test_several_outputs_without_logits_keep_their_names(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

            def forward(self, x: Tensor) -> dict[str, Tensor]:
                y = self.a(x)
                return {"low": y, "high": self.b(y)}

        net = stage(Two().eval(), ["a"], torch.randn(1, 3))
        assert net(torch.randn(4, 3)).keys() == {"low", "high"}

    def test_stages_can_be_named_and_are_put_in_the_order_of_execution(self) -> None:
        module = seeded(UNet)
        net = stage(module, ["dec2", "enc1"], image(), names=["late", "early", "end"])
        assert net.stage_names == ("early", "late", "end")
        assert "early" in net.boundary_shapes()["late"] or "enc1" not in net.boundary_shapes()["late"]


class TestSharing:
    def test_parameters_are_the_modules_own(self) -> None:
        module, net = cut("residual")
        own = dict(module.named_parameters())
        for part in net.stages.values():
            for name, parameter in part.named_parameters():
                assert parameter is own[name]
        assert {id(p) for p in net.parameters()} == {id(p) for p in own.values()}

    def test_the_state_dict_round_trips_and_holds_the_counters_of_batch_norm(self) -> None:
        _, net = cut("residual")
        torch.manual_seed(1)
        other_module = Residual().eval()
        other = stage(other_module, NETWORKS["residual"][1], image(), check=False)
        x = image(3)
        assert not torch.allclose(net(x), other(x))
        assert any(key.endswith("bn1.num_batches_tracked") for key in net.state_dict())
        other.load_state_dict(net.state_dict())
        torch.testing.assert_close(other(x), net(x))
        torch.testing.assert_close(other_module(x), net(x))

    def test_a_parameter_read_by_two_stages_is_one(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

            def forward(self, x: Tensor) -> Tensor:
                return F.linear(self.b(self.a(x)), self.a.weight)

        net = stage(Tied().eval(), ["a"], torch.randn(1, 3))
        assert net.stage("a").a.weight is net.stage("rest").a.weight

    def test_submodules_may_bear_any_name(self) -> None:
        class Named(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inputs, self.outputs, self.hold = (nn.Linear(3, 3) for _ in range(3))

            def forward(self, x: Tensor) -> Tensor:
                return self.outputs(self.hold(self.inputs(x)))

        module, x = seeded(Named), torch.randn(4, 3)
        torch.testing.assert_close(stage(module, ["inputs", "hold"], x)(x), module(x))

    def test_a_deep_copy_is_whole_and_apart(self) -> None:
        module, net = cut("residual")
        twin = copy.deepcopy(net)
        x = image(2)
        with torch.no_grad():
            expected = net(x)
            module.fc.weight.zero_()
            torch.testing.assert_close(twin(x), expected)
            twin.original.fc.weight.zero_()
            torch.testing.assert_close(twin(x), net(x))

    def test_the_whole_network_can_change_its_dtype(self) -> None:
        module, net = cut("residual")
        net.double()
        x = image(2).double()
        torch.testing.assert_close(net(x), module(x))
        assert module.layer2.bn1.running_mean is net.stage("layer2").layer2.bn1.running_mean


class TestTraining:
    def test_in_train_mode_the_module_itself_runs(self) -> None:
        module, net = cut("residual")
        reference = copy.deepcopy(module).train()
        x = image(4)
        assert net.train() is net and module.training
        found = dict(net.boundaries(x))
        torch.testing.assert_close(found["rest"]["main"], reference(x))
        assert list(found) == list(net.stage_names)

    def test_what_batch_norm_learns_is_what_the_stages_read(self) -> None:
        module, net = cut("residual")
        before = net(image(4))
        net.train()
        for _ in range(3):
            net(image(4) * 3 + 1).sum().backward()
        net.eval()
        assert not torch.allclose(net(image(4)), before)
        torch.testing.assert_close(net(image(4)), module(image(4)))
        assert module.layer2.bn1.num_batches_tracked == 3

    @pytest.mark.parametrize("how", ["dtype", "load", "assign", "part"])
    def test_statistics_stay_shared_after(self, how: str) -> None:
        module, net = cut("residual")
        if how == "dtype":
            net.double()
        elif how == "part":
            net.before("layer1.0").double()
            net.double()
        else:
            state = {key: tensor.clone() for key, tensor in net.state_dict().items()}
            net.load_state_dict(state, assign=how == "assign")
        x = image(4).to(next(net.parameters()).dtype)
        before = net.stage("layer2").layer2.bn1.running_mean.clone()
        net.train()(x)
        net.eval()
        assert not torch.equal(net.stage("layer2").layer2.bn1.running_mean, before)
        torch.testing.assert_close(net(x), module(x))

    def test_what_is_loaded_in_place_of_the_tensors_reaches_the_module(self) -> None:
        module, net = cut("residual")
        state = {key: tensor + 0.1 for key, tensor in net.state_dict().items()}
        nn.ModuleDict({"net": net}).load_state_dict({f"net.{k}": t for k, t in state.items()}, assign=True)
        torch.testing.assert_close(net.stage("stem").stem.weight, state["stages.stem.stem.weight"])
        torch.testing.assert_close(module(image(3)), net(image(3)))
        net.double()
        torch.testing.assert_close(net.stage("stem").stem.weight, state["stages.stem.stem.weight"].double())

    def test_buffers_that_a_module_replaces_reach_the_stages(self) -> None:
        class Centred(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
                self.register_buffer("mean", torch.zeros(3))

            def forward(self, x: Tensor) -> Tensor:
                y = self.a(x)
                if self.training:
                    self.mean = 0.5 * self.mean + 0.5 * y.detach().mean(0)
                return self.b(y - self.mean)

        module = Centred()
        net, x = stage(module, ["a"], torch.randn(1, 3)), torch.randn(4, 3)
        assert net.training
        net(x)
        torch.testing.assert_close(net.eval()(x), module(x))

    def test_a_tensor_that_is_changed_in_place_later_is_seen_as_it_was(self) -> None:
        module, net = cut("residual")
        main = dict(net.train().boundaries(image(4)))["layer1.0.bn1"]["main"]
        assert (main < 0).any()
        main.sum().backward()
        assert module.stem.weight.grad is not None

    def test_an_exit_that_reads_a_shortcut_says_that_it_cannot(self) -> None:
        _, net = cut("residual")
        spec = ExitSpec("early", "linear", "layer1.0.bn1", (("layer1.0.bn1", "stem"),), 3)
        multi = MultiExit(net, {"early": nn.Flatten()}, [spec])
        assert multi.eval()(image(2))["early"].shape == (2, 256)
        with pytest.raises(
            StageError, match=r"reads tensor 'stem' behind stage 'layer1.0.bn1', which gives only: main"
        ):
            multi.train()(image(2))

    def test_exits_train_together_with_the_module(self) -> None:
        module, net = cut("residual")
        spec = ExitSpec("early", "linear", "layer1.0", (("layer1.0", "main"),), 3)
        branch = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
        multi = MultiExit(net, {"early": branch}, [spec]).train()
        optimiser = torch.optim.SGD(multi.parameters(), lr=0.05)
        x, labels = image(6), torch.arange(6) % 3
        losses = []
        for _ in range(15):
            loss = sum(F.cross_entropy(out, labels) for out in multi(x).values())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert module.stem.weight.grad.abs().sum() > 0

    def test_exits_train_on_the_frozen_network(self) -> None:
        _, net = cut("residual")
        net.requires_grad_(False)
        before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
        branch = nn.Sequential(nn.Flatten(), nn.Linear(512, 3))

        class Both(nn.Module):
            def forward(self, main: Tensor, stem: Tensor) -> Tensor:
                return branch(torch.cat([main, stem], 1))

        spec = ExitSpec("e", "both", "layer1.0.bn1", (("layer1.0.bn1", "main"), ("layer1.0.bn1", "stem")), 3)
        multi = MultiExit(net, {"e": Both()}, [spec]).eval()
        multi(image(4))["e"].sum().backward()
        assert branch[1].weight.grad.abs().sum() > 0
        assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())

    def test_looking_at_shapes_changes_no_mode(self) -> None:
        module, net = cut("residual")
        net.train()
        module.layer1.eval()
        net.boundary_shapes()
        assert net.training and module.training and not module.layer1.training

    def test_modes_restored_module_by_module_still_train(self) -> None:
        module, net = cut("residual")
        net.train()
        modes = {name: part.training for name, part in net.named_modules()}
        net.eval()
        for name, part in net.named_modules():
            part.training = modes[name]
        before = module.layer2.bn1.running_mean.clone()
        net(image(4))
        assert not torch.equal(module.layer2.bn1.running_mean, before)

    def test_the_result_is_in_the_mode_of_the_module(self) -> None:
        module = Residual().train()
        module.layer1.eval()
        net = stage(module, ["layer2"], image(), check=False)
        assert net.training and module.training and not module.layer1[0].training

    def test_a_skipped_submodule_is_reported(self) -> None:
        class Skips(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.b(x if self.training else self.a(x))

        net = stage(Skips().eval(), ["a"], torch.randn(1, 3))
        with pytest.raises(StageError, match="skipped 'a' in train mode"):
            net.train()(torch.randn(2, 3))


class Body(nn.Module):
    """Two layers; the cases below say what happens between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.list = nn.ModuleList([nn.Linear(4, 4)])
        self.register_buffer("seen", torch.zeros(()))


class Branches(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.sum() > 0:
            x = x + 1
        return self.b(x)


class Counts(Body):
    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.b(self.a(x))


class Remembers(Body):
    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x, before = self.a(x), self.last
        self.last = x
        return self.b(x if before is None else x + before)


class DropsAlways(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(self.a(x), 0.5))


class RunsTwice(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(self.a(x)))


class TwoRows(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(2, 4))


class PairsRows(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(-1, 2, 4)).view(-1, 4)


class Mixes(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x - x.mean(0, keepdim=True))


class MixesBefore(Body):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.tanh().mean(0)
        return self.b(self.a(x) - mean)


class Compares(Body):
    def forward(self, x: Tensor) -> Tensor:
        alike = x @ x.t()
        return alike @ self.b(self.a(x))


class ReadsNumber(Body):
    def forward(self, x: Tensor) -> Tensor:
        largest = x.max().item()
        return self.b(self.a(x)) * largest


class Numpy(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.from_numpy(self.a(x).detach().numpy() * 2))


class Unused(Body):
    def forward(self, x: Tensor) -> Tensor:
        self.a(x)
        return self.b(x)


class BatchLast(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)).t()


class Same(Body):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


REFUSED = [
    (Branches, ["a"], "depends on the values of its input .*if x.sum"),
    (Counts, ["a"], "changes 'seen' of its own while it answers"),
    (Remembers, ["a"], "in different ways, because .* remembers earlier inputs"),
    (DropsAlways, ["a"], "in different ways, because it draws random numbers"),
    (RunsTwice, ["a"], "No cut at 'a': it runs 2 times"),
    (TwoRows, ["a"], "works only for the example's batch size"),
    (PairsRows, ["a"], "works only for some batch sizes"),
    (Mixes, ["a"], "depends on the other samples of its batch"),
    (MixesBefore, ["a"], "No cut at 'a': .* has shape \\(4\\) and would have to cross"),
    (
        Compares,
        ["a"],
        r"shape \(batch, batch\) and would have to cross, but only a tensor with one batch axis can",
    ),
    (ReadsNumber, ["a"], "no tensor but a number read out of one"),
    (Numpy, ["a"], "torch.export cannot follow it"),
    (Unused, ["a"], "nothing uses the output"),
    (BatchLast, ["a"], "Output 'main' is not batch first"),
    (Same, ["a.0", "a"], "'a.0' and 'a' end in the same place"),
    (Same, ["list"], "No cut at 'list': it does not run as a module of its own; name one of its children"),
    (Same, ["list.0"], "No cut at 'list.0': it does not run on the example"),
    (Same, [], "at least one submodule"),
    (Same, ["b", "b"], "named twice"),
]


@pytest.mark.parametrize(("build", "at", "reason"), REFUSED, ids=lambda case: getattr(case, "__name__", None))
def test_refused_with_the_reason(
    build: Callable[[], nn.Module], at: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    module = seeded(build)
    with pytest.raises(StageError, match=reason) as caught:
        stage(module, at, torch.randn(1, 4))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert not module.training
    assert capfd.readouterr() == ("", "")


def test_a_module_that_is_refused_keeps_its_mode_and_has_no_hooks_left() -> None:
    module = Branches().train()
    with pytest.raises(StageError):
        stage(module, ["a"], torch.randn(1, 4))
    assert module.a.training and not module.a._forward_hooks


def test_an_unknown_submodule_is_offered_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"Unknown submodule 'layer1.0.bn3'; did you mean 'layer1.0.bn[12]'"
    ):
        stage(Residual(), ["layer1.0.bn3"], image())
    with pytest.raises(UnknownNameError, match="choose one of: stem, layer1, layer2, fc"):
        stage(Residual(), ["zzz"], image())


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (torch.tensor(1.0), "needs a batch axis"),
        (torch.zeros(0, 4), "at least one sample"),
        ((torch.zeros(2, 4), torch.zeros(3, 4)), "differ in batch size"),
        ({"x": "words"}, "Entry 'x' of the example is no tensor but str"),
        ("words", "must be a tensor, a tuple or a mapping"),
        (torch.zeros(1, 5), "does not run on the example"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(example: Any, reason: str) -> None:
    with pytest.raises(StageError, match=reason):
        stage(seeded(Same), ["a"], example)


def test_too_few_names_are_refused() -> None:
    with pytest.raises(StageError, match="2 cuts take 2 names"):
        stage(seeded(Residual), ["stem", "layer1"], image(), names=["one"])
