"""The documentation says what is so: links, commands, flags, error sentences, floors, and both READMEs alike."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from lavic.cli.main import COMMANDS, build_app, called, load_object
from lavic.config import Settings

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "lavic"
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [
    *READMES,
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# Flags of other programs that the pages name: pip, venv, hf, tensorboard, scripts beside the package.
FOREIGN_FLAGS = {
    *("--bind", "--directory"),
    *("--index-url", "--system-site-packages", "--local-dir", "--logdir"),
    *("--work", "--output", "--describe-steps", "--threads", "--tower", "--start", "--read-steps"),
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", text_of(page))


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command in the page's shell blocks, comments dropped and continued lines joined."""
    for language, block in FENCE.findall(text_of(page)):
        if language in ("sh", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.partition(" &")[0].partition(" > ")[0], comments=True)
                if words:
                    yield words


# -- links ---------------------------------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """The fragments that GitHub makes from the headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    wrong = []
    for target in local:
        name, _, fragment = unquote(target).partition("#")
        path = (page.parent / name) if name else page
        if not path.exists() or (fragment and fragment not in anchors_of(path)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_place_of_one_machine_and_nothing_to_fill_in_is_left(page: Path) -> None:
    assert re.findall(r"@@\w+@@|TODO|FIXME|/(?:home|root|work|tmp|Users)/\w+", text_of(page)) == []


# -- commands and flags --------------------------------------------------------------------------------------


def settings_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What ``lavic`` with these words would run with; nothing is run."""
    seen: list[Settings] = []

    def keep(load: Any, run: Any, console: Any, *, go_on: str = "") -> int:
        seen.append(load())
        return 0

    monkeypatch.setattr("lavic.cli.output.execute", keep)
    monkeypatch.chdir(ROOT)
    program = typer.main.get_command(build_app(called(words)))
    assert program.main(args=words, prog_name="lavic", standalone_mode=False) == 0
    return seen.pop()


def as_lavic(words: list[str]) -> list[str] | None:
    """The arguments of ``lavic`` that a command line comes down to, or None if it is another program's."""
    words = words[1:] if words[0] == "nohup" else words
    commands = {"lavic": [], "./run_training.sh": ["distill"], "./monitor_training.sh": ["monitor"]}
    if words[:2] in (["make", "demo"], ["make", "demo-full"]):
        arguments = [word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")]
        return ["demo", *shlex.split(" ".join(arguments))]
    return [*commands[words[0]], *words[1:]] if words[0] in commands else None


COMMAND_LINES = [
    pytest.param(arguments, id=" ".join(arguments)[:70])
    for page in PAGES
    for arguments in map(as_lavic, shell_lines(page))
    if arguments is not None
]


@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_every_command_line_is_taken(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(settings_of(arguments, monkeypatch), Settings)


def test_a_command_line_that_lavic_does_not_take_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ["distill", "--max_samples", "none"] in [parameter.values[0] for parameter in COMMAND_LINES]
    with pytest.raises(Exception, match=r"[Nn]o such option|no flag"):
        settings_of(["distill", "--max_sample", "5"], monkeypatch)


def known_flags() -> set[str]:
    names = {name for command in COMMANDS for name in load_object(command.settings).field_names()}
    switches = {f"no_{name}" for name in names}
    flags = {f"--{name}" for name in names | switches | {"config", "json", "help", "version"}}
    sources = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "src" / "lavic" / "toyshop" / "teacher.py"]
    scripts = "".join(map(text_of, sources))
    return flags | {"--" + name.replace("-", "_") for name in re.findall(r'"--([a-z][a-z_-]*)"', scripts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_exists(page: Path) -> None:
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*[a-z]", text_of(page)))
    known = known_flags()
    assert [flag for flag in sorted(flags - FOREIGN_FLAGS) if "--" + flag[2:].replace("-", "_") not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z][a-z-]*)", prose_of(page)))
    named |= {words[1] for words in shell_lines(page) if words[0] == "make"}
    assert named <= targets


def test_the_page_of_the_command_line_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fresh = text_of(ROOT / "docs" / "cli.md") == module.cli_markdown()
    assert fresh, "docs/cli.md is stale: run `python docs/make_cli.py`"


# -- both READMEs --------------------------------------------------------------------------------------------


def test_both_readmes_have_the_same_commands_links_and_figures() -> None:
    english, chinese = READMES
    assert list(shell_lines(english)) == list(shell_lines(chinese))
    links = [re.findall(r"\]\(((?!#)[^)\s]+\.(?:md|png)|https:[^)\s]+)\)", text_of(page)) for page in READMES]
    swapped = {"README.zh-CN.md": "README.md"}
    assert sorted({swapped.get(link, link) for link in links[0]}) == sorted(set(links[1]))
    rows = [re.findall(r"^\|.*\|$", text_of(page), re.MULTILINE) for page in READMES]
    # Of a table's row, what no language changes: code, and numbers of two digits and more.
    facts = [[re.findall(r"`[^`]+`|\d[\d.,]*\d", row) for row in each] for each in rows]
    assert [sorted(row) for row in facts[0] if row] == [sorted(row) for row in facts[1] if row]


def test_the_sizes_in_the_readme_are_those_of_the_7b() -> None:
    tower = 24 * (4 * 8 * (1024 + 1024) + 2 * 8 * (1024 + 4096))
    projector = 8 * (1024 + 4096) + 8 * (4096 + 4096)
    for page in READMES:
        for count in (tower, projector, tower + projector):
            assert f"{count:,}" in text_of(page)
        assert f"{4 * (tower + projector) / 1e6:.1f} MB" in text_of(page)
        # A checkpoint holds the weights and AdamW's two moments of each.
        assert f"{3 * 4 * (tower + projector) / 1e6:.0f} MB" in text_of(page)


# -- what the code says --------------------------------------------------------------------------------------


def said_by_the_code() -> str:
    """Every text constant of the package and its scripts, the varying parts of f-strings as an ellipsis."""
    pieces = [text_of(ROOT / name) for name in ("Makefile", "run_training.sh", "monitor_training.sh")]
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                pieces.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                pieces.append(node.value)
    return "\n".join(pieces)


# Sentences of other programs.
NOT_OURS = {"nvidia_", "out of memory", "No space left on device"}


def test_troubleshooting_quotes_what_the_code_says() -> None:
    said = said_by_the_code()
    cells = re.findall(r"^\| (`[^|]*?) \|", prose_of(ROOT / "docs" / "troubleshooting.md"), re.MULTILINE)
    quotes = [quote for cell in cells for quote in re.findall(r"`([^`]+)`", cell)]
    fragments = {part.strip(" ;,:.()") for quote in quotes for part in re.split(r"…|[()]", quote)}
    assert len(fragments) > 60
    assert [part for part in sorted(fragments - NOT_OURS) if part not in said] == []


# -- architecture --------------------------------------------------------------------------------------------


def floors() -> list[str]:
    """Modules and packages from the ground up, as docs/architecture.md has them."""
    rows = re.findall(r"^\| \d, [^|]+\| ([^|]+) \|", text_of(ROOT / "docs" / "architecture.md"), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def test_the_floors_hold_every_module_once() -> None:
    modules = {path.stem if path.suffix else path.name for path in SOURCE.iterdir()} - {"__init__", "__pycache__"}
    assert sorted(floors()) == sorted(modules)


def imported_by(path: Path) -> set[str]:
    """First part below ``lavic`` of every module that a file imports, in whatever form."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = [name.split(".") for name in names]
    # ``from lavic import __version__`` imports no module.
    return {part[1] for part in parts if part[0] == "lavic" and len(part) > 1} & set(floors())


def test_every_form_of_import_counts(tmp_path: Path) -> None:
    forms = [
        "from lavic import __version__, evaluate, monitor as live",
        "from lavic.tune.run import run",
        "import lavic, lavic.model.load as loading",
        "import lavicious.crawl",
        "def later():\n    from lavic import cli",
    ]
    (tmp_path / "made_up.py").write_text("\n".join(forms), encoding="utf-8")
    assert imported_by(tmp_path / "made_up.py") == {"evaluate", "monitor", "tune", "model", "cli"}


def test_no_module_imports_what_stands_above_it() -> None:
    order = {name: place for place, name in enumerate(floors())}
    wrong = []
    for path in SOURCE.rglob("*.py"):
        home = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if home != "__init__":
            wrong += [f"{home} imports {name}" for name in imported_by(path) if order[name] > order[home]]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_ours_that_is_named_exists(page: Path) -> None:
    places = re.findall(r"(?<![\w/.-])((?:[a-z_0-9]+/)*[a-z_0-9]+\.(?:py|sh|yaml|toml))\b", text_of(page))
    theirs = {"crawl_images.py", "src/crawl_images.py", "knowledge_distillation.py", "prompt_tuning.py", "config.yaml"}
    homes = (ROOT, SOURCE, page.parent)
    missing = {place for place in places if not any((home / place).exists() for home in homes)}
    assert sorted(missing - theirs) == []
