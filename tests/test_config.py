"""Settings: flags beat YAML, YAML beats defaults, and every mistake is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import yaml

from lavic.config import Settings, setting
from lavic.distill.config import DistillSettings
from lavic.errors import ConfigError
from lavic.training.settings import Every, parse_every

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Small(Settings):
    batch_size: int = setting(1, "Samples.", ge=1, le=64)
    lr: float = setting(0.5, "Rate.", gt=0)
    model: str = setting("tiny", "Model.", aliases=["model_name"])
    max_samples: int | None = setting(10, "Samples.", ge=1)
    schedule: Literal["constant", "cosine"] = setting("constant", "Schedule.")
    resume: bool = setting(False, "Go on.", saved=False)


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def sentence(config: Path | None, flags: dict[str, object], settings: type[Settings] = Small) -> str:
    with pytest.raises(ConfigError) as caught:
        settings.load(config, flags)
    assert "\n" not in caught.value.sentence
    return caught.value.sentence


def test_flags_beat_the_file_and_the_file_beats_the_defaults(tmp_path: Path) -> None:
    config = written(tmp_path, "batch_size: 2\nlr: 5e-5\n")
    found = Small.load(config, {"batch_size": "3", "schedule": None})
    # 5e-5 without a dot is text to YAML 1.1; it must still be the number.
    assert (found.batch_size, found.lr, found.schedule) == (3, 5e-5, "constant")


def test_an_alias_and_dashes_name_the_same_setting(tmp_path: Path) -> None:
    config = written(tmp_path, "model-name: from-file\nbatch-size: 4\n")
    assert Small.load(config, {}).model == "from-file"
    assert Small.load(config, {"model_name": "flag"}).model == "flag"


def test_none_on_the_command_line_takes_a_limit_away(tmp_path: Path) -> None:
    config = written(tmp_path, "max_samples: 5000\n")
    assert Small.load(config, {"max_samples": "none"}).max_samples is None
    assert "not a whole number" in sentence(None, {"batch_size": "none"})


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    config = written(tmp_path, "lr: 0.1\nbatchsize: 4\n")
    assert sentence(config, {}) == f"{config}, line 2: unknown setting `batchsize`. Did you mean `batch_size`?"
    config = written(tmp_path, "zzz: 4\n")
    assert sentence(config, {}) == f"{config}, line 1: unknown setting `zzz`. `--help` lists all settings."


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"batch_size": "0"}, "--batch_size: 0 is too small; it must be at least 1."),
        ({"batch_size": "65"}, "--batch_size: 65 is too large; it must be at most 64."),
        ({"batch_size": "two"}, "--batch_size: 'two' is not a whole number."),
        ({"batch_size": "1.5"}, "--batch_size: 1.5 is not a whole number."),
        ({"lr": "0"}, "--lr: 0 is too small; it must be more than 0."),
        ({"lr": "nan"}, "--lr: 'nan' is not a finite number."),
        ({"lr": "fast"}, "--lr: 'fast' is not a number."),
        ({"schedule": "linear"}, "--schedule: 'linear' is not one of constant or cosine."),
    ],
)
def test_a_flag_out_of_range_is_one_sentence_that_names_it(flags: dict[str, object], expected: str) -> None:
    assert sentence(None, flags) == expected


def test_a_wrong_value_in_the_file_names_file_and_key(tmp_path: Path) -> None:
    config = written(tmp_path, "batch_size: 0\nlr: -1\n")
    expected = f"{config}, batch_size: 0 is too small; it must be at least 1. One more setting needs a look too."
    assert sentence(config, {}) == expected
    config = written(tmp_path, "batch_size: true\n")
    assert sentence(config, {}) == f"{config}, batch_size: true is not a value of this setting."


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("lr: [1,\nbatch_size: 2\n", ", line 3", "this is not YAML"),
        ("- lr\n- 3\n", "", "this is not a list of settings"),
        ("lr: 1\nlr: 2\n", ", line 2", "`lr` is set a second time"),
        ("model: a\nmodel_name: b\n", ", line 2", "`model_name` is set a second time"),
        ("lr: !!python/object:os.system x\n", ", line 1", "this value is not usable"),
        ("lr: !!bool maybe\n", ", line 1", "this value does not fit its tag"),
        ("lr: !!timestamp now\n", ", line 1", "this value does not fit its tag"),
        ("[" * 5000, "", "this is not YAML"),
    ],
)
def test_a_file_that_is_no_list_of_settings_is_one_sentence(
    tmp_path: Path, text: str, where: str, problem: str
) -> None:
    config = written(tmp_path, text)
    assert sentence(config, {}).startswith(f"{config}{where}: {problem}")


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    assert sentence(tmp_path / "no.yaml", {}) == f"--config {tmp_path / 'no.yaml'}: the file does not exist."
    assert sentence(tmp_path, {}) == f"--config {tmp_path}: this is a folder, not a file."
    broken = tmp_path / "latin1.yaml"
    broken.write_bytes(b"model: caf\xe9\n")
    assert sentence(broken, {}) == f"--config {broken}: it is not UTF-8 text."


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert Small.load(written(tmp_path, "# only a comment\n"), {}) == Small()


def test_what_a_run_saves_is_good_again_as_config(tmp_path: Path) -> None:
    used = Small.load(None, {"lr": "1e-7", "max_samples": "none", "model": "ünï: #1", "resume": True})
    used.save(tmp_path / "new" / "out")
    again = Small.load(tmp_path / "new" / "out" / "config.yaml", {})
    # --resume belongs to one invocation: reusing the file must not resume or overwrite anything.
    assert again == used.model_copy(update={"resume": False})


def test_the_versions_are_saved_without_importing_torch(tmp_path: Path) -> None:
    Small().save(tmp_path)
    found = json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))
    names = {"lavic", "python", "platform", "torch", "transformers", "peft", "lightning-fabric"}
    assert set(found) == names
    assert all(found.values())


# -- distill ---------------------------------------------------------------------------------------------


def test_distill_starts_from_the_published_values() -> None:
    found = DistillSettings.load(None, {})
    assert (found.batch_size, found.num_epochs, found.lr, found.weight_decay) == (1, 1, 5e-5, 1e-5)
    assert (found.lora_r, found.lora_alpha, found.lora_dropout, found.gradient_clip) == (8, 32, 0.1, 1.0)
    assert (found.max_length, found.warmup, found.schedule, found.max_samples) == (2048, 0, "constant", None)
    assert (found.max_val_loss, found.max_val_perplexity) == (0.6, 2.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200", Every(200, "steps")), ("0.5e", Every(0.5, "epochs")), ("10m", Every(10, "minutes"))],
)
def test_an_interval_is_steps_epochs_or_minutes(text: str, expected: Every) -> None:
    assert parse_every(text, ("steps", "epochs", "minutes")) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"val_every": "0"}, "--val_every: '0' is not an interval; it must be above zero."),
        ({"val_every": "1.5"}, "--val_every: '1.5' is not an interval; it must be a whole number."),
        ({"val_every": "10m"}, "--val_every: '10m' is not an interval; write 200 (steps) or 1e (epochs)."),
        (
            {"checkpoint_every": "-5"},
            "--checkpoint_every: '-5' is not an interval; write 200 (steps) or 10m (minutes).",
        ),
        (
            {"resume": True, "overwrite": True},
            "--resume and --overwrite: they exclude each other. "
            "--resume goes on with the run in --output_dir, --overwrite starts it again.",
        ),
        (
            {"adapter": "some"},
            "--adapter: it needs --validate_only. "
            "Training starts from fresh LoRA weights; --resume goes on from a checkpoint.",
        ),
        (
            {"warmup": "10", "max_steps": "10"},
            "--warmup: 10 steps of warm-up leave none of --max_steps 10 at the full rate.",
        ),
        ({"devices": "2"}, "--devices: lavic trains on one device, not on 2."),
    ],
)
def test_distill_settings_that_do_not_go_together_are_refused(flags: dict[str, object], expected: str) -> None:
    assert sentence(None, flags, DistillSettings) == expected


def test_val_every_may_be_a_number_in_yaml(tmp_path: Path) -> None:
    found = DistillSettings.load(written(tmp_path, "val_every: 200\ncheckpoint_every: 50\n"), {})
    assert found.validation_interval == Every(200, "steps")
    assert found.checkpoint_interval == Every(50, "steps")
    assert DistillSettings().validation_interval == Every(1, "epochs")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("distill-*.yaml")), ids=lambda path: path.name)
def test_the_sample_configurations_are_valid(path: Path) -> None:
    written_keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = DistillSettings.load(path, {}).model_dump(mode="json")
    for key, value in written_keys.items():
        # What YAML and the settings write differently: 5e-5, and the interval 100.
        assert found[key] == type(found[key])(value)
