"""The commands: what they print, their JSON, their exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from sentio.cli.app import app
from sentio.cli.bars import Bars
from sentio.core.model import Model
from sentio.training.progress import Progress, main_process

MAIN = "from sentio.cli import main; main()"
COMMANDS = ("train", "evaluate", "predict", "profile", "export", "models", "doctor")


def test_train_evaluate_predict_and_export(sentio, tones, recipe, tmp_path):
    out = tmp_path / "model"
    found = sentio("train", recipe, "--data", tones, "-o", out, "--epochs", 2, "--set", "batch=16")
    assert found.code == 0
    assert "calibrated on 6 validation samples:" in found.out
    assert "test (random, seed 0, 6 files): accuracy " in found.out
    assert "note: Accuracies on so few files say little: validation 6, test 6." in found.out
    assert f"try: sentio evaluate {out} {tones} --split 0" in found.out

    found = sentio("evaluate", out, tones, "--split", 0)
    assert found.code == 0
    for part in ("exit", "accuracy", "MACs", "ms", "leaving", "block1", "block2", "final", "6 recordings"):
        assert part in found.out

    found = sentio("predict", out, tones / "low" / "0.wav")
    assert found.code == 0
    assert " exit " in found.out and found.out.rstrip().endswith(" ms")

    found = sentio("export", out, tmp_path / "box")
    assert found.code == 0
    assert "probabilities differ from PyTorch by at most" in found.out
    found = sentio("predict", tmp_path / "box", tones / "low" / "0.wav", "--runtime", "edge", "--threads", 1)
    assert found.code == 0


def test_threads_hold_for_pytorch_too(sentio, artifact, own_tones, monkeypatch):
    import torch

    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert sentio("predict", artifact, own_tones / "low" / "0.wav", "--threads", 2).code == 0
    assert sentio("evaluate", artifact, own_tones, "--split", 0, "--threads", 3).code == 0
    assert sentio("listen", artifact, own_tones / "low" / "0.wav", "--threads", 4).code == 0
    assert asked == [2, 3, 4]


def test_embeddings_say_that_they_are_and_a_gallery_names_them(sentio, tmp_path):
    import sentio as library
    from sentio.core import registry
    from sentio.core.torch_row import TorchRow
    from sentio.tasks.embedding import EmbeddingTask
    from sentio.tasks.gallery import Gallery

    frontend = registry.build(
        "frontend", "log-mel", rate=8000, n_fft=256, hop_length=128, n_mels=64, window=0.6
    )
    net = library.MultiExit(library.create_network("tiny-cnn", classes=3))
    library.save(
        Model(TorchRow(net.eval()), EmbeddingTask(dimension=3), frontend=frontend), tmp_path / "model"
    )
    sound = tmp_path / "hum.wav"
    soundfile.write(sound, np.sin(np.arange(8000) / 5), 8000)
    found = sentio("predict", tmp_path / "model", sound)
    assert found.code == 0 and "an embedding of 3 numbers, --gallery FILE gives it a name" in found.out
    (row,) = json.loads(sentio("predict", tmp_path / "model", sound, "--json").out)
    gallery = Gallery(3)
    gallery.enrol("hum", np.array(row["vector"]))
    gallery.enrol("hiss", -np.array(row["vector"]))
    gallery.save(tmp_path / "sounds.npz")
    found = sentio("predict", tmp_path / "model", sound, "--gallery", tmp_path / "sounds.npz")
    assert found.code == 0 and "hum  1.00" in found.out


def test_data_alone_is_enough(sentio, own_tones, tmp_path):
    found = sentio("train", own_tones, "-o", tmp_path / "mine.zip", "--epochs", 1, "--json")
    assert found.code == 0
    card = json.loads(found.out)["card"]
    assert card["recipe"]["name"] == "mine"
    assert card["recipe"]["network"]["name"] == "dcase2024-baseline"
    assert (tmp_path / "mine.zip").is_file()


def test_fine_tuning(sentio, own_tones, artifact, tmp_path):
    found = sentio("train", own_tones, "--from", artifact, "-o", tmp_path / "tuned", "--epochs", 1, "--json")
    assert found.code == 0
    assert json.loads(found.out)["card"]["recipe"]["network"] is None
    found = sentio("predict", tmp_path / "tuned", own_tones / "low" / "1.wav", "--json")
    assert set(json.loads(found.out)[0]["scores"]) == {"high", "low", "middle"}


def test_a_training_without_test_and_validation_says_so(sentio, own_tones, recipe, tmp_path):
    for file in own_tones.rglob("[1-9].wav"):
        file.unlink()
    found = sentio(
        "train", recipe, "--data", own_tones, "-o", tmp_path / "m", "--split", "all", "--epochs", 1
    )
    assert found.code == 0
    assert "note: There is no validation part" in found.out
    assert "there is no test part" in found.out
    assert "--split" not in found.out


def test_json_of_every_command_and_nothing_else_on_standard_output(sentio, artifact, box, tones, tmp_path):
    clip = tones / "low" / "0.wav"
    evaluated = json.loads(sentio("evaluate", artifact, tones, "--json").out)
    assert {"accuracy", "mean_macs", "exits", "confusion", "policy"} <= set(evaluated)
    assert [row["name"] for row in evaluated["exits"]] == ["block1", "block2", "final"]
    assert {"accuracy", "macs", "ms", "share"} <= set(evaluated["exits"][0])
    predicted = json.loads(sentio("predict", artifact, clip, clip, "--json").out)
    assert [row["file"] for row in predicted] == [str(clip)] * 2
    assert {"label", "score", "exit", "milliseconds", "scores"} <= set(predicted[0])
    assert json.loads(sentio("profile", artifact, "--no-measure", "--json").out)["exits"].keys() == {
        "block1",
        "block2",
        "final",
    }
    assert json.loads(sentio("export", artifact, tmp_path / "b", "--json").out)["difference"] < 1e-4
    assert "tiny-cnn" in json.loads(sentio("models", "--json").out)["network"]
    assert {"package", "version", "extra", "purpose"} == set(json.loads(sentio("doctor", "--json").out)[0])


def test_evaluate_of_a_part_and_with_another_policy(sentio, artifact, tones):
    part = json.loads(sentio("evaluate", artifact, tones, "--split", 0, "--part", "train", "--json").out)
    assert part["recordings"] == 24
    fixed = json.loads(sentio("evaluate", artifact, tones, "--policy", "fixed:block1", "--json").out)
    assert [row["share"] for row in fixed["exits"]] == [1.0, 0.0, 0.0]
    assert fixed["mean_macs"] == fixed["exits"][0]["macs"]


def test_evaluate_says_when_it_measures_on_what_was_trained_on(sentio, artifact, tones):
    assert "note: The model was trained on files of tones" in sentio("evaluate", artifact, tones).out
    assert "trained on files" not in sentio("evaluate", artifact, tones, "--split", 0).out


def test_evaluate_averages_over_draws_as_wide_as_in_the_training(sentio, artifact, tones, tmp_path, tamper):
    refused = sentio("evaluate", artifact, tones, "--tta", 3)
    assert refused.code == 2
    assert "was not trained with masks or rolls" in refused.err
    folder = shutil.copytree(artifact, tmp_path / "masked")
    tamper(folder, lambda values: values["card"]["recipe"]["augment"].update(time_mask=0.3))
    plain, drawn = (
        json.loads(sentio("evaluate", folder, tones, "--split", 0, *more, "--json").out)
        for more in ((), ("--tta", 3))
    )
    assert drawn["exits"][0]["macs"] == 3 * plain["exits"][0]["macs"]
    assert drawn["log_loss"] != plain["log_loss"]
    assert "Test-time augmentation: each answer is the mean of 3 draws." in drawn["notes"]


def test_export_in_half_the_bytes(sentio, artifact, tmp_path):
    pytest.importorskip("onnxscript")
    found = sentio("export", artifact, tmp_path / "half", "--float16")
    assert "from those before rounding to float16" in found.out
    assert json.loads((tmp_path / "half" / "sentio.json").read_text())["storage"] == "float16"


def test_evaluate_agrees_between_runtimes(sentio, box, tones):
    torch, edge = (
        json.loads(sentio("evaluate", box, tones, "--runtime", runtime, "--json").out)
        for runtime in ("torch", "edge")
    )
    assert torch["confusion"] == edge["confusion"]
    assert (torch["runtime"], edge["runtime"]) == ("torch", "edge")


def test_predict_goes_on_after_a_bad_file_and_leaves_with_its_code(sentio, artifact, tones, tmp_path):
    bad, good = tmp_path / "bad.wav", tones / "low" / "0.wav"
    bad.write_bytes(b"no sound")
    found = sentio("predict", artifact, bad, good, tmp_path / "none.wav")
    assert found.code == 3
    assert found.out.startswith(f"{good}: ")
    assert [line.split(": ")[0] for line in found.err.splitlines()] == ["sentio", "sentio"]
    found = sentio("predict", artifact, bad, good, "--json")
    assert found.code == 3
    rows = json.loads(found.out)
    assert ("error" in rows[0], "label" in rows[1]) == (True, True)


def test_predict_does_not_tell_what_starting_takes(sentio, artifact, tones, monkeypatch):
    """A window of noise goes first: what is loaded at first use is no recording's time."""
    given = []
    answer = Model.predict

    def recorded(model, source, **options):
        given.append(source)
        return answer(model, source, **options)

    monkeypatch.setattr(Model, "predict", recorded)
    first, second = sorted((tones / "low").glob("*.wav"))[:2]
    found = sentio("predict", artifact, first, second)
    assert found.code == 0 and len(found.out.splitlines()) == 2
    (noise, rate), *files = given
    assert noise.std() > 0 and rate == 8000
    assert files == [first, second]


