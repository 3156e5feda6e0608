"""Figures: the same each time, in the page's colours, side by side without a clash."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from sentio.reporting.page import page
from sentio.reporting.svg import COLOURS, _styled, drawing, inline
from sentio.reporting.timeline import DRAWN, tiles, timeline
from sentio.reporting.tradeoff_plot import letter, tradeoff_plot
from sentio.serve.listening import Heard

matplotlib = pytest.importorskip("matplotlib")


def test_the_same_evaluation_gives_the_same_page(evaluation, listening):
    first = page([evaluation()], "Owls", listening())
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "pink", "svg.fonttype": "path"}):
        assert page([evaluation()], "Owls", listening()) == first
        assert matplotlib.rcParams["font.size"] == 30


def test_ids_are_unique_and_lead_somewhere(evaluation, listening):
    html = page([evaluation()], "Owls", listening())
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert ids and len(ids) == len(set(ids))
    links = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html))
    assert links == set(ids)
    assert {each.split("-")[0] for each in ids} == {"tradeoff", "timeline"}


def test_colours_are_those_of_the_page(evaluation, listening):
    for figure in (tradeoff_plot([evaluation()]), timeline(listening(), ("early", "final"))):
        assert not re.search(r"#[0-9a-f]{6}", figure)
        used = set(re.findall(r"var\(--(\w+)\)", figure))
        assert "ink" in used and used <= set(COLOURS)
        assert "<style" not in figure and "font-family" not in figure and "DejaVu" not in figure


def test_figures_are_well_formed_and_their_text_is_text(evaluation, listening):
    names = ("$x^{", "a < b & c", "dog")
    root = ElementTree.fromstring(timeline(listening(names), ("early", "final")))
    texts = [each.text for each in root.iter("text")]
    assert {"$x^{", "a < b & c", "none of these", "early", "final", "seconds"} <= set(texts)
    root = ElementTree.fromstring(tradeoff_plot([evaluation()]))
    assert {"1", "2", "A", "multiply-accumulates per window, mean"} <= {e.text for e in root.iter("text")}


def test_the_style_sheet_knows_every_colour_in_light_and_dark(evaluation):
    style = page([evaluation()], "Owls").partition("<style>")[2].partition("</style>")[0]
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)", 1)
    for name in COLOURS:
        assert f"--{name}:" in light and f"--{name}:" in dark.partition("}\n}")[0]


def test_letters_are_left_to_the_page_whatever_matplotlib_writes():
    after = "fill: var(--ink)"
    for before, kept in (
        ("font-size: 9px; font-family: 'DejaVu Sans', sans-serif; fill: #010101", "font-size: 9px"),
        ("font: 9.5px 'DejaVu Sans', sans-serif; fill: #010101", "font-size: 9.5px"),
        ("font: 700 9px 'DejaVu Sans'; fill: #010101", "font-weight: 700; font-size: 9px"),
    ):
        assert _styled(before) == f"{kept}; {after}"


def test_policies_at_one_point_share_a_name(evaluation):
    root = ElementTree.fromstring(tradeoff_plot([evaluation(), evaluation()]))
    assert "A, B" in {each.text for each in root.iter("text")}
    assert [letter(place) for place in (0, 25, 26, 27)] == ["A", "Z", "A2", "B2"]


def test_costs_far_apart_are_drawn_by_their_logarithm(evaluation):
    first, last = evaluation().exits
    far = evaluation(exits=(replace(first, macs=1e3), replace(last, macs=1e6)), mean_macs=5e5, tradeoff=())
    ticks = {each.text for each in ElementTree.fromstring(tradeoff_plot([far])).iter("text")}
    assert {"1 k", "10 k", "100 k", "1 M"} <= ticks


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_accuracy_stays_between_nothing_and_all(evaluation, accuracy):
    exits = tuple(replace(row, accuracy=accuracy) for row in evaluation().exits)
    points = tuple(replace(point, accuracy=accuracy) for point in evaluation().tradeoff)
    figure = tradeoff_plot([evaluation(exits=exits, accuracy=accuracy, tradeoff=points)])
    shares = [
        float(each.text.removesuffix(" %"))
        for each in ElementTree.fromstring(figure).iter("text")
        if each.text.endswith(" %")
    ]
    assert shares and all(0 <= share <= 100 for share in shares)


def test_a_stranger_sentinel_in_a_label_stays(listening):
    names = ("#010101", "dog", "background")
    root = ElementTree.fromstring(timeline(listening(names), ()))
    assert "#010101" in {each.text for each in root.iter("text")}


def test_the_spectrogram_is_embedded_as_it_is(listening):
    figure = timeline(listening(), ("early", "final"))
    (image,) = ElementTree.fromstring(figure).iter("image")
    assert image.attrib["href"].startswith("data:image/png;base64,")


def test_tiles_lie_side_by_side(listening):
    overlapping = tuple(
        Heard(0.5 * place, 0.5 * place + 1.0, "cat", 0.9, "early", 1.0, True) for place in range(5)
    )
    found = tiles(listening(windows=3))
    assert [(tile.start, tile.end) for tile in found] == [(0, 1), (1, 2), (2, 3)]
    assert [tile.right for tile in found] == [True, False, True]
    found = tiles(replace(listening(windows=3), windows=overlapping))
    assert [(tile.start, tile.end) for tile in found] == [
        (0.0, 0.75),
        (0.75, 1.25),
        (1.25, 1.75),
        (1.75, 2.25),
        (2.25, 3.0),
    ]


def test_very_long_recordings_are_thinned_out(listening):
    found = tiles(listening(windows=3 * DRAWN + 1))
    assert len(found) <= DRAWN
    assert found[0].start == 0 and found[-1].end == 3 * DRAWN + 1


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2, 1))
        figure.text(0.5, 0.5, "救")  # no glyph, and no warning about it
        assert "救" in inline(figure, "one", "a letter")
    assert dict(matplotlib.rcParams) == before
