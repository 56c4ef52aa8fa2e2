"""The command line: a table of commands, each imported only when it is called.

``lavic --help`` knows one line of each command; ``lavic COMMAND --help`` imports its settings, which load
no torch; only a run imports what does the work.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from lavic.cli import output
from lavic.cli.options import CONFIG, JSON, given_flags, normalizer, plain, signature_of
from lavic.config import Settings, nearest, versions
from lavic.console import Console

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "token_normalize_func": plain}
SUMMARY = "Products seen in five visual tokens, recommended in conversation."


@dataclass(frozen=True)
class Command:
    """A row of the table.

    Args:
        name: one word, or two for a sub-command.
        settings: ``module:class`` of its settings.
        run: ``module:function``, called with the settings and a console, returns an ``output.Result``.
        summary: what one gets, a sentence.
        examples: command lines that run as they are.
        go_on: what to do after an interruption, a sentence.
    """

    name: str
    settings: str
    run: str
    summary: str
    examples: tuple[str, ...] = ()
    go_on: str = "Run the same command again."


COMMANDS = (
    Command(
        "demo",
        "lavic.demo.config:DemoSettings",
        "lavic.demo.run:run",
        "Draw a catalogue, distil the tiny model on it and show what was learnt, in minutes on a laptop.",
        ("lavic demo", "lavic demo --seed 7 --output_dir demo-7"),
    ),
    Command(
        "crawl",
        "lavic.crawl.config:CrawlSettings",
        "lavic.crawl.run:run",
        "Fetch the product pictures that the metadata names, politely, each whole or not at all.",
        (
            "lavic crawl --train_data data/item2meta_train.json --val_data data/item2meta_valid.jsonl",
            "lavic crawl --valid_only --sample 500 --longest_side 672 --rate 20",
        ),
        "Run the same command again; it fetches only what is missing.",
    ),
    Command(
        "describe",
        "lavic.describe.config:DescribeSettings",
        "lavic.describe.run:run",
        "Let the full-token teacher describe every product picture that has no description yet.",
        (
            "lavic describe --train_data data/item2meta_train.json --val_data data/item2meta_valid.jsonl",
            "lavic describe --top_logits 32 --batch_size 16",
            "lavic describe --adapter out_distilled/vision_lora_adapter_best --sample 20",
        ),
        "Run the same command again; it goes on behind the last picture that was described.",
    ),
    Command(
        "distill",
        "lavic.distill.config:DistillSettings",
        "lavic.distill.run:run",
        "Teach a LLaVA model to describe product pictures from five tokens (stage 1).",
        (
            "lavic distill --batch_size 1 --num_epochs 1 --max_samples 5000",
            "lavic distill --batch_size 1 --num_epochs 1 --max_samples 5000 --dry_run 20",
            "lavic distill --model tiny --config configs/distill-tiny.yaml",
            "lavic distill --validate_only --adapter out_distilled/vision_lora_adapter_best",
        ),
        "Run the same command with --resume (and without --overwrite) to go on from the last checkpoint; "
        "with --dry_run or --validate_only, as it is.",
    ),
    Command(
        "embed",
        "lavic.embed.config:EmbedSettings",
        "lavic.embed.run:run",
        "Compute every product's five visual tokens once, into a memory-mapped item store.",
        (
            "lavic embed --adapter out_distilled/vision_lora_adapter_best",
            "lavic embed --adapter out_distilled/vision_lora_adapter_best --val_data data/item2meta_valid.jsonl "
            "--images_per_item 2",
        ),
        "Run the same command again; whole batches are stored, and it goes on behind them.",
    ),
    Command(
        "tune",
        "lavic.tune.config:TuneSettings",
        "lavic.tune.run:run",
        "Teach the language model to answer a conversation with the ID of the right candidate (stage 2).",
        (
            "lavic tune --category all_beauty --candidate_type candidates_st --item_store item_store",
            "lavic tune --category all_beauty --text_only --output_dir out_text_only",
        ),
        "Run the same command with --resume (and without --overwrite) to go on from the last checkpoint.",
    ),
    Command(
        "evaluate",
        "lavic.evaluate.config:EvaluateSettings",
        "lavic.evaluate.run:run",
        "Rank every test conversation's candidates and say how often the right one comes first, beside baselines.",
        (
            "lavic evaluate --category all_beauty --adapter out_tuned/trained_lora_adapter",
            "lavic evaluate --category all_beauty --adapter out_tuned/trained_lora_adapter "
            "--text_only_adapter out_text_only/trained_lora_adapter",
        ),
        "Run the same command again; answers that are there are kept.",
    ),
    Command(
        "check",
        "lavic.check.config:CheckSettings",
        "lavic.check.run:run",
        "Tell in seconds what would go wrong in a run of `lavic distill` with the same flags: go or no go; "
        "`lavic check tune` does so for `lavic tune`.",
        (
            "lavic check --batch_size 1 --num_epochs 1 --max_samples 5000",
            "lavic check --model tiny --config configs/distill-tiny.yaml --thorough",
        ),
    ),
    Command(
        "check tune",
        "lavic.check.config:CheckTuneSettings",
        "lavic.check.tune:run",
        "Tell in seconds what would go wrong in a run of `lavic tune` with the same flags: go or no go.",
        (
            "lavic check tune --category all_beauty --candidate_type candidates_st --item_store item_store",
            "lavic check tune --category all_beauty --text_only --output_dir out_text_only --json",
        ),
    ),
    Command(
        "monitor",
        "lavic.monitor.config:MonitorSettings",
        "lavic.monitor.run:run",
        "Show how a run goes: progress, losses, time left, warnings.",
        ("lavic monitor", "lavic monitor --follow", "lavic monitor --output_dir out_distilled --json"),
    ),
    Command(
        "toyshop",
        "lavic.toyshop.config:ToyshopSettings",
        "lavic.toyshop.run:run",
        "Draw a catalogue of products: pictures, titles and descriptions in the public data set's format.",
        ("lavic toyshop --output_dir toys", "lavic toyshop --output_dir toys --items 5000 --seed 1"),
        "Run the same command with --overwrite.",
    ),
    Command(
        "data stats",
        "lavic.data.config:StatsSettings",
        "lavic.data.stats_run:run_stats",
        "Look before you train: counts, lengths, sizes, duplicates, leaks, and a sheet of products drawn by lot.",
        (
            "lavic data stats --conversations data",
            "lavic data stats --train_data none --val_data none --conversations data/all_beauty --output_dir none",
        ),
        "Run the same command with --overwrite.",
    ),
    Command(
        "data subset",
        "lavic.data.config:SubsetSettings",
        "lavic.data.run:run_subset",
        "Take a small part of a data set in which conversations, items and pictures belong together.",
        (
            "lavic data subset --category amazon_home --images_per_item 2 --max_items 500 --output_dir small",
            "lavic data subset --category all_beauty --link --output_dir beauty",
        ),
        "Run the same command with --overwrite.",
    ),
    Command(
        "data convert",
        "lavic.data.config:ConvertSettings",
        "lavic.data.run:run_convert",
        "Bring a folder of product photographs into the public data set's format, or that format to Parquet and back.",
        (
            "lavic data convert --source_dir catalogue --output_dir data",
            "lavic data convert --to parquet --source_dir data --output_dir data-parquet",
        ),
        "Run the same command with --overwrite.",
    ),
    Command(
        "data build",
        "lavic.data.config:BuildSettings",
        "lavic.data.run:run_build",
        "Make a data set of another category from Amazon-Reviews-2023 metadata and conversations, ready for a crawl.",
        (
            "lavic data build --meta meta_Home_and_Kitchen.jsonl.gz --conversations home.jsonl --output_dir home",
            "lavic data build --meta meta_Books.jsonl --conversations posts/books --category books --output_dir books",
        ),
        "Run the same command with --overwrite.",
    ),
)
GROUPS = {"data": "Prepare data."}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``lavic`` and leave with its exit code; the entry point of the package."""
    sys.exit(run_command_line(sys.argv[1:] if arguments is None else list(arguments)))


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: what follows ``lavic`` on the command line.

    Returns:
        The exit code, as ``lavic.cli.output`` lists them.
    """
    console = Console(json="--json" in arguments)
    try:
        program = typer.main.get_command(build_app(called(arguments)))
        code = program.main(args=list(arguments), prog_name="lavic", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return output.nobody_reads()
    except KeyboardInterrupt:
        console.error("interrupted.")
        return output.EXIT_INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _usage_error(error, called(arguments), console)
    return code if isinstance(code, int) else output.EXIT_DONE


def called(arguments: Sequence[str]) -> str:
    """The name of the table's command that the arguments call, or an empty text."""
    words = [word for word in arguments[:2] if not word.startswith("-")]
    names = {command.name for command in COMMANDS}
    return next((name for name in (" ".join(words), *words[:1]) if name in names), "")


