"""The report on a model that does not classify: its figures, its groups, names from outside."""

from dataclasses import replace

import pytest

from sentio.core.errors import ConfigError
from sentio.reporting import write_report
from sentio.reporting.page import page
from sentio.training.scoring import ExitScores, GroupScores, Scores

pytest.importorskip("matplotlib")


def scores(names=("V1", "final"), group="dark", **changes):
    """A counter with two exits and a column of two values."""
    first, last = names
    figures = [{"mae": 4.25, "rmse": 6.5}, {"mae": 2.125, "rmse": 3.75}]
    values = {
        "figures": figures[1],
        "headings": {"mae": "MAE", "rmse": "RMSE"},
        "unit": "person",
        "mean_macs": 2e6,
        "mean_ms": 3.5,
        "exits": (
            ExitScores(first, figures[0], 1e6, 1.5, 0.0),
            ExitScores(last, figures[1], 2e6, 3.0, 1.0),
        ),
        "recordings": 7,
        "windows": 7,
        "policy": {"name": "fixed", "exit": last},
        "runtime": "edge",
        "notes": ("a note",),
        "by": "condition",
        "groups": (
            GroupScores(group, 3, {"mae": 9.5, "rmse": 9.75}, {first: figures[0], last: {"mae": 9.5}}),
            GroupScores("light", 4, {"mae": 1.5, "rmse": 1.75}, {first: figures[0], last: {"mae": 1.5}}),
        ),
    }
    return Scores(**{**values, **changes})


@pytest.fixture
def page_of(read):
    """``page_of(scores)``: the report as elements."""
    return lambda found: read(page(found if isinstance(found, list) else [found], "A counter"))


def test_the_page_has_the_figures_of_exits_and_groups(page_of):
    found = page_of(scores())
    tables = [
        [[cell.texts() for cell in row.inside] for row in table.all("tr")] for table in found.all("table")
    ]
    exits, groups = tables
    assert exits[0][:4] == ["exit", "MAE", "RMSE", "MACs"]
    assert exits[1][:3] == ["V1", "4.25", "6.50"] and exits[2][:3] == ["final", "2.12", "3.75"]
    assert exits[1][4] == "50\xa0%" and exits[2][-1] == "100.0\xa0%"
    assert groups[0] == ["condition", "recordings", "MAE", "RMSE", "MAE at V1", "MAE at final"]
    assert groups[1] == ["dark", "3", "9.50", "9.75", "4.25", "9.50"]
    headings = [each.texts() for each in found.all("h2")]
    assert headings == ["Exits", "MAE over cost", "By condition", "Notes", "How it was made"]
    assert "Its MAE is 2.12 persons over 7 recordings" in found.texts()
    (drawn,) = found.all("svg")
    assert drawn.attributes["aria-label"] == "MAE of each exit over its cost: V1 4.25; final 2.12."


def test_policies_are_compared_and_no_column_is_no_table(page_of):
    early = scores(
        figures={"mae": 4.25, "rmse": 6.5}, policy={"name": "fixed", "exit": "V1"}, by=None, groups=()
    )
    found = page_of([replace(scores(), by=None, groups=()), early])
    headings = [each.texts() for each in found.all("h2")]
    assert headings[:3] == ["Exits", "Policies", "MAE over cost"] and "By condition" not in headings
    rows = [[cell.texts() for cell in row.inside] for row in found.all("table")[1].all("tr")]
    assert [row[:2] for row in rows[1:]] == [["fixed final", "2.12"], ["fixed V1", "4.25"]]


def test_costs_that_are_not_known_are_drawn_over_time(page_of):
    plain = scores()
    exits = tuple(replace(row, macs=None) for row in plain.exits)
    found = page_of(replace(plain, exits=exits, mean_macs=None))
    assert "milliseconds per window" in found.all("svg")[0].texts()
    assert "costs are not known" in found.texts()


def test_names_from_outside_stay_text(page_of):
    nasty = "<script>alert(1)</script>\x00\u202e"
    found = page_of(scores(names=(nasty, "final"), group=nasty))
    assert not found.all("script")
    assert "<script>alert(1)</script>" in found.texts()


def test_other_figures_are_not_compared(tmp_path, evaluation):
    with pytest.raises(ConfigError, match="evaluations of different labels, exits or recordings"):
        write_report(tmp_path / "a.html", [scores(), evaluation()], title="Both")
    assert not list(tmp_path.iterdir())


def test_plain_values_name_the_figures_too():
    plain = scores().to_dict()
    assert plain["mae"] == 2.125 and plain["figures"]["rmse"] == plain["rmse"] == 3.75
    assert plain["groups"][0]["name"] == "dark"
    assert scores().table().count("MAE at") == 2
    assert "MAE and RMSE in persons; 7 recordings, 7 windows, runtime edge" in scores().table()
