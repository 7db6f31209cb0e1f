"""Checks that all functions share; each error names the function and the argument."""

from __future__ import annotations

import torch
from torch import Tensor

from spikefuse import ops


def check_dtype(caller: str, name: str, dtype: torch.dtype) -> None:
    """Raises TypeError where a dtype is not fp32, bf16, fp16 or fp64."""
    if dtype not in ops.IO_DTYPES:
        raise TypeError(f"{caller}: expected {name} of dtype float32, bfloat16, float16 or float64, got {dtype}")


def check_shape(caller: str, name: str, shape: torch.Size, expected: list[int]) -> None:
    """Raises ValueError where a shape is not the expected one."""
    if list(shape) != expected:
        raise ValueError(f"{caller}: expected {name} of shape {expected}, got {list(shape)}")


def check_device(caller: str, name: str, device: torch.device, reference: Tensor) -> None:
    """Raises ValueError where a tensor is on another device than ``reference``."""
    if device != reference.device:
        raise ValueError(f"{caller}: expected {name} on {reference.device}, got it on {device}")
