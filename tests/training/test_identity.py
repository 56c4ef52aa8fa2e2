"""What makes two runs the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lavic.errors import InputError, OutputError
from lavic.training.checkpoints import RunState
from lavic.training.identity import check_same_run, identity_of, names_mark, weights_mark


def test_settings_are_named_as_flags_without_the_free_ones():
    identity = identity_of({"lr": 5e-5, "seed": 1, "num_workers": 4}, free=["num_workers"], files={})
    assert identity == {"--lr": "5e-05", "--seed": "1"}


def test_of_a_file_the_content_counts_and_not_the_place(tmp_path: Path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("{}")
    marks = [identity_of({}, free=[], files={"--train_data": tmp_path / name}) for name in ("a.json", "b.json")]
    assert marks[0] == marks[1]
    # The SHA-256 of "{}", from sha256sum.
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert marks[0] == {"content of --train_data": digest}
    (tmp_path / "b.json").write_text("{ }")
    assert identity_of({}, free=[], files={"--train_data": tmp_path / "b.json"}) != marks[0]


def test_a_file_that_is_not_given_differs_from_every_file(tmp_path: Path):
    (tmp_path / "prompts.yaml").write_text("")
    given = identity_of({}, free=[], files={"--prompts": tmp_path / "prompts.yaml"})
    assert identity_of({}, free=[], files={"--prompts": None}) == {"content of --prompts": ""} != given


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="the file does not exist"):
        identity_of({}, free=[], files={"--train_data": tmp_path / "none"})


def test_names_count_in_their_order():
    assert names_mark(["a", "b"]) == names_mark(iter(["a", "b"]))
    assert len({names_mark(names) for names in (["a", "b"], ["b", "a"], ["a"], [])}) == 4


def test_weights_count_by_value_name_and_type():
    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(300, 7), nn.Linear(7, 2))

    assert weights_mark(model(0)) == weights_mark(model(0))
    other_name = nn.Sequential(model(0)[0], nn.Identity(), model(0)[1])
    changed = model(0)
    with torch.no_grad():
        changed[1].bias[0] += 1e-3
    marks = {weights_mark(each) for each in (model(0), model(1), model(0).bfloat16(), other_name, changed)}
    assert len(marks) == 5


STATE = RunState(identity={"--lr": "0.1", "--seed": "1", "content of --train_data": "aa"}, threads=0)


def test_the_same_run_may_go_on_and_another_number_of_threads_is_remarked_on():
    warnings: list[str] = []
    STATE.threads = torch.get_num_threads() + 1
    check_same_run(STATE, dict(STATE.identity), Path("out"), warnings.append)
    (warning,) = warnings
    assert f"began with {STATE.threads} CPU threads" in warning
    STATE.threads = torch.get_num_threads()
    check_same_run(STATE, dict(STATE.identity), Path("out"), warnings.append)
    assert len(warnings) == 1


def test_everything_that_differs_is_named_at_once():
    other = {"--lr": "0.2", "--seed": "1", "content of --train_data": "bb", "--new": "x"}
    with pytest.raises(OutputError) as caught:
        check_same_run(STATE, other, Path("out"), print)
    assert caught.value.sentence == (
        "out/ holds a run with other settings or data: --lr (was 0.1, is 0.2), --new (was None, is x), "
        "content of --train_data. Resume with the same ones, or start again with --overwrite."
    )


def test_a_part_is_compared_before_the_whole_is_known():
    check_same_run(STATE, {"--lr": "0.1"}, Path("out"), print, whole=False)
    with pytest.raises(OutputError, match=r"--lr \(was 0\.1, is 3\)"):
        check_same_run(STATE, {"--lr": "3"}, Path("out"), print, whole=False)
    with pytest.raises(OutputError, match="--seed"):
        check_same_run(STATE, {"--lr": "0.1"}, Path("out"), print)
