"""The federation over Flower's grid: each reply is matched to its site by the message it answers."""

import time

import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from f2b_server import app
from f2b_server.app import PAYLOAD, GridFederation

NODES = {"harbour": 11, "hilltop": 12, "riverside": 13}


class MemoryGrid(Grid):
    """Delivers a message to a function and gives its reply back, in the order the function wants."""

    def __init__(self, respond, present=(11, 12, 13)):
        self.respond, self.present, self.sent, self.replies = respond, present, [], []

    def set_run(self, run):
        raise AssertionError("not used")

    @property
    def run(self):
        raise AssertionError("not used")

    def create_message(self, *_, **__):
        raise AssertionError("deprecated")

    def send_and_receive(self, *_, **__):
        raise AssertionError("waits for ever")

    def get_node_ids(self):
        return list(self.present)

    def push_messages(self, messages):
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            self.sent.append(message)
            if (reply := self.respond(message)) is not None:
                self.replies.append(reply)
        return [message.metadata.message_id for message in self.sent]

    def pull_messages(self, message_ids):
        wanted = set(message_ids)
        ready = [r for r in reversed(self.replies) if r.metadata.reply_to_message_id in wanted]
        self.replies = [r for r in self.replies if r not in ready]
        return ready


def content_of(message):
    return message.content.array_records[PAYLOAD][PAYLOAD].data


def reply_with(message, payload, name=PAYLOAD):
    array = Array("uint8", (len(payload),), "raw", payload)
    return Message(RecordDict({name: ArrayRecord({name: array})}), reply_to=message)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(app, "POLL_SECONDS", 0.01)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def ask(respond, seconds=5.0, waits=None):
    grid = MemoryGrid(respond)
    requests = {site: f"question to {site}".encode() for site in NODES}
    on_wait = (lambda *now: waits.append(now)) if waits is not None else lambda *_: None
    answers = GridFederation(grid, NODES).ask(
        requests, label="train-1", deadline_seconds=seconds, on_wait=on_wait
    )
    return answers, grid


def test_each_site_gets_its_own_question_and_its_reply_is_matched_to_it():
    answers, grid = ask(lambda message: reply_with(message, b"re: " + content_of(message)))
    assert {site: answer.payload for site, answer in answers.items()} == {
        site: f"re: question to {site}".encode() for site in NODES
    }
    assert {message.metadata.dst_node_id for message in grid.sent} == set(NODES.values())
    assert all(message.metadata.message_type == "query" for message in grid.sent)


def test_an_error_is_a_fault_of_the_site_whose_message_it_answers_without_its_text():
    def respond(message):
        if message.metadata.dst_node_id == NODES["hilltop"]:
            return Message(Error(8, "patient P-0001 in /srv/photos"), reply_to=message)
        return reply_with(message, b"fine")

    answers, _ = ask(respond)
    assert answers["hilltop"].fault == "Flower error 8"
    assert answers["hilltop"].payload == b""
    assert not answers["harbour"].fault


def test_a_reply_that_is_not_in_our_form_is_a_fault():
    answers, _ = ask(lambda message: reply_with(message, b"x", name="weights"))
    assert {answer.fault for answer in answers.values()} == {"the reply is not in our form"}


def test_who_does_not_answer_by_the_deadline_is_a_fault_and_nobody_waits_longer():
    waits = []
    began = time.monotonic()
    answers, _ = ask(
        lambda m: None if m.metadata.dst_node_id == NODES["hilltop"] else reply_with(m, b"fine"), 0.3, waits
    )
    assert time.monotonic() - began < 3
    assert answers["hilltop"].fault == "no reply within 0 s"
    assert {site for site, answer in answers.items() if not answer.fault} == {"harbour", "riverside"}
    assert waits[-1][0] == ("harbour", "riverside")
    assert waits[-1][1] == ("hilltop",)


def test_online_are_the_rosters_sites_that_are_connected_and_no_stranger():
    grid = MemoryGrid(lambda _: None, present=(11, 13, 99))
    assert GridFederation(grid, NODES).online() == {"harbour", "riverside"}
