"""A shorter residual stream: what the model says stays the same."""

from __future__ import annotations

import pytest
import torch

from lavic.model.load import load_base
from lavic.toyshop.conditioning import shorten_language_stream


@pytest.fixture
def model():
    model = load_base("tiny", dtype=torch.float64, device=torch.device("cpu")).model
    for module in model.modules():  # what the norms add to a variance is all that could tell the lengths apart
        for name in ("eps", "variance_epsilon"):
            if hasattr(module, name):
                setattr(module, name, 0.0)
    return model


def test_a_shorter_language_stream_leaves_the_logits(model):
    ids = torch.arange(5, 45)[None]
    language_model = model.model.language_model
    before = language_model(input_ids=ids, output_hidden_states=True)  # RMSNorm computes in 32 bits
    shorten_language_stream(model, 10.0)
    after = language_model(input_ids=ids, output_hidden_states=True)
    torch.testing.assert_close(after.hidden_states[3], before.hidden_states[3] / 10, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.last_hidden_state, before.last_hidden_state, rtol=1e-3, atol=1e-3)


def test_image_tokens_and_line_break_are_shortened_too(model):
    features, line_break = torch.randn(3, 96, dtype=torch.float64), model.model.image_newline.detach().clone()
    before = model.model.multi_modal_projector(features)
    shorten_language_stream(model, 4.0)
    torch.testing.assert_close(model.model.multi_modal_projector(features), before / 4)
    torch.testing.assert_close(model.model.image_newline.detach(), line_break / 4)
