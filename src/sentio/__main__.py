"""``python -m sentio``: the command line where the script ``sentio`` is not on the path."""

from sentio.cli import main

if __name__ == "__main__":
    main()
