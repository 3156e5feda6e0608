"""Anytime inference that another thread interrupts: always the newest finished answer, never a half one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import sentio
from sentio.core.anytime import ExitPoint
from sentio.core.background import Background
from sentio.core.errors import InputError

STAGES = ("a", "b", "c")
PATIENCE = 20.0  # seconds; only a test that fails waits so long


class Gated:
    """A row in numpy whose stages begin when the test says so; each adds one, each exit gives what it reads.

    Stages work in place, and exits give the very array that the next stage writes to.
    """

    stage_names = STAGES
    exit_names = ("after a", "after b", "final")
    exit_points = tuple(
        ExitPoint(name, stage, ((stage, "main"),)) for name, stage in zip(exit_names, STAGES, strict=True)
    )

    def __init__(self, fails: str | None = None) -> None:
        self.gates = {name: threading.Event() for name in STAGES}
        self.begun = {name: threading.Event() for name in STAGES}
        self.fails = fails

    def start(self, inputs):
        return {"main": inputs}

    def run_stage(self, name, boundary):
        self.begun[name].set()
        assert self.gates[name].wait(PATIENCE)
        if name == self.fails:
            raise InputError(f"stage {name} failed")
        boundary["main"] += 1.0
        return boundary

    def run_exit(self, name, tensors):
        return tensors[0]

    def take(self, array, rows):
        return array[rows]

    def to_numpy(self, array):
        return array


def gated(**options):
    row = Gated(**options)
    return row, Background(row, np.zeros((1, 2), np.float32))


def let(row, *names):
    """The stages run; afterwards the next one has begun and waits."""
    for name in names:
        row.gates[name].set()
        following = STAGES.index(name) + 1
        if following < len(STAGES):
            assert row.begun[STAGES[following]].wait(PATIENCE)


def test_the_newest_answer_is_that_of_the_last_exit_that_was_reached():
    row, running = gated()
    assert running.newest is None and running.running
    for name, exit, value in (("a", "after a", 1.0), ("b", "after b", 2.0)):
        let(row, name)
        assert running.newest.exit == exit
        np.testing.assert_array_equal(running.newest.output, [[value, value]])
    row.gates["c"].set()
    last = running.wait(PATIENCE)
    assert (last.exit, last.output.tolist(), running.running) == ("final", [[3.0, 3.0]], False)


def test_a_later_stage_that_works_in_place_does_not_reach_an_earlier_answer():
    row, running = gated()
    let(row, "a")
    early = running.newest
    let(row, "b")
    row.gates["c"].set()
    running.wait(PATIENCE)
    np.testing.assert_array_equal(early.output, [[1.0, 1.0]])
    with pytest.raises(ValueError, match="read-only"):
        early.output[0, 0] = 5.0


def test_after_a_stop_the_answer_stays_and_no_stage_begins():
    row, running = gated()
    let(row, "a")
    stopped = running.stop()  # in the middle of b
    assert stopped.exit == "after a" and not running.running
    row.gates["b"].set()
    row.gates["c"].set()
    running._thread.join(PATIENCE)
    assert running.newest is stopped and running.wait(0.0) is stopped
    assert not row.begun["c"].is_set()


def test_stopped_before_the_first_exit_there_is_no_answer():
    row, running = gated()
    assert running.stop() is None
    row.gates["a"].set()
    running._thread.join(PATIENCE)
    assert running.newest is None and not row.begun["b"].is_set()


def test_waiting_ends_with_the_time_and_the_computation_goes_on():
    row, running = gated()
    let(row, "a")
    assert running.wait(0.01).exit == "after a" and running.running
    let(row, "b")
    row.gates["c"].set()
    assert running.wait(PATIENCE).exit == "final"


def test_a_thread_that_waits_is_woken_by_another_that_stops():
    row, running = gated()
    let(row, "a")
    found = []
    waiting = threading.Thread(target=lambda: found.append(running.wait(PATIENCE)))
    waiting.start()
    stopped = running.stop()
    waiting.join(PATIENCE)
    assert found == [stopped]
    row.gates["b"].set()


def test_the_context_stops_it():
    row, running = gated()
    with running:
        let(row, "a")
    row.gates["b"].set()
    running._thread.join(PATIENCE)
    assert running.newest.exit == "after a" and not row.begun["c"].is_set()


def test_a_failure_is_raised_where_nothing_was_answered_and_kept_where_something_was():
    row, running = gated(fails="a")
    row.gates["a"].set()
    with pytest.raises(InputError, match="stage a failed"):
        running.wait(PATIENCE)
    with pytest.raises(InputError, match="stage a failed"):
        running.stop()
    row, running = gated(fails="b")
    let(row, "a")
    row.gates["b"].set()
    assert running.wait(PATIENCE).exit == "after a"
    assert "stage b failed" in str(running.error)
    assert running.stop().exit == "after a"


ENDS = """
import sys, time
from types import SimpleNamespace
import numpy as np
from sentio.core.anytime import ExitPoint
from sentio.core.background import Background

