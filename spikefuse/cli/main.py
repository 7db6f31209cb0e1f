"""The `spikefuse` command: train, evaluate and look at spiking autoencoders; see ``spikefuse --help``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Final, NoReturn

TRACEBACK_VARIABLE: Final = "SPIKEFUSE_TRACEBACK"
"""Environment variable: set to 1, errors keep their traceback."""

USAGE_ERROR: Final = 2
"""Exit code of everything that the user can put right."""


def main() -> None:
    """Runs the command line; the entry point of `spikefuse`.

    Exits with 0, with 2 and one line on stderr where the user's input or machine is at fault, and with 128 plus its
    number where a signal ended a training, whose checkpoint is saved then.
    """
    missing = [package for package in ("typer", "rich") if find_spec(package) is None]
    if missing:
        _fail(f'the command line needs {" and ".join(missing)}: pip install "spikefuse[app]"')
    from spikefuse.cli.commands import app

    try:
        app(prog_name="spikefuse")
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        _fail(str(error))
    except RuntimeError as error:
        # torch has no type of its own for the CPU's memory.
        if "memory" not in str(error) or os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        _fail(f"not enough memory for these sizes ({str(error).splitlines()[0]})")


def _fail(message: str) -> NoReturn:
    print("spikefuse: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(USAGE_ERROR)
