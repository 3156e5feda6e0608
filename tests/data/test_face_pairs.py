import pytest

from sentio.core.errors import InputError
from sentio.data.face_pairs import read_face_pairs

LIST = """2\t1
Ada\t1\t2
Ada\t1\tBo_Li\t1
Bo_Li\t1\t3
Cy\t1\tAda\t2
"""


@pytest.fixture
def faces(tmp_path):
    for name, indices in (("Ada", (1, 2)), ("Bo_Li", (1, 3)), ("Cy", (1,))):
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for index in indices:
            (tmp_path / "lfw" / name / f"{name}_{index:04d}.jpg").write_bytes(b"x")
    (tmp_path / "pairs.txt").write_text(LIST)
    return tmp_path


def test_pairs_with_their_folds(faces):
    found = read_face_pairs(faces / "pairs.txt", faces / "lfw")
    names = [path.name for path in found.images]
    assert names == ["Ada_0001.jpg", "Ada_0002.jpg", "Bo_Li_0001.jpg", "Bo_Li_0003.jpg", "Cy_0001.jpg"]
    assert found.first.tolist() == [0, 0, 2, 4]
    assert found.second.tolist() == [1, 2, 3, 1]
    assert found.same.tolist() == [True, False, True, False]
    assert found.folds.tolist() == [0, 0, 1, 1]
    assert len(found) == 4


def test_a_list_without_folds_is_one(faces):
    (faces / "pairs.txt").write_text("1\nAda 1 2\nAda 1 Cy 1\n")
    assert read_face_pairs(faces / "pairs.txt", faces / "lfw").folds.tolist() == [0, 0]


def test_a_byte_order_mark_is_no_part_of_a_list(faces):
    (faces / "pairs.txt").write_text(LIST, "utf-8-sig")
    assert len(read_face_pairs(faces / "pairs.txt", faces / "lfw")) == 4


def test_other_kinds_of_file_are_found(faces):
    path = faces / "lfw" / "Cy" / "Cy_0001.jpg"
    path.rename(path.with_suffix(".png"))
    assert read_face_pairs(faces / "pairs.txt", faces / "lfw").images[-1].name == "Cy_0001.png"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not begin with its numbers"),
        ("Ada 1 2\n", "does not begin with its numbers"),
        (LIST.replace("2\t1", "2\t2"), "announces 2 folds of 2 pairs of each kind and holds 4 pairs"),
        (LIST.replace("Ada\t1\t2", "Ada\t1"), "line 2 is neither"),
        (LIST.replace("Ada\t1\t2", "Ada\tone\ttwo"), "line 2 is neither"),
        (LIST.replace("Ada\t1\t2", "Ada\t1\tCy\t1"), "line 2 is a pair of two persons where"),
        (LIST.replace("Ada\t1\t2", "../x\t1\t2"), "leads outside"),
        (LIST.replace("Ada\t1\t2", f"Ada\t1\t{'9' * 5000}"), "line 2 is neither"),
        ("9" * 5000 + "\n", "does not begin with its numbers"),
        (LIST.replace("Ada\t1\t2", "Ada\t1\t7"), r"lacks images that .* names \(1\): Ada_0007.jpg"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(faces, text, said):
    (faces / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match=said):
        read_face_pairs(faces / "pairs.txt", faces / "lfw")


def test_a_missing_list_is_named(faces):
    with pytest.raises(InputError, match="Cannot read the pairs"):
        read_face_pairs(faces / "none.txt", faces / "lfw")
