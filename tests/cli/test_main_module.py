"""The command line as a module, where the script is not on the path."""

import subprocess
import sys


def test_python_m_sentio_is_the_command():
    done = subprocess.run([sys.executable, "-m", "sentio", "predict"], capture_output=True, text=True)
    assert done.returncode == 2 and "Usage: sentio predict" in done.stderr + done.stdout