def test_listen_does_not_tell_what_starting_takes(sentio, artifact, tones, monkeypatch):
    given = []
    answer = Model.answer

    def recorded(model, inputs, **options):
        given.append(inputs)
        return answer(model, inputs, **options)

    monkeypatch.setattr(Model, "answer", recorded)
    found = sentio("listen", artifact, next((tones / "low").glob("*.wav")), "--json")
    assert found.code == 0
    assert len(given) == 1 + sum(w["exit"] != "none" for w in json.loads(found.out)["windows"])


@pytest.mark.parametrize("command", ["predict", "listen", "evaluate"])
def test_a_deadline_is_about_this_machine(sentio, artifact, tones, tamper, tmp_path, command):
    """The artifact knows no milliseconds at all, and goes by a deadline of its own."""
    ours = shutil.copytree(artifact, tmp_path / "ours")

    def change(manifest):
        manifest["costs"]["ms"] = None
        manifest["policy"] = {"name": "deadline", "ms": 1e6}

    tamper(ours, change)
    data = tones if command == "evaluate" else next((tones / "low").glob("*.wav"))
    for options in ((), ("--policy", "deadline:1000000")):
        found = sentio(command, ours, data, *options)
        assert found.code == 0, found.err
        assert "final" in found.out


def test_predict_windows_and_labels_of_interest(sentio, artifact, tones, tmp_path):
    import soundfile

    clip, rate = soundfile.read(tones / "low" / "0.wav")
    soundfile.write(tmp_path / "long.wav", list(clip) * 4, rate)
    found = sentio("predict", artifact, tmp_path / "long.wav", "--windows", "--hop", 0.15)
    assert len(found.out.splitlines()) == 8
    assert "  0.15 to    0.45 s" in found.out
    first = json.loads(sentio("predict", artifact, tmp_path / "long.wav", "--json").out)[0]
    others = ",".join(label for label in first["scores"] if label != first["label"])
    found = sentio("predict", artifact, tmp_path / "long.wav", "--only", others)
    assert ": none of these  " in found.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "ARTIFACT", "CLIP", "--policy", "confidence"), "--policy takes one of confidence:VALUE"),
        (("predict", "ARTIFACT", "CLIP", "--policy", "trust:1"), "--policy takes one of"),
        (("predict", "ARTIFACT", "CLIP", "--policy", "confidence:high"), "takes a number, got 'high'"),
        (("predict", "ARTIFACT", "CLIP", "--policy", "confidence:2"), "numbers between 0 and 1, got 2.0"),
        (("predict", "ARTIFACT", "CLIP", "--policy", "patience:1.5"), "takes a whole number, got '1.5'"),
        (("predict", "ARTIFACT", "CLIP", "--policy", "fixed:blok1"), "did you mean 'block1'?"),
        (("predict", "ARTIFACT", "CLIP", "--runtime", "onnx"), "--runtime is torch or edge, got 'onnx'"),
        (("predict", "ARTIFACT", "CLIP", "--only", "lo"), "Unknown label 'lo'; did you mean 'low'?"),
        (("predict", "ARTIFACT", "CLIP", "--hop", "0"), "hop must be a number of seconds above 0"),
        (("evaluate", "ARTIFACT", "DATA", "--split", "one"), "--split takes a number from 0, or all"),
        (("evaluate", "ARTIFACT", "DATA", "--split", "7"), "has splits 0 to 0 with parts train"),
        (("evaluate", "ARTIFACT", "DATA", "--split", "0", "--part", "tests"), "part 'tests'"),
        (("evaluate", "ARTIFACT", "DATA", "--protocol", "folds"), "has no protocol 'folds'"),
        (("evaluate", "ARTIFACT", "DATA", "--split", "0", "--seed", "-1"), "A seed is a whole number from 0"),
        (
            ("export", "ARTIFACT", "OUT", "--int8", "--calibration", "DATA", "--seed", "-1"),
            "A seed is a whole number from 0",
        ),
        (("train", "DATA", "--data", "DATA", "-o", "OUT"), "--data goes with a recipe"),
        (("train", "DATA", "-o", "OUT", "--set", "epochs"), "--set takes KEY=VALUE"),
        (("train", "DATA", "-o", "OUT", "--set", "epochs=["), "not valid YAML"),
        (("train", "DATA", "-o", "OUT", "--set", "optimizer.lr=1"), "did you mean 'optimiser'?"),
        (("profile", "tiny-cn"), "Unknown model or network 'tiny-cn'; did you mean 'tiny-cnn'?"),
    ],
)
def test_wrong_usage_is_one_sentence_and_code_2(sentio, artifact, tones, tmp_path, arguments, message):
    places = {
        "ARTIFACT": artifact,
        "CLIP": tones / "low" / "0.wav",
        "DATA": tones,
        "OUT": tmp_path / "out",
    }
    found = sentio(*(places.get(argument, argument) for argument in arguments))
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("sentio: ") and found.err.count("\n") == 1
    assert message in found.err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nope",),
        ("train",),
        ("train", "data"),
        ("predict", "m"),
        ("train", "d", "-o", "x", "--epochs", "0"),
    ],
)
def test_usage_that_cannot_be_parsed_is_code_2(sentio, arguments):
    found = sentio(*arguments)
    assert found.code == 2
    assert "Usage: sentio" in found.err + found.out


