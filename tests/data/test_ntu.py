"""NTU RGB+D: names, published parts, and what is listed as missing."""

import pytest

from sentio.core.errors import ConfigError, InputError
from sentio.data.ntu import SUBJECTS
from sentio.data.readers import open_data
from sentio.data.splits import splits

#: performers of either part, and all cameras
PERFORMERS = (1, 2, 4, 5, 3, 6, 7)


@pytest.fixture
def folder(tmp_path):
    for performer in PERFORMERS:
        for camera in (1, 2, 3):
            for action in (1, 60):
                name = f"S001C{camera:03d}P{performer:03d}R001A{action:03d}.skeleton"
                (tmp_path / name).write_text("0\n")
    return tmp_path


def test_names_say_who_and_what(folder):
    data = open_data(folder)
    assert data.labels == ("A001", "A060")
    assert data.protocols == ("x-sub", "x-view")
    assert len(data) == 42
    item = next(item for item in data.items if item.name == "S001C002P003R001A060.skeleton")
    assert (item.label, item.group) == ("A060", "003")
    assert item.details["camera"] == "002"


def test_cross_subject_holds_out_people(folder):
    assert len(SUBJECTS) == 20
    data = open_data(folder)
    (split,) = splits(data)

    def people(part):
        return {int(data.items[index].group) for index in part}

    assert people(split.test) == {3, 6, 7}
    assert people(split.train) | people(split.validation) == {1, 2, 4, 5}
    assert not people(split.train) & people(split.validation)


@pytest.mark.parametrize("opened", ["x-sub", "x-view"])
def test_cross_view_holds_out_a_camera(folder, opened):
    data = open_data(folder, protocol=opened)
    (split,) = splits(data, "x-view")
    cameras = {data.items[index].details["camera"] for index in split.test}
    assert cameras == {"001"}
    assert len(split.test) == 14
    trained = {data.items[index].details["camera"] for index in [*split.train, *split.validation]}
    assert trained == {"002", "003"}


def test_what_is_listed_as_missing_is_left_out(folder):
    (folder / "NTU_RGBD_samples_with_missing_skeletons.txt").write_text("S001C001P001R001A001\nnothing\n")
    (folder / "readme.txt").write_text("hello")
    data = open_data(folder)
    assert len(data) == 41
    assert "S001C001P001R001A001.skeleton" not in {item.name for item in data.items}
    assert data.notes == (
        "Ignored files not named like NTU RGB+D's (1): readme.txt.",
        "Left out skeletons listed as missing (1): S001C001P001R001A001.skeleton.",
    )


def test_what_cannot_be_used(folder):
    with pytest.raises(ConfigError, match=r"no protocol 'random'; choose one of: x-sub, x-view"):
        open_data(folder, protocol="random")
    names = [path.stem for path in folder.glob("*.skeleton")]
    (folder / "missing_skeletons.txt").write_text("\n".join(names))
    with pytest.raises(InputError, match="no skeletons but those listed as missing"):
        open_data(folder)
