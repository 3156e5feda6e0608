"""Where figures come from: what is needed to make them again."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from sentio import __version__

#: what answers come from, by runtime
_RUNS_ON = {"torch": "torch", "edge": "onnxruntime"}


def circumstances(runtime: str | None = None, **facts: object) -> dict[str, str]:
    """What a report says about how it was made: the facts given, versions and the machine.

    Args:
        runtime: ``torch`` or ``edge``, whose version is named too.
        facts: the command, the data, the seed and whatever else there is to say; None is left out.
    """
    found = {name.replace("_", " "): str(value) for name, value in facts.items() if value is not None}
    packages = ["numpy", *([_RUNS_ON[runtime]] if runtime in _RUNS_ON else [])]
    versions = [f"Sentio {__version__}", f"Python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    found["versions"] = ", ".join(versions)
    cores = os.cpu_count()
    found["machine"] = f"{platform.system()} {platform.machine()}" + (f", {cores} cores" if cores else "")
    return found
