"""Every row of docs/bad_input.md: the input is made, the command is run, and what it says is compared."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import warnings
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import soundfile

from sentio.core.errors import SentioError
from sentio.data.public_sets import PUBLIC_SETS, PublicSet, RemoteFile

PAGE = Path(__file__).parents[2] / "docs" / "bad_input.md"
#: name of a row -> what to run; filled by `case`
CASES = {}


def rows():
    """(input, what happens, message, exit code) of every table row of the page."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 4 and cells[3].isdecimal():
            found.append((*cells[:3], int(cells[3])))
    return found


def case(name):
    """The function prepares what the row called ``name`` speaks of, and runs it."""

    def add(function):
        assert name not in CASES
        CASES[name] = function
        return function

    return add


def test_the_page_and_the_cases_are_the_same():
    assert [row[0] for row in rows()] == list(CASES)


@pytest.mark.parametrize(("name", "what", "message", "code"), rows(), ids=[row[0] for row in rows()])
def test_row(name, what, message, code, place):
    found = CASES[name](place)
    pattern = ".*".join(re.escape(part) for part in message.strip("`").split("…"))
    assert re.search(pattern, found.err if code else found.out, re.DOTALL), found
    assert found.code == code
    assert "Traceback" not in found.err
    if code:
        errors = [line for line in found.err.splitlines() if line.startswith("sentio: ")]
        assert len(errors) == 1, "one sentence"


@pytest.fixture
def place(sentio, artifact, box, tones, own_tones, recipe, tmp_path, monkeypatch, request):
    """Where a case works, and what it may use."""

    def python(function):
        """A call of the library instead of a command."""
        try:
            return SimpleNamespace(code=0, out=str(function()), err="")
        except SentioError as error:
            return SimpleNamespace(code=error.exit_code, out="", err=f"sentio: {error}\n")

    def predict(samples=None, rate=8000, name="clip.wav", **options):
        """The answer about a file, written if there are samples."""
        if samples is not None:
            soundfile.write(tmp_path / name, samples, rate, **options)
        return sentio("predict", artifact, tmp_path / name)

    def train(data=None, out="out", *more):
        where = ("--data", data or own_tones, "-o", tmp_path / out)
        return sentio("train", recipe, *where, "--epochs", 1, *more)

    def copied():
        return Path(shutil.copytree(box, tmp_path / "box"))

    tone = 0.3 * np.sin(np.arange(2400) / 5)
    return SimpleNamespace(
        sentio=sentio,
        fixture=request.getfixturevalue,
        artifact=artifact,
        box=box,
        tones=tones,
        data=own_tones,
        recipe=recipe,
        folder=tmp_path,
        patch=monkeypatch,
        python=python,
        predict=predict,
        train=train,
        copied=copied,
        tone=tone,
    )


# Recordings


