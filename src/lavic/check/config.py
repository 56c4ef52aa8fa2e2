"""Settings of ``lavic check`` and ``lavic check tune``: those of the run that is planned, and how closely to look."""

from __future__ import annotations

from lavic.config import setting
from lavic.distill.config import DistillSettings
from lavic.training.settings import DATA
from lavic.tune.config import TuneSettings

_MAX_LEFT_OUT = setting(
    0.2,
    "No go if more than this share of a data set cannot be used (0.2 is 20 %).",
    panel=DATA,
    saved=False,
    ge=0,
    le=1,
)


class CheckSettings(DistillSettings):
    """The flags of ``lavic distill``, so that the word ``distill`` can be replaced by ``check``."""

    thorough: bool = setting(
        False,
        "Decode every picture (minutes to an hour for 80,000); otherwise all are opened and a sample is decoded.",
        panel=DATA,
        saved=False,
    )
    max_left_out: float = _MAX_LEFT_OUT

    def planned(self) -> DistillSettings:
        """The settings of the run itself."""
        names = DistillSettings.model_fields
        return DistillSettings.model_construct(**{name: getattr(self, name) for name in names})


class CheckTuneSettings(TuneSettings):
    """The flags of ``lavic tune``, so that the word ``tune`` can be replaced by ``check tune``."""

    max_left_out: float = _MAX_LEFT_OUT

    def planned(self) -> TuneSettings:
        """The settings of the run itself."""
        names = TuneSettings.model_fields
        return TuneSettings.model_construct(**{name: getattr(self, name) for name in names})
