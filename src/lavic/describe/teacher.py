"""The teacher as the settings want it: loaded once, when it is first needed."""

from __future__ import annotations

from lavic.console import Console
from lavic.describe.config import DescribeSettings
from lavic.describe.engines import Engine, Speech
from lavic.describe.teacher_prompt import teacher_prompt
from lavic.describe.transformers_engine import TransformersEngine
from lavic.describe.vllm_engine import VllmEngine, require_vllm
from lavic.model.load import BaseModel, check_source, inspect_base, load_base, public_name
from lavic.prompts import load_prompts
from lavic.training.devices import choose_device, choose_precision, weights_dtype


def check_machine(settings: DescribeSettings) -> None:
    """See that device, number format, prompts and model can be had, before anything is read.

    Raises:
        ConfigError: one of the settings cannot be used here.
        ModelError: the model is a folder that is not there, or not whole.
    """
    choose_precision(settings.precision, choose_device(settings.device))
    if settings.engine == "vllm":
        require_vllm()
    load_prompts(settings.prompts)
    check_source(settings.model)


def known_identity(settings: DescribeSettings) -> dict[str, str]:
    """What makes two runs one, as far as it is known before the model is loaded, by names that a user knows."""
    identity = {
        "--model": public_name(settings.model),
        "--engine": settings.engine,
        "--precision": choose_precision(settings.precision, choose_device(settings.device)),
        "--max_new_tokens": str(settings.max_new_tokens),
        "--temperature": f"{settings.temperature:g}",
        "--top_p": f"{settings.top_p:g}",
        "--keep_title": str(settings.keep_title),
        "the prompt": load_prompts(settings.prompts).describe,
    }
    if settings.temperature > 0:
        identity["--seed"] = str(settings.seed)
    return identity


class Teacher:
    """Loads on demand: a run that finds nothing to do loads nothing."""

    def __init__(self, settings: DescribeSettings, console: Console) -> None:
        self._settings, self._console = settings, console
        self._base: BaseModel | None = None

    def base(self) -> BaseModel:
        """The checkpoint on its device, in transformers.

        Raises:
            ModelError: see ``lavic.model.load``.
        """
        if self._base is None:
            self._console.info(f"Loading {self._settings.model} ...")
            device = choose_device(self._settings.device)
            dtype = weights_dtype(choose_precision(self._settings.precision, device))
            self._base = load_base(self._settings.model, dtype=dtype, device=device)
        return self._base

    def engine(self) -> Engine:
        """What describes.

        Raises:
            ModelError: the model cannot be loaded, or has no chat template.
            ConfigError: the wording cannot be used.
        """
        settings = self._settings
        speech = Speech(settings.max_new_tokens, settings.temperature, settings.top_p)
        wording = load_prompts(settings.prompts).describe
        if settings.engine == "vllm":
            # Everything but the weights, which vLLM loads itself.
            base = inspect_base(settings.model)
            precision = choose_precision(settings.precision, choose_device(settings.device))
            prompt = teacher_prompt(base, wording)
            return VllmEngine(base, prompt, speech, precision=precision, batch_size=settings.batch_size)
        base = self.base()
        return TransformersEngine(base, teacher_prompt(base, wording), speech)
