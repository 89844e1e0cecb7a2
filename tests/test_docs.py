"""Every command that README and docs name exists, with the options they give it; every link leads somewhere."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from f2b_client.cli import app as client_app
from f2b_server.cli import app as server_app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
APPS = {"f2b-client": client_app, "f2b-server": server_app}


def commands_in(page: Path) -> list[str]:
    text = page.read_text()
    spans = re.findall(r"`((?:f2b-client|f2b-server)[^`]*)`", text)
    lines = re.findall(r"^(?:f2b-client|f2b-server) .*$", text, re.MULTILINE)
    return [re.split(r"\s+#|\s…|;", command)[0].strip() for command in [*spans, *lines]]


def make_targets_in(page: Path) -> list[str]:
    return re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)


ALL = sorted(
    {(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in commands_in(page)}
)


@pytest.mark.parametrize(("page", "command"), ALL)
def test_a_documented_command_exists_with_its_options(page, command):
    name, *words = shlex.split(command)
    found = typer.main.get_command(APPS[name])
    while words and isinstance(found, click.Group) and not words[0].startswith("-") and words[0] != "COMMAND":
        assert words[0] in found.commands, f"{page}: `{command}` is not a command"
        found = found.commands[words.pop(0)]
    if words[:1] == ["COMMAND"]:  # stands for any of them
        return
    known = {option for parameter in found.params for option in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= known, f"{page}: `{command}` uses {used - known}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_documented_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(make_targets_in(page)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_that_exist(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page}: {target}"


def test_the_main_path_names_files_that_exist():
    text = (ROOT / "docs" / "main-path.md").read_text()
    science = ROOT / "face2bone_model" / "face2bone_model"
    places = (science, science / "models", ROOT / "client" / "f2b_client", ROOT / "server" / "f2b_server")
    named = re.findall(r"`([\w/]+\.py)`", text)
    assert len(named) > 40
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def leaves(command):
    if isinstance(command, click.Group):
        return [leaf for one in command.commands.values() if not one.hidden for leaf in leaves(one)]
    return [command]


@pytest.mark.parametrize("name", APPS)
def test_every_command_has_a_manual_page_with_an_example_and_its_exit_status(name):
    for command in leaves(typer.main.get_command(APPS[name])):
        assert "Example: `" + name in command.help, command.name
        assert "Exit status" in command.epilog, command.name
        assert all(option.help for option in command.params), command.name
        assert any("--json" in option.opts for option in command.params), command.name
