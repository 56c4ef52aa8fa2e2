"""The model card that lies beside an adapter."""

from __future__ import annotations

from dataclasses import dataclass

import lavic
from lavic.distill.evaluation import ValidationLoss
from lavic.model.adapters import LoraSettings


@dataclass(frozen=True)
class CardFacts:
    """What the card tells; no paths of this machine, no times."""

    base_name: str
    lora: LoraSettings
    train_samples: int
    step: int
    trainable_parameters: int
    views: int
    result: ValidationLoss


def model_card(facts: CardFacts) -> str:
    """README.md of the adapter's folder."""
    result, lora = facts.result, facts.lora
    settings = f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout}"
    with_eos = f"{result.loss:.4f} nats a token (perplexity {result.perplexity:.3f})"
    without_eos = f"{result.loss_without_eos:.4f} nats a token (perplexity {result.perplexity_without_eos:.3f})"
    return f"""---
base_model: {facts.base_name}
library_name: peft
tags: [lavic, lora, vision, distillation]
---

# Vision adapter: a product picture in {facts.views} visual tokens

LoRA weights for the vision tower and the projector of `{facts.base_name}`, trained by visual knowledge
self-distillation (LaViC, KDD 2025): the model describes a product from the [CLS] states of {facts.views}
views instead of from all of its image tokens.

| | |
| --- | --- |
| trained parameters | {facts.trainable_parameters:,} ({settings}) |
| training samples | {facts.train_samples:,} |
| optimizer steps | {facts.step:,} |
| validation loss without EOS | {without_eos} |
| validation loss with EOS | {with_eos} |
| validation samples | {result.samples:,} |

Use it: `lavic distill --validate_only --adapter THIS_FOLDER --model {facts.base_name}`, or
`peft.PeftModel.from_pretrained(model, THIS_FOLDER)` on the same base model.

Made with lavic {lavic.__version__}.
"""
