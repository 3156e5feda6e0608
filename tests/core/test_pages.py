"""The pages on exits, faces, networks and profiles: their code runs and prints what they say it prints."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of each code block of a page."""
    return re.findall(r"```(\w+)\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["exits", "faces", "networks", "profile"])
def test_code_prints_what_the_page_says(page):
    printed = ""
    compared = 0
    for language, text in blocks(page):
        if language == "python":
            out = StringIO()
            with redirect_stdout(out):
                exec(compile(text, page, "exec"), {})
            printed = out.getvalue()
        elif language == "text":
            assert [line.split() for line in printed.splitlines()] == [
                line.split() for line in text.splitlines()
            ]
            compared += 1
    assert compared