def build_app(name: str = "") -> typer.Typer:
    """The program with all flags of one command, and only a line of the others."""
    app = _group(SUMMARY)
    app.callback(invoke_without_command=True, help=SUMMARY, epilog="Start with: lavic demo")(_root)
    summaries = {command.name: command.summary for command in COMMANDS} | GROUPS
    groups: dict[str, typer.Typer] = {}
    for command in _shown_beside(name):
        *group, word = command.name.split()
        place = groups.setdefault(group[0], _group(summaries[group[0]])) if group else app
        place.command(
            word,
            help=command.summary,
            epilog=_epilog(command),
            context_settings=_context(command) if command.name == name else CONTEXT,
        )(_function(command) if command.name == name else _nothing)
    for group_name, group_app in groups.items():
        group_app.callback(help=summaries[group_name])(_nothing)
        app.add_typer(group_app, name=group_name)
    return app


def _shown_beside(name: str) -> Iterator[Command]:
    """The commands of a program that is called with one of them.

    To Typer a word is a command or a group: of ``check`` and ``check tune`` there is the one that is called.
    """
    names = {command.name for command in COMMANDS}
    for command in COMMANDS:
        group, _, word = command.name.partition(" ")
        behind_a_command = bool(word) and group in names
        if command.name == name or not (behind_a_command or name.startswith(f"{command.name} ")):
            yield command


