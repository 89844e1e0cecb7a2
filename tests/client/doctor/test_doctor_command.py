"""The doctor as a whole: every check gets its turn, whatever another does; the worst finding is the exit code."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from f2b_client.cli import app
from f2b_client.commands.checks import _error_of
from f2b_client.doctor.finding import Finding, Verdict
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.doctor.run import (
    DEADLINES,
    Examined,
    Group,
    changes,
    checks_of,
    examine,
    name_of,
    run_check,
    sentence,
    worst,
)
from f2b_client.doctor.table import findings_table, watch_view
from f2b_client.join import POLICY_TEMPLATE, SITE_TEMPLATE
from f2b_client.keys import make_keys
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import (
    DoctorFailureError,
    DoctorWarningError,
    SettingsError,
    UsageError,
)

ROOT = Path(__file__).parents[3]
CHECKS = "client/f2b_client/doctor"
CLIENT = [sys.executable, "-m", "f2b_client.cli"]
GOOD = passed("a", "All is well.")
ODD = warned("b", "Something is odd [in brackets].", "site.toml", "Look at it.")
BAD = failed("c", "It is broken.", "photos/x.jpg", "Mend it.")


@pytest.fixture
def folder(tmp_path):
    """A site that has made its keys and not joined."""
    site = SiteFolder(tmp_path / "site")
    site.path.mkdir()
    site.state.mkdir()
    make_keys(site)
    site.settings.write_text(SITE_TEMPLATE.format(site="harbour"), encoding="utf-8")
    site.policy.write_text(POLICY_TEMPLATE, encoding="utf-8")
    return site


def seen(*findings, group=Group.MACHINE):
    return tuple(Examined(group=group, finding=finding) for finding in findings)


# Running checks


def check_that_breaks(_):
    yield GOOD
    raise ZeroDivisionError("division by zero")


def check_that_hangs(_):
    yield ODD
    time.sleep(20)
    yield BAD


def check_of_damaged_settings(_):
    raise SettingsError("site.toml is damaged.", "Correct it.")


def test_a_check_that_breaks_is_a_finding_of_its_own_and_keeps_what_it_found(folder):
    first, broken = run_check(check_that_breaks, folder, seconds=5)
    assert first == GOOD
    assert broken.verdict is Verdict.FAIL
    assert "'that breaks' broke, a fault of ours: ZeroDivisionError: division by zero" in broken.what
    assert "report this" in broken.mend


def test_a_check_that_hangs_ends_at_its_deadline_and_keeps_what_it_found(folder):
    began = time.monotonic()
    first, late = run_check(check_that_hangs, folder, seconds=0.3)
    assert time.monotonic() - began < 3
    assert first == ODD
    assert "did not finish within 0.3 s" in late.what


def test_a_time_out_inside_a_check_is_not_taken_for_its_deadline(folder):
    def check_of_something(_):
        raise TimeoutError("of its own")

    (finding,) = run_check(check_of_something, folder, seconds=5)
    assert "a fault of ours: TimeoutError: of its own" in finding.what


def test_a_numbered_error_keeps_its_sentence_and_its_mend(folder):
    (finding,) = run_check(check_of_damaged_settings, folder, seconds=5)
    assert (finding.verdict, finding.what, finding.mend) == (
        Verdict.FAIL,
        "site.toml is damaged.",
        "Correct it.",
    )


def test_one_bad_check_does_not_stop_the_others(folder, monkeypatch):
    checks = (check_that_breaks, check_of_damaged_settings, lambda _: [BAD, GOOD])
    monkeypatch.setattr("f2b_client.doctor.machine.MACHINE_CHECKS", checks)
    told = []
    found = examine(folder, (Group.MACHINE,), lambda group, check: told.append((group, check)))
    assert [one.finding.verdict.value for one in found] == ["pass", "fail", "fail", "fail", "pass"]
    assert [name for _, name in told] == ["that breaks", "of damaged settings", "<lambda>"]


@pytest.mark.parametrize("group", Group)
def test_every_group_has_checks_with_a_name_and_a_deadline(group):
    checks = checks_of(group)
    names = [name_of(check) for check in checks]
    assert checks
    assert len(set(names)) == len(names)
    assert DEADLINES[group] > 0


# Saying it


@pytest.mark.parametrize(
    ("findings", "verdict", "said"),
    [
        ((), Verdict.PASS, "0 checks passed."),
        ((GOOD,), Verdict.PASS, "1 check passed."),
        ((GOOD, ODD, GOOD), Verdict.WARN, "1 check warned, 2 passed."),
        ((BAD, ODD, BAD, GOOD), Verdict.FAIL, "2 checks failed, 1 warned, 1 passed."),
        ((BAD,), Verdict.FAIL, "1 check failed, 0 passed."),
    ],
)
def test_the_worst_finding_decides_and_a_sentence_counts(findings, verdict, said):
    assert worst(seen(*findings)) is verdict
    assert sentence(seen(*findings)) == said
    error = _error_of(seen(*findings))
    assert (
        type(error) is {"pass": type(None), "warn": DoctorWarningError, "fail": DoctorFailureError}[verdict]
    )


def test_what_changed_is_said_by_check():
    before = seen(failed("dns", "no", "", "m"), GOOD, warned("clock", "off", "", "m"))
    after = seen(passed("dns", "yes"), GOOD, passed("new", "here"))
    assert changes(before, after) == [
        "machine clock: warn → gone",
        "machine dns: fail → pass",
        "machine new: new → pass",
    ]
    assert changes(after, after) == []


def drawn(renderable):
    console = Console(width=110, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    console.print(renderable)
    return console.export_text()


def test_the_table_shows_what_needs_a_person_and_counts_the_rest():
    found = (*seen(GOOD, ODD, GOOD), *seen(BAD, GOOD, group=Group.DATA))
    text = drawn(findings_table(found, show_all=False))
    for words in (
        "machine b",
        "odd [in brackets].",
        "→ Look at it.",
        "photos/x.jpg",
        "2 checks passed",
        "1 check passed",
    ):
        assert words in text
    assert "All is well" not in text
    assert drawn(findings_table(found, show_all=True)).count("All is well.") == 3


def test_the_view_of_watch_says_what_changed_and_what_goes_on():
    text = drawn(
        watch_view(findings_table(seen(BAD), show_all=False), ["data c: pass → fail"], "looking at data")
    )
    assert "changed: data c: pass → fail" in text
    assert text.rstrip().endswith("looking at data")


def test_the_page_of_the_doctor_lists_every_check_of_network_and_machine():
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"(?m)^\| `([a-z][a-z-]+)` \|", page))
    files = [path for kind in ("network", "machine") for path in (ROOT / CHECKS).glob(f"{kind}*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    made = set(re.findall(r'\b(?:passed|warned|failed|blocked|say)\(\s*"([a-z-]+)"', text))
    assert len(made) > 35
    assert listed == made


# The command


def doctor(*words, expect):
    result = CliRunner().invoke(app, ["doctor", *map(str, words)])
    if expect is None:
        assert result.exit_code == 0, result.output
    else:
        assert isinstance(result.exception, expect), (result.output, result.exception)
    return result


@pytest.fixture
def checks(monkeypatch):
    def seed(*findings):
        monkeypatch.setattr("f2b_client.doctor.machine.MACHINE_CHECKS", (lambda _: list(findings),))

    return seed


def test_all_well_is_exit_0(folder, checks):
    checks(GOOD)
    assert "1 check passed." in doctor("--site", folder.path, "--only", "machine", expect=None).output


def test_a_warning_and_a_failure_have_numbers_of_their_own(folder, checks):
    checks(GOOD, ODD)
    doctor("--site", folder.path, "--only", "machine", expect=DoctorWarningError)
    checks(GOOD, ODD, BAD)
    result = doctor("--site", folder.path, "--only", "machine", expect=DoctorFailureError)
    assert str(result.exception) == (
        "1 check failed, 1 warned, 1 passed. Mend what failed, then run `f2b-client doctor` again."
    )


def test_a_folder_that_is_none_and_options_that_do_not_go_together_are_refused(folder, tmp_path):
    doctor("--site", tmp_path / "nothing", expect=UsageError)
    doctor("--site", folder.path, "--watch", "--json", expect=UsageError)


def test_json_is_one_document_and_the_exit_code_the_worst(folder):
    """The real command on a site that has not joined, with the real checks of network and machine."""
    command = [
        *CLIENT,
        "doctor",
        "--site",
        str(folder.path),
        "--json",
        "--only",
        "network",
        "--only",
        "machine",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == DoctorFailureError.code, done.stderr
    said = json.loads(done.stdout)
    assert (said["verdict"], said["exit"]) == ("fail", 51)
    assert said["what"].startswith("1 check failed, ")
    assert {finding["group"] for finding in said["findings"]} == {"network", "machine"}
    assert all(set(f) == {"group", *Finding.__dataclass_fields__} for f in said["findings"])
    (joined,) = [f for f in said["findings"] if f["verdict"] == "fail"]
    assert joined["check"] == "joined"


def test_watching_says_what_changed_and_ends_with_the_last_look(folder):
    """The real command in a terminal: a fault is mended while it watches, then Ctrl-C."""
    key = folder.keys / "node"
    key.chmod(0o644)
    command = [*CLIENT, "doctor", "--site", str(folder.path), "--watch", "--every", "1", "--only", "machine"]
    terminal, inside = pty.openpty()
    environment = {**os.environ, "COLUMNS": "140", "LINES": "60", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=inside, stderr=inside, stdin=inside, env=environment)
    os.close(inside)
    try:
        read_until(terminal, "Ctrl-C ends")
        key.chmod(0o600)
        read_until(terminal, "key-permissions: fail → gone")
        process.send_signal(signal.SIGINT)
        rest = read_until(terminal, "error 50")
        assert process.wait(timeout=30) == DoctorWarningError.code, rest  # no weights here: a warning
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def read_until(terminal, words, seconds=90):
    text, end = "", time.monotonic() + seconds
    while words not in text:
        assert time.monotonic() < end, text
        if select.select([terminal], [], [], 0.5)[0]:
            text += os.read(terminal, 65_536).decode(errors="replace")
    return text