def test_version(sentio):
    import sentio as package

    assert sentio("--version").out == f"{package.__version__}\n"


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in COMMANDS)], ids=lambda c: " ".join(c) or "sentio"
)
def test_help_fits_into_80_columns_and_shows_examples(sentio, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    found = sentio(*command, "--help")
    assert found.code == 0
    assert max(map(len, found.out.splitlines())) <= 80
    assert ("Exit codes:" if not command else "Examples:") in found.out
    assert not [line for line in found.out.splitlines() if line.endswith("...") and "Usage" not in line]


def test_every_option_is_explained():
    import typer

    for name, command in typer.main.get_command(app).commands.items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_the_command_list_names_every_command(sentio):
    listed = sentio("--help").out
    assert [name for name in COMMANDS if f"\n  {name} " in listed] == list(COMMANDS)


def test_models_and_doctor_list_what_there_is(sentio):
    found = sentio("models").out
    assert "tiny-cnn" in found and "classifier-wise" in found and "pooled-linear" in found
    assert "numpy" in sentio("doctor").out


@pytest.fixture
def shelf(box, tmp_path, monkeypatch):
    """A shelf with one model, ``tones``, and a bare name for it in every command."""
    from sentio.core.loading import load
    from sentio.exporting.onnx import export

    model = load(box, runtime="torch")
    model.card["shelf"] = {"purpose": "three tones", "tested_on": "six clips"}
    export(model, tmp_path / "shelf" / "tones.sentio")
    monkeypatch.setattr("sentio.core.shelf.FOLDER", tmp_path / "shelf")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return model.card["test"]["accuracy"]


def test_models_lists_what_ships_first(sentio, shelf):
    first, *others = sentio("models").out.splitlines()
    assert re.fullmatch(r"tones +0\.\d\d MB  accuracy (.+)% on six clips  three tones", first)
    assert f"accuracy {shelf:.1%}" in first
    assert others[0].startswith("networks ")
    (model,) = json.loads(sentio("models", "--json").out)["model"]
    assert (model["name"], model["accuracy"], model["purpose"]) == ("tones", shelf, "three tones")
    assert model["licence"] is None


def test_every_command_takes_the_name_of_what_ships(sentio, shelf, tones, own_tones, tmp_path):
    clip = tones / "low" / "0.wav"
    assert json.loads(sentio("predict", "tones", clip, "--json").out)[0]["label"]
    assert json.loads(sentio("evaluate", "tones", tones, "--json").out)["recordings"] == 36
    assert "final" in json.loads(sentio("profile", "tones", "--no-measure", "--json").out)["exits"]
    assert sentio("export", "tones", tmp_path / "box").code == 0
    tuned = sentio("train", own_tones, "--from", "tones", "-o", tmp_path / "tuned", "--epochs", 1)
    assert tuned.code == 0
    assert "did you mean 'tones'?" in sentio("profile", "tonse").err


def test_doctor_names_the_extra_that_brings_what_is_missing(sentio, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr("sentio.cli.doctor.version", version)
    assert "missing; pip install 'sentio[train]'" in sentio("doctor").out


def test_bars_draw_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, drawn in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with Bars() as bars:
            bars(Progress("train exits", 1, 4, {"train_loss": 0.5, "learning_rate": 0.1}))
            bars(Progress("train exits", 4, 4))
        assert ("train exits" in stream.getvalue()) is drawn


def test_other_processes_of_a_training_keep_quiet(monkeypatch):
    assert main_process()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not main_process()


def test_labels_that_the_terminal_cannot_show(artifact, tones, tmp_path):
    """In a process of its own, whose output is plain ASCII."""
    clip = tmp_path / "gefährlich.wav"
    clip.write_bytes((tones / "low" / "0.wav").read_bytes())
    done = process("predict", artifact, clip, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0, done.stderr
    assert "gef\\xe4hrlich.wav: " in done.stdout


def process(*arguments, env=None):
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        check=False,
    )


def test_exit_codes_of_a_real_process(artifact, tones, tmp_path):
    assert process("models").returncode == 0
    missing = process("predict", artifact, tmp_path / "none.wav")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr == f"sentio: {tmp_path / 'none.wav'} does not exist\n"


def test_ctrl_c_while_training_is_code_130_and_the_same_command_goes_on(recipe, tones, tmp_path):
    command = ["train", recipe, "--data", tones, "-o", tmp_path / "m", "--set", "epochs=20000"]
    running = subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A job in the background starts with Ctrl-C ignored, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # Figures are written before it, so an interruption between the two would leave none.
    kept = tmp_path / "m.run" / "phase-0" / "last.ckpt"
    for _ in range(600):
        if kept.exists() or running.poll() is not None:
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert out == ""
    assert err == "sentio: Training was interrupted; the same command goes on from the last finished epoch\n"
    assert kept.exists()
    assert (tmp_path / "m.run" / "unfinished").exists()


def test_ctrl_c_anywhere_else_is_code_130(sentio, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("sentio.cli.doctor.report", interrupted)
    assert sentio("doctor").code == 130


def test_the_command_needs_no_pytorch_to_help():
    code = "import sys; sys.modules['torch'] = None; from sentio.cli import main; main(['models'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "tiny-cnn" in done.stdout


def test_listen_prints_segments_and_how_quickly(sentio, artifact, tmp_path):
    street = tmp_path / "street"
    assert sentio("simulate", "street", "--minutes", 0.1, "--rate", 8000, "--out", street).code == 0
    wav = street / "audio" / "street_000.wav"
    plain = sentio("listen", artifact, wav, "--hop", 0.5)
    assert plain.code == 0
    assert plain.out.splitlines()[0].split() == ["seconds", "heard", "score", "exit", "ms"]
    assert "real-time factor" in plain.out and "right:" not in plain.out
    known = sentio("listen", artifact, wav, "--deadline", 1000, "--truth", street)
    assert "0 later than 1000 ms" in known.out and "false alarms" in known.out
    found = json.loads(sentio("listen", artifact, wav, "--truth", street, "--json").out)
    assert found["windows"][0].keys() >= {"start", "end", "label", "exit", "milliseconds", "in_time"}
    assert found["truth"] and found["right"] is not None
    assert sentio("listen", artifact, wav, "--hop", 0).code == 2
    assert sentio("listen", artifact, tmp_path / "none.wav").code == 3
