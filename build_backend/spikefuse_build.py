"""PEP 517 backend: setuptools, with the torch that is already installed in place of a downloaded one.

An isolated build hides the packages of the environment it installs into. Naming torch as a build requirement would
then fetch a second one, of gigabytes and perhaps for another CUDA, only to read its headers. So the target's
site-packages go to the end of sys.path, and torch is required only where it is found neither there nor before.
"""

from __future__ import annotations

import importlib.util
import shutil
import site
import sys
from pathlib import Path

import setuptools
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - every hook that is not replaced below

# An isolated build has fetched what pyproject.toml asks for; any other uses what it finds.
if int(setuptools.__version__.split(".")[0]) < 77:
    raise SystemExit(f"spikefuse: needs setuptools >= 77, found {setuptools.__version__}: pip install -U setuptools")


def target_site_packages() -> list[str]:
    """The site-packages that the package is being installed into, which pip takes off sys.path."""
    folders = site.getsitepackages()
    if sys.base_prefix in site.PREFIXES:  # not a virtual environment, or one that sees the packages of its base
        folders.append(site.getusersitepackages())
    return folders


sys.path += [folder for folder in target_site_packages() if folder not in sys.path]


def get_requires_for_build_wheel(config_settings: build_meta._ConfigSettings = None) -> list[str]:
    """Build requirements beyond those of pyproject.toml: torch and ninja, each where there is none yet."""
    torch = importlib.util.find_spec("torch")
    needs_torch = torch is None or torch.origin is None  # an empty folder left by an uninstall is no torch
    return ["torch>=2.11"] * needs_torch + ["ninja"] * (shutil.which("ninja") is None)


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings: build_meta._ConfigSettings = None) -> list[str]:
    """Packing the sources compiles nothing."""
    return []


def build_wheel(
    wheel_directory: str,
    config_settings: build_meta._ConfigSettings = None,
    metadata_directory: str | None = None,
) -> str:
    """Builds a wheel, of this build's files only: setuptools packs whatever an earlier one left behind."""
    for leftover in Path("build").glob("lib*"):
        shutil.rmtree(leftover)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
