from __future__ import annotations

import random
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from sentio.core.errors import InputError
from sentio.data import archive
from sentio.data.archive import unpack


def make(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as target:
        for name, data in members.items():
            target.writestr(zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 6)), data, method)
    return path


def refuse(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        unpack(path, Path("data.zip"))
    assert "data.zip" in str(caught.value)


def test_media_and_tables_are_unpacked_with_their_times(tmp_path):
    path = make(
        tmp_path / "a.zip",
        {
            "a/1.wav": b"one",
            "meta.csv": b"x",
            "a/b/2.PNG": b"two",
            "a/x.py": b"",
            ".git/1.wav": b"",
            "e/": b"",
        },
    )
    unpacked = unpack(path, path)
    found = {f.relative_to(unpacked.folder).as_posix(): f for f in unpacked.folder.rglob("*") if f.is_file()}
    assert sorted(found) == ["a/1.wav", "a/b/2.PNG", "meta.csv"]
    assert found["a/b/2.PNG"].read_bytes() == b"two"
    assert unpacked.notes == ("Ignored files that are neither sound nor image (1): x.py.",)
    assert found["a/1.wav"].stat().st_mtime == 1577934246  # 2020-01-02 03:04:06 UTC


@pytest.mark.parametrize("name", ["../a.wav", "a/../../b.wav", "/a.wav", "..\\a.wav", "C:\\a.wav", "C:a.wav"])
def test_paths_that_lead_outside(tmp_path, name):
    refuse(make(tmp_path / "a.zip", {"ok/1.wav": b"", name: b""}), "which leads outside it")
    assert not (tmp_path / "a.wav").exists()


def test_links(tmp_path):
    link = zipfile.ZipInfo("a.wav")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as target:
        target.writestr(link, "/etc/hosts")
    refuse(tmp_path / "a.zip", "holds the link 'a.wav'")


def test_a_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr("a.wav", "1")
        target.writestr("a.wav", "2")
    refuse(tmp_path / "a.zip", "holds 'a.wav' twice")


def test_a_file_in_the_place_of_a_folder(tmp_path):
    refuse(make(tmp_path / "a.zip", {"a.wav": b"", "a.wav/b.wav": b""}), "take the same place on this disk")


def test_a_password(tmp_path):
    path = make(tmp_path / "a.zip", {"a.wav": b"x"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refuse(path, "protected with a password")


def test_nothing_of_use(tmp_path):
    refuse(make(tmp_path / "a.zip", {"a.txt": b"x"}), "no sound, image or CSV file")


def test_a_bomb(tmp_path, monkeypatch):
    path = make(tmp_path / "a.zip", {f"{n}.wav": bytes(1 << 20) for n in range(4)})
    assert unpack(path, path).folder.is_dir()  # small enough for any ratio
    monkeypatch.setattr(archive, "RATIO_FREE_BYTES", 1 << 20)
    refuse(path, "over 100 times its size, as a zip bomb does")


def test_limits(tmp_path, monkeypatch):
    path = make(tmp_path / "a.zip", {f"{n}.wav": bytes(1000) for n in range(4)})
    monkeypatch.setattr(archive, "MAX_BYTES", 3999)
    refuse(path, "would unpack to .* more than the")
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    refuse(path, "holds 4 files, more than the 3")


def test_a_full_disk(tmp_path, monkeypatch):
    path = make(tmp_path / "a.zip", {"a.wav": b"x" * 1000})
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 0, 10))
    refuse(path, "make room or set TMPDIR")
    monkeypatch.undo()

    def fail(source, sink, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.shutil, "copyfileobj", fail)
    refuse(path, "Cannot unpack 'a.wav' of data.zip: No space left on device")


def test_what_is_no_zip(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"Rar!")
    refuse(tmp_path / "a.zip", "is damaged or not a zip file")


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_damage_anywhere_is_refused_or_harmless(tmp_path, method):
    noise = random.Random(0)
    clean = make(
        tmp_path / "a.zip", {"a/1.wav": noise.randbytes(300), "b/2.wav": b"y" * 300}, method
    ).read_bytes()
    refused = 0
    for _ in range(150):
        data = bytearray(clean)
        for _ in range(noise.randint(1, 4)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        path = tmp_path / "bad.zip"
        path.write_bytes(data[: noise.randrange(len(data))] if noise.random() < 0.3 else data)
        try:
            unpack(path, path)
        except InputError:
            refused += 1
    assert refused > 75
