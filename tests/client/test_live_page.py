"""The live pages without a browser: who gets in, what is shown, and that the shown numbers are those that left."""

import hashlib
import json
import math
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from html import unescape

import httpx
import numpy as np
import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from subjects import measured, subject_of

from f2b_client.approval import approve
from f2b_client.egress import Gate
from f2b_client.keys import make_keys
from f2b_client.local_results import keep_round, load_rounds
from f2b_client.prepare import PreparationReport
from f2b_client.receipts import read_receipts
from f2b_client.settings import SiteFolder, load_policy
from f2b_client.site_lock import only_one
from f2b_client.state import State, write_state
from f2b_client.web.app import PER_PAGE
from f2b_client.web.figures import value_histogram
from f2b_client.web.now import what_happens
from f2b_client.web.server import live_pages
from f2b_client.web.stored import prepared_photos
from f2b_client.web.stored_replies import spendings
from f2b_client.web.table_words import table_words
from face2bone_model.contract.errors import UsageError, error_types
from face2bone_model.contract.keys import Phase
from face2bone_model.contract.payload import decode
from face2bone_model.contract.request import Request
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.contract.update import ModelSignature, Update
from face2bone_model.metrics.description import describe_schema, describe_update
from face2bone_model.metrics.evaluation import (
    evaluation_schema,
    evaluation_update,
    validation_schema,
    validation_update,
)
from face2bone_model.report.figures_privacy import BOTTOM, Charge, epsilon_curve
from face2bone_model.report.formats import epsilon
from face2bone_model.report.live.words import duration
from face2bone_model.report.plot_frame import TOP
from face2bone_model.system.files import write_atomic, write_json
from face2bone_model.training.privacy import DpSegment
from face2bone_model.training.train import TrainResult

STUDY = """
name = "Bones of the coast"
question = "Does a face tell bone status?"
sites = ["harbour", "hilltop"]
trunk_name = "random"
trunk_digest = "t"

[privacy]
required = true
epsilon = 6.0

[training]
rounds = 10
"""
POLICY = "[privacy]\nepsilon_limit = 8.0\n[release]\nmin_cell = 5\n"
SIGNATURE = ModelSignature((("weight", (60, 50)),), "t")
SEGMENT = DpSegment(noise_multiplier=2.0, sample_rate=0.2, steps=4)
ROUNDS = 3


@dataclass(frozen=True)
class Site:
    """A hospital's folder as the client's own parts wrote it."""

    folder: SiteFolder
    study_hash: str
    gate: Gate

    def ask(self, phase, number):
        vector = None if phase is Phase.DESCRIBE else np.zeros(SIGNATURE.size, np.float32)
        return Request(
            study_hash=self.study_hash,
            phase=phase,
            round=number,
            signature_digest=SIGNATURE.digest(),
            vector=vector,
        )


def joined_site(path):
    folder = SiteFolder(path)
    make_keys(folder)
    write_json(
        folder.joined / "kit.json",
        {"site": "harbour", "study": "Bones of the coast", "address": "centre.example:8443"},
    )
    write_atomic(folder.policy, POLICY.encode())
    write_atomic(folder.joined / "study.toml", STUDY.encode())
    return folder


def working_site(path):
    """Prepared, three private rounds trained, one refused, evaluated."""
    folder = joined_site(path)
    policy = load_policy(folder)
    study = approve(folder, folder.joined / "study.toml", policy).study
    site = Site(folder, study.hash(), Gate(folder, "harbour", policy, "centre.example:8443"))
    write_preparation(folder)
    rng = np.random.default_rng(3)
    labels, female, ages = rng.integers(0, 3, 400), rng.random(400) < 0.7, rng.integers(45, 90, 400)
    describe = describe_update(
        study.evaluation,
        labels=labels,
        splits=np.repeat(["train", "validation", "test"], [200, 100, 100]),
        female=female,
        ages=ages,
        excluded_patients=9,
        quarantined_photos=7,
    )
    splits = np.repeat(["train", "validation", "test"], [200, 100, 100])
    facts = {"splits": splits, "female": female, "ages": ages}
    site.gate.release_statistics(
        site.ask(Phase.DESCRIBE, 0),
        measured(describe, labels, **facts),
        study=study,
    )
    for number in range(1, ROUNDS + 1):
        release_round(site, study, rng, labels[200:300], number, subject_of(labels, "validation", **facts))
    site.gate.again(site.ask(Phase.TRAIN, 1))
    site.gate.release_error(site.ask(Phase.TRAIN, 4), "d" * 64, 31)
    odds = np.exp(rng.normal(size=(100, 3)) + 1.5 * np.eye(3)[labels[300:]])
    scores = odds / odds.sum(axis=1, keepdims=True)
    sums = evaluation_update(study.evaluation, scores, labels[300:], female[300:], ages[300:])
    site.gate.release_statistics(
        site.ask(Phase.EVALUATE, 3),
        measured(sums, labels, "test", **facts),
        study=study,
    )
    return site


