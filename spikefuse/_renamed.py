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
        >>> import math
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     renamed("math", logarithm="log")("logarithm") is math.log
        True
        >>> str(caught[0].message)
        'math.logarithm is now math.log'
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {module}.{names[name]}", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return get
