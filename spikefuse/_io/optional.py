"""Import of the packages that only the ``app`` extra installs."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, package: str, purpose: str) -> Any:
    """Imports an optional module, or says how to get it.

    Args:
        module: name to import.
        package: the distribution that holds it, as pip knows it.
        purpose: what needs it, for the error.

    Raises:
        ImportError: the module is not installed. One that is there but fails to import raises its own error.

    Example:
        >>> require("math", "python", "an example").sqrt(4.0)
        2.0
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise ImportError(f"{purpose} needs {package}, which is not installed: pip install spikefuse[app]") from error
