"""Makes an artifact of aiSFX, the network that teaches `esc10-sounds`, from its authors' package.

pip download --no-deps aisfx==0.1.2
python zoo/aisfx.py aisfx-0.1.2-py2.py3-none-any.whl -o aisfx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sentio
from sentio.core import registry
from sentio.core.model import Model
from sentio.core.multi_exit import MultiExit
from sentio.core.profiling import profile
from sentio.core.torch_artifact import save
from sentio.core.torch_row import TorchRow
from sentio.networks.aisfx import FRONT_END, load_aisfx
from sentio.tasks.embedding import EmbeddingTask
from sentio.training.building import random_features

CARD = {
    "licence": "CC BY 4.0 (weights)",
    "authors": "A. B. Ma and A. Lerch, Representation Learning for the Automatic Indexing of Sound Effects "
    "Libraries, ISMIR 2022; the weights are those of the package aisfx 0.1.2",
    "data": "commercial libraries of sound effects: Pro Sound Effects, Soundly and seven others",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("package", type=Path, help="the wheel, the installed folder, or checkpoint.pth")
    parser.add_argument("-o", "--out", type=Path, default=Path("aisfx"))
    parser.add_argument("--window", type=float, default=2.0, help="seconds of an embedding")
    options = parser.parse_args()
    backbone = sentio.create_network("aisfx")
    load_aisfx(backbone, options.package)
    frontend = registry.build("frontend", "log-mel", window=options.window, **FRONT_END)
    backbone.input_shapes = dict(frontend.input_shapes)
    net = MultiExit(backbone).eval()
    costs = profile(net, random_features(frontend.input_shapes, 1)).costs
    task = EmbeddingTask(dimension=512, normalise=True)
    save(Model(TorchRow(net), task, frontend=frontend, costs=costs, name="aisfx", card=CARD), options.out)
    print(f"{options.out}: {sum(p.numel() for p in net.parameters()):,} parameters")


if __name__ == "__main__":
    main()
