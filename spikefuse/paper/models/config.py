"""Settings of a model as plain values, and the model of such settings again."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, cast

import torch

from spikefuse.online import OnlineRule

_M = TypeVar("_M", bound="Configured")


def number(value: Any) -> Any:
    """Takes a stored number as it is: the constructor checks it."""
    return value


class Configured:
    """A model that is made from its settings alone: numbers, a rule, or models of their own."""

    KIND: ClassVar[str]
    """The model's name in a config."""
    SETTINGS: ClassVar[Mapping[str, Callable[[Any], Any]]]
    """The constructor's arguments, which are attributes too, in order; each function makes one of its plain value."""

    def config(self) -> dict[str, Any]:
        """Returns kind and settings as plain values, for JSON; :meth:`from_config` takes them back.

        >>> from spikefuse.paper.models import Audiocoder
        >>> Audiocoder.from_config(Audiocoder(6, 4, 2).config()).out_features
        2
        """
        return {"kind": self.KIND, **{name: _plain(getattr(self, name)) for name in self.SETTINGS}}

    @classmethod
    def from_config(cls: type[_M], config: Mapping[str, Any]) -> _M:
        """Makes a model of :meth:`config`, with weights of its own.

        Raises:
            KeyError, TypeError, ValueError: a setting is missing or does not fit.
        """
        settings = {name: make(config[name]) for name, make in cls.SETTINGS.items()}
        if "generator" in inspect.signature(cls).parameters:
            settings["generator"] = torch.Generator()  # so that loading leaves torch's global one where it is
        return cast(Any, cls)(**settings)  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, Configured):
        return value.config()
    if isinstance(value, OnlineRule):
        return value.to_dict()
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
