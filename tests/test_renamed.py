"""Old public names: the new object, and a warning that says its name."""

from __future__ import annotations

import pytest
import torch

from spikefuse import LIF, distributed, online


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (online, "online_step_", "online_batch_"),
        (distributed, "online_step_", "online_batch_"),
        (distributed, "place", "rank_and_size"),
    ],
)
def test_the_old_name_gives_the_new_object_and_warns(module: object, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is now .*{new}"):
        assert getattr(module, old) is getattr(module, new)


def test_other_names_are_missing_as_always() -> None:
    with pytest.raises(AttributeError, match=r"module 'spikefuse.online' has no attribute 'online_stop_'"):
        getattr(online, "online_stop" + "_")


def test_the_old_name_of_an_output() -> None:
    out = LIF(leak=0.1).masked_loss(torch.zeros(2, 1, 3), torch.ones(2, 1, 3))
    with pytest.warns(DeprecationWarning, match="open_errors is now MaskedLossOutput.mismatches"):
        assert out.open_errors is out.mismatches