def write_preparation(folder):
    report = PreparationReport(
        site="harbour",
        photos=420,
        usable=413,
        reused=0,
        quarantined={"too_dark": 4, "no_face": 3},
        patients=400,
        left_out={"no usable photo": 9},
        background="u2netp",
        settings_digest="s",
        trunk_digest="t",
        seconds=12.0,
    )
    write_json(folder.cache / "preparation.json", asdict(report))
    return report


def release_round(site, study, rng, labels, number, subject):
    odds = np.exp(rng.normal(size=(len(labels), 3)) + 0.4 * number * np.eye(3)[labels])
    update = Update(
        vector=(rng.standard_t(4, SIGNATURE.size) * 0.05).astype(np.float32),
        num_patients=200,
        train_loss=0.0,
        epsilon=0.0,
        delta=0.0,
        noise_multiplier=2.0,
        validation=validation_update(study.evaluation, odds / odds.sum(axis=1, keepdims=True), labels),
    )
    site.gate.release_update(
        site.ask(Phase.TRAIN, number),
        update,
        subject=subject,
        study=study,
        signature=SIGNATURE,
        segment=SEGMENT,
    )
    result = TrainResult(train_loss=0.0, epochs=0, num_patients=200, segment=SEGMENT)
    spent = site.gate.ledger.spent(1e-5)
    keep_round(site.folder, site.ask(Phase.TRAIN, number), result, seconds=31.0 + number, epsilon_after=spent)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return working_site(tmp_path_factory.mktemp("hospital") / "site")


@pytest.fixture
def site(finished, tmp_path):
    """A copy to spoil."""
    folder = SiteFolder(tmp_path / "site")
    shutil.copytree(finished.folder.path, folder.path)
    return Site(
        folder, finished.study_hash, Gate(folder, "harbour", load_policy(folder), "centre.example:8443")
    )


@pytest.fixture(scope="module")
def served(finished):
    with live_pages(finished.folder) as url:
        yield url


@contextmanager
def visitor(url):
    """Someone who opened the printed address; paths are below the pages."""
    with httpx.Client(follow_redirects=True, timeout=60, trust_env=False) as client:
        room = str(client.get(url).url)
        client.base_url = room
        yield client


def words(page):
    """What a reader sees of a page."""
    text = page if isinstance(page, str) else page.text
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def seen(folder, path=""):
    """The words of one page, served for it alone."""
    with live_pages(folder) as url, visitor(url) as client:
        return words(client.get(path))


