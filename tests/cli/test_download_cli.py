"""``sentio download`` against a server in this process."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sentio.data import fetching
from sentio.data.public_sets import PUBLIC_SETS, PublicSet, RemoteFile


@pytest.fixture
def tones_online(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tones as a public set called ``tones``, at a local address."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(tones.rglob("*.wav")):
            archive.write(path, f"tones/{path.relative_to(tones).as_posix()}")
    place = tmp_path / "online"
    place.mkdir()
    (place / "tones.zip").write_bytes(out.getvalue())

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(place))

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/tones.zip"
        digest = hashlib.sha256(out.getvalue()).hexdigest()
        file = RemoteFile(url, "tones.zip", f"sha256:{digest}", len(out.getvalue()))
        monkeypatch.setattr(fetching, "SCHEMES", ("http",))
        monkeypatch.setitem(PUBLIC_SETS, "tones", PublicSet("Tones", "CC0", "https://x", (file,), "tones"))
        yield place / "tones.zip"
        server.shutdown()


def test_what_it_downloads_can_be_used(sentio, artifact, tones_online, tmp_path):
    found = sentio("download", "tones", tmp_path / "data")
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith("Tones, 0.00 GB to fetch\nlicence: CC0; see https://x\n")
    target = tmp_path / "data" / "tones"
    assert found.out.endswith(f"data in {target}; try: sentio train {target} -o my-model\n")
    assert sentio("evaluate", artifact, target, "--split", 0).code == 0


def test_json(sentio, tones_online, tmp_path):
    values = json.loads(sentio("download", "tones", tmp_path / "data", "--no-verify", "--json").out)
    assert values["path"] == str(tmp_path / "data" / "tones") and values["verified"] is False
    assert values["licence"] == "CC0"


def test_an_altered_file_and_an_unknown_name(sentio, tones_online, tmp_path):
    body = tones_online.read_bytes()
    tones_online.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    found = sentio("download", "tones", tmp_path / "data")
    assert found.code == 3 and found.err.count("\n") == 1
    assert "tones.zip has sha256" in found.err and "is published, and is removed" in found.err
    found = sentio("download", "tone", tmp_path / "data")
    assert found.code == 2 and found.err == "sentio: Unknown public data set 'tone'; did you mean 'tones'?\n"


def test_a_dead_link(sentio, tones_online, tmp_path):
    tones_online.unlink()
    found = sentio("download", "tones", tmp_path / "data")
    assert found.code == 3 and "is not there any more (HTTP 404)" in found.err and found.err.count("\n") == 1
