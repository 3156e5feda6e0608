"""The benchmarks run; what they measure is for a quiet machine to say."""

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("rich")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def anytime(tmp_path_factory):
    found = tmp_path_factory.mktemp("anytime") / "anytime.json"
    command = [
        sys.executable,
        str(BENCHMARKS / "anytime.py"),
        "--quick",
        "--samples",
        "10",
        "--json",
        str(found),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(found.read_text())


def test_anytime_prints_both_targets_with_a_verdict(anytime):
    text, _ = anytime
    for line in ("row loop / backbone ", "mean with thresholds, measured / profile "):
        (found,) = [printed for printed in text.splitlines() if printed.startswith(line)]
        assert ("PASS" in found) != ("FAIL" in found)


def test_anytime_leaves_as_it_says(anytime):
    _, figures = anytime
    (result,) = figures["results"]
    assert list(result["shares"].values()) == [0.4, 0.3, 0.3]
    assert list(result["shares"])[-1] == "final"


def test_anytime_gives_every_exit_a_cost(anytime):
    _, figures = anytime
    (result,) = figures["results"]
    assert [row["kind"] for row in result["exit_costs"]] == [
        kind for kind in ("pooled-linear", "cnn-ee", "sl-vit") for _ in range(2)
    ]
    assert all(row["macs"] > 0 and row["ms"] > 0 for row in result["exit_costs"])


def test_anytime_compares_with_its_peer_or_says_why_not(anytime):
    text, figures = anytime
    (result,) = figures["results"]
    compared = [name for name in result["ratios"] if name.startswith("with exits: sentio / earlyon")]
    if compared:
        assert len(compared) == 2 and result["notes"] == []
    else:
        assert result["notes"] == ["no peer: earlyon is not installed (pip install --no-deps earlyon fvcore)"]
        assert result["notes"][0] in text


def test_streaming_compares_with_the_window_and_with_its_peer(tmp_path):
    found = tmp_path / "streaming.json"
    command = [
        sys.executable,
        str(BENCHMARKS / "streaming.py"),
        "--networks",
        "four convolutions",
        "tiny-cnn",
    ]
    command += ["--repeats", "2", "--streams", "2", "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(found.read_text())
    reached = figures["receptive_field"]
    assert [row["receptive_field"] for row in reached] == [9, 17, 33, 65, 129, 257]
    assert len({row["macs"] for row in reached}) == 1
    features, tiny = figures["results"]
    for way in ("one stream", "in ONNX Runtime", "in a batch"):
        assert f"share of at least 0.5, {way}: " in done.stdout
    for row in figures["results"] if shutil.which("cc") else []:
        assert row["compiled"]["step_ms"] > 0
    assert features["step_macs"] < 0.3 * features["window_macs"]
    assert tiny["step_macs"] < 0.3 * tiny["window_macs"] and tiny["peer_ms"] is None
    # Two hops, four: with eight, a window is less work than a step, and there is nothing to save.
    assert [row["hop"] for row in tiny["longer"]] == [32, 64][: len(tiny["longer"])]
    for row in tiny["longer"]:
        assert row["step_macs"] == pytest.approx(row["hop"] / tiny["hop"] * tiny["step_macs"], rel=0.01)
    if features["peer_ms"] is None:
        assert "no peer: " in done.stdout
    else:
        assert features["difference"] < 1e-5
        assert features["peer_bytes"] > features["state_bytes"] > 0
        assert features["many"]["apart_ms"] > 0


def test_exits_on_streams_are_compared_with_windows(tmp_path):
    found = tmp_path / "exits.json"
    command = [sys.executable, str(BENCHMARKS / "streaming_exits.py"), "--networks", "tiny-cnn"]
    command += ["--hops", "40", "--passes", "1", "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(found.read_text())["results"]
    assert len(results) == 3
    for row in results:
        # What is caught up is paid for, up to what never leaving costs.
        assert row["hold_macs"] <= row["exact_macs"] < row["full_macs"]
        assert min(row[f"{way}_ms"] for way in ("exact", "hold", "full", "window")) > 0
    few = [*command[:-2], "--hops", "1"]
    done = subprocess.run(few, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "take more --hops" in done.stderr


def test_street_sounds_measures_the_peers_and_the_shipped_network(tmp_path):
    found = tmp_path / "street.json"
    command = [sys.executable, str(BENCHMARKS / "street_sounds.py"), "--train", "12", "--test", "4"]
    done = subprocess.run([*command, "--json", str(found)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(found.read_text())
    linear = [value for name, value in figures.items() if name.startswith("logistic regression")]
    assert len(linear) == 2 and max(linear) < 0.8 < figures["street-sounds, all at final"]


def test_edge_compares_stages_with_pytorch_and_one_graph(tmp_path):
    pytest.importorskip("onnxscript")
    found = tmp_path / "edge.json"
    command = [sys.executable, str(BENCHMARKS / "edge.py"), "--models", "fsdd-digits", "--repeats", "2"]
    command += ["--hop", "0.02", "--rounds", "1", "--starts", "1", "--samples", "16", "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(found.read_text())["results"]
    assert result["weight_ratio"] < 0.27 and 0 < result["difference_int8"] < 0.05
    assert list(result["laps"]) == [f"batch {n}, thresholds {t}" for n in (1, 16) for t in ("off", "on")]
    ways = ["stages", "stages, int8", "PyTorch", "one graph", "one graph, int8"]
    for laps in result["laps"].values():
        assert list(laps) == ways and laps["stages"]["ratio"] == 1.0
        assert all(0 < row["p50"] <= row["p95"] <= row["p99"] for row in laps.values())
    assert list(result["streams"]) == ways[:3]
    sizes = {name: box["bytes"] for name, box in result["boxes"].items()}
    assert sizes["stages, int8"] < 0.4 * sizes["stages without weights"] < 0.4 * sizes["stages and weights"]


def test_cifar10_anytime_trains_what_is_not_there_and_measures_both_ways(tmp_path, monkeypatch, capsys):
    pillow = pytest.importorskip("PIL.Image")
    import numpy as np

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    main = import_module("cifar10_anytime").main
    generator = np.random.default_rng(0)
    for label, level in (("dark", 60), ("grey", 120), ("light", 190)):
        (tmp_path / "data" / "train" / label).mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(level - 60, level + 60, (32, 32, 3)).astype(np.uint8)
            pillow.fromarray(pixels).save(tmp_path / "data" / "train" / label / f"{number}.png")
    found, picture = tmp_path / "cifar.json", tmp_path / "curve.png"
    arguments = ["--data", str(tmp_path / "data"), "--from", str(tmp_path / "made"), "--epochs", "1"]
    arguments += ["--points", "3", "--json", str(found)]
    assert main([*arguments, "--timed", "0"]) == 0
    assert capsys.readouterr().out.count("training cifar10-") == 6
    first = json.loads(found.read_text())
    assert first["time"] == {}
    # The other time the models are there, and are timed; what does not depend on time is the same.
    assert main([*arguments, "--timed", "3", "--png", str(picture)]) == 0
    assert "training" not in capsys.readouterr().out and picture.stat().st_size > 1000
    again = json.loads(found.read_text())
    assert all(first[key] == again[key] for key in ("peer", "taught", "teacher", "ours", "curve", "points"))
    assert first["peer"]["macs"] == 12_501_184 and first["peer"]["parameters"] == 77_395
    assert [row["name"] for row in first["ours"]["exits"]][-1] == "final"
    assert all(sum(point["shares"].values()) == pytest.approx(1) for point in first["curve"])
    assert all(value > 0 for time in again["time"].values() for value in time.values())
    # A teacher is not trained for what it has taught already.
    shutil.rmtree(tmp_path / "made" / "cifar10-teacher")
    assert main([*arguments, "--timed", "0"]) == 0
    text, alone = capsys.readouterr().out, json.loads(found.read_text())
    assert "training" not in text and "the teacher: " not in text
    assert alone["teacher"] is None and alone["points"] == first["points"]


def test_frontend_compares_every_setting_with_librosa(tmp_path):
    pytest.importorskip("librosa")
    found = tmp_path / "frontend.json"
    command = [sys.executable, str(BENCHMARKS / "frontend.py"), "--repeats", "2", "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(found.read_text())
    assert len(figures["rows"]) == 12
    assert {row["seconds"] for row in figures["rows"]} == {1, 10}
    for name, key in (("numpy", "ratio"), ("twin", "twin")):
        smallest = min(row[key] for row in figures["rows"])
        assert figures["smallest"][name] == smallest > 0
        verdict = "PASS" if smallest >= 3 else "FAIL"
        assert f"smallest ratio of {name} {smallest:.1f}: {verdict}" in done.stdout


def test_sounds_measures_networks_against_cnn10(tmp_path):
    found = tmp_path / "sounds.json"
    command = [
        sys.executable,
        str(BENCHMARKS / "sounds.py"),
        "--networks",
        "bc-resnet",
        "phinet",
        "--batches",
    ]
    command += ["1", "2", "--repeats", "2", "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert [(row["network"], row["batch"]) for row in rows] == [
        ("bc-resnet", 1),
        ("bc-resnet", 2),
        ("phinet", 1),
        ("phinet", 2),
    ]
    assert [row["parameters"] for row in rows[::2]] == [9_232, 45_843]
    for row in rows:
        assert row["clips_per_second"] == pytest.approx(1000 * row["batch"] / row["ms"])
        seconds = 4.0 if row["network"] == "phinet" else 1.0
        assert row["ratio_of_sound"] == pytest.approx(seconds * row["ratio"])


def test_sounds_knows_every_audio_network():
    from sentio.core import registry

    listed = (BENCHMARKS / "sounds.py").read_text("utf-8")
    pictures = {"cifar-mobilenet", "deit", "glance-resnet", "mobilevit", "resnet8", "resnet20", "resnet50"}
    pictures |= {"audio-csrnet", "csrnet", "densenet201", "efficientnet", "efficientnet-v2", "inception-v3"}
    pictures |= {"ir-50", "mobilenet-v1", "resnet152", "tap-cnn", "transcrowd", "vgg16", "vit-b16"}
    pictures |= {"small-resnet"}
    moving = {"agcn", "slow", "st-bln", "st-gcn", "x3d-l", "x3d-m", "x3d-s", "x3d-xs"}
    large = {"aisfx", "ast", "passt", "vggish", "vit-large"}
    for name in set(registry.names("network")) - pictures - moving - large:
        assert f'    "{name}": ' in listed, f"{name} is missing in benchmarks/sounds.py"


def test_crowds_compares_sound_with_silence(tmp_path):
    found, picture = tmp_path / "crowds.json", tmp_path / "crowds.png"
    command = [sys.executable, str(BENCHMARKS / "crowds.py"), "--train", "8", "--test", "4", "--epochs", "1"]
    command += ["--width", "4", "--picture", str(picture), "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert len(rows) == 2 * 4 * 4
    deaf = {(row["condition"], row["exit"]): row["mae"] for row in rows if not row["sound"]}
    hearing = {(row["condition"], row["exit"]): row["mae"] for row in rows if row["sound"]}
    assert deaf.keys() == hearing.keys() and deaf != hearing
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_metric_exits_compares_the_methods_on_a_list_of_pairs(tmp_path, monkeypatch, capsys):
    pillow = pytest.importorskip("PIL.Image")
    pytest.importorskip("sklearn")
    import numpy as np

    import sentio
    from sentio.core.torch_row import TorchRow
    from sentio.tasks.embedding import EmbeddingTask
    from sentio.vision.images import ImageFrontEnd

    generator = np.random.default_rng(0)
    for name in ("Ada", "Bo", "Cy"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in range(1, 5):
            pixels = generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            pillow.fromarray(pixels).save(tmp_path / "faces" / name / f"{name}_{number:04d}.png")
    same = "Ada 1 2\nBo 1 2\nCy 3 4\n"
    different = "Ada 1 Bo 1\nBo 2 Cy 4\nCy 1 Ada 4\n"
    (tmp_path / "pairs.txt").write_text(f"2 3\n{same}{different}{same}{different}")
    options = {"classes": 16, "size": (16, 16), "width": 4, "depths": (1, 1, 1, 1)}
    net = sentio.create_network("ir-50", **options)
    frontend = ImageFrontEnd(height=16, width=16, mean=0.5, std=0.5)
    model = sentio.Model(TorchRow(net), EmbeddingTask(dimension=16), frontend=frontend)
    sentio.save(model, tmp_path / "model")
    found = tmp_path / "metric.json"
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    arguments = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "faces"), "--laps", "5"]
    arguments += ["--pairs", str(tmp_path / "pairs.txt"), "--images", str(tmp_path / "faces"), "--enrol", "1"]
    arguments += ["--at", "stem", "unit2", "--codewords", "4", "--iterations", "3", "--json", str(found)]
    assert import_module("metric_exits").main(arguments) == 0
    assert "leaving early, at most 20% of those wrong:" in capsys.readouterr().out
    figures = json.loads(found.read_text())
    methods = ["raw", "LR", "BoF", "proposed"]
    assert [row["method"] for row in figures["rows"]] == [*methods, *methods, ""]
    assert [row["at"] for row in figures["rows"]] == ["stem"] * 4 + ["unit2"] * 4 + ["final"]
    for row in figures["rows"]:
        assert len(row["verification"]["folds"]) == 2 and row["ms"] > 0
        assert (row["against"] is None) == (row["method"] == "raw") and 0 <= row["identified"] <= 1
    costs = [row["macs"] for row in figures["rows"]]
    assert costs[0] < costs[1] < costs[2] == costs[3] < costs[8]
    assert figures["gallery"] == 3 and figures["probes"] == 5  # of the 8 images that the pairs name
    assert list(figures["early"]) == ["0.05", "0.2"]
    for early in figures["early"]["0.2"].values():
        assert sum(early["shares"].values()) == pytest.approx(1)
        assert list(early["shares"]) == ["proposed stem", "proposed unit2", "final"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder in the place of CIFAR-10, and one of trained models that holds untrained ones."""
    pillow = pytest.importorskip("PIL.Image")
    import numpy as np
    import torch

    import sentio
    from sentio.core.torch_row import TorchRow
    from sentio.tasks.classification import Classification
    from sentio.vision.images import ImageFrontEnd

    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    labels = ["dark", "grey", "light"]
    for label, level in zip(labels, (60, 120, 190), strict=True):
        (folder / "data" / "train" / label).mkdir(parents=True)
        for number in range(30):
            pixels = generator.integers(level - 60, level + 60, (32, 32, 3)).astype(np.uint8)
            pillow.fromarray(pixels).save(folder / "data" / "train" / label / f"{number}.png")
    frontend = ImageFrontEnd(height=32, width=32, mean=[0.5] * 3, std=[0.25] * 3)
    torch.manual_seed(0)
    for name, network in (("cifar10-resnet8", "resnet8"), ("cifar10-anytime", "glance-resnet")):
        net = sentio.create_network(network, classes=3)
        model = sentio.Model(TorchRow(net), Classification(labels), frontend=frontend, name=name)
        sentio.save(model, folder / "made" / name)
    return folder


def on_pictures(pictures, script, *options):
    """Run a benchmark on them; gives what it printed and its figures."""
    found = pictures / "figures.json"
    command = [sys.executable, str(BENCHMARKS / script), "--data", str(pictures / "data")]
    command += ["--from", str(pictures / "made"), *options, "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(found.read_text())


@pytest.mark.slow
def test_exit_kinds_compares_within_the_peer_s_parameters_and_keeps_what_it_measured(pictures):
    options = ["--images", "64", "--test", "16", "--epochs", "1", "--seeds", "0", "1"]
    text, figures = on_pictures(pictures, "exit_kinds.py", "--vit-epochs", "1", *options)
    taps, vit, orders = figures["taps"], figures["vit"], figures["orders"]
    assert (len(taps), len(vit)) == (8, 14) and text.count(", seed ") == 2 * (8 + 14 + 4)
    assert [row["at"] for row in vit] == ["block2"] * 7 + ["block4"] * 7
    for cnn, other in zip(taps[::2], taps[1::2], strict=True):
        assert (cnn["branch"], other["branch"]) == ("cnn-ee", "sl-vit") and cnn["at"] == other["at"]
        assert other["parameters"] <= cnn["parameters"] and cnn["path_macs"] > cnn["macs"] > 0
    assert all(len(row["runs"]) == 2 and 0 <= row["accuracy"] <= 100 for row in taps + vit + orders)
    assert [row["order"] for row in orders] == ["none", "easy-first", "hard-first", "random"]
    again, same = on_pictures(pictures, "exit_kinds.py", "--parts", "orders", *options)
    assert ", seed 0:" not in again and same["orders"] == orders


@pytest.mark.slow
def test_exit_training_measures_every_way_beside_the_static_network(pictures):
    options = ["--images", "64", "--test", "32", "--epochs", "1", "--timed", "2", "--repeats", "2"]
    text, figures = on_pictures(pictures, "exit_training.py", *options)
    ways = ["self-distillation", "BranchyNet", "SDN", "frozen", "earlyon"]
    if "earlyon" not in figures["methods"]:
        assert "no earlyon: " in text
        ways.remove("earlyon")
    assert list(figures["methods"]) == ways
    cost = figures["alone"]["static: ResNet-8"]["macs"]
    for found in figures["methods"].values():
        assert list(found["exits"]) == ["glance1", "glance2", "look1", "final"]
        assert found["macs"] == figures["methods"]["SDN"]["macs"]
        assert set(found["at"]) == {"0.5", "1.0", "2.0"}
        assert sum(found["shares"].values()) == pytest.approx(1)
        assert all(value > 0 for value in found["time"].values())
    assert figures["methods"]["SDN"]["macs"]["glance1"] < cost < figures["methods"]["SDN"]["macs"]["final"]
    backbone = figures["alone"]["backbone without exits"]
    assert backbone["accuracy"] == figures["methods"]["frozen"]["exits"]["final"]
    assert backbone["macs"] < figures["methods"]["frozen"]["macs"]["final"]


def test_exit_training_lets_the_exits_of_sdn_count_more_in_every_epoch(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import torch
    from exit_training import RisingWeights

    from sentio.techniques.objective import TrainingBatch

    ones = torch.ones(())
    objective = RisingWeights({"early": 0.2, "late": 0.8}, epochs=4)

    def weights(epoch):
        batch = TrainingBatch(None, ones, ones, {}, epoch, torch.Generator())
        parts = objective.losses(lambda _: {"early": ones, "late": ones, "final": ones}, batch, torch.mul)
        return {name: pytest.approx(float(part)) for name, part in parts.items()}

    assert weights(0) == {"early": 0.06, "late": 0.21, "final": 1.0}
    assert weights(1) == {"early": 0.11, "late": 0.41, "final": 1.0}
    assert weights(3) == {"early": 0.2, "late": 0.8, "final": 1.0}


def test_exit_break_even_asks_every_exit_on_the_way(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from exit_break_even import main

    found = tmp_path / "pays.json"
    main(["--widths", "8", "--batches", "1", "2", "--repeats", "2", "--json", str(found)])
    rows = json.loads(found.read_text())["rows"]
    assert [(row["width"], row["batch"]) for row in rows] == [(8, 1), (8, 2)]
    for row in rows:
        shares = [exit["macs"] for exit in row["exits"].values()]
        assert shares == sorted(shares) and shares[0] < 0.2 and shares[-1] > 1.0
        for exit in list(row["exits"].values())[:-1]:
            assert (exit["break_even"] is None) == (exit["time"] >= 1.0)


def test_the_break_even_share_makes_up_for_the_exits_of_those_who_stay(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from exit_break_even import break_even

    exits = {"early": {"time": 0.6}, "late": {"time": 1.0}, "final": {"time": 1.1}}
    assert break_even(exits, "early") == pytest.approx(0.2)  # 0.2 * 0.6 + 0.8 * 1.1 = 1
    assert break_even(exits, "late") is None
    assert break_even({**exits, "final": {"time": 0.9}}, "early") == 0.0