@case("Random bytes as `.wav`")
def _(place):
    (place.folder / "clip.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    return place.predict()


@case("An empty file")
def _(place):
    (place.folder / "clip.wav").write_bytes(b"")
    return place.predict()


@case("A sound of length zero")
def _(place):
    return place.predict(np.zeros(0))


@case("Samples that are NaN or infinite")
def _(place):
    place.tone[[5, 7]] = np.nan, np.inf
    return place.predict(place.tone, subtype="FLOAT")


@case("A missing file")
def _(place):
    return place.predict()


@case("A folder instead of a file")
def _(place):
    (place.folder / "clip.wav").mkdir()
    return place.predict()


@case("Another rate, several channels")
def _(place):
    stereo = np.stack([np.sin(np.arange(13230) / 9)] * 2, axis=1) * 0.3
    return place.predict(stereo, 44100)


@case("A recording shorter than the model's window")
def _(place):
    return place.predict(place.tone[:800])


@case("Silence")
def _(place):
    return place.predict(np.zeros(2400))


@case("Two channels that cancel each other")
def _(place):
    return place.predict(np.stack([place.tone, -place.tone], axis=1))


@case("A clipped recording")
def _(place):
    return place.predict(np.sign(place.tone))


@case("A truncated recording")
def _(place):
    soundfile.write(place.folder / "whole.wav", np.tile(place.tone, 10), 8000)
    (place.folder / "clip.wav").write_bytes((place.folder / "whole.wav").read_bytes()[:20000])
    return place.predict()


@case("One bad file among several")
def _(place):
    (place.folder / "clip.wav").write_bytes(b"")
    files = [place.tones / "low" / "0.wav", place.folder / "clip.wav", place.tones / "low" / "1.wav"]
    found = place.sentio("predict", place.artifact, *files)
    assert [line.split(": ")[0] for line in found.out.splitlines()] == [str(files[0]), str(files[2])]
    return found


@case("`--gallery` for a model that classifies")
def _(place):
    place.predict(place.tone)
    return place.sentio("predict", place.artifact, place.folder / "clip.wav", "--gallery", "people.npz")


@case("In Python: samples of a wrong shape")
def _(place):
    from sentio.core.loading import load

    return place.python(lambda: load(place.artifact).predict((np.zeros((3, 2, 100)), 8000)))


@case("In Python: samples of a wrong rate")
def _(place):
    from sentio.core.loading import load

    return place.python(lambda: load(place.artifact).predict((place.tone, 0)))


@case("In Python: features of a wrong shape")
def _(place):
    from sentio.core.loading import load

    return place.python(lambda: load(place.artifact).answer(np.zeros((2, 1, 7, 24), np.float32)))


@case("In Python: features that are NaN")
def _(place):
    from sentio.core.loading import load

    return place.python(lambda: load(place.artifact).answer(np.full((2, 1, 19, 24), np.nan, np.float32)))


# Data


@case("No such folder")
def _(place):
    return place.train(place.folder / "none")


@case("An empty folder")
def _(place):
    (place.folder / "empty").mkdir()
    return place.train(place.folder / "empty")


@case("Sounds without labels")
def _(place):
    shutil.copytree(place.data / "low", place.folder / "flat")
    return place.train(place.folder / "flat")


@case("Only one class")
def _(place):
    shutil.rmtree(place.data / "low")
    shutil.rmtree(place.data / "high")
    return place.train()


@case("One clip of each class")
def _(place):
    for file in place.data.rglob("[1-9].wav"):
        file.unlink()
    return place.train()


@case("A table without labels")
def _(place):
    (place.data / "meta.csv").write_text("filename,class\nlow/0.wav,low\n")
    return place.train()


@case("A table that names a missing file")
def _(place):
    (place.data / "meta.csv").write_text("filename,label\nlow/0.wav,low\nlow/none.wav,low\nhigh/0.wav,high\n")
    return place.train()


@case("A damaged zip")
def _(place):
    packed = Path(shutil.make_archive(str(place.folder / "data"), "zip", place.data))
    packed.write_bytes(packed.read_bytes()[:3000])
    return place.train(packed)


@case("A zip that leads outside")
def _(place):
    with zipfile.ZipFile(place.folder / "data.zip", "w") as packed:
        packed.writestr("../low/0.wav", b"")
    return place.train(place.folder / "data.zip")


@case("A bad file among the data")
def _(place):
    (place.data / "low" / "0.wav").write_bytes(b"no sound")
    return place.train()


@case("A bad file among the data, with `--skip-bad`")
def _(place):
    (place.data / "low" / "0.wav").write_bytes(b"no sound")
    return place.train(None, "out", "--skip-bad")


@case("Odd files among the data")
def _(place):
    soundfile.write(place.data / "low" / "0.wav", np.sign(place.tone), 8000)
    return place.train()


@case("Nothing but silence")
def _(place):
    for file in place.data.rglob("*.wav"):
        soundfile.write(file, np.zeros(2400), 8000)
    return place.train()


@case("A label that the model does not know")
def _(place):
    (place.data / "low").rename(place.data / "lower")
    return place.sentio("evaluate", place.artifact, place.data)


@case("A protocol that the data does not have")
def _(place):
    return place.train(None, "out", "--protocol", "speaker")


@case("A public data set whose table was altered")
def _(place):
    (place.folder / "urban" / "metadata").mkdir(parents=True)
    (place.folder / "urban" / "metadata" / "UrbanSound8K.csv").write_text(
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n1-3-0-0.wav,1,0,4,1,1,3,siren\n"
    )
    return place.train(place.folder / "urban")


@case("A public data set without its published split")
def _(place):
    (place.data / "validation_list.txt").write_text("low/0.wav\n")
    return place.train()


@case("A column to go by that the data does not have")
def _(place):
    return place.sentio("evaluate", place.artifact, place.data, "--by", "device")


def _crowds(place, *changes, data=None, more=()):
    """A training of a counter."""
    where = ("--data", data or place.fixture("crowds"), "-o", place.folder / "out")
    more = [word for change in changes for word in ("--set", change)] + list(more)
    return place.sentio("train", place.fixture("crowd_recipe"), *where, "--epochs", 1, *more)


def _line(file, number, text):
    """The table with another line of that number, from 1."""
    lines = file.read_text().splitlines()
    lines[number - 1] = text
    file.write_text("\n".join(lines) + "\n")


@case("Heads where labels are needed")
def _(place):
    return place.train(place.fixture("crowds"))


@case("Labels where heads are needed")
def _(place):
    return _crowds(place, data=place.data)


@case("Tables of crowds that contradict each other")
def _(place):
    data = place.fixture("own_crowds")
    _line(data / "crowds.csv", 2, "pictures/train_0000.png,train,,99,clear")
    return _crowds(place, data=data)


@case("A part of crowds that is none")
def _(place):
    data = place.fixture("own_crowds")
    _line(data / "crowds.csv", 2, "pictures/train_0000.png,exam,,1,clear")
    return _crowds(place, data=data)


@case("A head outside its picture")
def _(place):
    data = place.fixture("own_crowds")
    _line(data / "heads.csv", 2, "pictures/train_0000.png,4800,3")
    return _crowds(place, data=data)


def _published(place, layout, annotation):
    """The same scenes as a published data set has them; ``annotation(scene)`` makes its ``.mat``."""
    from sentio.data.crowd_tables import read_crowd_tables

    scipy_io = pytest.importorskip("scipy.io")
    folder = place.folder / "published"
    for scene in read_crowd_tables(place.fixture("crowds")):
        files = layout(scene.part, scene.picture.stem)
        for source, file in zip((scene.picture, scene.sound), files[1:], strict=False):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / file)
        (folder / files[0]).parent.mkdir(parents=True, exist_ok=True)
        scipy_io.savemat(folder / files[0], annotation(scene))
    return folder


