"""The code on the page about streams runs."""

import re
import shutil
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
PAGE = Path(__file__).parents[2] / "docs" / "streaming.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(number, capsys, tmp_path, monkeypatch):
    if "compile_c" in BLOCKS[number] and shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], str(PAGE), "exec"), {})
    assert capsys.readouterr().out.strip()


def test_there_are_blocks():
    assert len(BLOCKS) >= 4
