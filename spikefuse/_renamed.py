"""Old public names, kept for one release."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any


def renamed(module: str, **names: str) -> Callable[[str], Any]:
    """Makes a module's ``__getattr__``, which gives objects under their old names with a DeprecationWarning.

    Args:
        module: the module's ``__name__``.
        names: the new name of each old one.

    Example:
        >>> renamed("math", logarithm="log")("logarithm").__name__
        'log'
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {module}.{names[name]}", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return get
