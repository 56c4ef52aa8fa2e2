"""Does distillation on real photographs lower the loss on other real photographs, below a blind run?

    python benchmarks/photographs.py --source PATH/TO/catalogue --work build/photographs

The catalogue (products.jsonl, images/, captions.jsonl) is converted, split by product; the tiny model is
distilled on it as a user would, and a second time with the pictures deranged; both adapters are validated
on the held-out products. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lavic.console import Console
from lavic.data.convert import convert_catalogue
from lavic.data.derange import write_deranged
from lavic.distill.config import DistillSettings
from lavic.distill.run import run
from lavic.distill.task import ADAPTER_FOLDER
from lavic.layout import BLIND_METADATA, TRAIN_METADATA, data_paths


def settings_for(work: Path, metadata: str, name: str, arguments: argparse.Namespace) -> DistillSettings:
    """One training run; the adapter with the lowest validation loss is kept, as always."""
    data = work / "data"
    return DistillSettings(
        model=arguments.model,
        **data_paths(data, metadata),
        output_dir=work / name,
        log_dir=work / "logs",
        batch_size=8,
        lr=arguments.lr,
        num_epochs=arguments.epochs,
        seed=arguments.seed,
        overwrite=True,
    )


def validation_loss(settings: DistillSettings, adapter: Path | None, console: Console) -> float:
    """Loss without EOS of an adapter, or of the bare model."""
    kept = settings.model_dump() | {"validate_only": True, "adapter": adapter, "overwrite": False}
    return float(run(DistillSettings(**kept), console).summary["val_loss"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    console = Console(json=True, stderr=sys.stderr)
    data = arguments.work / "data"
    converted = convert_catalogue(arguments.source, data, arguments.seed, overwrite=True)
    write_deranged(data / TRAIN_METADATA, data / BLIND_METADATA, arguments.seed)
    losses: dict[str, float] = {}
    for name, metadata in (("after", TRAIN_METADATA), ("blind", BLIND_METADATA)):
        settings = settings_for(arguments.work, metadata, name, arguments)
        run(settings, console)
        losses[name] = validation_loss(settings, settings.output_dir / ADAPTER_FOLDER, console)
    losses["before"] = validation_loss(settings, None, console)
    facts = {"train_images": converted.train_images, "valid_images": converted.valid_images, "val_loss": losses}
    print(json.dumps(facts | {"below_blind": losses["after"] < losses["blind"]}, indent=2))


if __name__ == "__main__":
    main()
