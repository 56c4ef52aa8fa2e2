"""The most memory of a side is its own, not that of making its model."""

from __future__ import annotations

from pathlib import Path

import pytest
from measure import forget_the_past, resident_bytes


def test_what_was_needed_before_is_forgotten() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system cannot count the most memory anew")
    spent = bytearray(200 * 2**20)
    spent[:: 2**12] = b"x" * len(spent[:: 2**12])  # each page
    assert resident_bytes("VmHWM") - resident_bytes("VmRSS") < 100 * 2**20
    before = resident_bytes("VmHWM")
    del spent
    forget_the_past()
    assert resident_bytes("VmHWM") < before - 150 * 2**20
