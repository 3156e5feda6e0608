import errno
import hashlib
import json
import os
import random
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import sentio
from sentio.core import artifact as module
from sentio.core.artifact import (
    WEIGHTS,
    ArtifactFiles,
    Manifest,
    check_target,
    read_manifest,
    write_artifact,
)
from sentio.core.errors import ArtifactError, ConfigError, SentioError
from sentio.core.loading import load

PLAIN = {
    "sentio": "0.1.0",
    "name": "m",
    "network": {"stages": ["a"], "input_shapes": {"main": [1]}},
    "task": {"name": "classification"},
    "policy": {"name": "fixed", "exit": "final"},
}
FILES = {WEIGHTS: b"weights", "task/gallery.npy": bytes(range(256))}


def plain(**changes):
    return Manifest(**{**PLAIN, **changes})


def packed(folder: Path, file: Path, *, within: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A folder as a zip, as a user would pack it."""
    with zipfile.ZipFile(file, "w", method) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, within + str(path.relative_to(folder)))
    return file


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and make the manifest agree, as someone who means harm would."""
    (folder / name).write_bytes(data)
    file = folder / "sentio.json"
    values = json.loads(file.read_text())
    values["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    file.write_text(json.dumps(values))


# there and back


@pytest.mark.parametrize("name", ["folder", "file.zip", "file.sentio"])
def test_what_is_written_is_read(tmp_path, name):
    path = write_artifact(tmp_path / "deep" / name, plain(), FILES)
    assert path.is_dir() == (name == "folder")
    found = ArtifactFiles(path)
    assert found.manifest.name == "m"
    assert {file: found.read(file) for file in found.manifest.files} == FILES
    assert found.has(WEIGHTS)
    assert not found.has("other")
    with pytest.raises(ArtifactError, match="does not hold 'other'"):
        found.read("other")


def test_a_zip_is_uncompressed_and_the_same_each_time(tmp_path):
    one, other = (write_artifact(tmp_path / name, plain(), FILES) for name in ("a.zip", "b.zip"))
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("name", ["folder", "file.zip"])
@pytest.mark.parametrize("runtime", ["torch", "edge"])
def test_a_model_answers_the_same_after_saving_and_loading(artifact, small, tmp_path, name, runtime):
    x = small.features(9)
    model = load(artifact, runtime="torch")
    saved = sentio.save(model, tmp_path / "again" / name)
    if runtime == "edge":
        saved = packed(artifact, tmp_path / "b.zip") if name.endswith("zip") else artifact
        model = load(artifact, runtime="edge")
    again = load(saved, runtime=runtime)
    one, other = model.answer(x), again.answer(x)
    np.testing.assert_array_equal(one.outputs, other.outputs)
    np.testing.assert_array_equal(one.exit, other.exit)
    np.testing.assert_array_equal(one.confidence, other.confidence)
    assert len(set(one.exit.tolist())) > 1
    assert (again.policy, again.temperatures, again.costs, again.card, again.name) == (
        model.policy,
        model.temperatures,
        model.costs,
        model.card,
        model.name,
    )
    assert again.task.settings() == model.task.settings()
    assert again.frontend.settings() == model.frontend.settings()


@pytest.mark.parametrize("within", ["", "my model/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_folder_that_a_user_packed_anew(artifact, small, tmp_path, within, method):
    path = packed(artifact, tmp_path / "mine.zip", within=within, method=method)
    x = small.features(2)
    for runtime in ("torch", "edge"):
        expected = load(artifact, runtime=runtime).answer(x).outputs
        np.testing.assert_array_equal(load(path, runtime=runtime).answer(x).outputs, expected)


def test_a_manifest_inside_a_deeper_folder_does_not_confuse(tmp_path):
    path = write_artifact(tmp_path / "a.zip", plain(), FILES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("copy/sentio.json", "{}")
    assert ArtifactFiles(path).manifest.name == "m"


# what is damaged or foreign


def test_nothing_there(tmp_path):
    with pytest.raises(ArtifactError, match=r"No artifact at .*: there is no such file or folder"):
        load(tmp_path / "none")


def test_a_foreign_folder_zip_and_file(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ArtifactError, match=r"is not a Sentio artifact: it has no sentio.json"):
        load(tmp_path)
    with pytest.raises(
        ArtifactError, match="is not a Sentio artifact, or is cut off: it is neither a folder"
    ):
        load(tmp_path / "notes.txt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ArtifactError, match=r"the zip holds no sentio.json, where one is expected"):
        load(tmp_path / "other.zip")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a/sentio.json", "{}")
        archive.writestr("b/sentio.json", "{}")
    with pytest.raises(ArtifactError, match=r"the zip holds 2 sentio.json"):
        load(tmp_path / "two.zip")


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "\xff", "[" * 100_000, '{"a": NaN}', "1" * 5000])
def test_a_manifest_that_is_not_json(tmp_path, text):
    (tmp_path / "sentio.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"is damaged: its sentio.json is not valid JSON"):
        load(tmp_path)


def test_foreign_json(tmp_path):
    (tmp_path / "sentio.json").write_text('{"name": "of another tool"}')
    with pytest.raises(ArtifactError, match=r"is not a Sentio artifact: its sentio.json does not say so"):
        load(tmp_path)


def test_a_huge_manifest_is_refused_unread(tmp_path):
    data = b" " * (module.MAX_MANIFEST_BYTES + 1)
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "sentio.json").write_bytes(data)
    for path in (folder, packed(folder, tmp_path / "a.zip")):
        with pytest.raises(ArtifactError, match=r"'sentio.json' is larger than it can be"):
            load(path)


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_flipped_byte(artifact, tmp_path, as_zip):
    for name in (WEIGHTS, "stages/00-a.onnx"):
        data = bytearray((artifact / name).read_bytes())
        data[len(data) // 2] ^= 1
        (artifact / name).write_bytes(data)
    path = packed(artifact, tmp_path / "a.zip") if as_zip else artifact
    for runtime, name in (("torch", WEIGHTS), ("edge", "stages/00-a.onnx")):
        with pytest.raises(ArtifactError, match=f"is damaged: '{name}' does not match its checksum"):
            load(path, runtime=runtime)


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_truncated_file(artifact, tmp_path, as_zip, size):
    data = (artifact / WEIGHTS).read_bytes()
    (artifact / WEIGHTS).write_bytes(data[:size])
    path = packed(artifact, tmp_path / "a.zip") if as_zip else artifact
    with pytest.raises(ArtifactError, match="does not match its checksum; copy or export it again"):
        load(path, runtime="torch")


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_file_that_grew(artifact, tmp_path, as_zip):
    with (artifact / WEIGHTS).open("ab") as file:
        file.write(b"more")
    path = packed(artifact, tmp_path / "a.zip") if as_zip else artifact
    with pytest.raises(ArtifactError, match=r"'weights.safetensors' is larger than it can be"):
        load(path, runtime="torch")


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_missing_file(artifact, tmp_path, as_zip):
    (artifact / WEIGHTS).unlink()
    path = packed(artifact, tmp_path / "a.zip") if as_zip else artifact
    with pytest.raises(ArtifactError, match=r"is incomplete: 'weights.safetensors' is missing"):
        load(path, runtime="torch")


def test_a_folder_in_the_place_of_a_file(artifact):
    (artifact / WEIGHTS).unlink()
    (artifact / WEIGHTS).mkdir()
    with pytest.raises(ArtifactError, match="is missing"):
        load(artifact, runtime="torch")


def test_a_truncated_zip(artifact, tmp_path):
    whole = packed(artifact, tmp_path / "a.zip").read_bytes()
    for share in (0.0, 0.01, 0.5, 0.99):
        file = tmp_path / "cut.zip"
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ArtifactError, match="is cut off"):
            load(file)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_no_damage_to_a_zip_gives_more_than_one_sentence(tmp_path, method):
    folder = write_artifact(tmp_path / "a", plain(), FILES)
    whole = packed(folder, tmp_path / "a.zip", method=method).read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        file = tmp_path / "b.zip"
        file.write_bytes(data)
        try:
            found = ArtifactFiles(file)
            assert {name: found.read(name) for name in found.manifest.files} == FILES
        except ArtifactError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def test_a_zip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROWTH_FROM_BYTES", 1 << 20)
    folder = write_artifact(tmp_path / "a", plain(), {WEIGHTS: bytes(4 << 20)})
    path = packed(folder, tmp_path / "bomb.zip")
    with pytest.raises(ArtifactError, match=r"'weights.safetensors' is larger than it can be"):
        ArtifactFiles(path).read(WEIGHTS)


def test_an_encrypted_zip(tmp_path):
    path = write_artifact(tmp_path / "a.zip", plain(), FILES)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(re.escape(signature), bytes(data)):
            data[found.start() + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"cannot be read at 'sentio.json': .*encrypted"):
        ArtifactFiles(path)


def test_links_that_lead_outside(artifact, tmp_path):
    secret = tmp_path / "secret"
    shutil.copy(artifact / WEIGHTS, secret)
    (artifact / WEIGHTS).unlink()
    (artifact / WEIGHTS).symlink_to(secret)
    with pytest.raises(
        ArtifactError, match=r"is refused: 'weights.safetensors' is a link that leads outside"
    ):
        load(artifact, runtime="torch")
    shutil.move(artifact / "stages", tmp_path / "elsewhere")
    (artifact / "stages").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="is a link that leads outside of it"):
        load(artifact, runtime="edge")
    (artifact / WEIGHTS).unlink()
    (artifact / WEIGHTS).symlink_to(artifact / WEIGHTS)
    with pytest.raises(ArtifactError):
        load(artifact, runtime="torch")


def test_names_that_lead_outside(artifact, tamper, tmp_path):
    (tmp_path / "x").write_bytes(b"secret")
    facts = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    for name in ("../x", str(tmp_path / "x")):
        tamper(artifact, lambda values, name=name: values["files"].update({name: facts}))
        for path in (artifact, packed(artifact, tmp_path / "a.zip")):
            with pytest.raises(ArtifactError, match=r"is refused: .* is not a plain relative file name"):
                load(path)
        tamper(artifact, lambda values, name=name: values["files"].pop(name))


@pytest.mark.parametrize("data", [b"", b"garbage", (2**63).to_bytes(8, "little"), b"\x02" + bytes(7) + b"{}"])
def test_weights_that_are_none(artifact, data):
    put(artifact, WEIGHTS, data)
    with pytest.raises(ArtifactError, match="its weights do not fit its network: ") as caught:
        load(artifact, runtime="torch")
    assert "\n" not in str(caught.value)


# writing


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["a", "a.zip"])
def test_an_artifact_is_replaced_as_a_whole(tmp_path, name):
    write_artifact(tmp_path / name, plain(), {"old.bin": b"1", WEIGHTS: b"2"})
    (tmp_path / name / ".DS_Store").touch() if name == "a" else None
    write_artifact(tmp_path / name, plain(name="new"), FILES)
    found = ArtifactFiles(tmp_path / name)
    assert (found.manifest.name, set(found.manifest.files)) == ("new", set(FILES))
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
    if name == "a":
        assert set(contents(tmp_path / name)) == {"sentio.json", *FILES}


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    assert ArtifactFiles(write_artifact(tmp_path / "a", plain(), FILES)).read(WEIGHTS) == b"weights"


@pytest.mark.parametrize("name", ["a", "a.zip"])
def test_what_is_no_artifact_is_not_replaced(tmp_path, name):
    if name == "a":
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("precious")
    else:
        (tmp_path / name).write_text("precious")
    before = contents(tmp_path)
    for attempt in (check_target, lambda path: write_artifact(path, plain(), FILES)):
        with pytest.raises(ArtifactError, match="exists and is not a readable Sentio artifact, so it is not"):
            attempt(tmp_path / name)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["box", "box.zip"])
def test_an_artifact_goes_where_a_link_leads(tmp_path, name):
    link = tmp_path / name
    try:
        link.symlink_to(tmp_path / f"real-{name}")
    except OSError:
        pytest.skip("this system has no links")
    for content in (b"one", b"two"):
        assert write_artifact(link, plain(), {**FILES, "task/a.npy": content}) == link
        assert link.is_symlink()
        assert ArtifactFiles(tmp_path / f"real-{name}").read("task/a.npy") == content
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(ArtifactError, match="could not be written"):
        write_artifact(link, plain(), FILES)


def test_the_folder_that_one_is_in_is_not_replaced(tmp_path, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    for place in (".", inside):
        with pytest.raises(ArtifactError, match=r"is the folder that this runs in, .* name a folder in it"):
            check_target(place)
    write_artifact("box", plain(), FILES)
    assert ArtifactFiles(inside / "box").manifest.files.keys() == FILES.keys()


def test_an_artifact_with_a_users_file_in_it_is_not_replaced(tmp_path):
    folder = write_artifact(tmp_path / "a", plain(), FILES)
    (folder / "task" / "notes.txt").write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(ArtifactError, match=r"holds task.notes\.txt, which is not the artifact's and would"):
        write_artifact(folder, plain(name="new"), FILES)
    assert contents(tmp_path) == before


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(ArtifactError, match=r"a.zip is a folder, not a file to write to"):
        write_artifact(tmp_path / "a.zip", plain(), FILES)
    write_artifact(tmp_path / "b.zip", plain(), FILES).rename(tmp_path / "b")
    with pytest.raises(ArtifactError, match="b is a file, not a folder to write to"):
        write_artifact(tmp_path / "b", plain(), FILES)
    with pytest.raises(ArtifactError, match=r"could not be written: (Not a directory|File exists)"):
        write_artifact(tmp_path / "b" / "c", plain(), FILES)


@pytest.mark.parametrize("name", ["a", "a.zip"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_write_that_fails_loses_nothing(tmp_path, monkeypatch, name, code):
    write_artifact(tmp_path / name, plain(), FILES)
    before = contents(tmp_path)

    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("pathlib.Path.write_bytes" if name == "a" else "zipfile.ZipFile.writestr", fail)
    with pytest.raises(ArtifactError, match=f"could not be written: {os.strerror(code)}$"):
        write_artifact(tmp_path / name, plain(name="new"), FILES)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_while_folders_are_swapped_puts_the_old_one_back(tmp_path, monkeypatch, error):
    folder = write_artifact(tmp_path / "a", plain(), FILES)
    before = contents(tmp_path)
    replace = Path.replace

    def fail_for_the_new_one(self, target):
        if self.name == "new":
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_for_the_new_one)
    with pytest.raises((ArtifactError, KeyboardInterrupt)):
        write_artifact(folder, plain(name="new"), FILES)
    assert contents(tmp_path) == before


def test_a_file_name_that_would_not_be_read_is_not_written(tmp_path):
    with pytest.raises(ArtifactError, match="not a plain relative file name"):
        write_artifact(tmp_path / "a", plain(), {"../x": b""})
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_json_cannot_hold(tmp_path):
    with pytest.raises(ConfigError, match="Model 'm' cannot be saved, its card or settings hold what JSON"):
        write_artifact(tmp_path / "a", plain(card={"test": object()}), FILES)
    assert list(tmp_path.iterdir()) == []


def test_figures_that_are_not_numbers_are_null(tmp_path):
    card = {"accuracy": float("nan"), "ratio": float("inf"), "runs": (1, 2)}
    found = ArtifactFiles(write_artifact(tmp_path / "a", plain(card=card), FILES)).manifest
    assert found.card == {"accuracy": None, "ratio": None, "runs": [1, 2]}


# never unpickled


def test_the_library_uses_no_pickle():
    root = Path(sentio.__file__).parent
    pattern = re.compile(
        r"import (pickle|marshal|shelve|joblib)|from (pickle|marshal|shelve|joblib)|\bpickle\."
        r"|torch\.load\((?!.*weights_only=True)|allow_pickle\s*=\s*True"
    )
    # CIFAR is published as pickles, which this one reads without running what they name.
    files = set(root.rglob("*.py")) - {root / "data" / "inert_pickle.py"}
    found = [str(path) for path in files if pattern.search(path.read_text(encoding="utf-8"))]
    assert found == []
    assert len(list(root.rglob("*.py"))) > 20


def test_a_pickle_in_the_place_of_weights_is_not_run(artifact, tmp_path):
    mark = tmp_path / "ran"
    put(artifact, WEIGHTS, f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode())
    with pytest.raises(ArtifactError):
        load(artifact, runtime="torch")
    assert not mark.exists()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_manifest_says_loading_answers_or_refuses_in_one_sentence(artifact, tamper, seed):
    generator = random.Random(seed)
    original = json.loads((artifact / "sentio.json").read_text())
    odd = [None, -1, 0, 1e99, "", "x", "../x", [], {}, [[]], {"name": "x"}, True]
    refused = 0
    for _ in range(40):
        values = json.loads(json.dumps(original))
        place = values
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = generator.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and generator.random() < 0.7:
                place = place[key]
                continue
            place[key] = generator.choice(odd)
            break
        (artifact / "sentio.json").write_text(json.dumps(values))
        for runtime in ("torch", "edge"):
            try:
                load(artifact, runtime=runtime)
            except SentioError as error:
                refused += 1
                assert isinstance(error, ArtifactError), error
                assert "\n" not in str(error)
    assert refused > 20


def test_a_written_manifest_reads_as_it_was(tmp_path):
    path = write_artifact(tmp_path / "a", plain(card={"note": "ä"}), FILES)
    values = json.loads((path / "sentio.json").read_text())
    assert read_manifest(values, "x") == ArtifactFiles(path).manifest
    assert values["card"] == {"note": "ä"}
