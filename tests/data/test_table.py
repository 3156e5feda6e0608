from __future__ import annotations

import pytest

from sentio.core.errors import ConfigError, InputError
from sentio.data.readers import open_data


@pytest.fixture
def table(tmp_path, clip):
    """Writes a meta.csv beside a.wav, b.wav and audio/c.wav, and gives its folder."""
    for name in ("a.wav", "b.wav", "audio/c.wav"):
        clip(tmp_path / "set" / name)

    def write(text: str | bytes):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "set" / "meta.csv").write_bytes(data)
        return tmp_path / "set"

    return write


def test_files_beside_the_table_or_in_audio(table):
    folder = table("filename,fold,label,source\nb.wav,2,y,web\na.wav,1,x,\nc.wav,10,x,own\n")
    dataset = open_data(folder)
    assert [(item.name, item.label, item.group) for item in dataset.items] == [
        ("b.wav", "y", "2"),
        ("a.wav", "x", "1"),
        ("c.wav", "x", "10"),
    ]
    assert dataset.items[2].source == folder / "audio" / "c.wav"
    assert dataset.items[0].details == {"source": "web"}
    assert dataset.protocols == ("folds", "random") and dataset.name == "set"
    assert open_data(folder / "meta.csv").items == dataset.items
    assert open_data(folder / "meta.csv").name == "set"


def test_without_folds_the_split_is_random(table):
    dataset = open_data(table("filename,label\na.wav,x\nb.wav,y\n"))
    assert dataset.protocols == ("random",) and dataset.items[0].group is None


@pytest.mark.parametrize(
    "text",
    [
        "\ufefffilename,label\r\na.wav,x\r\nb.wav,y\r\n",
        "Filename ; Label\na.wav;x\n\nb.wav;y\n",
        "\n\nfilename;label\na.wav;x\nb.wav;y\n",
        "label\tfilename\nx\ta.wav\ny\tb.wav",
        'filename,label\n"a.wav","x"\n.\\b.wav, y \n',
        "filename,label,,\na.wav,x,,\nb.wav,y,,\n",
        "filename,label\na.wav,x,,\nb.wav,y\n",
    ],
)
def test_dialects_of_csv(table, text):
    assert [(i.name, i.label) for i in open_data(table(text)).items] == [("a.wav", "x"), ("b.wav", "y")]


def test_odd_labels_are_fine(table):
    dataset = open_data(table("filename,label\na.wav,\"ä, 'b' / \\ 犬\"\nb.wav,=1+1\n"))
    assert dataset.labels == ("=1+1", "ä, 'b' / \\ 犬")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,class\na.wav,x\n", "no column 'label'; it needs .*found: 'filename', 'class'"),
        ("file,label\na.wav,x\n", "no column 'filename'; it needs"),
        ("file,class\na.wav,x\n", "no column 'filename' and no column 'label'"),
        ("filename,label,label\na.wav,x,y\n", "names a column twice"),
        ("filename,label\n", "has no rows"),
        ("", "has no rows"),
        (
            "filename,label\na.wav,x\nq.wav,y\nr.wav,y\n",
            r"line 3 names 'q.wav'.*\(2 lines name missing",
        ),
        ("filename,label\na.wav,x\nb.wav,y\n./a.wav,x\n", "names './a.wav' on lines 2 and 4; keep one"),
        ("filename,label\nc.wav,x\nb.wav,y\naudio/c.wav,x\n", "names 'audio/c.wav' on lines 2 and 4"),
        ("filename,label\na.wav,x\nb.wav,\n", "line 3 has no label"),
        ("filename,label\n,x\nb.wav,y\n", "line 2 has no filename"),
        ("filename,label,fold\na.wav,x,1\nb.wav,y,\n", "line 3 has no fold while others do"),
        ("filename,label\na.wav,x,y\n", "line 2 has 3 cells where the header has 2"),
        ("filename,label\na.wav,x\nb.wav,x\n", "only one class, 'x'"),
        ("filename,label\n../set/a.wav,x\n", "line 2 names '../set/a.wav', which leads outside"),
        ("filename,label\n..\\set\\a.wav,x\n", "leads outside the folder"),
        ("filename,label\n/etc/hosts,x\n", "line 2 names '/etc/hosts', which leads outside"),
        ("filename,label\nC:\\a.wav,x\n", "leads outside the folder"),
        ("filename,label\na.wav\0,x\n", "leads outside the folder"),
        ("filename,label\n" + "a" * 200_000 + ",x\n", "is not valid CSV: field larger"),
        ("filename,label\naudio,x\n", "line 2 names 'audio', which is neither"),
        ("filename,label\na.wav,ä\n".encode("latin-1"), "not UTF-8 text .at byte 21.; save it again"),
        ("filename,label\na.wav,x\n".encode("utf-16"), "not UTF-8 text .at byte 0."),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(table, text, message):
    with pytest.raises(InputError, match=message) as caught:
        open_data(table(text))
    assert "\n" not in str(caught.value) and "set" in str(caught.value)


def test_an_unreadable_table(table, monkeypatch):
    folder = table("filename,label\na.wav,x\n")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(folder), "read_bytes", refuse)
    with pytest.raises(InputError, match=r"Cannot read .*meta.csv: Permission denied; check its permissions"):
        open_data(folder)


def test_unknown_protocols(table):
    folder = table("filename,label,fold\na.wav,x,1\nb.wav,y,2\n")
    with pytest.raises(ConfigError, match="no protocol 'esc10'; choose one of: folds, random"):
        open_data(folder, protocol="esc10")


@pytest.fixture
def esc50(tmp_path, clip):
    """ESC-50's layout: two classes of ESC-10 and one other, one clip for each of two folds."""
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in (1, 2):
        for target, (category, flag) in enumerate([("dog", True), ("rain", True), ("cow", False)]):
            name = f"{fold}-{target}00-A-{target}.wav"
            clip(tmp_path / "ESC-50-master" / "audio" / name)
            lines.append(f"{name},{fold},{target},{category},{flag},{target}00,A")
    meta = tmp_path / "ESC-50-master" / "meta"
    meta.mkdir()
    (meta / "esc50.csv").write_text("\n".join(lines) + "\n")
    return meta.parent


@pytest.mark.parametrize("inner", ["", "meta/esc50.csv"])
def test_esc50_and_its_ten_classes(esc50, inner):
    dataset = open_data(esc50 / inner)
    assert dataset.counts() == {"cow": 2, "dog": 2, "rain": 2}
    assert dataset.items[0].group == "1" and dataset.items[0].details["src_file"] == "000"
    ten = open_data(esc50 / inner, protocol="esc10")
    assert ten.labels == ("dog", "rain") and len(ten) == 4
    assert ten.protocol == "esc10" and ten.protocols == ("esc10", "folds", "random")


def test_esc50_flags_nothing(esc50):
    path = esc50 / "meta" / "esc50.csv"
    path.write_text(path.read_text().replace("True", "False"))
    with pytest.raises(InputError, match="flags no row in its column 'esc10'"):
        open_data(esc50, protocol="esc10")
    with pytest.raises(ConfigError, match="choose one of: folds, random, esc10"):
        open_data(esc50, protocol="speaker")
