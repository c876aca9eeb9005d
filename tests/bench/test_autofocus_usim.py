"""Autofocus on Nion's own simulator, over start states that are drawn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from autofocus_usim import bench

pytestmark = [pytest.mark.peers("nion"), pytest.mark.bench]  # minutes


@pytest.mark.timeout(600)
def test_it_focuses_from_everywhere_and_claims_nothing_of_nothing() -> None:
    root = Path(os.environ.get("PROBELOOP_PEERS") or Path(__file__).parents[2] / ".peers")
    if not (root / "nion" / "bin" / "python").is_file():
        pytest.skip("nionswift-usim is not there: make peers")
    figures = bench(seeds=2, first=1)
    assert figures["passed"] == 2, figures["runs"]
    assert figures["false_claims"] == figures["claims_on_nothing"] == 0
    assert figures["best"]["scores"]["focus"] > 0.999 * figures["best"]["score"]
    assert figures["ok"]
