"""How a command fails: a sentence, its mend, and a number that is the exit code."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import typer
from face2bone_model.contract.errors import InputError
from face2bone_model.system.command import print_json, run_command

app = typer.Typer()

@app.command()
def trial(kind: str, json: bool = typer.Option(False, "--json"), debug: bool = typer.Option(False, "--debug")):
    if kind == "ours":
        raise InputError("dxa.csv row 3 [sic] has no T-score.", "Fill it in.")
    if kind == "theirs":
        raise ZeroDivisionError("division by zero")
    if kind == "stop":
        raise KeyboardInterrupt
    print_json({"b": 1, "a": kind})

run_command(app)
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
    )


def test_success_is_zero_and_json_is_in_a_fixed_order():
    done = run("fine")
    assert done.returncode == 0
    assert list(json.loads(done.stdout)) == ["a", "b"]


def test_a_failure_is_its_number_sentence_and_mend_on_standard_error():
    done = run("ours")
    assert done.returncode == 10
    assert done.stdout == ""
    assert done.stderr == "error 10 dxa.csv row 3 [sic] has no T-score.\nFill it in.\n"


def test_with_json_the_same_is_printed_for_programs():
    done = run("ours", "--json")
    assert done.returncode == 10
    assert json.loads(done.stdout) == {
        "error": 10,
        "what": "dxa.csv row 3 [sic] has no T-score.",
        "mend": "Fill it in.",
    }


def test_an_unforeseen_fault_is_99_without_a_trace_unless_asked_for():
    done = run("theirs")
    assert done.returncode == 99
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "Traceback" not in done.stderr
    assert "--debug" in done.stderr


def test_with_debug_the_trace_is_shown():
    done = run("theirs", "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: division by zero" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("fine", "--unknown"), ("fine", "more")])
def test_a_wrong_call_is_2(arguments):
    assert run(*arguments).returncode == 2


def test_ctrl_c_is_130_and_says_that_nothing_is_lost():
    done = run("stop")
    assert done.returncode == 130
    assert "go on where it was" in done.stderr
