"""``lavic distill --validate_only``: the loss of an adapter, judged, or of the bare model; writes nothing."""

from __future__ import annotations

from lavic.console import Console, Outcome
from lavic.distill.config import DistillSettings
from lavic.distill.criteria import exit_code, judge_adapter, log_criteria, met, print_criteria
from lavic.distill.evaluation import validate
from lavic.distill.setup import collect_data, make_accelerations, make_dataset, make_prefix, open_cache, read_metadata
from lavic.formats import SkipLog
from lavic.model.adapters import load_vision_adapter, read_lora_settings
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.base_model import load_model
from lavic.training.devices import choose_device, choose_precision, make_fabric


def run_validation(settings: DistillSettings, console: Console) -> Outcome:
    """The loss of an adapter, or of the bare model, on the validation set; writes nothing."""
    if settings.adapter is not None:
        read_lora_settings(settings.adapter)  # a wrong folder is told before the model is loaded
    device = choose_device(settings.device)
    skipped = SkipLog()
    described = read_metadata(settings, skipped)
    base = load_model(settings, console)
    data = collect_data(settings, base, described, skipped)
    trained = 0
    if settings.adapter is not None:
        wrapped = load_vision_adapter(base.model, settings.adapter).to(device)
        trained = sum(parameter.numel() for name, parameter in wrapped.named_parameters() if "lora_" in name)
    fabric = make_fabric(device, choose_precision(settings.precision, device))
    model = FiveTokenModel(base, make_accelerations(settings))
    dataset = make_dataset(data.valid, data.builder, base, open_cache(settings, base, data))
    with console.progress("Validating", len(data.valid)) as bar, fabric.autocast():
        result = validate(
            model,
            dataset,
            prefix=make_prefix(model, data.valid),
            workers=settings.num_workers,
            where=str(settings.val_data),
            on_failed=lambda failed: dataset.list_failed(failed, skipped),
            on_batch=bar.advance,
        )
    summary = {
        "model": base.name,
        "adapter": str(settings.adapter) if settings.adapter else "none",
        "val_loss": result.loss_without_eos,
        "val_perplexity": result.perplexity_without_eos,
        "val_loss_with_eos": result.loss,
        "val_perplexity_with_eos": result.perplexity,
        "samples": result.samples,
        "tokens": result.tokens,
        **skipped.summary(),
    }
    if settings.adapter is None:
        return Outcome(summary=summary)
    criteria = judge_adapter(settings, settings.adapter, result, base.model, trainable_parameters=trained)
    log_criteria(criteria, console)
    print_criteria(criteria, console)
    return Outcome(summary={**summary, "criteria_met": met(criteria)}, exit_code=exit_code(settings, criteria))
