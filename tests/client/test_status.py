"""`status` tells the truth about processes, also about those that cannot speak any more."""

import json
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from f2b_client.cli import app
from f2b_client.link import write_link
from f2b_client.settings import SiteFolder
from f2b_client.site_lock import only_one
from f2b_client.state import State, write_state
from f2b_client.status import ENDED, cells, read_status


@pytest.fixture
def folder(tmp_path):
    return SiteFolder(tmp_path)


def leave(folder, name, state):
    """Write a state from a process that then ends without another word."""
    code = (
        "import sys; from pathlib import Path; from f2b_client.settings import SiteFolder; "
        "from f2b_client.state import State, write_state; "
        f"write_state(SiteFolder(Path(sys.argv[1])), {name!r}, {state!r})"
    )
    subprocess.run([sys.executable, "-c", code, str(folder.path)], check=True)


def test_a_client_that_never_ran_is_told_as_such(folder):
    status = read_status(folder)
    assert not status.running
    assert set(status.states.values()) == {None}
    assert (status.last_sent, status.receipts, status.budget, status.page) == (None, 0, "", "")


def test_a_process_that_died_is_named_whatever_its_file_says(folder):
    leave(folder, "executor", State(doing="training", detail="round 3", since=1.0, deadline=2.0))
    state = read_status(folder).states["executor"]
    assert state.doing == ENDED
    assert state.detail == "was training; see log/executor.log"
    assert state.deadline == 0.0


def test_a_process_that_runs_or_ended_in_order_is_believed(folder):
    write_state(folder, "executor", State(doing="training", done=1, total=4))
    leave(folder, "supervisor", State(doing="stopped"))
    leave(folder, "prepare", State(doing="preparing", done=7, total=7))
    states = read_status(folder).states
    assert (states["executor"].doing, states["supervisor"].doing, states["prepare"].doing) == (
        "training",
        "stopped",
        "done",
    )


def test_a_preparation_that_was_cut_short_is_not_done(folder):
    leave(folder, "prepare", State(doing="preparing", done=3, total=7))
    assert read_status(folder).states["prepare"].doing == ENDED


def test_another_process_with_the_number_of_a_dead_one_does_not_count(folder):
    old = {"doing": "training", "at": time.time() - 86_400, "pid": subprocess.os.getpid()}
    folder.state.mkdir()
    (folder.state / "executor.json").write_text(json.dumps(old))
    assert read_status(folder).states["executor"].doing == ENDED


def test_link_page_and_lock_are_shown(folder):
    with only_one(folder):
        write_link(folder, "polling")
        (folder.state / "page.url").write_text("http://127.0.0.1:1/?token=x\n")
        status = read_status(folder)
    assert status.running
    assert status.states["link"].doing == "polling"
    assert status.page == "http://127.0.0.1:1/?token=x"


def test_a_passed_deadline_is_called_passed():
    state = State(doing="training", detail="round 1", done=2, total=5, since=1000.0, deadline=2000.0)
    doing, since, until, detail = cells(state, now=1500.0)
    assert (doing, detail) == ("training", "round 1 2 of 5")
    assert since
    assert until
    assert "passed" not in until
    assert cells(state, now=2001.0)[2].endswith(", passed")
    assert cells(None, now=0.0) == ("not yet", "", "", "")
    assert cells(State(doing="waiting"), now=0.0) == ("waiting", "", "", "")


def test_the_command_says_it_in_a_table_and_in_json(folder):
    joined = {"site": "north", "study": "s", "address": "h:1"}
    folder.joined.mkdir()
    (folder.joined / "kit.json").write_text(json.dumps(joined))
    folder.policy.write_text("[privacy]\nepsilon_limit = 4.0\n")
    leave(folder, "executor", State(doing="training", detail="round 3"))
    said = CliRunner().invoke(app, ["status", "--site", str(folder.path)], env={"COLUMNS": "200"}).stdout
    assert "The client is not running." in said
    assert "was training" in said
    assert "epsilon 0.00 of 4 spent" in said
    shown = json.loads(CliRunner().invoke(app, ["status", "--site", str(folder.path), "--json"]).stdout)
    assert shown["executor"]["doing"] == ENDED
    assert shown["running"] is False
    assert {"supervisor", "prepare", "link", "last_sent", "receipts", "budget", "page"} <= set(shown)


def test_damaged_records_are_told_and_hide_nothing_else(folder):
    folder.receipts.write_bytes(b"no database" * 500)
    write_state(folder, "executor", State(doing="training"))
    status = read_status(folder)
    assert "receipts.db" in status.fault
    assert status.states["executor"].doing == "training"
    said = CliRunner().invoke(app, ["status", "--site", str(folder.path)], env={"COLUMNS": "200"}).stdout
    assert "Records: " in said


def test_stop_says_in_json_whether_it_stopped_anything(folder):
    result = CliRunner().invoke(app, ["stop", "--site", str(folder.path), "--json"])
    assert json.loads(result.stdout) == {"stopped": False}


@pytest.mark.parametrize("address", [":1", "nonsense"])
def test_a_wrong_health_address_is_refused_before_anything_starts(folder, address):
    folder.joined.mkdir()
    (folder.joined / "kit.json").write_text('{"site": "a", "study": "s", "address": "h:1"}')
    folder.policy.write_text("")
    folder.approved.mkdir()
    (folder.approved / "x.toml").write_text("")
    result = CliRunner().invoke(app, ["start", "--site", str(folder.path), "--health", address])
    assert result.exit_code != 0
    assert result.exception.code == 2
    assert not folder.log.exists()
