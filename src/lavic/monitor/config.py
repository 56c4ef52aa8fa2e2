"""Settings of ``lavic monitor``."""

from __future__ import annotations

from pathlib import Path

from lavic.config import Settings, setting


class MonitorSettings(Settings):
    """Where the run is that one wants to look at."""

    output_dir: Path = setting(Path("out_distilled"), "The run's output folder.")
    log_dir: Path = setting(Path("logs"), "The folder of its text logs.")
