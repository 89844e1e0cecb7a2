"""The edge: lets in fleet requests of admitted keys, and enrolment; an ASGI app before the SuperLink."""

import json
import logging
from collections.abc import Callable

from f2b_server.edge.admission import Admissions, Member
from f2b_server.edge.enrol import ENROL_PATH, LARGEST_ENROLMENT, Redeem, enrol
from f2b_server.edge.refusals import FORBIDDEN, TIMED_OUT, TOO_OFTEN, UNAUTHORIZED, Refusals, Refused
from f2b_server.edge.seen import SeenBook, Traffic
from f2b_server.edge.signatures import Signatures
from f2b_server.edge.streams import SIGNED_KEY, App, Receive, Scope, Send, Stream, announced_size
from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import EnrolmentError

FLEET = "/v1/fleet/"
CALLS = frozenset(
    {
        *("activate-node", "deactivate-node", "send-node-heartbeat", "get-run", "get-fab"),
        *("pull-messages", "push-messages", "push-object", "pull-object", "confirm-message-received"),
    }
)
"""What a SuperNode asks for. Registering is the centre's."""
LARGEST_OBJECT = 32_000_000
"""Flower sends objects in pieces of 5 MB."""
LARGEST_CALL = 4_000_000
UNAVAILABLE = 503

log = logging.getLogger(__name__)


class Edge:
    """What listens to the outside. Whatever goes wrong in it, a SuperNode is told to try again (503), never 500."""

    def __init__(
        self, app: App, folder: StudyFolder, seen: SeenBook, *, knows: Callable[[bytes], bool], redeem: Redeem
    ) -> None:
        self._app = app
        self._seen = seen
        self._knows = knows
        self._redeem = redeem
        self._admissions = Admissions(folder)
        self._signatures = Signatures()
        self._refusals = Refusals(folder.log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        source = scope["client"][0] if scope["client"] else "?"
        answer = _Answer(send)
        try:
            await self._let_in(scope, receive, answer, source)
        except Refused as refused:
            self._note(source, scope, refused)
            await answer.say(refused.status, _told(refused))
        except Exception:
            log.exception("The edge could not answer %s.", scope["path"])
            await answer.say(UNAVAILABLE, {"detail": "try again"})

    async def _let_in(self, scope: Scope, receive: Receive, answer: "_Answer", source: str) -> None:
        headers = dict(scope["headers"])
        path, method = scope["path"], scope["method"]
        call = path.removeprefix(FLEET)
        if method == "POST" and path == ENROL_PATH:
            self._check_flood(source)
            size = announced_size(headers, LARGEST_ENROLMENT)
            stream = Stream(receive, answer.send, Traffic(), size)
            await answer.say(200, await enrol(stream, self._redeem))
        elif method == "POST" and path.startswith(FLEET) and call in CALLS:
            member = self._member(headers, source)
            size = announced_size(headers, LARGEST_OBJECT if call == "push-object" else LARGEST_CALL)
            if not self._knows(member.pem):
                await answer.say(UNAVAILABLE, {"detail": "the SuperLink is starting"})
                return
            await self._pass_on(scope, receive, answer, member, size)
        else:
            self._check_flood(source)
            raise Refused(FORBIDDEN, "outside what the edge offers")

    def _member(self, headers: dict[bytes, bytes], source: str) -> Member:
        """The member who signed this. A flood from its address keeps nobody out who can show an admitted key."""
        try:
            member = self._admissions.find(headers)
        except Refused:
            self._check_flood(source)
            raise
        try:
            self._signatures.check(headers, member.key, member.fingerprint)
        except Refused as refused:
            raise Refused(
                UNAUTHORIZED, refused.reason, fingerprint=member.fingerprint, site=member.site
            ) from None
        return member

    async def _pass_on(
        self, scope: Scope, receive: Receive, answer: "_Answer", member: Member, size: int
    ) -> None:
        traffic = self._seen.of(member.site)
        stream = Stream(receive, answer.send, traffic, size)
        signed = {**scope, SIGNED_KEY: member.pem}
        with traffic.request(scope["path"]):
            try:
                await self._app(signed, stream.receive, stream.send)
            except ConnectionResetError:
                log.info("%s stopped taking its answer.", member.site)
                answer.give_up()
        stream.check()

    def _check_flood(self, source: str) -> None:
        if self._refusals.is_flooding(source):
            raise Refused(TOO_OFTEN, "refused too often")

    def _note(self, source: str, scope: Scope, refused: Refused) -> None:
        try:
            self._refusals.note(source, scope["method"], scope["path"], refused)
        except OSError:
            log.exception("A refusal could not be written down: %s from %s", refused.reason, source)


def _told(refused: Refused) -> dict[str, object]:
    """A stranger is told no reason; a member, what is wrong with its signature or clock.

    The number says that the answer is final, as Flower's numbers do; a stalled transfer may be tried again.
    """
    if refused.status == TIMED_OUT:
        return {"detail": refused.reason}
    return {"code": EnrolmentError.code, "detail": refused.reason if refused.site else "refused"}


class _Answer:
    """One answer to one request: a second one is dropped."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False
        self._over = False

    async def send(self, message: Scope) -> None:
        """Pass a part of an answer on."""
        if self._over:
            return
        self._begun = True
        await self._send(message)

    async def say(self, status: int, content: dict[str, object]) -> None:
        """Answer with JSON, unless an answer was begun."""
        if self._begun:
            return
        body = json.dumps(content).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status >= 400:  # noqa: PLR2004  # every refusal: an unread body is not waited for
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def give_up(self) -> None:
        """Send nothing more."""
        self._begun = self._over = True
