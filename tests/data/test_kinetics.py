"""Kinetics' tables with files beside them, and folders of videos."""

import pytest

from sentio.core.errors import InputError
from sentio.data.readers import open_data
from sentio.data.splits import splits

HEADER = "label,youtube_id,time_start,time_end,split\n"
ROWS = {
    "train": "abseiling,aaaaaaaaaaa,1,11,train\nzumba,bbbbbbbbbbb,20,30,train\n"
    "zumba,ccccccccccc,0,10,train\n",
    "validate": "abseiling,ddddddddddd,5,15,validate\nzumba,eeeeeeeeeee,7,17,validate\n",
    "test": "abseiling,fffffffffff,2,12,test\nzumba,ggggggggggg,3,13,test\n",
}
FILES = (
    "train/abseiling/aaaaaaaaaaa_000001_000011.mp4",
    "train/zumba/bbbbbbbbbbb.mkv",
    "val/ddddddddddd_000005_000015.mp4",
    "val/eeeeeeeeeee_000007_000017.mp4",
    "test/fffffffffff_000002_000012.webm",
    "test/ggggggggggg_000003_000013.mp4",
)


@pytest.fixture
def kinetics(tmp_path):
    for part, rows in ROWS.items():
        (tmp_path / f"{part}.csv").write_text(HEADER + rows)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_clips_are_found_and_divided_as_the_tables_say(kinetics):
    data = open_data(kinetics)
    assert data.labels == ("abseiling", "zumba")
    assert {item.name: item.details["part"] for item in data.items} == {
        name: {"train": "train", "val": "validation", "test": "test"}[name.split("/")[0]] for name in FILES
    }
    first = next(item for item in data.items if item.group == "aaaaaaaaaaa")
    assert (first.details["time_start"], first.details["time_end"]) == ("1", "11")
    assert data.notes == ("Left out clips without a file (1): ccccccccccc_000000_000010.",)
    (split,) = splits(data)
    assert [data.items[place].details["part"] for place in split.test] == ["test", "test"]


def test_tables_that_do_not_fit_are_refused(kinetics):
    for name in FILES:
        (kinetics / name).unlink()
    with pytest.raises(InputError, match=r"No video of .* belongs to a clip of its table"):
        open_data(kinetics)
    (kinetics / "train.csv").write_text(HEADER + "zumba,bbbbbbbbbbb,soon,30,train\n")
    with pytest.raises(InputError, match=r"train\.csv line 2 has a time that is no number"):
        open_data(kinetics)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("zumba,bbbbbbbbbbb,20,inf,train", "has a time that is no number"),
        (" ,bbbbbbbbbbb,20,30,train", "has no label"),
        ("zumba,bbbbbbbbbbb,20,30,held", "has the split 'held', not train, val or test"),
    ],
)
def test_odd_rows_are_refused(kinetics, row, message):
    (kinetics / "train.csv").write_text(HEADER + row + "\n")
    with pytest.raises(InputError, match=rf"train\.csv line 2 {message}"):
        open_data(kinetics)


def test_the_file_of_a_clip_is_one_and_in_its_class(kinetics):
    """Parts in any case; of files of one name that of the class; a second clip of one file is left out."""
    (kinetics / "train.csv").write_text(
        HEADER + "zumba,bbbbbbbbbbb,20,30,Train\nzumba,bbbbbbbbbbb,40,50,train\n"
    )
    (kinetics / "train/a").mkdir()
    (kinetics / "train/a/bbbbbbbbbbb.mkv").touch()
    data = open_data(kinetics)
    (item,) = (item for item in data.items if item.group == "bbbbbbbbbbb")
    assert (item.name, item.details["part"]) == ("train/zumba/bbbbbbbbbbb.mkv", "train")
    assert data.notes == ("Left out clips whose file another line has (1): bbbbbbbbbbb_000040_000050.",)


def test_a_folder_per_class_of_videos(tmp_path):
    for name in ("run/a.mp4", "run/b.mov", "walk/c.avi", "walk/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    data = open_data(tmp_path)
    assert [(item.name, item.label) for item in data.items] == [
        ("run/a.mp4", "run"),
        ("run/b.mov", "run"),
        ("walk/c.avi", "walk"),
    ]
