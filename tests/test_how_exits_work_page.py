"""The page on how exits work: its code runs in order and prints what it says, and its sentences are true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import sentio  # noqa: E402
from sentio.core.policy import ExitCosts  # noqa: E402

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "how_exits_work.md").read_text(encoding="utf-8")
FIGURE = DOCS / "img" / "how_exits_work.svg"
NUMBER = re.compile(r"\d[\d,]*\.?\d*")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """What the page's names hold after its last block, and (printed, shown) for each of its outputs."""
    torch.set_num_threads(1)
    names: dict[str, Any] = {}
    outputs: list[tuple[str, str]] = []
    printed = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("how_exits_work"))
        for language, text in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL):
            if language == "python":
                out = StringIO()
                with redirect_stdout(out):
                    exec(compile(text, "docs/how_exits_work.md", "exec"), names)
                printed = out.getvalue()
            else:
                outputs.append((printed, text))
        yield SimpleNamespace(**names, outputs=outputs)


def test_the_code_prints_what_the_page_says(page):
    """Words to the letter, numbers as far as rounding elsewhere may take a training of some seconds."""
    assert len(page.outputs) == 10
    for printed, shown in page.outputs:
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
        found, said = ([float(n.replace(",", "")) for n in NUMBER.findall(text)] for text in (printed, shown))
        for one, other in zip(found, said, strict=True):
            near = 0.25 if "." in shown else 15
            assert abs(one - other) <= max(near, 0.3 * other), (printed, shown)


def test_the_first_exit_is_too_modest_the_last_too_bold_and_temperatures_mend_it(page):
    right = dict(zip(page.net.exit_names, page.right.mean(axis=1), strict=True))
    sure = {name: page.classifier_confidence(one).mean() for name, one in page.logits.items()}
    assert sure["block1"] < right["block1"] < right["final"] < sure["final"]
    assert page.temperatures["block1"] < 1 < page.temperatures["final"]
    for name, one in page.logits.items():
        calibrated = one / page.temperatures[name]
        error = page.expected_calibration_error
        assert error(calibrated, page.answers) < error(one, page.answers)
        assert (calibrated.argmax(1) == one.argmax(1)).all(), "it never changes what an exit answers"


def test_thresholds_are_as_accurate_as_the_last_exit_for_less_than_half_of_its_work(page):
    assert page.found.accuracy >= page.right[-1].mean()
    assert page.found.mean_macs < 0.5 * page.costs.macs[-1]


def test_those_that_stay_get_the_answers_they_would_have_got_alone(page):
    # Half leave at each exit: the page's own thresholds leave nobody to the last one on some processors.
    half = {
        name: float(np.median(page.classifier_confidence(one / page.temperatures[name])))
        for name, one in page.logits.items()
    }
    policy = sentio.Confidence({name: half[name] for name in page.net.exit_names[:-1]})
    answers = page.net.predict(page.held_out, policy, temperatures=page.temperatures)
    assert set(answers.exit_names()) == set(page.net.exit_names)
    for name in page.net.exit_names:
        alone = page.net.predict(page.held_out, sentio.Fixed(name), temperatures=page.temperatures).outputs
        left = np.array(answers.exit_names()) == name
        np.testing.assert_allclose(answers.outputs[left], alone[left], rtol=1e-4, atol=1e-4)


def test_what_is_left_early_is_not_computed(page):
    seen: list[str] = []
    hooks = [
        page.net.backbone.stage(name).register_forward_hook(lambda *_, name=name: seen.append(name))
        for name in page.net.stage_names
    ]
    with torch.inference_mode():
        for step in page.net.anytime(page.x):
            if step.exit == "block1":
                break
    for hook in hooks:
        hook.remove()
    assert seen == ["block1"]


@pytest.mark.parametrize(("ms", "exit"), [(1e-9, "block1"), (1e9, "final")])
def test_a_deadline_leaves_before_the_exit_that_would_be_late(page, ms, exit):
    costs = ExitCosts(page.costs.names, page.costs.macs, (1.0, 2.0, 3.0))
    answers = page.net.predict(page.x, sentio.Deadline(ms), costs=costs)
    assert set(answers.exit_names()) == {exit}


def test_a_budget_is_a_cap_for_each_sample(page):
    macs = dict(zip(page.costs.names, page.costs.macs, strict=True))
    answers = page.net.predict(page.x, sentio.Budget(1.01 * macs["block2"]), costs=page.costs)
    assert set(answers.exit_names()) == {"block2"}


def test_a_pooled_exit_takes_a_thousandth_and_a_hard_sample_pays_for_all(page):
    profile = sentio.profile(page.net, measure=False)
    exits = [row.macs for row in profile.rows if row.kind == "exit"]
    assert max(exits) / profile.macs < 0.0015
    assert profile.exit_macs()["final"] == sum(row.macs for row in profile.rows)


def test_the_box_runs_the_policy_and_temperatures_that_travelled(page):
    assert page.box.policy == page.policy
    assert page.box.temperatures == page.temperatures
    assert page.box.costs == page.costs


# The figure


@pytest.fixture(scope="module")
def figure() -> ElementTree.Element:
    return ElementTree.parse(FIGURE).getroot()


def elements(figure: ElementTree.Element, tag: str, kind: str) -> list[ElementTree.Element]:
    return [one for one in figure.iterfind(f".//{{*}}{tag}") if one.get("class") == kind]


def test_the_figure_says_what_it_shows_to_those_who_do_not_see_it(figure):
    assert figure.get("role") == "img"
    title, desc = figure.find("{*}title"), figure.find("{*}desc")
    assert figure.get("aria-labelledby").split() == [title.get("id"), desc.get("id")]
    shown = " ".join("".join(one.itertext()) for one in figure.iterfind(".//{*}text"))
    for number in ("40", "80", "100", "65", "35"):
        assert number in desc.text and f"{number} %" in shown
    assert f"]({FIGURE.relative_to(DOCS)})" in PAGE


def test_the_lines_of_the_figure_are_as_long_as_it_says(figure):
    """Each line ends behind the stages that are computed for that sample."""
    begins = sorted(float(one.get("x")) for one in elements(figure, "rect", "stage"))
    ends = [float(re.findall(r"H(\d+)", one.get("d"))[0]) for one in elements(figure, "path", "lane")]
    work = [sum(begin < end for begin in begins) / len(begins) for end in ends]
    assert work == [0.4] * 4 + [0.8] * 2 + [1.0] * 2
    (whole,) = elements(figure, "rect", "rest")
    (used,) = elements(figure, "path", "used")
    drawn = float(re.findall(r"H([\d.]+)", used.get("d"))[0]) - float(whole.get("x"))
    assert drawn / float(whole.get("width")) == pytest.approx(np.mean(work)) == 0.65


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_figure_can_be_read_in_light_and_dark(figure, scheme):
    """On its own ground, so that it does not matter on which page it stands."""
    light, dark = figure.find("{*}style").text.split("@media (prefers-color-scheme: dark)")
    fills: dict[str, str] = {}
    for part in (light, dark)[: 1 if scheme == "light" else 2]:
        for names, colour in re.findall(r"([.\w, ]+) \{ fill: (#\w{6})", part):
            fills |= {name.strip(" ."): colour for name in names.split(",")}
    pairs = [(text, "page") for text in ("ink", "soft")]
    pairs += [("ink", "stage"), ("ink", "exit"), ("ink", "ask"), ("ink", "rest"), ("on", "used")]
    for text, ground in pairs:
        high, low = sorted((luminance(fills[text]), luminance(fills[ground])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)
