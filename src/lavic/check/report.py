"""What a check has found so far, and how it is told: a table, what to do about it, go or no go."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavic.check import machine, output
from lavic.check.findings import Counts, Finding, Status, guarded, ok, plural, warning, worst
from lavic.check.model import ModelFacts, look_at_model
from lavic.config import Settings, field_extra
from lavic.console import Console, Outcome
from lavic.errors import ConfigError
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS, load_prompts
from lavic.training.runs import loop_settings
from lavic.training.sampler import steps_per_epoch
from lavic.training.settings import TrainingSettings


@dataclass(kw_only=True)
class Report:
    """What has been found so far; each check adds its rows.

    Attributes:
        counts: all numbers, for ``--json``.
        facts: of the model, None if it is not here.
        trainable: parameters that the run trains; None as long as the model is not known.
        steps: optimizer steps of the run, 0 as long as they are not known.
    """

    console: Console
    findings: list[Finding] = field(default_factory=list)
    counts: Counts = field(default_factory=dict)
    facts: ModelFacts | None = None
    trainable: int | None = None
    steps: int = 0

    def make(self, name: str, check: Callable[[], Finding | list[Finding]]) -> None:
        """Run one check and keep its rows."""
        self.findings += guarded(name, check)

    def look_at_model(self, name: str, trainable: Callable[[ModelFacts], int]) -> None:
        """The rows of the model, and its facts if it is here; ``trainable`` counts what the run trains of it."""

        def look() -> list[Finding]:
            findings, self.facts = look_at_model(name)
            if self.facts is not None:
                self.trainable = trainable(self.facts)
                self.counts["model"] = {
                    "parameters": self.facts.parameters,
                    "trainable_parameters": self.trainable,
                    "file_bytes": self.facts.file_bytes,
                }
            return findings

        self.make("model", look)

    def builder(self, prompts_file: Path | None) -> SequenceBuilder | None:
        """How sequences are built; None without a tokenizer. A wrong prompt file is a row of its own."""
        prompts = DEFAULT_PROMPTS
        try:
            prompts = load_prompts(prompts_file)
            if prompts_file is not None:
                self.findings.append(ok("prompts", str(prompts_file)))
        except ConfigError as error:
            reason = error
            self.make("prompts", lambda: _raise(reason))
        if self.facts is None:
            return None
        return SequenceBuilder(self.facts.base.tokenizer, prompts, self.facts.base.family.views)

    def memory(self, settings: TrainingSettings, estimate: machine.Estimate | None, *, measured_by: str = "") -> None:
        """What the run needs of the device and of main memory; see ``machine.memory``."""

        def look() -> Finding:
            finding, need = machine.memory(settings, estimate, measured_by=measured_by)
            if need is not None:
                self.counts["memory_estimate"] = {
                    "device_bytes": int(need.device),
                    "weights_bytes": int(need.weights),
                    "lora_and_optimizer_bytes": int(need.lora),
                    "activation_bytes": int(need.activations),
                    **({"validation_bytes": int(need.scoring)} if need.scoring else {}),
                }
            return finding

        self.make("memory (estimate)", look)

    def plan(self, settings: TrainingSettings, samples: int) -> None:
        """How many optimizer steps the run takes on so many samples, at least one."""

        def look() -> Finding:
            loop = loop_settings(settings, samples)
            per_epoch = steps_per_epoch(samples, settings.batch_size, settings.gradient_accumulation)
            self.counts["steps"] = self.steps = loop.total_steps(per_epoch)
            found = (
                f"{plural(self.steps, 'step')} of {settings.batch_size} x {settings.gradient_accumulation} samples, "
                f"{plural(settings.num_epochs, 'epoch')}"
            )
            if self.steps and settings.warmup >= self.steps:
                remedy = f"--warmup {settings.warmup} is longer than the run: choose a smaller one."
                return warning("run", found, remedy=remedy)
            return ok("run", found)

        self.make("run", look)

    def disk(self, settings: TrainingSettings) -> None:
        """Room for what the run writes; ``plan`` goes before."""

        def look() -> Finding:
            finding, self.counts["disk"] = output.disk(settings, self.trainable, self.steps)
            return finding

        self.make("disk", look)

    def outcome(self, next_command: str) -> Outcome:
        """Print all that was found; exit code 1 says no go.

        Args:
            next_command: what to call if it is a go.
        """
        status, console = worst(self.findings), self.console
        rows: list[list[str]] = []
        for finding in self.findings:
            for number, line in enumerate(finding.found):
                rows.append([finding.name, finding.status.word, line] if number == 0 else ["", "", line])
        console.table(rows, header=["check", "result", "found"])
        problems = [finding for finding in self.findings if finding.remedy]
        for finding in sorted(problems, key=lambda each: -each.status):
            console.print(f"{finding.status.word}: {finding.name}. {finding.remedy}")
        go = status is not Status.NO_GO
        stops = sum(finding.status is Status.NO_GO for finding in self.findings)
        warnings = sum(finding.status is Status.WARNING for finding in self.findings)
        console.print(
            (f"GO, with {plural(warnings, 'warning')}." if warnings else "GO.")
            if go
            else f"NO GO: {plural(stops, 'check')} of {len(self.findings)}. Nothing was written."
        )
        summary = {
            "go": go,
            "no_go": stops,
            "warnings": warnings,
            "checks": [finding.as_json() for finding in self.findings],
            **self.counts,
        }
        next_step = f"Next: {next_command}" if go else ""
        return Outcome(summary, exit_code=0 if go else 1, next_step=next_step, printed=True)


def _raise(error: ConfigError) -> Finding:
    raise error


def command_line(command: str, planned: Settings) -> str:
    """A command with the flags that are not at their defaults."""
    words: list[str] = []
    defaults = type(planned)()
    for name, described in type(planned).ordered_fields().items():
        value: Any = getattr(planned, name)
        if value == getattr(defaults, name) or field_extra(described, "hidden"):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        else:
            words += [f"--{name}", "none" if value is None else str(value)]
    return f"{command} {shlex.join(words)}".rstrip()