@case("Heads that are NaN or infinite (ShanghaiTech)")
def _(place):
    def layout(part, name):
        base = f"{'test' if part == 'test' else 'train'}_data"
        return f"{base}/ground-truth/GT_{name}.mat", f"{base}/images/{name}.png"

    def annotation(scene):
        info = np.empty((1, 1), object)
        heads = np.tile(scene.points()[:1], (3, 1))
        if scene.picture.stem == "train_0000":
            heads[1, 0] = np.nan
        info[0, 0] = {"location": heads}
        return {"image_info": info}

    return _crowds(place, data=_published(place, layout, annotation))


@case("A density below 0 (DISCO), with `--skip-bad`")
def _(place):
    def layout(part, name):
        return f"density/{part}/{name}.mat", f"imgs/{name}.png", f"audio/{name}.wav"

    def annotation(scene):
        density = np.full((32, 48), scene.count / (32 * 48))
        if scene.picture.stem == "train_0000":
            density[0, 0] = -0.5
        return {"map": density}

    return _crowds(place, data=_published(place, layout, annotation), more=("--skip-bad",))


@case("A picture without its sound, for a counter that hears")
def _(place):
    data = place.fixture("own_crowds")
    text = (data / "crowds.csv").read_text().replace("sounds/train_0000.wav", "")
    (data / "crowds.csv").write_text(text)
    assert (data / "sounds" / "train_0000.wav").is_file()  # what the table says counts
    sound = "{window: 0.5, rate: 8000, n_fft: 256, hop_length: 160, n_mels: 16}"
    options = f"{{picture: {{height: 32, width: 48}}, sound: {sound}}}"
    frontend = f"frontend={{name: image-and-sound, options: {options}}}"
    return _crowds(
        place, frontend, "network={name: audio-csrnet, options: {width: 4, answer: density}}", data=data
    )


