"""Downloads from a server in this process, which misbehaves as it is told to."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sentio.core.errors import CancelledError, ConfigError, InputError, UnknownNameError
from sentio.data import download as downloading
from sentio.data import fetching
from sentio.data.download import RECORD, download, unpack_into
from sentio.data.fetching import fetch
from sentio.data.public_sets import PUBLIC_SETS, PublicSet, RemoteFile

BODY = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def server(monkeypatch) -> Iterator[SimpleNamespace]:
    """``server.files`` is what it has; ``asked`` the ranges asked for; ``mood`` how it answers."""
    state = SimpleNamespace(files={}, asked=[], mood="good", cut=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked.append(self.headers.get("Range"))
            body = state.files.get(self.path)
            if state.mood == "moved":
                self.send_response(302)
                self.send_header("Location", state.elsewhere)
                self.end_headers()
                return
            if body is None or state.mood.isdecimal():
                self.send_error(404 if body is None else int(state.mood))
                return
            start = 0
            if self.headers.get("Range") and state.mood != "no ranges":
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if state.mood != "no length":
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            stop = len(body) - state.cut if state.mood == "cut" else len(body)
            self.wfile.write(body[start:stop])

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        monkeypatch.setattr(fetching, "SCHEMES", ("http",))
        yield state
        http.shutdown()


def remote(server, body: bytes = BODY, kind: str = "md5", **changes) -> RemoteFile:
    server.files["/file.bin"] = body
    values = {
        "url": f"{server.url}/file.bin",
        "name": "file.bin",
        "checksum": f"{kind}:{hashlib.new(kind, body).hexdigest()}",
        "size": len(body),
    }
    return RemoteFile(**{**values, **changes})


@pytest.mark.parametrize("kind", ["md5", "sha256"])
@pytest.mark.parametrize("mood", ["good", "no ranges", "no length"])
@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_file_comes_whole_and_verified(server, tmp_path, kind, mood, size):
    server.mood = mood
    told = []
    fetch(
        remote(server, kind=kind, size=size), tmp_path / "file.bin", progress=lambda *step: told.append(step)
    )
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]
    assert told[-1] == ("verify", len(BODY), len(BODY)) and {job for job, *_ in told} == {"fetch", "verify"}


def test_it_goes_on_where_it_stopped(server, tmp_path):
    file = remote(server)
    server.mood, server.cut = "cut", 100_000
    with pytest.raises(
        InputError, match=r"file.bin stopped after 200000 of 300000 bytes; the same command goes"
    ):
        fetch(file, tmp_path / "file.bin")
    assert (tmp_path / "file.bin.part").stat().st_size == 200_000 and not (tmp_path / "file.bin").exists()
    server.mood = "good"
    fetch(file, tmp_path / "file.bin")
    assert server.asked == [None, "bytes=200000-"]
    assert (tmp_path / "file.bin").read_bytes() == BODY


@pytest.mark.parametrize("size", [len(BODY), None])
def test_without_length_a_cut_is_found_too(server, tmp_path, size):
    file = remote(server, size=size)
    server.files["/file.bin"] = BODY[:1000]
    server.mood = "no length"
    message = "stopped after 1000 of 300000 bytes" if size else "has md5 .* is published, and is removed"
    with pytest.raises(InputError, match=message):
        fetch(file, tmp_path / "file.bin")


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"x" * 5000)
    server.mood = "no ranges"
    fetch(remote(server), tmp_path / "file.bin")
    assert server.asked == ["bytes=5000-"] and (tmp_path / "file.bin").read_bytes() == BODY


def test_a_whole_part_is_only_verified(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY)
    fetch(remote(server), tmp_path / "file.bin")
    assert server.asked == []
    (tmp_path / "file.bin").rename(tmp_path / "file.bin.part")
    fetch(remote(server, size=None), tmp_path / "file.bin")  # the server says that nothing is missing
    assert server.asked == ["bytes=300000-"] and (tmp_path / "file.bin").read_bytes() == BODY


def test_a_part_of_another_file_is_removed(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY + b"more")
    with pytest.raises(InputError, match=r"first 300004 bytes of file.bin do not belong .* begins anew"):
        fetch(remote(server, size=None), tmp_path / "file.bin")
    fetch(remote(server, size=None), tmp_path / "file.bin")
    (tmp_path / "file.bin").unlink()
    (tmp_path / "file.bin.part").write_bytes(b"y" * 7)
    with pytest.raises(InputError, match="and is removed; fetch it again"):
        fetch(remote(server), tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def test_an_altered_file_is_not_kept(server, tmp_path):
    file = remote(server)
    server.files["/file.bin"] = BODY[:-1] + bytes([BODY[-1] ^ 1])
    with pytest.raises(
        InputError, match=r"has md5 \w{32} where \w{32} is published, and is removed"
    ) as raised:
        fetch(file, tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == [] and "\n" not in str(raised.value)
    fetch(file, tmp_path / "file.bin", verify=False)
    assert (tmp_path / "file.bin").read_bytes() == server.files["/file.bin"]


def test_another_size_is_refused_before_it_comes(server, tmp_path):
    with pytest.raises(
        InputError, match="has 300000 bytes where 299999 are published, so it is another file"
    ):
        fetch(remote(server, size=299_999), tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "mood, message",
    [
        ("404", r"is not there any more \(HTTP 404\); look at the data set's page"),
        ("410", r"is not there any more \(HTTP 410\)"),
        ("503", "answers with HTTP 503; try again later, the same command goes on"),
    ],
)
def test_a_dead_link(server, tmp_path, mood, message):
    file = remote(server)
    server.mood = mood
    with pytest.raises(InputError, match=message) as raised:
        fetch(file, tmp_path / "file.bin")
    assert "\n" not in str(raised.value) and list(tmp_path.iterdir()) == []


def test_nobody_answers(server, tmp_path):
    import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(InputError, match=r"cannot be reached .*Connection refused.*; check the network"):
        fetch(remote(server, url=f"http://127.0.0.1:{port}/file.bin"), tmp_path / "file.bin")


def test_only_https_also_after_a_redirect(server, tmp_path, monkeypatch):
    file = remote(server)
    server.mood, server.elsewhere = "moved", "ftp://127.0.0.1/file.bin"
    with pytest.raises(ConfigError, match=r"ftp://127.0.0.1/file.bin is not http, so what comes from there"):
        fetch(file, tmp_path / "file.bin")
    monkeypatch.setattr(fetching, "SCHEMES", ("https",))
    with pytest.raises(ConfigError, match="is not https"):
        fetch(file, tmp_path / "file.bin")
    assert server.asked == [None]


def test_without_a_known_checksum_it_refuses(server, tmp_path):
    file = remote(server, checksum=None)
    with pytest.raises(ConfigError, match=r"checksum unknown: none is published for file.bin.*--no-verify"):
        fetch(file, tmp_path / "file.bin")
    assert server.asked == []
    fetch(file, tmp_path / "file.bin", verify=False)
    with pytest.raises(ConfigError, match="checksum of kind 'crc'; known are md5, sha256"):
        fetch(remote(server, checksum="crc:1"), tmp_path / "file.bin")


def test_no_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"file.bin needs 0.00 GiB more and .* free; make room"):
        fetch(remote(server), tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def test_the_disk_fills_up(server, tmp_path, monkeypatch):
    file = remote(server)

    class Full(io.BytesIO):
        def write(self, block):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, mode: Full())
    with pytest.raises(InputError, match=r"The disk is full while writing .*file.bin.part; make room, then"):
        fetch(file, tmp_path / "file.bin")


def test_it_stops_when_asked_and_keeps_what_came(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "BLOCK", 50_000)
    answers = iter([False, False, True])
    with pytest.raises(CancelledError, match=r"Fetching file.bin was stopped on request"):
        fetch(remote(server), tmp_path / "file.bin", cancel=lambda: next(answers))
    assert (tmp_path / "file.bin.part").stat().st_size == 100_000


def packed(files: dict[str, bytes], kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name, body in files.items():
                archive.writestr(name, body)
    else:
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for name, body in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


@pytest.fixture
def pets(server, monkeypatch, clip, tmp_path) -> PublicSet:
    """A set of two archives, one of each kind, under the name ``pets``."""
    sound = clip(tmp_path / "clip.wav").read_bytes()
    parts = {
        "one.zip": packed({"pets/cat/0.wav": sound, "pets/README": b"x"}, "zip"),
        "two.tar.gz": packed({"./pets/dog/0.wav": sound, "./pets/dog/1.wav": sound}, "tar"),
    }
    files = []
    for name, body in parts.items():
        server.files[f"/{name}"] = body
        files.append(
            RemoteFile(f"{server.url}/{name}", name, f"sha256:{hashlib.sha256(body).hexdigest()}", len(body))
        )
    found = PublicSet("Pets", "CC0", server.url, tuple(files), "pets")
    monkeypatch.setitem(PUBLIC_SETS, "pets", found)
    return found


def test_a_data_set_is_fetched_unpacked_and_opened(pets, server, tmp_path):
    from sentio.data.readers import open_data

    told = []
    folder = download("pets", tmp_path / "data", progress=lambda *step: told.append(step))
    assert folder == tmp_path / "data" / "pets" and open_data(folder).counts() == {"cat": 1, "dog": 2}
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [RECORD, "pets"]
    assert (folder / "README").read_bytes() == b"x"
    fetched = [step for step in told if step[0] == "fetch"]
    assert fetched[-1] == ("fetch", pets.size, pets.size) and told[-1] == ("unpack", 2, 2)
    assert download("pets", tmp_path / "data") == folder and len(server.asked) == 2  # nothing is done twice
    shutil.rmtree(folder)
    download("pets", tmp_path / "data", keep_archives=True)
    assert len(server.asked) == 4 and (tmp_path / "data" / "two.tar.gz").is_file()


def test_a_download_goes_on_after_the_archive_that_failed(pets, server, tmp_path):
    good = server.files["/two.tar.gz"]
    server.files["/two.tar.gz"] = good[:-1] + b"x"
    with pytest.raises(InputError, match=r"two.tar.gz has sha256"):
        download("pets", tmp_path)
    assert list(json.loads((tmp_path / RECORD).read_text())) == ["one.zip"]
    server.files["/two.tar.gz"] = good
    assert (download("pets", tmp_path) / "dog" / "1.wav").is_file()
    assert len(server.asked) == 3
    (tmp_path / RECORD).write_text("{")  # a damaged record counts as none
    download("pets", tmp_path)
    assert len(server.asked) == 5


def test_an_archive_without_a_folder_of_its_own(pets, server, tmp_path, monkeypatch):
    body = packed({"./yes/0.wav": b"0", "./validation_list.txt": b""}, "tar")
    server.files["/bare.tar.gz"] = body
    file = RemoteFile(f"{server.url}/bare.tar.gz", "bare.tar.gz", f"md5:{hashlib.md5(body).hexdigest()}")
    monkeypatch.setitem(PUBLIC_SETS, "bare", PublicSet("B", "CC0", "", (file,), "bare", bare=True))
    assert (download("bare", tmp_path) / "yes" / "0.wav").read_bytes() == b"0"
    monkeypatch.setitem(PUBLIC_SETS, "bare", PublicSet("B", "CC0", "", (file,), "other"))
    with pytest.raises(InputError, match="without the folder 'other' that belongs in it"):
        download("bare", tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_that_could_do_harm(tmp_path, kind):
    target = tmp_path / "out"
    for name in ("../evil", "/evil", "a/../../evil", "C:/evil"):
        (tmp_path / "a").write_bytes(packed({name: b"x"}, kind))
        with pytest.raises(InputError, match="which leads outside it; not unpacked"):
            unpack_into(tmp_path / "a", target)
    assert not target.exists() and not (tmp_path / "evil").exists()


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    for name in ("a.tar", "a.zip"):
        with pytest.raises(InputError, match="holds the link 'link'"):
            unpack_into(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_damaged_archives(tmp_path, kind):
    body = packed({"a.bin": BODY}, kind)
    middle = len(body) // 2
    # A zip knows the checksum of each file, a tar only that it ends too soon.
    (tmp_path / "a").write_bytes(
        body[:middle] + (bytes(100) + body[middle + 100 :] if kind == "zip" else b"")
    )
    with pytest.raises(InputError, match=r"a is damaged \(.*\); remove it and download it again"):
        unpack_into(tmp_path / "a", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "a").write_bytes(b"<html>")
    with pytest.raises(InputError, match="is damaged"):
        unpack_into(tmp_path / "a", tmp_path / "out")


def test_a_full_disk_while_unpacking(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(packed({"a.bin": BODY}, "tar"))

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloading.shutil, "copyfileobj", full)
    with pytest.raises(InputError, match=r"The disk is full while writing .*a.bin; make room"):
        unpack_into(tmp_path / "a", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_unpacking_stops_when_asked(tmp_path):
    (tmp_path / "a").write_bytes(packed({"a.bin": BODY, "b.bin": BODY}, "zip"))
    answers = iter([False, True])
    with pytest.raises(CancelledError, match=r"Unpacking .* was stopped on request"):
        unpack_into(tmp_path / "a", tmp_path / "out", cancel=lambda: next(answers))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.bin"]
    kept = (tmp_path / "out" / "a.bin").stat().st_ino
    assert unpack_into(tmp_path / "a", tmp_path / "out") == 2
    assert (tmp_path / "out" / "a.bin").stat().st_ino == kept  # what is there is left


def test_what_was_not_verified_is_fetched_again_to_verify_it(pets, server, tmp_path):
    for times, verify in ((2, False), (2, False), (4, True), (4, False), (4, True)):
        download("pets", tmp_path, verify=verify)
        assert len(server.asked) == times


def test_a_file_that_cannot_be_opened(server, tmp_path):
    (tmp_path / "file.bin.part").mkdir()
    with pytest.raises(InputError, match=r"file.bin.part cannot be written: Is a directory"):
        fetch(remote(server, size=None), tmp_path / "file.bin", verify=False)


def test_more_than_allowed(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(packed({"a.bin": BODY}, "tar"))
    monkeypatch.setattr(downloading, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="unpacks to more than 0 GiB"):
        unpack_into(tmp_path / "a", tmp_path / "out")


def test_the_table_of_public_sets():
    assert list(PUBLIC_SETS) == sorted(PUBLIC_SETS)
    for found in PUBLIC_SETS.values():
        assert found.title and found.licence and found.page.startswith("https://")
        names = [file.name for file in found.files]
        assert len(set(names)) == len(names)
        for file in found.files:
            assert file.url.startswith("https://") and file.name.endswith((".zip", ".tar.gz"))
            kind, _, digest = (file.checksum or "").partition(":")
            assert len(digest) == {"md5": 32, "sha256": 64}[kind] and int(digest, 16)
    assert len(PUBLIC_SETS["tau-2020-mobile"].files) == len(PUBLIC_SETS["tau-2022-mobile"].files) == 18
    assert [round(PUBLIC_SETS[f"tau-{year}-mobile"].size / 1e9, 1) for year in (2020, 2022)] == [27.4, 27.5]
    assert PUBLIC_SETS["esc50"].size is None
    with pytest.raises(UnknownNameError, match="Unknown public data set 'esc-50'; did you mean 'esc50'"):
        download("esc-50", ".")


def test_the_page_lists_every_public_set():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for name, found in PUBLIC_SETS.items():
        size = "not published" if found.size is None else f"{found.size / 1e9:.2f} GB"
        kind = {"md5": "MD5", "sha256": "SHA-256"}[found.files[0].checksum.partition(":")[0]]
        assert f"| `{name}` | [{found.title}]({found.page}) | {size} | {kind} | {found.licence} |" in page
