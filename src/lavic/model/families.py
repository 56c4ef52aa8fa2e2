"""What differs between the members of the LLaVA family; everything else is common code."""

from __future__ import annotations

from dataclasses import dataclass

from lavic.errors import ModelError


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        model_type: ``config.model_type`` of its checkpoints.
        views: V, crops of a picture that the student sees; also the number of placeholders.
    """

    model_type: str
    views: int


FAMILIES = {family.model_type: family for family in (Family("llava_next", views=5), Family("llava", views=1))}


def family_of(model_type: str, where: str) -> Family:
    """The family of a checkpoint.

    Raises:
        ModelError: lavic cannot use checkpoints of this type.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"this is a checkpoint of the type {model_type[:60]!r}",
            where=where,
            remedy="lavic needs a LLaVA-NeXT (llava_next) or LLaVA-1.5 (llava) checkpoint.",
        )
    return FAMILIES[model_type]