# Downloading


def _download(place, body, *, promised=None, checksum=None, status=200):
    """The command, where ``pets`` is a public set of one file at a server in this process."""
    size = len(body) if promised is None else promised

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/pets.zip"
        checksum = hashlib.sha256(body).hexdigest() if checksum is None else checksum
        file = RemoteFile(url, "pets.zip", f"sha256:{checksum}" if checksum else None, size)
        place.patch.setitem(PUBLIC_SETS, "pets", PublicSet("Pets", "CC0", "https://x", (file,), "pets"))
        place.patch.setattr("sentio.data.fetching.SCHEMES", ("http",))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        found = place.sentio("download", "pets", place.folder / "public")
        server.shutdown()
    return found


@case("An unknown public data set")
def _(place):
    return place.sentio("download", "fsd", place.folder / "public")


@case("No network")
def _(place):
    def refused(*args, **options):
        raise URLError(OSError(errno.ENETUNREACH, "Network is unreachable"))

    place.patch.setattr("sentio.data.fetching.OpenerDirector.open", refused)
    return place.sentio("download", "fsdd", place.folder / "public")


@case("A file that is gone at its source")
def _(place):
    return _download(place, bytes(100), status=404)


@case("A connection that breaks off")
def _(place):
    found = _download(place, bytes(100), promised=200)
    assert (place.folder / "public" / "pets.zip.part").stat().st_size == 100
    return found


@case("A file that is not as published")
def _(place):
    found = _download(place, bytes(100), checksum="0" * 64)
    assert list((place.folder / "public").iterdir()) == []
    return found


@case("A file whose checksum nobody published")
def _(place):
    return _download(place, bytes(100), checksum="")


@case("An archive that leads outside")
def _(place):
    with zipfile.ZipFile(place.folder / "in.zip", "w") as archive:
        archive.writestr("../cat.wav", b"x")
    found = _download(place, (place.folder / "in.zip").read_bytes())
    assert not (place.folder / "cat.wav").exists()
    return found


@case("A disk with too little room")
def _(place):
    place.patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    return _download(place, bytes(100))


# Artifacts


@case("No artifact")
def _(place):
    return place.sentio("predict", place.folder / "none", place.tones / "low" / "0.wav")


@case("An unknown name of a shipped model")
def _(place):
    _on_the_shelf(place)
    return place.sentio("predict", "street-sound", place.tones / "low" / "0.wav")


@case("A folder of data with the name of a shipped model")
def _(place):
    _on_the_shelf(place)
    place.data.rename(place.folder / "street-sounds")
    place.patch.chdir(place.folder)
    return place.sentio("predict", "street-sounds", "street-sounds/low/0.wav")


def _on_the_shelf(place):
    """A stand-in, so that the rows do not depend on what ships today."""
    shelf = place.folder / "shelf"
    shelf.mkdir()
    shutil.make_archive(str(shelf / "street-sounds"), "zip", place.box)
    (shelf / "street-sounds.zip").rename(shelf / "street-sounds.sentio")
    place.patch.setattr("sentio.core.shelf.FOLDER", shelf)


@case("Something else as an artifact")
def _(place):
    (place.folder / "model.pt").write_bytes(pickle.dumps({"weights": 1}))
    return place.sentio("predict", place.folder / "model.pt", place.tones / "low" / "0.wav")


@case("A stranger's artifact with a pickle for weights")
def _(place):
    file = place.copied() / "weights.safetensors"
    file.write_bytes(pickle.dumps(_Trap(place.folder / "sprung")))
    found = place.sentio("evaluate", file.parent, place.tones, "--runtime", "torch")
    assert not (place.folder / "sprung").exists()
    return found


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@case("A stranger's artifact that names files outside")
def _(place):
    def change(values):
        values["files"]["../outside"] = values["files"]["weights.safetensors"]

    return place.sentio("evaluate", _edited(place.copied(), change), place.tones)


