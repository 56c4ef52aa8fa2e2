"""The teacher's prompt in the checkpoint's own chat template: ids with one place for the picture."""

from __future__ import annotations

from lavic.errors import ConfigError, ModelError
from lavic.model.load import BaseModel, chat_template
from lavic.model.sequences import Sequence


def teacher_prompt(base: BaseModel, wording: str) -> Sequence:
    """The sequence whose one placeholder stands where the image tokens go.

    Args:
        base: a checkpoint; its weights are not looked at.
        wording: what to ask, ``prompts.describe``.

    Raises:
        ModelError: the checkpoint has no chat template, or one without a place for a picture.
        ConfigError: the wording spells the picture's token.
    """
    image_id = int(base.model.config.image_token_id)
    template = chat_template(base.source)
    if template is None:
        remedy = "Copy its chat_template.json or chat_template.jinja into the folder."
        raise ModelError("the checkpoint has no chat template", where=base.source, remedy=remedy)
    content = [{"type": "image"}, {"type": "text", "text": wording}]
    messages = [{"role": "user", "content": content}]
    text = base.tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False
    )
    # As the processor does it: BOS in front, unless the template writes it itself.
    bos = base.tokenizer.bos_token
    ids = base.tokenizer(text, add_special_tokens=bos is None or not text.startswith(bos))["input_ids"]
    places = tuple(place for place, token in enumerate(ids) if token == image_id)
    if len(places) != 1:
        image_token = base.tokenizer.convert_ids_to_tokens(image_id)
        if str(image_token) in wording:
            problem = f"the wording must not hold {image_token}; the chat template puts the picture in front of it"
            raise ConfigError(problem, where="--prompts, describe")
        raise ModelError(f"its chat template has {len(places)} places for a picture, not 1", where=base.source)
    return Sequence(tuple(ids), len(ids), places)
