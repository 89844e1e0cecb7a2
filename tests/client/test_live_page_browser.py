"""The live pages in a real browser, headless Chromium: they load, follow what happens, and fit phone and desktop."""

import time

import numpy as np
import pytest
from browser import BROWSER, POLICY_ISSUE, TOO_WIDE, browser, new_tab
from subjects import measured

from f2b_client.approval import approve
from f2b_client.egress import Gate
from f2b_client.keys import make_keys
from f2b_client.settings import SiteFolder, load_policy
from f2b_client.site_lock import only_one
from f2b_client.state import State, write_state
from f2b_client.web.server import live_pages
from face2bone_model.contract.keys import Phase
from face2bone_model.contract.request import Request
from face2bone_model.metrics.description import describe_update
from face2bone_model.system.files import write_atomic, write_json

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")

STUDY = """
name = "Bones of a very long coast with an unreasonably-long-and-unbreakable-name-for-a-phone"
question = "Does a face tell bone status?"
sites = ["harbour", "hilltop"]
trunk_name = "random"
trunk_digest = "t"
[evaluation]
min_cell = 1
"""
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as socket:
        yield socket


@pytest.fixture
def tab(chromium):
    with new_tab(chromium) as page:
        yield page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A hospital that sent its counts and refused something."""
    folder = SiteFolder(tmp_path_factory.mktemp("hospital") / "site")
    make_keys(folder)
    kit = {"site": "harbour", "study": "Bones", "address": "centre.example:8443"}
    write_json(folder.joined / "kit.json", kit)
    write_atomic(folder.policy, b"[release]\nmin_cell = 1\n")
    write_atomic(folder.joined / "study.toml", STUDY.encode())
    write_atomic(folder.reports / "contact-sheet.html", b"<style>p { color: red }</style><p>Faces")
    study = approve(folder, folder.joined / "study.toml", load_policy(folder)).study
    gate = Gate(folder, "harbour", load_policy(folder), "centre.example:8443")
    statistics = describe_update(
        study.evaluation,
        labels=np.arange(90) % 3,
        splits=np.repeat(["train", "validation", "test"], 30),
        female=np.arange(90) % 2 == 0,
        ages=45 + np.arange(90) // 2,
        excluded_patients=0,
        quarantined_photos=0,
    )
    request = Request(study_hash=study.hash(), phase=Phase.DESCRIBE, round=0, signature_digest="s")
    about = measured(statistics, np.arange(90) % 3)
    gate.release_statistics(request, about, study=study)
    gate.release_error(request, "d" * 64, 31)
    with only_one(folder):
        yield folder


@pytest.fixture(scope="module")
def url(folder):
    with live_pages(folder) as address:
        yield address


def rounds(folder, done):
    write_state(folder, "supervisor", State(doing="connected", since=time.time()))
    state = State(doing="training", detail=f"round {done} of 8", done=done, total=8, since=time.time())
    write_state(folder, "executor", state)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_loads_without_a_complaint_and_fits_its_screen(tab, folder, url, width):
    rounds(folder, 1)
    tab.open(url, width=width)
    tab.wait("document.getElementById('link').textContent === 'Live'")
    pages = (None, "a[href$='/receipts']", "a[href$='/receipts/1']", "a[rel='next']")
    for link in pages:
        if link:
            tab.follow(link)
        shown, screen = tab.value("[document.documentElement.scrollWidth, window.innerWidth]")
        assert shown <= screen == width, f"{link}: {shown} pixels wide"
        assert tab.value(TOO_WIDE) == []
    assert "Refused, number 31 left" in tab.text()
    assert tab.complaints == []


def test_the_page_follows_what_the_client_does_without_being_loaded_again(tab, folder, url):
    rounds(folder, 2)
    tab.open(url)
    tab.wait("document.body.innerText.includes('Round 2 of 8')")
    tab.value("window.kept = true, document.querySelector('details.processes').open = true")
    rounds(folder, 3)
    tab.wait("document.body.innerText.includes('Round 3 of 8')")
    assert tab.value("document.querySelector('progress').value") == 3
    assert tab.value("window.kept && document.querySelector('details.processes').open")
    write_state(folder, "executor", State(doing="waiting", since=time.time()))
    tab.wait("document.querySelector('h1').textContent === 'Waiting for the coordinating centre'")
    assert tab.complaints == []


def test_a_new_release_appears_by_itself(tab, folder, url):
    tab.open(url)
    tab.wait("document.querySelectorAll('.receipts tbody tr').length >= 2")
    before = tab.value("document.querySelectorAll('.receipts tbody tr').length")
    Gate(folder, "harbour", load_policy(folder)).release_error(None, "e" * 64, 23)
    tab.wait(f"document.querySelectorAll('.receipts tbody tr').length === {before + 1}")
    assert "number 23 left" in tab.value("document.querySelector('.receipts tbody tr').innerText")


def test_nothing_is_loaded_from_elsewhere_and_the_token_is_not_kept_in_the_address(tab, url):
    tab.open(url)
    tab.wait("document.getElementById('link').textContent === 'Live'")
    own = url.partition("/?")[0]
    assert len(tab.asked) >= 5
    assert all(one.startswith(own) for one in tab.asked)
    assert "token" not in tab.value("location.href")
    assert tab.value("document.cookie") == ""


def test_a_script_that_slipped_into_a_page_would_not_run(tab, url):
    tab.open(url)
    tab.wait("document.getElementById('link').textContent === 'Live'")
    tab.value(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hurt = 1\">');"
        "const s = document.createElement('script'); s.textContent = 'window.hurt = 1'; document.body.append(s)"
    )
    tab.wait("true")
    assert tab.value("window.hurt === undefined")
    assert any(POLICY_ISSUE in one for one in tab.complaints)


def test_the_contact_sheet_opens_with_its_own_style(tab, folder, url):
    write_json(
        folder.cache / "preparation.json",
        {"photos": 3, "usable": 3, "patients": 3, "quarantined": {}, "left_out": {}, "background": "u2netp"},
    )
    tab.open(url)
    assert "SHOWS FACES" in tab.text().upper()
    tab.follow("a[href$='contact-sheet.html']")
    assert tab.value("getComputedStyle(document.querySelector('p')).color") == "rgb(255, 0, 0)"
    assert tab.complaints == []


def test_a_page_whose_client_ended_says_that_it_is_no_longer_live(tab, folder):
    with live_pages(folder) as address:
        tab.open(address)
        tab.wait("document.getElementById('link').textContent === 'Live'")
    tab.wait("!document.getElementById('lost').hidden")
    assert "no longer answers" in tab.text()
    assert "What left this hospital" in tab.text()


def test_without_script_everything_can_still_be_read(tab, folder, url):
    rounds(folder, 5)
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(url)
    text = tab.text()
    assert "Round 5 of 8" in text
    assert "Reload to see what is new." in text
    assert "What this hospital approved" in text
