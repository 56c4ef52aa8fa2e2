"""What all tests share: no look at the hub, and the folder of real data where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: LAVIC_SHARED_DATA, or shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LAVIC_SHARED_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"the real data is not here: {folder} (set LAVIC_SHARED_DATA)")
    return folder
