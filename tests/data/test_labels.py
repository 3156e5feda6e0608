"""Tables of events."""

import pytest

from sentio.core.errors import InputError
from sentio.data.simulate.labels import Event, read_labels

HEAD = "filename,onset,offset,event_label\n"


def test_a_table_with_more_columns(tmp_path):
    (tmp_path / "labels.csv").write_text(HEAD.strip() + ",snr_db\na.wav,0.5,1.25,bark,12.0\n")
    (event,) = read_labels(tmp_path)
    assert event == Event("a.wav", 0.5, 1.25, "bark")
    assert event.details == {"snr_db": "12.0"}


def test_tabs_as_in_the_challenges(tmp_path):
    path = tmp_path / "strong.tsv"
    path.write_text("\ufeff" + (HEAD + "a.wav,1,2,siren, far\n").replace(",", "\t", 6), encoding="utf-8")
    assert [event.label for event in read_labels(path)] == ["siren, far"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,onset\na.wav,1\n", "no column offset, event_label"),
        ("", "no column filename"),
        (HEAD + "a.wav,1,2,x\na.wav,2,1,x\n", "line 3: onset and offset must be seconds"),
        (HEAD + "a.wav,one,2,x\n", "got 'one' and '2'"),
        (HEAD + "a.wav,nan,2,x\n", "line 2"),
        (HEAD + "a.wav\n", "line 2"),
        (HEAD + "a.wav,1,2\n", "line 2: a filename and an event_label are needed"),
        (HEAD + ",1,2,x\n", "line 2: a filename and an event_label are needed"),
        (HEAD + "\n\na.wav,2,1,x\n", "line 4: onset and offset must be seconds"),
        (HEAD + '"' + 200_000 * "a" + "\n", "line 2 is not valid CSV: field larger than field limit"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / "labels.csv")


def test_a_table_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_labels(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        read_labels(tmp_path)