def _group(summary: str) -> typer.Typer:
    return typer.Typer(
        help=summary,
        add_completion=False,
        no_args_is_help=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings=CONTEXT,
    )


def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show lavic's version and those it works with."),
) -> None:
    if version:
        found = versions()
        rest = ", ".join(f"{name} {number}" for name, number in found.items() if name != "lavic")
        typer.echo(f"lavic {found['lavic']} ({rest})")
        raise typer.Exit(output.EXIT_DONE)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _nothing() -> None:
    """Stands for a command that was not called."""


def _context(command: Command) -> dict[str, Any]:
    return {**CONTEXT, "token_normalize_func": normalizer(load_object(command.settings))}


def _function(command: Command) -> Callable[..., None]:
    """What Typer calls for a command; its signature has one parameter per setting."""
    settings_class: type[Settings] = load_object(command.settings)

    def call(**values: Any) -> None:
        console = Console(json=values.pop(JSON))
        config = values.pop(CONFIG)
        code = output.execute(
            lambda: settings_class.load(Path(config) if config is not None else None, given_flags(values)),
            lambda: load_object(command.run),
            console,
            go_on=command.go_on,
        )
        raise typer.Exit(code)

    call.__signature__ = signature_of(settings_class)  # type: ignore[attr-defined]
    return call


def load_object(place: str) -> Any:
    """The object that ``module:name`` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _epilog(command: Command) -> str:
    # Rich keeps only empty lines between paragraphs.
    return "\n\n".join(["Examples:", *command.examples]).replace("[", "\\[")


def _usage_error(error: Any, name: str, console: Console) -> int:
    """An unknown command or flag, or a flag without its value: one sentence, and where to read on."""
    message = " ".join(str(error.format_message()).split())
    option = getattr(error, "option_name", "")
    if option and name and hasattr(error, "possibilities"):
        command = next(command for command in COMMANDS if command.name == name)
        near = nearest(option.lstrip("-").replace("-", "_"), load_object(command.settings).field_names())
        message = f"there is no flag {option}" + (f"; did you mean --{near}?" if near else "")
    message = message if message.endswith((".", "?", "!")) else f"{message}."
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else f"lavic {name}".strip()
    console.error(f"{message} `{path} --help` lists what there is.")
    if console.json:
        console.document({"error": {"problem": message, "exit_code": output.EXIT_WRONG_INPUT}})
    return output.EXIT_WRONG_INPUT


if __name__ == "__main__":
    main()
