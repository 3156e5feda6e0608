"""Profiles: arithmetic of the rows, what crosses, front ends, refusals."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError, StageError, UnknownNameError
from sentio.core.features import Prepared, finished
from sentio.core.multi_exit import MultiExit, add_exits
from sentio.core.profiling import profile
from sentio.core.row_timing import frontend_times
from sentio.core.staged import Staged, create_network

torch.set_num_threads(1)


class Fork(nn.Module):
    """Two tensors behind it."""

    def forward(self, x):
        return {"main": x[:, :2], "identity": x}


class Join(nn.Module):
    def forward(self, named):
        return named["main"] + named["identity"][:, :2]


class NoisyFrontEnd:
    """Remembers what it was asked to prepare."""

    name = "noisy"

    def __init__(self):
        self.input_shapes = {"main": (1, 8, 8)}
        self.calls = []

    def settings(self):
        return {"rate": 8000, "window": 0.5}

    def prepare(self, source, *, hop=None):
        self.calls.append(source)
        zeros = np.zeros(1)
        return Prepared(np.zeros((1, 1, 8, 8), np.float32), zeros, zeros, zeros.astype(bool))


def linear_net() -> Staged:
    return Staged(
        {"a": nn.Linear(4, 8), "b": nn.Linear(8, 16), "head": nn.Linear(16, 3)}, input_shapes={"main": (4,)}
    )


def exits(**options) -> MultiExit:
    return add_exits(linear_net(), "pooled-linear", at=["a", "b"], classes=3, **options)


def test_rows_by_hand():
    found = profile(exits(), repeats=2, warmup=1)
    rows = [(r.kind, r.name, r.parameters, r.macs, r.cumulative_macs, r.path_macs) for r in found.rows]
    assert rows == [
        ("stage", "a", 40, 32, 32, 32),
        ("exit", "a", 27, 24, 56, 56),
        ("stage", "b", 144, 128, 184, 160),
        ("exit", "b", 51, 48, 232, 208),
        ("stage", "head", 51, 48, 280, 208),
    ]
    assert [r.boundary_bytes for r in found.rows] == [32, None, 64, None, 12]
    assert [r.output_shapes["main"] for r in found.rows] == [(8,), (3,), (16,), (3,), (3,)]
    assert found.exit_macs() == {"a": 56, "b": 232, "final": 280}
    assert (found.macs, found.parameters, found.repeats) == (280, 313, 2)


def test_milliseconds_add_up():
    found = profile(exits(), repeats=4, warmup=0, batch=3)
    medians = [row.ms for row in found.rows]
    assert all(0 < row.ms <= row.p95_ms for row in found.rows)
    assert [row.cumulative_ms for row in found.rows] == pytest.approx(np.cumsum(medians).tolist())
    assert list(found.exit_ms()) == ["a", "b", "final"]
    assert found.exit_ms() == {name: ms / 3 for name, ms in found.answer_ms.items()}


def test_milliseconds_of_exits_are_those_of_whole_answers(monkeypatch, takes):
    clock = [0.0]
    net = exits()
    for place, ms in (("stages.a", 1), ("stages.b", 2), ("stages.head", 4)):
        key = place.split(".")[1]
        net.backbone.stages[key] = takes(clock, ms, net.backbone.stages[key])
    for key, ms in (("a", 0.5), ("b", 0.25)):
        net.branches[key] = takes(clock, ms, net.branches[key])
    for module in ("row_timing", "timing", "answering"):
        monkeypatch.setattr(f"sentio.core.{module}.perf_counter", lambda: clock[-1])
    real = MultiExit.predict

    def with_a_call_that_costs(self, *arguments, **options):
        answers = real(self, *arguments, **options)
        clock.append(clock[-1] + 0.008)
        return answers

    monkeypatch.setattr(MultiExit, "predict", with_a_call_that_costs)
    found = profile(net, repeats=3, warmup=1, batch=2)
    assert [row.ms for row in found.rows] == pytest.approx([1, 0.5, 2, 0.25, 4])
    assert found.rows[-1].cumulative_ms == pytest.approx(7.75)
    assert found.exit_ms() == pytest.approx({"a": 4.75, "b": 5.875, "final": 7.875})
    assert found.costs.ms == pytest.approx((4.75, 5.875, 7.875))
    lines = found.table().splitlines()
    assert [line.split()[-1] for line in (lines[2], lines[4], lines[5])] == ["9.500", "11.750", "15.750"]
    assert lines[0].endswith("answer ms") and lines[1].split()[-1] == "1.000"


def test_a_network_that_gives_no_answers_is_timed_by_its_rows():
    net = exits()
    with torch.no_grad():
        net.backbone.stage("head").weight.fill_(float("nan"))
    found = profile(net, repeats=1, warmup=0)
    sums = [row.cumulative_ms for row in found.rows]
    assert list(found.exit_ms().values()) == pytest.approx([sums[1], sums[3], sums[4]])


def test_a_network_without_exits():
    found = profile(linear_net(), measure=False)
    assert [row.name for row in found.rows] == ["a", "b", "head"]
    assert found.exit_macs() == {"final": 208}


def test_counts_alone_measure_nothing():
    found = profile(exits(), measure=False)
    assert all(row.ms is row.p95_ms is row.cumulative_ms is None for row in found.rows)
    assert found.repeats == 0
    with pytest.raises(ConfigError, match="make it with measure=True"):
        found.exit_ms()
    assert "ms" not in found.to_dict()["exits"]["a"]


def test_an_exit_that_is_off_costs_nothing():
    net = exits()
    net.switch("a", on=False)
    found = profile(net, repeats=1, warmup=0)
    assert [row.name for row in found.rows if row.kind == "exit"] == ["b"]
    assert found.exit_macs() == {"b": 208, "final": 256}


def test_all_tensors_of_a_boundary_cross():
    net = Staged({"fork": Fork(), "join": Join(), "head": nn.Linear(2, 3)}, input_shapes={"main": (6,)})
    found = profile(net, repeats=1, warmup=0)
    assert [row.boundary_bytes for row in found.rows] == [(2 + 6) * 4, 2 * 4, 3 * 4]
    assert found.rows[0].output_shapes == {"main": (2,), "identity": (6,)}
    assert "main 2, identity 6" in found.table()


def test_what_a_later_exit_reads_crosses_too():
    net = add_exits(
        linear_net(), "pooled-linear", at=["b"], classes=3, reads=[[("a", "main"), ("b", "main")]]
    )
    found = profile(net, repeats=1, warmup=0)
    # behind a: its 8 values; behind b: its 16, those of a having been read by then
    assert [row.boundary_bytes for row in found.rows if row.kind == "stage"] == [32, 64, 12]
    late = add_exits(linear_net(), "pooled-linear", at=["head"], classes=3, reads=[[("a", "main")]])
    assert [r.boundary_bytes for r in profile(late, measure=False).rows if r.kind == "stage"] == [32, 96, 12]


def test_bytes_follow_the_dtype():
    net = linear_net().to(torch.bfloat16)
    found = profile(net, torch.randn(1, 4, dtype=torch.bfloat16), measure=False)
    assert [row.boundary_bytes for row in found.rows] == [16, 32, 6]


def test_an_input_of_the_users_own():
    net = create_network("tiny-cnn", width=8)
    found = profile(net, torch.randn(3, 1, 32, 16), repeats=1, warmup=0)
    assert found.batch == 3
    assert found.rows[0].output_shapes == {"main": (8, 16, 8)}


def test_the_front_end_is_row_zero():
    frontend = NoisyFrontEnd()
    model = SimpleNamespace(frontend=frontend, network=exits())
    found = profile(model, repeats=2, warmup=1)
    first = found.rows[0]
    assert (first.kind, first.name, first.parameters, first.macs) == ("frontend", "noisy", 0, None)
    assert first.boundary_bytes == 256
    assert first.ms > 0
    assert len(frontend.calls) == 3
    samples, rate = frontend.calls[0]
    assert (samples.shape, samples.dtype, rate) == ((4000,), np.float32, 8000)
    assert samples.std() > 0
    assert found.rows[1].cumulative_ms == pytest.approx(first.ms + found.rows[1].ms)
    assert found.exit_ms() == found.answer_ms
    assert found.exit_macs() == {"a": 56, "b": 232, "final": 280}


def test_the_sound_front_end_prepares_one_window():
    frontend = registry.build("frontend", "log-mel", rate=8000, window=0.5, n_mels=16)
    net = create_network("tiny-cnn", width=8)
    net.input_shapes = frontend.input_shapes
    first = profile(SimpleNamespace(frontend=frontend, network=net), repeats=1, warmup=0).rows[0]
    assert first.output_shapes == frontend.input_shapes
    assert first.ms > 0


@pytest.mark.parametrize("name", registry.names("frontend"))
def test_every_front_end_is_timed_on_what_it_takes(name):
    frontend = registry.build("frontend", name)
    (ms,) = frontend_times(frontend, 1, 0)
    assert ms > 0
    noise = getattr(frontend, "noise", None)
    if noise is not None:
        inputs = finished(frontend, frontend.prepare(noise()).inputs)
        named = inputs if isinstance(inputs, dict) else {"main": inputs}
        # One window, so that what is timed is what the network gets.
        assert {key: value.shape for key, value in named.items()} == {
            key: (1, *shape) for key, shape in frontend.input_shapes.items()
        }


def test_a_model_without_a_front_end_or_without_timing():
    model = SimpleNamespace(frontend=None, network=exits())
    assert profile(model, measure=False).rows[0].kind == "stage"
    frontend = NoisyFrontEnd()
    found = profile(SimpleNamespace(frontend=frontend, network=exits()), measure=False)
    assert found.rows[0].kind == "frontend"
    assert not frontend.calls


def test_the_table_and_the_dictionary_say_the_same():
    found = profile(exits(), repeats=1, warmup=0, rule="dcase")
    facts = json.loads(json.dumps(found.to_dict()))
    lines = found.table().splitlines()
    assert len(lines) == 1 + len(facts["rows"])
    assert lines[0].split()[:5] == ["name", "parameters", "dcase", "cumulative", "path"]
    for line, row in zip(lines[1:], facts["rows"], strict=True):
        assert line.split()[:4] == [row["kind"], row["name"], str(row["parameters"]), str(row["macs"])]
    assert facts["exits"]["b"]["macs"] == 232
    assert facts["exits"]["b"]["ms"] == pytest.approx(found.exit_ms()["b"])
    assert (facts["rule"], facts["batch"], facts["device"]) == ("dcase", 1, "cpu")


def test_threads_and_modes_are_restored():
    net = exits().train()
    found = profile(net, repeats=1, warmup=0, threads=2)
    assert found.threads == 2
    assert torch.get_num_threads() == 1
    assert all(module.training for module in net.modules())


def test_refusals():
    with pytest.raises(UnknownNameError, match="counting rule"):
        profile(linear_net(), rule="flops")
    with pytest.raises(ConfigError, match=r"got Linear; cut it with sentio\.stage\(\)"):
        profile(nn.Linear(3, 4))
    for options in ({"repeats": 0}, {"warmup": -1}, {"batch": 0}, {"threads": 0}):
        with pytest.raises(ConfigError, match="at least"):
            profile(linear_net(), **options)
    with pytest.raises(StageError, match="pass an example input"):
        profile(Staged({"only": nn.Linear(3, 4)}))


def test_a_network_in_half_precision_is_profiled(small):
    net = small.multi_exit().half()
    found = profile(net, repeats=1, warmup=0)
    assert found.costs.macs == profile(small.multi_exit(), measure=False).costs.macs
    assert all(ms > 0 for ms in found.costs.ms)


def test_an_input_or_a_number_of_another_kind_is_refused():
    net = Staged({"a": nn.Linear(4, 3)}, input_shapes=(4,))
    with pytest.raises(InputError, match="takes a tensor, batch first"):
        profile(net, "x")
    for option in ("repeats", "warmup", "batch", "threads"):
        with pytest.raises(ConfigError, match=r"at least (0|1|one).*, got '3'"):
            profile(net, **{option: "3"})
