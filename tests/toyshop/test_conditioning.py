"""A shorter residual stream: what the model says stays the same."""

from __future__ import annotations

import pytest
import torch

from lavic.model.load import load_base
from lavic.toyshop.conditioning import begin_projector, shorten_language_stream


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


def test_a_fresh_projector_tells_apart_what_long_common_features_hide(model):
    torch.manual_seed(0)
    features = 50 + torch.randn(40, 5, 25, 96, dtype=torch.float64) * torch.linspace(0.1, 9, 96)
    begin_projector(model, features)
    projector = model.model.multi_modal_projector
    hidden = projector.linear_1(features).flatten(0, 2)
    torch.testing.assert_close(hidden.mean(0), torch.zeros(128, dtype=torch.float64), atol=1e-6, rtol=0)
    assert 0.7 < hidden.std(0).mean() < 1.3
    # A channel a hundredth as long as another counts as much.
    changed = features.clone()
    changed[..., 0] += 0.1
    assert (projector(changed) - projector(features)).norm(dim=-1).mean() > 0.05 * projector(features).std()
