"""What `sentio.edge` offers: import without weight, threads, providers, memory maps, and the same `Model`."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from sentio import edge
from sentio.core.artifact import ArtifactFiles
from sentio.core.errors import ArtifactError, ConfigError
from sentio.core.loading import load
from sentio.core.policy import Confidence, Deadline, Fixed

pytest.importorskip("onnx")


def test_the_edge_loads_exported_stages(artifact, small):
    model = edge.load(artifact, threads=1)
    assert model.runtime == "edge"
    features = small.features(3)
    expected = load(artifact, runtime="edge").answer(features)
    np.testing.assert_array_equal(model.answer(features).outputs, expected.outputs)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "options", [{"memory_map": True}, {"lean": True}, {"memory_map": True, "lean": True}]
)
def test_where_graphs_lie_changes_no_answer(by_hand, tmp_path, packed, options):
    path = by_hand
    if packed:
        path = tmp_path / "box.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in by_hand.rglob("*"):
                archive.write(file, file.relative_to(by_hand))
    x = np.random.default_rng(0).standard_normal((5, 1, 19, 8)).astype(np.float32)
    want = edge.load(by_hand, threads=1).answer(x)
    found = edge.load(path, threads=1, **options).answer(x)
    np.testing.assert_allclose(found.outputs, want.outputs, atol=1e-6)
    np.testing.assert_array_equal(found.exit, want.exit)


def test_a_mapped_file_is_checked_too(own_box, tmp_path):
    data = bytearray((own_box / "stages/head.onnx").read_bytes())
    data[60] ^= 4
    (own_box / "stages/head.onnx").write_bytes(data)
    path = tmp_path / "box.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in own_box.rglob("*"):
            archive.write(file, file.relative_to(own_box))
    for place in (own_box, path):
        with pytest.raises(ArtifactError, match=r"'stages/head.onnx' does not match its checksum"):
            edge.load(place, memory_map=True)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_mapped_file_is_the_file(by_hand, tmp_path, method):
    path = tmp_path / "box.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in by_hand.rglob("*"):
            archive.write(file, file.relative_to(by_hand))
    for place in (by_hand, path):
        files = ArtifactFiles(place)
        for name in files.manifest.files:
            with files.mapped(name) as (data, own):
                assert bytes(data) == files.read(name) == (by_hand / name).read_bytes()
                assert own == (by_hand / name if place == by_hand else None)


def test_onnx_runtime_keeps_no_second_copy_of_a_graph(by_hand):
    row = edge.load(by_hand, threads=1).row
    sessions = [session for session, _ in row._graphs.values()]
    assert len(sessions) == 3
    for session in sessions:
        assert session._session._model_bytes is None


def test_threads_and_providers_reach_onnx_runtime(by_hand):
    for name in ("cpu", "CPUExecutionProvider", ["CPU"]):
        row = edge.load(by_hand, threads=2, provider=name).row
        session = row._graphs["stage:a"][0]._session
        assert session.get_providers() == ["CPUExecutionProvider"]
        assert session.get_session_options().intra_op_num_threads == 2


@pytest.mark.parametrize("name", ["cudda", "", 3])
def test_a_provider_that_is_not_there_is_named_with_what_is(by_hand, name):
    with pytest.raises(
        ConfigError, match=r"no execution provider .*; it has: .*cpu; choose one of these"
    ) as caught:
        edge.load(by_hand, provider=[name])
    assert "\n" not in str(caught.value)


def test_a_provider_that_does_not_start_is_not_passed_over(by_hand, monkeypatch):
    names = ["CUDAExecutionProvider", *ort.get_available_providers()]
    monkeypatch.setattr(ort, "get_available_providers", lambda: names)
    monkeypatch.setattr("warnings.warn", lambda *a, **k: None)
    with pytest.raises((ConfigError, ArtifactError), match=r"'cuda' cannot be started|CUDAExecutionProvider"):
        edge.load(by_hand, provider="cuda")


def test_options_of_the_edge_are_refused_for_pytorch(artifact, small):
    for options in ({"provider": "cpu"}, {"memory_map": True}, {"lean": True}):
        with pytest.raises(ConfigError, match=r"ask for it with runtime='edge' \(--runtime edge\)"):
            load(artifact, runtime="torch", **options)
    with pytest.raises(ConfigError, match="needs at least one thread, got 0"):
        edge.load(artifact, threads=0)


def test_anytime_gives_calibrated_answers_and_lets_samples_go(by_hand):
    model = edge.load(by_hand, threads=1)
    x = np.random.default_rng(0).standard_normal((4, 1, 19, 8)).astype(np.float32)
    wanted = {name: model.answer(x, policy=Fixed(name)).outputs for name in model.exit_names}
    seen = []
    for step in model.anytime(x):
        seen.append((step.exit, step.samples.tolist()))
        np.testing.assert_allclose(step.output, wanted[step.exit][step.samples], atol=1e-6)
        step.drop(np.arange(len(step.samples)) % 2 == 0)
    assert seen == [("e", [0, 1, 2, 3]), ("final", [1, 3])]


def test_a_batch_whose_samples_leave_equals_one_by_one(by_hand):
    model = edge.load(by_hand, threads=1)
    x = np.random.default_rng(0).standard_normal((40, 1, 19, 8)).astype(np.float32)
    sure = np.sort(model.answer(x, policy=Fixed("e")).confidence)
    policy = Confidence(float(sure[19:21].mean()))
    whole = model.answer(x, policy=policy)
    assert whole.exit_names().count("final") == 20
    for row in range(40):
        alone = model.answer(x[row : row + 1], policy=policy)
        assert alone.exit_names() == [whole.exit_names()[row]]
        np.testing.assert_allclose(alone.outputs[0], whole.outputs[row], atol=1e-6)


def test_those_that_have_left_are_not_computed(by_hand, monkeypatch):
    model = edge.load(by_hand, threads=1)
    x = np.random.default_rng(0).standard_normal((6, 1, 19, 8)).astype(np.float32)
    sizes = []
    run = model.row.run_stage
    monkeypatch.setattr(
        model.row, "run_stage", lambda name, b: sizes.append((name, len(b["main"]))) or run(name, b)
    )
    sure = np.sort(model.answer(x, policy=Fixed("e")).confidence)
    sizes.clear()
    model.answer(x, policy=Confidence(float(sure[3:5].mean())))
    assert sizes == [("a", 6), ("head", 4)]


def test_deadlines_go_by_what_this_machine_takes(by_hand):
    model = edge.load(by_hand, threads=1)
    x = np.zeros((1, 1, 19, 8), np.float32)
    with pytest.raises(ConfigError, match="needs measured milliseconds of each exit"):
        model.answer(x, policy=Deadline(1e4))
    costs = model.time_exits(repeats=3)
    assert costs.names == ("e", "final")
    assert 0 < costs.ms[0] < costs.ms[1]
    assert model.answer(x, policy=Deadline(1e4)).exit_names() == ["final"]
    assert model.answer(x, policy=Deadline(1e-6)).exit_names() == ["e"]


def test_import_brings_nothing_heavy():
    code = "import sys, sentio.edge; print(sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(eval(run.stdout))
    assert "sentio.edge" in found
    heavy = {
        "numpy",
        "onnxruntime",
        "pydantic",
        "torch",
        "typer",
        "yaml",
        "soundfile",
        "soxr",
        "email",
        "zipfile",
    }
    assert found & heavy == set()
    assert {name for name in found if name.startswith("sentio")} == {"sentio", "sentio.edge"}


def test_an_answer_brings_nothing_that_is_not_needed(by_hand):
    code = (
        "import sys, numpy, sentio.edge\n"
        f"model = sentio.edge.load({str(by_hand)!r}, threads=1)\n"
        "model.answer(numpy.zeros((1, 1, 19, 8), numpy.float32))\n"
        "print([name for name in ('torch', 'typer', 'rich', 'scipy', 'yaml') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_names_are_there_and_others_are_not():
    for name in edge.__all__:
        assert getattr(edge, name).__doc__
    assert dir(edge) == sorted(edge.__all__)
    with pytest.raises(AttributeError, match=r"'sentio.edge' has no attribute 'nonsense'"):
        _ = edge.nonsense


def test_the_pages_code_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "edge.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "edge.md", "exec"), {})
        assert capsys.readouterr().out.strip()


def test_profile_on_the_edge_times_the_exits(by_hand, capfd):
    from sentio.cli import main

    outputs = []
    for more in (["--json"], []):
        with pytest.raises(SystemExit) as left:
            main(["profile", str(by_hand), "--runtime", "edge", "--threads", "1", "--provider", "cpu", *more])
        assert not left.value.code
        outputs.append(capfd.readouterr().out)
    found = json.loads(outputs[0])
    assert found["names"] == ["e", "final"]
    assert all(value > 0 for value in found["ms"])
    assert "final" in outputs[1] and "not known" in outputs[1]
