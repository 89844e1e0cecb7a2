"""Enrolment by hand: every command of both sides that needs no running federation, as the guides give them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = (sys.executable, "-m", "f2b_server.cli")
CLIENT = (sys.executable, "-m", "f2b_client.cli")
DIGEST = "0" * 64


def run(*command: str, expect: int = 0) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study folder at the centre and one hospital's folder, enrolled with the commands of the guides."""
    root = tmp_path_factory.mktemp("enrolment")
    study, site, kit = root / "study", root / "north", root / "north.kit.zip"
    names = ("--name", "By hand", "--question", "Does it hold?", "--site", "north", "--site", "south")
    run(*SERVER, "study", "new", str(study), *names, "--trunk-name", "random", "--trunk-digest", DIGEST)
    run(*SERVER, "study", "check", str(study))
    run(*SERVER, "enrol", str(study), "north", "--address", "127.0.0.1:8443", "--out", str(kit))
    run(*CLIENT, "join", str(kit), "--site", str(site))
    run(*SERVER, "admit", str(study), "north", str(site / "keys" / "node.pub"))
    return study, site


def test_both_sides_read_the_same_fingerprint(enrolled: tuple[Path, Path], tmp_path: Path) -> None:
    study, site = enrolled
    at_the_centre = json.loads(run(*SERVER, "roster", str(study), "--json"))[0]["fingerprint"]
    kit = tmp_path / "again.zip"
    run(*SERVER, "enrol", str(study), "north", "--address", "127.0.0.1:8443", "--out", str(kit))
    at_the_site = json.loads(run(*CLIENT, "join", str(kit), "--site", str(site), "--json"))["fingerprint"]
    assert at_the_centre == at_the_site
    assert at_the_centre in run(*SERVER, "roster", str(study))


def test_approving_says_in_plain_words_what_leaves_and_can_be_taken_back(enrolled: tuple[Path, Path]) -> None:
    _, site = enrolled
    joined = str(site / "joined" / "study.toml")
    said = run(*CLIENT, "approve", joined, "--site", str(site))
    assert "What leaves, and nothing else" in said
    assert "NOT differentially private" in said
    assert "taken back" in run(*CLIENT, "approve", joined, "--site", str(site), "--revoke")
    assert "No study is approved" in run(*CLIENT, "start", "--site", str(site), expect=20)
    approved = json.loads(run(*CLIENT, "approve", joined, "--site", str(site), "--json"))
    revoked = run(*CLIENT, "approve", joined, "--site", str(site), "--revoke", "--json")
    assert json.loads(revoked) == {"revoked": approved["hash"]}


def test_a_policy_can_be_tried_before_it_is_in_force(enrolled: tuple[Path, Path], tmp_path: Path) -> None:
    _, site = enrolled
    run(*CLIENT, "approve", str(site / "joined" / "study.toml"), "--site", str(site))
    stricter = tmp_path / "stricter.toml"
    text = (site / "policy.toml").read_text(encoding="utf-8")
    stricter.write_text(text.replace("max_rounds = 200", "max_rounds = 3"), encoding="utf-8")
    assert "Nothing was asked of this site yet" in run(*CLIENT, "policy", "check", "--site", str(site))
    said = run(*CLIENT, "policy", "check", "--policy", str(stricter), "--site", str(site))
    assert "rounds after 3 will be refused" in " ".join(said.split())
    tried = json.loads(run(*CLIENT, "policy", "check", "--site", str(site), "--json"))
    assert tried == {"ahead": [], "requests": []}
    assert "typo.toml" in run(
        *CLIENT, "policy", "check", "--policy", "typo.toml", "--site", str(site), expect=12
    )


def test_status_and_stop_of_a_client_that_never_ran(enrolled: tuple[Path, Path]) -> None:
    _, site = enrolled
    assert "not yet" in run(*CLIENT, "status", "--site", str(site))
    assert json.loads(run(*CLIENT, "status", "--site", str(site), "--json"))["last_sent"] is None
    assert "not running" in run(*CLIENT, "stop", "--site", str(site))


def test_a_report_before_anything_was_prepared_or_evaluated_says_what_to_do_first(
    enrolled: tuple[Path, Path],
) -> None:
    study, site = enrolled
    run(*CLIENT, "approve", str(site / "joined" / "study.toml"), "--site", str(site), "--json")
    assert "f2b-client prepare" in run(*CLIENT, "report", "--site", str(site), expect=32)
    assert "f2b-server train" in run(*SERVER, "report", str(study), expect=10)


def test_a_key_file_that_does_not_exist_is_named(enrolled: tuple[Path, Path]) -> None:
    study, _ = enrolled
    assert "nowhere.pub" in run(*SERVER, "admit", str(study), "south", "nowhere.pub", expect=2)


def test_weights_commands_name_what_is_there_and_what_is_wrong(tmp_path: Path) -> None:
    shown = json.loads(run(*CLIENT, "weights", "show", "--in", str(tmp_path), "--json"))
    assert shown["trunk"] == "random"
    assert shown["background"] == "ellipse-only"
    odd = tmp_path / "odd.pb"
    odd.write_bytes(b"not weights")
    assert "SHA-256" in run(*CLIENT, "weights", "add", str(odd), "--into", str(tmp_path), expect=11)
    assert "one of the two" in run(*CLIENT, "weights", "add", expect=2)


def test_failures_as_json_carry_number_sentence_and_mend(tmp_path: Path) -> None:
    said = run(*CLIENT, "prepare", "--site", str(tmp_path), "--json", expect=12)
    answer = json.loads(said[: said.rindex("}") + 1])
    assert answer["error"] == 12
    assert "site.toml" in answer["what"]