def raw(url, path, *, cookie="", host="", method="GET"):
    """A request as written here: no client tidies its path."""
    port = httpx.URL(url).port
    lines = (f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", "Connection: close")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        cookies = f"Cookie: {cookie}\r\n" if cookie else ""
        connection.sendall(("\r\n".join(lines) + "\r\n" + cookies + "\r\n").encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return int(answer.split()[1]), answer.decode("utf-8", "replace")


def entry(url):
    """The room and the cookie that the token gives."""
    answer = httpx.get(url, follow_redirects=False, trust_env=False)
    return answer.headers["location"], answer.headers["set-cookie"].split(";")[0]


# Who gets in


def test_the_address_gives_a_cookie_that_scripts_other_sites_and_other_ports_never_get(served):
    answer = httpx.get(served, follow_redirects=False, trust_env=False)
    cookie, room = answer.headers["set-cookie"], answer.headers["location"]
    assert answer.status_code == 303
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert f"Path={room}" in cookie
    assert len(room) > 24
    assert "token" not in room


def test_without_token_or_cookie_nothing_is_shown(served, finished):
    room, cookie = entry(served)
    for path, sent in (
        ("/", ""),
        ("/?token=", ""),
        ("/?token=wrong", ""),
        ("/?token=%ff", ""),
        (room, ""),
        (room, "f2b_page=wrong"),
        (f"{room}report/contact-sheet.html", ""),
        (f"{room}static/live.css", ""),
        ("/", cookie),
        ("/report/site.html", cookie),
    ):
        status, answer = raw(served, path, cookie=sent)
        assert status == 403, path
        assert "harbour" not in answer
    assert raw(served, room, cookie=cookie)[0] == 200


def test_two_starts_share_no_secret(finished):
    with live_pages(finished.folder) as first, live_pages(finished.folder) as second:
        room, cookie = entry(first)
        assert raw(second, room, cookie=cookie)[0] == 403
        assert not {*re.split("[/=:]", first)} & {*re.split("[/=:]", second)} - {
            "http",
            "",
            "127.0.0.1",
            "?token",
        }


def test_a_page_under_a_foreign_name_is_refused_so_rebinding_dns_helps_nobody(served):
    room, cookie = entry(served)
    port = httpx.URL(served).port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "10.0.0.1", "[::1]"):
        status, answer = raw(served, room, cookie=cookie, host=host or " ")
        assert status in (400, 403), host
        assert "harbour" not in answer
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", "localhost:8080"):
        assert raw(served, room, cookie=cookie, host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_the_pages_can_only_be_read(served, method):
    room, cookie = entry(served)
    assert raw(served, room, cookie=cookie, method=method)[0] == 405


def test_every_answer_forbids_scripts_of_others_caching_referrers_and_frames(served):
    with visitor(served) as client:
        for path in ("", "receipts", "receipts/4", "sections.json", "static/live.js", "nowhere"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["cache-control"] == "no-store"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["x-content-type-options"] == "nosniff"
        for path in ("", "receipts", "receipts/4"):
            page = client.get(path).text
            assert not re.search(r"<script(?![^>]*src=)", page)
            assert not re.search(r"<[^>]+ (?:style|on[a-z]+)=", page)
            links = re.findall(r'(?:src|href)="([^"]*)"', page)
            assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in links)


def test_only_loopback_is_listened_on(served):
    port = httpx.URL(served).port
    listening = [
        c for c in psutil.Process().net_connections("inet") if c.status == "LISTEN" and c.laddr.port == port
    ]
    assert [connection.laddr.ip for connection in listening] == ["127.0.0.1"]


def test_the_address_lies_in_a_file_of_the_owner_only_while_the_pages_are_served(site):
    path = site.folder.state / "page.url"
    with live_pages(site.folder) as url:
        assert path.read_text().strip() == url
        assert path.stat().st_mode & 0o077 == 0
    assert not path.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_a_port_that_is_taken_is_named(served, finished):
    port = httpx.URL(served).port
    with pytest.raises(UsageError, match=f"Port {port} .*--port"), live_pages(finished.folder, port):
        pass
    with pytest.raises(UsageError, match="Port 70000"), live_pages(finished.folder, 70000):
        pass


def test_no_path_leads_out_of_the_few_files_that_are_served(site):
    secret = (site.folder.keys / "node").read_text()
    (site.folder.reports).mkdir()
    (site.folder.reports / "other.html").write_text(secret)
    (site.folder.reports / "site.html").write_text("the report")
    with live_pages(site.folder) as url:
        room, cookie = entry(url)
        for path in (
            "report/other.html",
            "report/../keys/node",
            "report/%2e%2e%2fkeys%2fnode",
            "report/..%2f..%2fetc%2fpasswd",
            "report//etc/passwd",
            "static/../door.py",
            "static/%2e%2e/app.py",
            "receipts/1/../../../keys/node",
            "receipts/-1",
            "receipts/99999999999999999999",
            "receipts/6/reply.safetensors",
            "keys/node",
            "report/site.html%00.json",
        ):
            status, answer = raw(url, f"{room}{path}", cookie=cookie)
            assert status in (400, 404), path
            assert "PRIVATE KEY" not in answer
            assert "root:" not in answer
            assert "import " not in answer
        assert "the report" in raw(url, f"{room}report/site.html", cookie=cookie)[1]


def test_written_reports_may_show_their_pictures_and_run_no_script(site):
    site.folder.reports.mkdir()
    (site.folder.reports / "contact-sheet.html").write_text("<img src='data:image/jpeg;base64,AA=='>")
    with live_pages(site.folder) as url, visitor(url) as client:
        answer = client.get("report/contact-sheet.html")
        assert "script-src" not in answer.headers["content-security-policy"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "shows faces" in words(client.get(""))


# What is shown


def test_the_first_page_says_what_left_what_it_cost_and_what_was_approved(served):
    with visitor(served) as client:
        text = words(client.get(""))
    assert "Chain verified." in text
    assert "1 was a refusal: only the number of an error" in text
    assert "413 of 420 photos, 98 %, can be used" in text
    assert "too dark 4" in text
    assert "NOT differentially private" not in text
    assert "At most 20 MB leave at a time" in text
    assert "Validation AUC" in text
    assert "centre.example:8443" in text


def test_spent_and_left_are_the_accountants(served, finished):
    delta = 1e-5
    history = finished.gate.ledger.history(delta)
    told = spendings(finished.folder, "harbour", delta)
    assert [one.epsilon for one in told] == pytest.approx([one.epsilon for one in history], rel=1e-9)
    assert [one.round for one in told] == [1, 2, 3]
    with visitor(served) as client:
        text = words(client.get(""))
    assert f"Spent ε {history[-1].epsilon:.2f}" in text
    assert f"Left ε {6 - history[-1].epsilon:.2f}" in text


def test_a_charge_whose_reply_is_gone_is_still_counted(site):
    before = spendings(site.folder, "harbour", 1e-5)
    shutil.rmtree(site.folder.replies)
    assert [one.epsilon for one in spendings(site.folder, "harbour", 1e-5)] == pytest.approx(
        [one.epsilon for one in before]
    )
    stricter = spendings(site.folder, "harbour", 1e-6)
    assert all(strict.epsilon > one.epsilon for strict, one in zip(stricter, before, strict=True))


def test_a_receipt_shows_the_very_numbers_that_left(served, finished):
    receipts = read_receipts(finished.folder.receipts)
    with visitor(served) as client:
        for receipt in receipts:
            page = client.get(f"receipts/{receipt.number}")
            assert receipt.payload_digest in page.text
            if receipt.kind.startswith("error"):
                continue
            payload = client.get(f"receipts/{receipt.number}/reply.safetensors").content
            assert hashlib.sha256(payload).hexdigest() == receipt.payload_digest
            tensors, header = decode(payload)
            text = words(page)
            assert all(name in text for name in header)
            assert all(name.removeprefix("table/") in text for name in tensors if name.endswith("counts"))
        counts = decode(client.get("receipts/1/reply.safetensors").content)[0]["table/sex/classes/counts"]
        women = " ".join(map(str, counts[0]))
        assert f"Female {women}" in words(client.get("receipts/1"))
        vector = decode(client.get("receipts/4/reply.safetensors").content)[0]["vector"]
        text = words(client.get("receipts/4"))
        assert f"{np.linalg.norm(vector.astype(float)):.6g}" in text
        assert "  ".join(f"{value:.6g}" for value in vector[:5]) in unescape(client.get("receipts/4").text)


def test_every_number_of_a_large_table_is_listed(served):
    with visitor(served) as client:
        table = decode(client.get("receipts/7/reply.safetensors").content)[0]["table/age/pairs/sums"]
        text = words(client.get("receipts/7"))
    assert all(f"{value:.6g}" in text for value in table.ravel())


def test_a_table_with_a_small_cell_is_shown_as_withheld(served):
    with visitor(served) as client:
        tensors, _ = decode(client.get("receipts/7/reply.safetensors").content)
        text = words(client.get("receipts/7"))
    withheld = [name for name in tensors if name.endswith("/released") and not tensors[name].any()]
    assert withheld
    assert text.count("withheld: every number in it is 0") >= len(withheld)


def test_every_table_that_may_leave_is_explained():
    settings = EvaluationSettings()
    specs = (*describe_schema(settings), *validation_schema(settings), *evaluation_schema(settings))
    names = {spec.name for spec in specs if not spec.name.endswith("/released")}
    assert len(names) > 60
    assert [name for name in sorted(names) if not table_words(name).meaning] == []
    for spec in specs:
        columns = table_words(spec.name).columns
        assert not columns or spec.shape[-1] == len(columns), spec.name


def test_a_refusal_stands_out_with_what_its_number_means(served):
    with visitor(served) as client:
        listed, opened = client.get("receipts").text, words(client.get("receipts/6"))
    meaning = error_types()[31].__doc__.partition("\n")[0]
    assert len(re.findall(r'<tr class="refused">', listed)) == 1
    assert f"Refused, number 31 left. {meaning}" in words(listed)
    assert "The sentence that says why stayed here" in opened


def test_a_changed_reply_no_longer_passes_for_what_left(site):
    path = next(site.folder.replies.glob("*/train-001*"))
    payload = bytearray(path.read_bytes())
    payload[-1] ^= 1
    path.write_bytes(payload)
    assert "or were changed there since" in seen(site.folder, "receipts/2")


def test_a_changed_receipt_breaks_the_chain_for_all_to_see(site):
    with sqlite3.connect(site.folder.receipts) as connection:
        connection.execute(
            "UPDATE receipts SET body = replace(body, '\"round\":2', '\"round\":9') WHERE number = 3"
        )
    text = seen(site.folder)
    assert "Chain broken." in text
    assert "Chain verified." not in text


def test_receipts_that_were_deleted_are_missed(site):
    site.folder.receipts.unlink()
    assert "Chain broken." in seen(site.folder, "receipts")


def test_a_garbled_receipt_spoils_what_needs_it_and_says_so(site):
    with sqlite3.connect(site.folder.receipts) as connection:
        connection.execute("UPDATE receipts SET body = 'x' WHERE number = 3")
    with live_pages(site.folder) as url, visitor(url) as client:
        text = words(client.get(""))
        assert "Cannot be shown. Receipt 3 cannot be read: it was changed." in text
        assert "413 of 420 photos" in text
        answer = client.get("receipts")
        assert answer.status_code == 500
        assert "Receipt 3 cannot be read" in words(answer)


def test_a_damaged_policy_spoils_its_sections_only(site):
    site.folder.policy.write_text("[privacy\n")
    text = seen(site.folder)
    assert text.count("Cannot be shown. policy.toml") + text.count("is not valid TOML") >= 2
    assert "Chain verified." in text


def test_receipts_come_in_pages_the_newest_first(tmp_path):
    folder = joined_site(tmp_path / "site")
    gate = Gate(folder, "harbour", load_policy(folder))
    for _ in range(PER_PAGE + 3):
        gate.release_error(None, "d" * 64, 23)
    with live_pages(folder) as url, visitor(url) as client:
        numbers = {
            page: re.findall(r">Receipt (\d+)</a>", client.get(f"receipts?page={page}").text)
            for page in (1, 2)
        }
        assert [*numbers[1], *numbers[2]] == [str(number) for number in range(PER_PAGE + 3, 0, -1)]
        assert len(numbers[1]) == PER_PAGE
        for odd in ("0", "-1", "x", "²", "9" * 30):
            answer = client.get("receipts", params={"page": odd})
            assert answer.status_code == 200
            assert "Receipt " in answer.text


def test_an_empty_folder_is_told_in_sentences(tmp_path):
    with live_pages(SiteFolder(tmp_path / "new")) as url, visitor(url) as client:
        text = words(client.get(""))
        assert client.get("receipts/1").status_code == 404
    for sentence in (
        "The client has not run here yet",
        "Nothing has left this hospital.",
        "No photo has been prepared yet.",
        "No round has been trained here yet.",
        "Cannot be shown.",
    ):
        assert sentence in text


def test_without_differential_privacy_the_page_says_that_nothing_is_charged(tmp_path):
    folder = joined_site(tmp_path / "site")
    assert "No study is approved" in seen(folder)
    write_atomic(folder.joined / "open.toml", STUDY.replace("required = true", "").encode())
    approve(folder, folder.joined / "open.toml", load_policy(folder))
    text = seen(folder)
    assert "Differential privacy is off" in text
    assert "NOT differentially private" in text
    write_atomic(folder.policy, POLICY.replace("[privacy]", "[privacy]\nrequire_dp = true").encode())
    text = seen(folder)
    assert "Differential privacy is off" not in text
    assert "Nothing has been spent yet." in text


def test_rounds_without_privacy_show_their_loss_as_a_curve(tmp_path):
    folder = joined_site(tmp_path / "site")
    write_atomic(folder.joined / "open.toml", STUDY.replace("required = true", "").encode())
    approved = approve(folder, folder.joined / "open.toml", load_policy(folder))
    site = Site(folder, approved.study_hash, Gate(folder, "harbour", load_policy(folder)))
    for number, loss in enumerate((1.25, 0.75), start=1):
        result = TrainResult(train_loss=loss, epochs=2, num_patients=200, segment=None)
        keep_round(folder, site.ask(Phase.TRAIN, number), result, seconds=9.0, epsilon_after=0.0)
    text = seen(folder)
    assert "Training loss went from 1.250 in round 1 to 0.750 in round 2." in text
    assert "2 of 10 rounds." in text


def test_names_from_outside_cannot_become_markup(tmp_path):
    folder = joined_site(tmp_path / "site")
    hostile = STUDY.replace("Bones of the coast", "<script>alert(1)</script>").replace(
        "hilltop", "<img src=x>"
    )
    write_atomic(folder.joined / "hostile.toml", hostile.encode())
    approve(folder, folder.joined / "hostile.toml", load_policy(folder))
    write_state(folder, "supervisor", State(doing="<b>x</b>", detail="<i onclick=y>", since=time.time()))
    with only_one(folder), live_pages(folder) as url, visitor(url) as client:
        page = client.get("").text
        parts = "".join(client.get("sections.json").json().values())
    for text in (page, parts):
        assert "&lt;script&gt;alert(1)" in text
        assert not re.search(r"<script>|<img|<b>x|<i ", text)


# What the client is doing


def doing(folder, **states):
    for name, state in states.items():
        write_state(folder, name, state)
    return what_happens(folder)


def test_the_page_says_what_is_done_how_far_and_until_when(tmp_path):
    folder, now = joined_site(tmp_path / "site"), time.time()
    training = State(
        doing="training", detail="round 2 of 9", done=3, total=4, since=now - 200, deadline=now + 3700
    )
    with only_one(folder):
        happens = doing(folder, supervisor=State(doing="connected", since=now), executor=training)
        assert happens.headline == "Training on our patients"
        assert (happens.done, happens.total, happens.running) == (3, 4, True)
        assert "for 3\N{NO-BREAK SPACE}min" in happens.since
        assert "another 1\N{NO-BREAK SPACE}h 1\N{NO-BREAK SPACE}min" in happens.deadline
        late = doing(folder, executor=replace(training, deadline=now - 1))
        assert "deadline passed" in late.deadline
        preparing = doing(
            folder, supervisor=State(doing="preparing"), prepare=State(doing="preparing", done=1, total=9)
        )
        assert (preparing.headline, preparing.done) == ("Preparing photos", 1)


def test_a_lost_link_is_the_headline_of_an_idle_client_and_not_of_a_busy_one(tmp_path):
    folder, now = joined_site(tmp_path / "site"), time.time()
    down = State(doing="disconnected", detail="trying", since=now, at=now)
    with only_one(folder):
        idle = doing(folder, supervisor=State(doing="connected"), executor=State(doing="waiting"), link=down)
        assert idle.headline == "No answer from the coordinating centre"
        assert any(process.lost for process in idle.processes)
        busy = doing(folder, executor=State(doing="training", since=now))
        assert busy.headline == "Training on our patients"


def test_a_client_that_was_killed_is_not_said_to_be_training(tmp_path):
    folder = joined_site(tmp_path / "site")
    doing(folder, supervisor=State(doing="connected"), executor=State(doing="training"))
    for name in ("supervisor", "executor"):
        path = folder.state / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": 2**22 + 1}))
    happens = what_happens(folder)
    assert (happens.headline, happens.running, happens.deadline) == ("The client is not running", False, "")
    assert all(process.lost for process in happens.processes)


def test_what_preparation_and_training_wrote_is_read_as_they_wrote_it(finished, tmp_path):
    report = write_preparation(SiteFolder(tmp_path))
    found = prepared_photos(SiteFolder(tmp_path))
    assert asdict(found) == {name: getattr(report, name) for name in asdict(found)}
    rounds = load_rounds(finished.folder, finished.study_hash)
    kept = load_rounds(finished.folder, finished.study_hash)
    assert [vars(one) for one in rounds] == [vars(one) for one in kept]
    assert len(rounds) == ROUNDS
    assert load_rounds(finished.folder, "another") == ()


def test_moments_and_durations_read_as_people_say_them():
    assert [duration(seconds) for seconds in (-5, 8.4, 200, 4000, 200_000)] == [
        text.replace(" ", "\N{NO-BREAK SPACE}").replace("_", " ")
        for text in ("0 s", "8 s", "3 min", "1 h_6 min", "2 d_7 h")
    ]


# Figures


def a_charge(number, spent, study="coast"):
    return Charge(at=datetime(2026, 11, number, tzinfo=UTC), study=study, round=number, epsilon=spent)


@given(st.lists(st.floats(0.001, 50), min_size=1, max_size=30), st.floats(0.1, 60))
def test_the_curve_of_epsilon_stays_in_its_frame_and_ends_at_what_was_spent(steps, limit):
    spent = np.cumsum(steps)
    figure = epsilon_curve("e", [a_charge(1 + i % 28, float(s)) for i, s in enumerate(spent)], limit=limit)
    points = np.array(
        [
            [float(x) for x in pair.split(",")]
            for pair in re.search(r'd="M([^"Z]+)" class="curve"', figure.drawing).group(1).split()
        ]
    )
    assert (np.diff(points[:, 0]) >= 0).all()
    assert (np.diff(points[:, 1]) <= 0).all()
    assert points[:, 1].min() >= TOP
    assert points[:, 1].max() <= BOTTOM
    assert len(figure.numbers.rows) == len(steps)
    assert f"limit {epsilon(limit)}" in figure.drawing


def test_the_curve_of_epsilon_needs_a_charge_and_marks_where_another_study_begins():
    assert epsilon_curve("e", [], limit=8.0) is None
    figure = epsilon_curve("e", [a_charge(1, 1.0), a_charge(2, 2.0, "hills")], limit=math.inf)
    assert ">hills<" in figure.drawing
    assert "limit" not in figure.drawing


@given(hnp.arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e3, 1e3)))
@example(np.array([5e-324, 0.0]))
@example(np.array([1.0, 1.0 + 2**-52]))
def test_the_histogram_counts_every_number_once(values):
    rows = value_histogram("v", values).numbers.rows
    assert sum(int(number.replace("\N{NARROW NO-BREAK SPACE}", "")) for _, number in rows) == values.size


# As a command


def test_serving_a_private_site_loads_no_deep_learning_library(finished):
    script = (
        "import sys, httpx; from pathlib import Path; from f2b_client.settings import SiteFolder\n"
        "from f2b_client.web.server import live_pages\n"
        f"with live_pages(SiteFolder(Path({str(finished.folder.path)!r}))) as url:\n"
        "    client = httpx.Client(follow_redirects=True, timeout=60, trust_env=False)\n"
        "    assert 'Privacy spent' in client.get(url).text\n"
        "print(sorted({'torch', 'opacus', 'timm', 'flwr'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_report_serve_prints_the_address_and_ends_with_ctrl_c(tmp_path):
    folder = joined_site(tmp_path / "site")
    command = [
        sys.executable,
        "-m",
        "f2b_client.cli",
        "report",
        "--serve",
        "--json",
        "--site",
        str(folder.path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        answer = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        with visitor(answer["url"]) as client:
            assert "Nothing has left" in words(client.get(""))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
    assert not (folder.state / "page.url").exists()
