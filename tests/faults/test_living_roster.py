"""Hospitals come, go and are renewed while a study runs: no kit becomes invalid, no round is lost or repeated."""

import json
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from federation_runs import SERVER, run
from network_roster import ManySites
from small_federation import wait_for

from f2b_server.checkpoint import finished_rounds, load_history
from f2b_server.roster import roster
from f2b_server.wanted import read_wanted, want_run

NAMED_SECONDS = 10.0


def served_serial(many: ManySites) -> int:
    """The serial number of the certificate that a new handshake gets."""
    host, port = many.made.address.split(":")
    pem = ssl.get_server_certificate((host, int(port)), ca_certs=str(many.folder.ca / "ca.pem"), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until something was so."""
    began = time.monotonic()
    wait_for(condition, seconds, what)
    return time.monotonic() - began


def renew_all(many: ManySites) -> dict[str, float | int]:
    """`renew --all` while rounds go on: how long until new handshakes see the certificate, and who kept a connection."""
    before, old, kept = served_serial(many), roster(many.folder), {}
    ports = {site: many.ports(site) for site in (entry.site for entry in old)}
    done = run([*SERVER, "renew", str(many.folder.path), "--all", "--json"])
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["memberships"]) == set(ports)
    seen_after = until(lambda: served_serial(many) != before, 15, "the new certificate")
    certificates = {entry.site: entry.certificate for entry in roster(many.folder)}
    assert all(certificates[entry.site] != entry.certificate for entry in old)
    kept = {site: len(ports[site] & many.ports(site)) for site in ports}
    return {
        "seen_after_seconds": round(seen_after, 1),
        "sites": len(ports),
        "kept_a_connection": sum(map(bool, kept.values())),
    }


def revoke(many: ManySites, site: str) -> dict[str, float | str]:
    """Revoke a hospital in the middle of a round; how long until it is refused at the edge, and until that is told."""
    lines = len(many.refused())
    began = time.monotonic()
    done = run([*SERVER, "revoke", str(many.folder.path), site, "--reason", "left the study", "--json"])
    assert done.returncode == 0, done.stderr
    spoken = time.monotonic() - began

    def is_refused() -> bool:
        return any(line["site"] == site for line in many.refused()[lines:])

    wait_for(is_refused, 60, f"a refusal of {site}")
    line = next(line for line in many.refused()[lines:] if line["site"] == site)
    return {
        "site": site,
        "refused_after": round(time.monotonic() - began - spoken, 1),
        "status": line["status"],
        "why": line["why"],
        "source": line["source"],
    }


def run_roster_story(many: ManySites, revoked: tuple[str, ...]) -> dict[str, object]:
    """Enrol by file and by token, train, revoke some in the middle, renew all twice, go on to the end."""
    told: dict[str, object] = {}
    many.new_study()
    many.render()
    for site in many.sites:
        many.join(site)
    by_file, by_token = many.sites[::2], many.sites[1::2]
    for site in by_file:
        many.admit_by_file(site)
    with many.centre():
        wait_for(lambda: (many.folder.state / "nodes.json").exists(), 60, "the centre")
        told["tokens_seconds"] = round(
            sum(until(lambda: many.admit_by_token(site) is None, 60, "") for site in by_token), 1
        )
        assert [entry.site for entry in roster(many.folder)] == list(many.sites)
        with many.hospitals():
            everybody = set(many.sites)
            told["connected_seconds"] = round(
                until(lambda: many.connected() == everybody, 300, "all hospitals"), 1
            )
            want_run(many.folder)
            wait_for(lambda: finished_rounds(many.folder) >= 2, 300, "two rounds")
            told["revoked"] = [revoke(many, site) for site in revoked]
            told["round_of_the_revoking"] = finished_rounds(many.folder) + 1
            at = finished_rounds(many.folder)
            told["next_round_after_seconds"] = round(
                until(
                    lambda: finished_rounds(many.folder) >= at + 2, 3 * many.train_seconds, "the next rounds"
                ),
                1,
            )
            told["renewed"] = [renew_all(many)]
            at = finished_rounds(many.folder)
            wait_for(lambda: finished_rounds(many.folder) >= at + 2, 120, "rounds after renewing")
            told["renewed"].append(renew_all(many))  # type: ignore[attr-defined]
            assert finished_rounds(many.folder) < many.rounds, "the certificate was to be rotated mid-run"
            wait_for(lambda: read_wanted(many.folder).outcome is not None, 300, "the end")
            still = everybody - set(revoked)
            assert many.connected() >= still
            assert not many.connected() & set(revoked)
        told["kits"] = {site: many.try_kit(site) for site in many.sites}
    return told


def check_roster_story(many: ManySites, told: dict[str, object], revoked: tuple[str, ...]) -> None:
    outcome = read_wanted(many.folder).outcome
    assert outcome is not None
    assert outcome.phase == "finished", outcome
    history = load_history(many.folder)
    everybody, still = set(many.sites), set(many.sites) - set(revoked)
    told["contributions"] = [len(record.contributions) for record in history]
    told["asked_again"] = [
        (one["site"], one["question"]) for one in many.journal.events() if one["event"] == "asked-again"
    ]
    ends = sorted(mark.at for mark in many.journal.marks if mark.what == "record")
    told["seconds_of_rounds"] = [
        round(after - before, 1) for before, after in zip(ends, ends[1:], strict=False)
    ]
    sys.stderr.write("".join(f"\n  {name.replace('_', ' ')}: {value}" for name, value in told.items()) + "\n")
    assert [record.round for record in history] == list(range(1, many.rounds + 1))
    assert many.journal.rewritten == []
    assert all(set(history[number].contributions) == everybody for number in (0, 1))
    assert all(still <= set(record.contributions) for record in history)
    assert all(set(record.contributions) == still for record in history[-3:])
    assert {one for one in told["kits"] if told["kits"][one]} == set(revoked)  # type: ignore[index]
    for one in told["revoked"]:  # type: ignore[attr-defined]
        assert one["refused_after"] < NAMED_SECONDS
        assert (one["status"], one["why"], one["source"]) == (403, "membership revoked or ended", "127.0.0.1")
    for one in told["renewed"]:  # type: ignore[attr-defined]
        assert one["sites"] == one["kept_a_connection"] == len(still)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_twenty_sites_three_revoked_all_renewed_the_certificate_rotated_and_no_round_lost(
    tmp_path: Path,
) -> None:
    """Three hospitals train; seventeen have a real SuperNode and light answers."""
    real = tuple(f"hospital-{number:02d}" for number in (1, 2, 3))
    light = tuple(f"light-{number:02d}" for number in range(4, 21))
    many = ManySites(tmp_path / "many", real, light, rounds=16, train_seconds=40)
    revoked = (light[0], real[1], light[9])
    told = run_roster_story(many, revoked)
    check_roster_story(many, told, revoked)


def test_four_sites_one_revoked_all_renewed_the_certificate_rotated_and_no_round_lost(tmp_path: Path) -> None:
    """The same, small: light answers only."""
    light = tuple(f"light-{number:02d}" for number in range(1, 5))
    many = ManySites(tmp_path / "few", (), light, rounds=14, train_seconds=20)
    told = run_roster_story(many, light[1:2])
    check_roster_story(many, told, light[1:2])