@case("A newer artifact")
def _(place):
    return place.sentio(
        "evaluate", _edited(place.copied(), lambda values: values.update(version=99)), place.tones
    )


@case("A damaged artifact")
def _(place):
    file = place.copied() / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    return place.sentio("evaluate", file.parent, place.tones, "--runtime", "torch")


@case("A damaged stage on the box")
def _(place):
    file = next((place.copied() / "stages").glob("*.onnx"))
    file.write_bytes(file.read_bytes()[:-9])
    return place.sentio("evaluate", file.parent.parent, place.tones, "--runtime", "edge")


@case("A truncated artifact")
def _(place):
    packed = Path(shutil.make_archive(str(place.folder / "packed"), "zip", place.box))
    packed.write_bytes(packed.read_bytes()[:5000])
    return place.sentio("predict", packed, place.tones / "low" / "0.wav")


@case("A pipe in the place of an artifact")
def _(place):
    os.mkfifo(place.folder / "pipe")
    return place.sentio("predict", place.folder / "pipe", place.tones / "low" / "0.wav")


@case("A zip that holds two manifests")
def _(place):
    packed = Path(shutil.make_archive(str(place.folder / "packed"), "zip", place.box))
    with zipfile.ZipFile(packed, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("sentio.json", "{}")
    return place.sentio("predict", packed, place.tones / "low" / "0.wav")


def _with_graph(place, change):
    """A box whose first stage is another graph, with its checksum."""
    onnx = pytest.importorskip("onnx")
    box = place.copied()
    file = sorted((box / "stages").glob("*.onnx"))[0]
    model = onnx.load(file)
    change(onnx, model)
    data = model.SerializeToString()
    file.write_bytes(data)
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _edited(box, lambda values: values["files"].update({f"stages/{file.name}": facts}))
    return place.sentio("predict", box, place.tones / "low" / "0.wav", "--runtime", "edge")


@case("A box whose graph loops")
def _(place):
    def change(onnx, model):
        body = onnx.helper.make_graph([], "body", [], [])
        model.graph.node.append(onnx.helper.make_node("Loop", ["", ""], [], body=body))

    return _with_graph(place, change)


@case("A box whose graph takes another shape than it is given")
def _(place):
    def change(onnx, model):
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 7
        del model.graph.value_info[:]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")

    return _with_graph(place, change)


@case("An execution provider that is not there")
def _(place):
    clip = place.tones / "low" / "0.wav"
    return place.sentio("predict", place.box, clip, "--runtime", "edge", "--provider", "cudda")


@case("An execution provider for PyTorch")
def _(place):
    clip = place.tones / "low" / "0.wav"
    return place.sentio("predict", place.box, clip, "--runtime", "torch", "--provider", "cpu")


@case("A hop for steps that are not asked for")
def _(place):
    return place.sentio("export", place.artifact, place.folder / "out", "--hop", 4)


@case("In Python: steps of a box that holds none")
def _(place):
    from sentio import edge

    return place.python(lambda: edge.load(place.box, threads=1).step(np.zeros((1, 1, 4, 24))))


@case("An artifact without graphs on the edge runtime")
def _(place):
    return place.sentio("predict", place.artifact, place.tones / "low" / "0.wav", "--runtime", "edge")


def _edited(folder, change):
    file = folder / "sentio.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    return folder


# Recipes and options


@case("An unknown name in a recipe")
def _(place):
    return place.train(None, "out", "--set", "network.name=tiny-cmm")


@case("Several mistakes in a recipe")
def _(place):
    return place.train(None, "out", "--set", "epoch=3", "--set", "optimiser.lr=-1", "--set", "exits.kind=x")


@case("A stage that the network does not have")
def _(place):
    return place.train(None, "out", "--set", "exits=[{kind: pooled-linear, at: [block9]}]")


@case("A file that is no recipe")
def _(place):
    (place.folder / "r.yaml").write_text("name: [")
    return place.sentio("train", place.folder / "r.yaml", "-o", place.folder / "out")


@case("A learning rate that is far too high")
def _(place):
    return place.train(None, "out", "--set", "optimiser={name: sgd, lr: 1.0e+30}")


@case("A goal that cannot be met")
def _(place):
    return place.train(place.tones, "out", "--set", "calibration={mean_macs: 1}")


@case("Devices that are not there")
def _(place):
    return place.train(None, "out", "--set", "devices.accelerator=abacus")


@case("An unknown exit")
def _(place):
    return place.sentio("predict", place.artifact, place.tones / "low" / "0.wav", "--policy", "fixed:blok1")


@case("An unknown model or network")
def _(place):
    return place.sentio("profile", "resnet200")


@case("An augmentation that a counter's targets do not follow")
def _(place):
    return _crowds(place, "augment.mixup=0.3")


@case("A goal of accuracy for a counter")
def _(place):
    return _crowds(place, "calibration.accuracy_drop=0.01")


@case("A technique that goes by classes, for a counter")
def _(place):
    return _crowds(place, "technique={name: curriculum, options: {teacher: self}}")


@case("A density of another size than the picture")
def _(place):
    section = "{kind: density-ee, at: [visual4], options: {answer: density, factor: 4}}"
    return _crowds(place, f"exits=[{section}]")


@case("A tensor that an exit cannot read")
def _(place):
    return _crowds(place, "exits=[{kind: density-ee, at: [visual4], reads: [visual4.audio]}]")


@case("Thresholds on a count")
def _(place):
    where = (place.fixture("trained_counter"), place.fixture("crowds"))
    return place.sentio("evaluate", *where, "--policy", "confidence:0.5")


@case("A counter in int8, measured on data")
def _(place):
    where = (place.fixture("trained_counter"), place.folder / "box")
    return place.sentio("export", *where, "--int8", "--calibration", place.fixture("crowds"))


# Rendering


def _clips(place, *options):
    where = ("--seconds", 0.3, "--rate", 8000, "--workers", 1, "--out", place.folder / "out")
    return place.sentio("simulate", "clips", "--per-class", 1, *where, *options)


@case("A street of no length")
def _(place):
    return place.sentio("simulate", "street", "--minutes", 0, "--out", place.folder / "out")


@case("No clips per class")
def _(place):
    return _clips(place, "--per-class", 0)


@case("Clips of no length")
def _(place):
    return _clips(place, "--seconds", 0)


@case("A rate that is no rate for it")
def _(place):
    return _clips(place, "--rate", 4000)


@case("No events at once")
def _(place):
    where = ("--minutes", 0.1, "--polyphony", 0)
    return place.sentio("simulate", "street", *where, "--out", place.folder / "out")


@case("Samples of which none can be used")
def _(place):
    for file in place.data.rglob("*.wav"):
        file.write_bytes(b"nonsense")
    return _clips(place, "--samples", place.data)


@case("A bad file among the samples")
def _(place):
    (place.data / "low" / "0.wav").write_bytes(b"nonsense")
    return _clips(place, "--samples", place.data)


@case("A folder that holds something else")
def _(place):
    (place.folder / "out").mkdir()
    (place.folder / "out" / "notes").write_text("mine")
    found = _clips(place)
    assert [file.name for file in (place.folder / "out").iterdir()] == ["notes"]
    return found


@case("A folder that holds another rendering")
def _(place):
    assert _clips(place).code == 0
    return _clips(place, "--seed", 1)


@case("The disk is full while sounds are rendered")
def _(place):
    place.patch.setattr("sentio.data.simulate.jobs.soundfile.write", _full)
    found = _clips(place)
    assert not (place.folder / "out" / "meta.csv").exists()
    return found


@case("Crowds of no size")
def _(place):
    return place.sentio("simulate", "crowds", "--size", "96", "--out", place.folder / "out")


@case("A condition that there is not")
def _(place):
    return place.sentio("simulate", "crowds", "--condition", "foggy", "--out", place.folder / "out")


# Listening


def _listen(place, *options):
    return place.sentio("listen", place.artifact, place.data / "low" / "0.wav", *options)


@case("A hop of no length")
def _(place):
    return _listen(place, "--hop", 0)


@case("A deadline of no time")
def _(place):
    return _listen(place, "--deadline", 0)


@case("`--stream` for a box without steps")
def _(place):
    return place.sentio("listen", place.box, place.data / "low" / "0.wav", "--stream")


@case("`--stream` where the front end needs a whole clip")
def _(place):
    box = Path(shutil.copytree(place.fixture("stream_box"), place.folder / "steps"))
    _edited(box, lambda values: values["frontend"]["settings"].update(top_db=80.0))
    return place.sentio("listen", box, place.data / "low" / "0.wav", "--stream")


@case("`--stream` for a file that ends before the first answer")
def _(place):
    soundfile.write(place.folder / "short.wav", np.zeros(300), 8000)
    return place.sentio("listen", place.fixture("stream_box"), place.folder / "short.wav", "--stream")


@case("A truth that is not there")
def _(place):
    return _listen(place, "--truth", place.folder)


@case("A truth without times")
def _(place):
    (place.folder / "labels.csv").write_text("filename,label\nclip.wav,low\n")
    return _listen(place, "--truth", place.folder / "labels.csv")


@case("An event that ends before it begins")
def _(place):
    table = place.folder / "labels.csv"
    table.write_text("filename,onset,offset,event_label\nclip.wav,2.0,1.5,low\n")
    return _listen(place, "--truth", table)


# The machine


@case("PyTorch is not installed")
def _(place):
    return _without("torch", "train", place.tones, "-o", place.folder / "out")


@case("Lightning is not installed")
def _(place):
    return _without("lightning", "train", place.tones, "-o", place.folder / "out")


@case("matplotlib is not installed")
def _(place):
    return _without(
        "matplotlib", "evaluate", place.artifact, place.tones, "--report", place.folder / "x.html"
    )


def _without(package, *arguments):
    code = f"import sys; sys.modules[{package!r}] = None; from sentio.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


@case("A result in a place that cannot be written")
def _(place):
    (place.folder / "file").write_text("")
    return place.train(None, "file/out")


@case("A result where something else is")
def _(place):
    (place.folder / "out").write_text("my notes")
    found = place.train()
    assert (place.folder / "out").read_text() == "my notes"
    return found


@case("The run folder of another training in the way")
def _(place):
    run = place.folder / "out.run"
    run.mkdir()
    (run / "unfinished").write_text("another")
    return place.train()


@case("The disk is full while a checkpoint is written")
def _(place):
    place.patch.setattr("lightning.fabric.plugins.io.torch_io._atomic_save", _full)
    return place.train()


@case("The disk is full while the result is written")
def _(place):
    place.patch.setattr("sentio.core.artifact._write_folder", _full)
    found = place.train()
    assert not (place.folder / "out").exists()
    return found


@case("The disk is full while features are cached")
def _(place):
    place.patch.setattr("numpy.savez", _full)
    return place.train(None, "out", "--cache", place.folder / "cache")


@case("A report in a folder that is not there")
def _(place):
    return place.sentio("evaluate", place.artifact, place.tones, "--report", place.folder / "no" / "x.html")


@case("A report where something else is")
def _(place):
    table = place.folder / "meta.csv"
    table.write_text("filename,label")
    found = place.sentio("evaluate", place.artifact, place.tones, "--report", table)
    assert (found.out, table.read_text()) == ("", "filename,label")
    return found


@case("The disk is full while a report is written")
def _(place):
    place.patch.setattr(Path, "write_bytes", _full)
    found = place.sentio("evaluate", place.artifact, place.tones, "--report", place.folder / "x.html")
    assert "36 recordings" in found.out and not (place.folder / "x.html").exists()
    return found


@case("The disk is full while answers are printed into a file")
def _(place):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no file that is always full")
    code = "from sentio.cli import main; main()"
    with full.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-c", code, "models"], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr.count("\n") == 1, "nothing follows when the interpreter ends"
    return SimpleNamespace(code=done.returncode, out="", err=done.stderr)


def _full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")
