"""Settings of ``lavic monitor``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lavic.config import Settings, setting

View = Literal["live", "summary", "follow", "curve", "errors", "gpu"]


class MonitorSettings(Settings):
    """Where the run is that one wants to look at, and how."""

    output_dir: Path = setting(Path("out_distilled"), "The run's output folder.")
    log_dir: Path = setting(Path("logs"), "The folder of its text logs.")
    view: View | None = setting(
        None,
        "What to show: everything, kept up to date (live); where the run stands, once (summary); new lines of the log "
        "until the run ends (follow); the losses drawn (curve); warnings and errors of the log (errors); the GPUs and "
        "the run's process (gpu). Not given: live in a terminal, summary elsewhere.",
    )
    follow: bool = setting(False, "The same as --view follow.")
    interval: float = setting(1.0, "Seconds between two looks.", ge=0.1, le=3600)
    once: bool = setting(False, "Show the view once, as text, instead of keeping it up to date.")
