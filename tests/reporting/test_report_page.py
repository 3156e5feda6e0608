"""The page: what stands in it, and that nothing else gets in."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from sentio.reporting.markup import count, milliseconds, plain, policy, seconds
from sentio.reporting.page import page
from sentio.training.evaluation import ExitFigures

pytest.importorskip("matplotlib")

DASH = "\u2013"
EVIL = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style></svg><script src=//host/x.js>",
    "url(#p) id=\"a\" href='http://host' $x^{$ {0} %s",
)


def test_headline_and_tiles(evaluation, read):
    found = read(page([evaluation()], "Owls"))
    assert found.all("h1")[0].text == found.all("title")[0].text == "Owls"
    lead = next(each for each in found.all("p") if each.attributes.get("class") == "lead")
    assert lead.texts().replace("\xa0", " ") == (
        "It answers 66.7 % of 9 recordings rightly with 40 % of the multiply-accumulates of its last exit, "
        "in 1.25 ms per window on average; its last exit alone answers 75.0 %."
    )
    tiles = [tile.texts().replace("\xa0", " ") for tile in found.all("ul")[0].all("li")]
    # Wilson's interval for 6 of 9, as it is tabled.
    assert tiles[0] == "66.7 %accuracy95 % interval 35 to 88 %"
    assert tiles[2].startswith("40 kMACs per window, mean") and "last exit 100 k" in tiles[2]
    assert tiles[4].startswith("75 %leave before the last exit")
    assert tiles[5] == "9recordings12 windows, 1 silent"


def test_exits_are_in_a_table(evaluation, read):
    rows = read(page([evaluation()], "Owls")).section("Exits").table("")
    assert [[cell.replace("\xa0", " ") for cell in row] for row in rows[1:]] == [
        ["1 early", "50.0 %", "20 k", "20 %", "0.50 ms", "75.0 %", "60.0 %"],
        ["2 final", "75.0 %", "100 k", "100 %", "2.00 ms", "25.0 %", "90.0 %"],
    ]


def test_policies_are_compared_where_there_are_several(evaluation, read):
    one = evaluation()
    assert read(page([one], "Owls")).section("Policies") is None
    other = replace(one, policy={"name": "fixed", "exit": "final"}, accuracy=0.75, mean_macs=1e5)
    found = read(page([one, other], "Owls"))
    rows = found.section("Policies").table("")
    assert [row[0] for row in rows[1:]] == ["A confidence 0.7", "B fixed final"]
    assert rows[2][1:4] == ["75.0\xa0%", "100\xa0k", "100\xa0%"]
    assert len(found.section("Exits used").all("table")) == 2
    assert len(found.section("Confusion matrix").all("table")) == 1


def test_bars_of_exits_show_what_is_right(evaluation, read):
    rows = read(page([evaluation()], "Owls")).section("Exits used").all("table")[0].all("tr")[1:]
    widths = [[part.attributes["style"] for part in row.all("i")] for row in rows]
    assert widths == [["width:45.00%", "width:30.00%"], ["width:22.50%", "width:2.50%"]]
    spoken = rows[0].all("span")[0].attributes["aria-label"]
    assert spoken == "75.0 % leave here, 45.0 % rightly"


def test_confusion_matrix(evaluation, read):
    rows = read(page([evaluation()], "Owls")).section("Confusion matrix").table("matrix")
    assert rows[0] == ["truth\xa0\\\xa0answer", "cat", "dog", "owl"]
    assert rows[1:] == [
        ["cat", "267\xa0%", "133\xa0%", "·"],
        ["dog", "·", "267\xa0%", "133\xa0%"],
        ["owl", "133\xa0%", "·", "267\xa0%"],
    ]


def test_none_of_these_has_a_column_where_it_was_used(evaluation, read):
    confusion = [[1, 0, 0, 2], [0, 3, 0, 0], [0, 0, 0, 0]]
    found = read(page([evaluation(confusion=confusion)], "Owls")).section("Confusion matrix")
    rows = found.table("matrix")
    assert rows[0][1:] == ["cat", "dog", "none of these"]
    assert [row[0] for row in rows[1:]] == ["cat", "dog"]
    assert rows[1][1:] == ["133\xa0%", "·", "267\xa0%"]
    assert "1 classes that neither occur nor were answered" not in found.texts()
    assert "1 class that neither occurs nor was answered is left out" in found.texts()


def test_a_class_that_was_only_answered_has_a_column_and_no_row(evaluation, read):
    confusion = [[1, 0, 2, 0], [0, 3, 0, 0], [0, 0, 0, 0]]
    rows = read(page([evaluation(confusion=confusion)], "Owls")).section("Confusion matrix").table("matrix")
    assert rows[0][1:] == ["cat", "dog", "owl"]
    assert [row[0] for row in rows[1:]] == ["cat", "dog"]


@pytest.mark.parametrize("classes", [2, 12, 13, 50])
def test_matrix_of_any_size(evaluation, read, classes):
    labels = tuple(f"class {number}" for number in range(classes))
    html = page([evaluation(labels)], "Many")
    rows = read(html).section("Confusion matrix").table("matrix")
    assert [len(row) for row in rows] == [classes + 1] * (classes + 1)
    assert [row[place + 1].startswith("2") for place, row in enumerate(rows[1:])] == [True] * classes
    assert ("small" in [each.tag for each in read(html).section("Confusion matrix").all("small")]) == (
        classes <= 12
    )
    assert len(html) < 1_500_000


def test_recall_of_each_class_the_lowest_first(evaluation, read):
    confusion = [[3, 0, 0, 0], [1, 1, 2, 0], [0, 0, 2, 1]]
    rows = read(page([evaluation(confusion=confusion)], "Owls")).section("Recall of each class").table("bars")
    found = [[row[0], *(cell.replace("\xa0", " ") for cell in row[2:])] for row in rows[1:]]
    assert found == [
        ["dog", "25 %", "1 of 4", "100 %", "owl (2)"],
        ["owl", "67 %", "2 of 3", "50 %", "none of these (1)"],
        ["cat", "100 %", "3 of 3", "75 %", DASH],
    ]


def test_the_surest_mistakes(evaluation, read):
    section = read(page([evaluation()], "Owls")).section("The surest mistakes")
    assert section.table("")[1:] == [
        ["a/1.wav", "cat", "dog", "97.0\xa0%", "early"],
        ["b/2.wav", "dog", "none of these", "41.0\xa0%", "final"],
    ]
    assert "2 of 3 wrong answers" in section.texts()


def test_mistakes_without_files_are_numbered(evaluation, read):
    nameless = tuple(replace(each, name=None) for each in evaluation().mistakes)
    rows = read(page([evaluation(mistakes=nameless)], "Owls")).section("The surest mistakes").table("")
    assert [row[0] for row in rows[1:]] == ["1", "2"]


def test_no_mistakes(evaluation, read):
    right = evaluation(confusion=[[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0]], mistakes=())
    assert "There is none" in read(page([right], "Owls")).section("The surest mistakes").texts()


def test_costs_may_be_unknown(evaluation, read):
    exits = tuple(replace(row, macs=None) for row in evaluation().exits)
    points = tuple(replace(point, mean_macs=None) for point in evaluation().tradeoff)
    found = read(page([evaluation(exits=exits, mean_macs=None, tradeoff=points)], "Owls"))
    lead = next(each for each in found.all("p") if each.attributes.get("class") == "lead")
    assert "multiply-accumulates" not in lead.texts()
    assert found.section("Exits").table("")[1][2:4] == ["?", DASH]
    assert "milliseconds per window" in found.section("Accuracy over cost").texts()


def test_one_exit_alone(evaluation, read):
    only = (ExitFigures("final", 2 / 3, 100_000.0, 2.0, 1.0, 0.7),)
    found = read(page([evaluation(exits=only, mean_macs=1e5, tradeoff=())], "Owls"))
    assert len(found.section("Exits").all("tr")) == 2
    assert "one confidence threshold" not in found.section("Accuracy over cost").texts()


def test_notes_and_how_it_was_made(evaluation, read):
    found = read(page([evaluation(), evaluation()], "Owls", made_by={"command": "sentio x", "seed": "3"}))
    assert [note.texts() for note in found.section("Notes").all("li")] == ["a note"]
    made = found.section("How it was made")
    assert [each.texts() for each in made.all("dt")] == ["command", "seed", "runtime"]
    assert [each.texts() for each in made.all("dd")] == ["sentio x", "3", "edge"]
    assert read(page([evaluation(notes=())], "Owls")).section("Notes") is None


def test_a_recording_that_was_heard(evaluation, listening, read):
    section = read(page([evaluation()], "Owls", listening())).section("A recording, heard")
    tiles = [tile.texts().replace("\xa0", " ") for tile in section.all("ul")[0].all("li")]
    assert tiles[0] == "0.1real-time factor10 times as fast as the sound"
    slow = read(page([evaluation()], "Owls", listening(elapsed=12.0))).section("A recording, heard")
    assert slow.all("ul")[0].all("li")[0].texts() == "3real-time factor0.3 times as fast as the sound"
    assert tiles[2] == "75.0 %in time1 later than 6.5 ms after its end"
    assert tiles[3].startswith("75.0 %windows right")
    assert tiles[4].startswith("1 of 1events found")
    assert section.table("")[1][:2] == ["0:00.0 to 0:01.0", "cat"]
    assert section.table("")[4][1] == "none of these"
    assert not section.all("details")


def test_many_segments_are_folded_away_and_the_page_stays_small(evaluation, listening, read):
    html = page([evaluation()], "Owls", listening(windows=7200))
    section = read(html).section("A recording, heard")
    assert section.all("summary")[0].text == "7200 segments"
    assert len(section.all("tr")) == 401
    assert "Drawn is one window in 6." in section.texts()
    assert len(html.encode()) < 1_500_000


def test_without_truth_nothing_is_called_wrong(evaluation, listening, read):
    heard = listening(truth=None, right=None, found=None, false_alarms=None, deadline_ms=None)
    section = read(page([evaluation()], "Owls", heard)).section("A recording, heard")
    assert "wrongly" not in section.texts() and "truth" not in section.all("p")[1].texts()
    assert len(section.all("ul")[0].all("li")) == 2


def strange_page(evaluation, listening, texts):
    """A page in which every text that comes from outside is one of these."""
    one, two, *_ = texts
    exits = tuple(replace(row, name=text) for row, text in zip(evaluation().exits, texts[:2], strict=True))
    mistakes = tuple(replace(each, name=texts[2], exit=texts[3]) for each in evaluation(texts).mistakes)
    changed = evaluation(
        texts,
        exits=exits,
        mistakes=mistakes,
        notes=texts,
        policy={"name": "confidence", "threshold": {one: 0.5, two: None}},
        runtime=two,
    )
    parts = tuple(replace(each, exits={one: 1}) for each in listening(texts).segments)
    windows = tuple(replace(each, exit=two) for each in listening(texts).windows)
    heard = listening(texts, source=one, segments=parts)
    object.__setattr__(heard, "windows", windows)
    return page([changed, changed], texts[2], heard, dict(zip(texts, reversed(texts), strict=True)))


def test_nothing_gets_in_by_way_of_a_label_or_a_file_name(evaluation, listening, read):
    found = read(strange_page(evaluation, listening, EVIL))
    assert not [tag for tag in ("script", "img", "iframe", "link", "object", "a") if found.all(tag)]
    every = [each for tag in {e.tag for e in _all(found)} for each in found.all(tag)]
    for element in every:
        for key, value in element.attributes.items():
            assert not key.startswith("on"), (element.tag, key)
            assert key != "src"
            assert key != "href" or re.match(r"#[\w-]+$|data:image/png;base64,", value), value
            assert key != "style" or "http" not in value
    # They are all there to be read.
    assert all(text in found.texts() for text in EVIL)
    labels = [row[0] for row in found.section("Confusion matrix").table("matrix")[1:]]
    assert labels == list(EVIL)


def test_the_page_forbids_what_it_does_not_need(evaluation):
    assert "default-src 'none'" in page([evaluation()], "Owls")


def test_letters_of_all_kinds(evaluation, listening, read):
    texts = ("救急車のサイレン", "كلب ينبح", "Türklingel 🔔", "e\u0301coute — “x”")
    found = read(strange_page(evaluation, listening, texts))
    assert [row[0] for row in found.section("Confusion matrix").table("matrix")[1:]] == list(texts)


def test_characters_that_no_page_may_hold(evaluation, listening, read):
    texts = ("a\x00b", "broken\udcff.wav", "over\u202eride", "two\nlines\ufffe")
    html = strange_page(evaluation, listening, texts)
    found = read(html.encode().decode())
    rows = found.section("Confusion matrix").table("matrix")[1:]
    assert [row[0] for row in rows] == ["a\ufffdb", "broken\ufffd.wav", "override", "two lines\ufffd"]


def test_every_figure_speaks(evaluation, listening, read):
    found = read(page([evaluation()], "Owls", listening()))
    figures = found.all("svg")
    assert len(figures) == 2
    for each in figures:
        assert each.attributes["role"] == "img" and len(each.attributes["aria-label"]) > 40
    assert "early: 50.0 % at 20 k MACs" in figures[0].attributes["aria-label"]
    assert found.all("html")[0].attributes["lang"] == "en"
    for scroll in [each for each in found.all("div") if each.attributes.get("class") == "scroll"]:
        assert scroll.attributes["aria-label"] and scroll.attributes["tabindex"] == "0"
    for cell in found.all("th"):
        assert cell.attributes["scope"] in ("row", "col")


def test_numbers_in_words():
    assert count(None) == "?"
    assert [count(value) for value in (999, 12_060_000, 2.5e9)] == ["999", "12.1&nbsp;M", "2.5&nbsp;G"]
    assert [milliseconds(value) for value in (0.0, 0.914, 34.56, 279.4)] == [
        "0.00&nbsp;ms",
        "0.91&nbsp;ms",
        "34.6&nbsp;ms",
        "279&nbsp;ms",
    ]
    assert [seconds(value) for value in (0.0, 59.96, 61.24, 3600)] == [
        "0:00.0",
        "1:00.0",
        "1:01.2",
        "60:00.0",
    ]
    assert policy({"name": "patience", "tolerance": 1}) == "patience 1"
    assert policy({"name": "confidence", "threshold": {"a": 0.5, "b": None}}) == "confidence a 0.5, b never"
    assert plain("  a \t b ") == "a b"


def _all(element):
    for each in element.inside:
        yield each
        yield from _all(each)
