"""Settings of ``lavic demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import model_validator

from lavic.config import Settings, says_yes, setting

#: What ``--full`` makes of settings that were not given.
FULL = {"items": 5_000, "steps": 600}


class DemoSettings(Settings):
    """Both stages in miniature: from a drawn catalogue to a table, a picture sheet and recommendations."""

    output_dir: Path = setting(Path("demo"), "Folder for summary.json, report.html and everything behind them.")
    items: int = setting(3000, "Items in the drawn catalogue.", ge=12, le=1_000_000)
    steps: int = setting(160, "Optimizer steps of the distillation, and of its blind twin.", ge=1)
    tune_steps: int = setting(
        40, "Optimizer steps of a recommender, and of its twin that sees no picture (stage 2); 0 leaves them out.", ge=0
    )
    undistilled: bool = setting(
        False, "A third recommender, tuned on the five tokens of the bare model. --full has it too."
    )
    full_tokens: bool = setting(
        False, "One more recommender, tuned on all image tokens; its prompts are five times as long."
    )
    seed: int = setting(0, "Another seed draws another world.", ge=0, lt=2**32)
    full: bool = setting(
        False,
        f"{FULL['items']:,} items and {FULL['steps']} steps unless told otherwise: slower, and nearer to what can be "
        "reached.",
    )
    workers: int = setting(2, "Processes that draw and decode pictures.", ge=0, le=256)
    overwrite: bool = setting(
        True,
        "Replace an earlier demo in --output_dir; --no-overwrite refuses a folder that is not empty.",
        saved=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _as_large_as_asked(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not says_yes(values.get("full", False)):
            return values
        return {**FULL, **values}