def run_stage(name, boundary):
    print(name, flush=True)
    time.sleep(0.2)
    return boundary

names = tuple(f"stage {number}" for number in range(300))
row = SimpleNamespace(
    stage_names=names, exit_points=(ExitPoint("final", names[-1], ((names[-1], "main"),)),),
    start=lambda inputs: {"main": inputs}, run_stage=run_stage,
)
Background(row, np.zeros((1, 1)))
"""


def test_a_program_that_ends_waits_for_the_present_stage_only():
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stage 299" not in done.stdout


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A classifier of images with exits, in PyTorch and as a box, and the same picture for both."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    torch.set_num_threads(1)
    from sentio.core.torch_row import TorchRow
    from sentio.tasks.classification import Classification

    torch.manual_seed(0)
    parts = sentio.create_network("resnet8", classes=4, width=4).stages
    # Few graphs, since each takes a while to export.
    whole = {"low": torch.nn.Sequential(parts["stem"], parts["layer1"]), "middle": parts["layer2"]}
    whole["high"] = torch.nn.Sequential(parts["layer3"], parts["head"])
    net = sentio.Staged(whole, input_shapes=(3, 32, 32))
    net = sentio.add_exits(net, "pooled-linear", at=["low", "middle"], classes=4)
    model = sentio.Model(TorchRow(net), Classification(list("abcd")), temperatures={"middle": 2.0})
    folder = tmp_path_factory.mktemp("images") / "box"
    sentio.export(model, folder)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    return {"torch": model, "edge": sentio.load(folder, runtime="edge", threads=1)}, x


@pytest.mark.parametrize("runtime", ["torch", "edge"])
def test_stopped_at_any_moment_an_image_network_has_given_a_whole_answer(images, runtime):
    models, x = images
    model = models[runtime]
    whole = {step.exit: np.array(step.output) for step in model.anytime(x)}
    order = list(whole)
    begun = time.perf_counter()
    for _ in range(3):
        assert model.background(x).wait(PATIENCE).exit == "final"
    lap = (time.perf_counter() - begun) / 3
    moments = np.random.default_rng(1)
    for delay in moments.uniform(0.0, 1.5 * lap, 25):
        running, seen, ends = model.background(x), [], threading.Event()

        def watch(running=running, seen=seen, ends=ends):
            while not ends.is_set():
                seen.append(running.newest)

        watching = threading.Thread(target=watch)
        watching.start()
        time.sleep(delay)
        answer = running.stop()
        ends.set()
        watching.join(PATIENCE)
        running._thread.join(PATIENCE)
        assert running.newest is answer and running.error is None
        places = [-1 if found is None else order.index(found.exit) for found in (*seen, answer)]
        assert places == sorted(places)  # never an older one after a newer one
        for found in {id(found): found for found in (*seen, answer) if found is not None}.values():
            np.testing.assert_array_equal(found.output, whole[found.exit])


@pytest.mark.parametrize("runtime", ["torch", "edge"])
def test_the_picture_may_be_overwritten_while_it_is_looked_at(images, runtime):
    models, x = images
    model = models[runtime]
    whole = {step.exit: np.array(step.output) for step in model.anytime(x)}
    given = x.copy()
    running = model.background(given)
    given[:] = 0.0
    np.testing.assert_array_equal(running.wait(PATIENCE).output, whole["final"])


def test_what_is_no_picture_is_refused_at_once(images):
    models, x = images
    with pytest.raises(InputError, match=r"of shape \(batch, 3, 32, 32\)"):
        models["torch"].background(x[:, :1])
    broken = x.copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        models["edge"].background(broken)
