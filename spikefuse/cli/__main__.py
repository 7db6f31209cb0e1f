"""``python -m spikefuse.cli``."""

from __future__ import annotations

from spikefuse.cli.main import main

main()
