"""Ask every active site one question: wait with a deadline, check the replies, name the faults, mind the quorum."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from f2b_server.federation import Answer, Federation
from f2b_server.progress import Progress, log_event, write_progress
from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import Face2BoneError, QuorumError
from face2bone_model.contract.reply import ErrorReply, Reply, read_reply
from face2bone_model.contract.request import Request
from face2bone_model.contract.study import Study

ONLINE_POLL_SECONDS = 1.0
WAIT_LINE_SECONDS = 60.0

Check = Callable[[Reply], None]


@dataclass(frozen=True)
class Collected:
    """Valid replies by site, with the answers they came in, and why the others are missing."""

    replies: Mapping[str, Reply]
    answers: Mapping[str, Answer]
    faults: Mapping[str, str]


@dataclass
class Collector:
    """Asks the roster's sites on behalf of one run."""

    folder: StudyFolder
    study: Study
    federation: Federation
    sites: tuple[str, ...]
    suspended: set[str] = field(default_factory=set)
    """Sites that missed a deadline. They are asked again once they were seen to leave and come back."""
    _gone: set[str] = field(default_factory=set)
    _said_at: float = 0.0

    def wait_for_sites(self, deadline_seconds: float) -> None:
        """Wait until every admitted site is connected; go on at the deadline with those that are.

        Raises:
            QuorumError: fewer than the quorum of `describe` are connected at the deadline.
        """
        end = time.time() + deadline_seconds
        on_wait = self._on_wait(Progress(phase="waiting", rounds=self.study.training.rounds))
        while (online := self.federation.online()) != frozenset(self.sites) and time.time() < end:
            on_wait(tuple(sorted(online)), tuple(sorted(set(self.sites) - online)), end)
            time.sleep(ONLINE_POLL_SECONDS)
        if len(online) < self.study.quorum.describe:
            missing = ", ".join(sorted(set(self.sites) - online))
            raise QuorumError(
                f"Only {len(online)} of {len(self.sites)} sites connected within {deadline_seconds:.0f} s; "
                f"missing: {missing}.",
                "Ask them to run `f2b-client start`, then run `f2b-server train` again: it resumes.",
            )

    def collect(self, request: Request, check: Check, deadline_seconds: float) -> Collected:
        """Ask every active site and keep the valid replies.

        Raises:
            QuorumError: fewer valid replies than the quorum of its phase, however often it was asked.
        """
        collected = Collected({}, {}, {})
        needed = self._needed(request)
        for _ in range(1 + self.study.quorum.repeats):
            collected = self._ask_once(request, check, deadline_seconds)
            if len(collected.replies) >= needed:
                return collected
            log_event(
                self.folder, "below-quorum", phase=request.phase, round=request.round, faults=collected.faults
            )
            self.suspended -= self.federation.online()  # a lost message is not the fault of a connected site
        reasons = "; ".join(f"{site}: {fault}" for site, fault in sorted(collected.faults.items()))
        raise QuorumError(
            f"Phase '{request.phase}', round {request.round}: {len(collected.replies)} valid replies, "
            f"{needed} needed. {reasons}.",
            "Mend the sites named, then run `f2b-server train` again: it resumes at this round.",
        )

    def _needed(self, request: Request) -> int:
        """How many sites the phase of this request needs."""
        return int(getattr(self.study.quorum, request.phase))

    def _ask_once(self, request: Request, check: Check, deadline_seconds: float) -> Collected:
        sites = self._active_sites()
        payload = request.encode()
        progress = Progress(phase=request.phase, round=request.round, rounds=self.study.training.rounds)
        answers = self.federation.ask(
            dict.fromkeys(sites, payload),
            label=f"{request.phase}-{request.round}",
            deadline_seconds=deadline_seconds,
            on_wait=self._on_wait(progress),
        )
        replies: dict[str, Reply] = {}
        faults = dict.fromkeys(self.suspended, "suspended since it did not answer")
        for site, answer in answers.items():
            try:
                replies[site] = _valid_reply(answer, request.digest, check)
            except Face2BoneError as error:
                faults[site] = str(error)
                if not answer.payload:
                    self.suspended.add(site)
        return Collected(replies, answers, faults)

    def _active_sites(self) -> tuple[str, ...]:
        """Sites to ask: all but those that missed a deadline and have not come back since."""
        online = self.federation.online()
        self._gone |= self.suspended - online
        self.suspended -= self._gone & online
        self._gone -= online
        return tuple(site for site in self.sites if site not in self.suspended)

    def _on_wait(self, progress: Progress) -> Callable[[tuple[str, ...], tuple[str, ...], float], None]:
        """Keep `progress.json` fresh, and say once a minute who is waited for."""

        def say(answered: tuple[str, ...], waiting_for: tuple[str, ...], end: float) -> None:
            now = Progress(
                phase=progress.phase,
                round=progress.round,
                rounds=progress.rounds,
                answered=answered,
                waiting_for=waiting_for,
                deadline=end,
            )
            write_progress(self.folder, now)
            if waiting_for and time.time() - self._said_at >= WAIT_LINE_SECONDS:
                self._said_at = time.time()
                left = max(0.0, end - time.time())
                log_event(
                    self.folder,
                    "waiting",
                    phase=progress.phase,
                    round=progress.round,
                    sites=list(waiting_for),
                    seconds_left=round(left),
                )

        return say


def _valid_reply(answer: Answer, request_digest: str, check: Check) -> Reply:
    if answer.fault:
        raise QuorumError(f"{answer.fault}.")
    reply = read_reply(answer.payload, request_digest=request_digest)
    if isinstance(reply, ErrorReply):
        raise QuorumError(f"refused with number {reply.code} (docs/exit-codes/{reply.code:02d}.md).")
    check(reply)
    return reply
