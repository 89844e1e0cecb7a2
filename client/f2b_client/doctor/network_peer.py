"""What answers behind the TLS: a SuperLink, in time, at the right time, taking messages as large as ours."""

import ssl
from collections.abc import Callable, Iterator
from http import HTTPStatus

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.network_address import Address
from f2b_client.doctor.network_http import ANSWER_SECONDS, FLEET_PATH, Answer, ask, protobuf_bytes
from f2b_client.doctor.outcome import blocked, failed, passed, warned

SAMPLE_BYTES = 200_000
LARGEST_BYTES = 5_300_000
"""Flower sends objects in pieces of 5 MB."""
UNKNOWN_FIELD = 1000
SLOW_BYTES_PER_SECOND = 100_000
SLOW_ANSWER_SECONDS = 2.0
AFFORDABLE_SECONDS = 2.0
"""The large message is sent only where the link takes it in this time."""
AHEAD_FAIL_SECONDS, AHEAD_WARN_SECONDS = 6.0, 3.0
"""Flower refuses signatures from more than 5 s in the future (SYSTEM_TIME_TOLERANCE); a Date header has whole ones."""
BEHIND_FAIL_SECONDS, BEHIND_WARN_SECONDS = 300.0, 60.0
"""Flower refuses signatures older than 300 s (TIMESTAMP_TOLERANCE)."""
_DOWN = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


def check_peer(opener: Callable[[], ssl.SSLSocket], address: Address) -> Iterator[Finding]:
    """Ask the fleet path without a key, which a SuperLink refuses politely, and look at the answer.

    Args:
        opener: opens a verified connection to the centre.
        address: the centre's.

    Raises:
        BlockedError: no SuperLink answers there.
    """
    where = str(address)
    answer = ask(opener(), address, b"")
    if answer is None:
        raise blocked(
            "superlink",
            f"{address} speaks TLS and gives no HTTP answer within {ANSWER_SECONDS:g} s.",
            where,
            "Ask the centre whether its SuperLink runs, and IT whether a device in between holds answers back.",
        )
    yield from _clock(answer, where)
    yield from _superlink(answer, where)
    yield from _latency(answer, where)
    yield from _bulk(opener, address, answer.seconds)


def _superlink(answer: Answer, where: str) -> Iterator[Finding]:
    if answer.status == HTTPStatus.UNAUTHORIZED:
        yield passed("superlink", "A SuperLink answers and asks for this site's key.", where)
    elif answer.status == HTTPStatus.OK and not answer.kind.startswith("text/html"):
        yield warned(
            "superlink",
            "A SuperLink answers and asks for no key.",
            where,
            "Tell the centre: its SuperLink must run with --enable-supernode-auth.",
        )
    elif answer.status in _DOWN:
        raise blocked(
            "superlink",
            f"The centre's front door answers; its SuperLink does not ({answer.status}).",
            where,
            "Tell the centre, and try again later.",
        )
    elif answer.status == HTTPStatus.FORBIDDEN:
        raise blocked(
            "superlink",
            "Something in front of the SuperLink forbids this site's requests (403).",
            where,
            "Ask the centre whether its edge lets this hospital's address through, and IT about web filters.",
        )
    else:
        raise blocked(
            "superlink",
            f"What answers there is not a SuperLink (HTTP {answer.status} on {FLEET_PATH}).",
            where,
            "Compare host and port with the kit; ask the centre whether its edge forwards /v1/fleet/.",
        )


def _clock(answer: Answer, where: str) -> Iterator[Finding]:
    ahead = answer.clock_ahead
    if ahead is None:
        yield passed("clock", "The centre tells no time; the clock was not compared.", where)
        return
    said = f"This machine's clock is {_amount(ahead)} {'ahead of' if ahead > 0 else 'behind'} the centre's"
    mend = "Switch time synchronisation on (`timedatectl set-ntp true`, or the hospital's time server)."
    if ahead > AHEAD_FAIL_SECONDS or ahead < -BEHIND_FAIL_SECONDS:
        yield failed("clock", f"{said}; it refuses the signatures this site makes.", where, mend)
    elif ahead > AHEAD_WARN_SECONDS or ahead < -BEHIND_WARN_SECONDS:
        yield warned("clock", f"{said}.", where, mend)
    else:
        yield passed("clock", "This machine's clock agrees with the centre's.", where)


def _amount(seconds: float) -> str:
    size = abs(seconds)
    return f"{size:.0f} s" if size < 120 else f"{size / 60:.0f} minutes"  # noqa: PLR2004  # two minutes


def _latency(answer: Answer, where: str) -> Iterator[Finding]:
    if answer.seconds > SLOW_ANSWER_SECONDS:
        yield warned(
            "latency",
            f"The centre takes {answer.seconds:.1f} s to answer a small question.",
            where,
            "Rounds will be slow. Ask IT about the connection and the centre about the load of its SuperLink.",
        )
    else:
        yield passed("latency", f"The centre answers in {answer.seconds * 1000:.0f} ms.", where)


def _bulk(opener: Callable[[], ssl.SSLSocket], address: Address, latency: float) -> Iterator[Finding]:
    """Send a sample; where the link takes it well, send a message as large as Flower's largest."""
    where = str(address)
    sample = ask(opener(), address, _filler(SAMPLE_BYTES))
    if sample is not None and sample.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        yield _too_large(where, SAMPLE_BYTES)
        return
    if sample is not None and sample.early:
        said = "The centre answers before a message is sent; the speed was not measured."
        yield passed("link-speed", said, where)
        return
    seconds = ANSWER_SECONDS if sample is None else max(sample.seconds - latency, 1e-3)
    rate = SAMPLE_BYTES / seconds
    if sample is None or rate < SLOW_BYTES_PER_SECOND:
        yield warned(
            "link-speed",
            f"The link takes {'less than ' if sample is None else ''}{rate / 1000:.0f} kB/s; "
            f"1 MB takes {1e6 / rate:.0f} s.",
            where,
            "Ask IT about the connection. Rounds have a deadline, which the study names.",
        )
        return
    yield passed("link-speed", f"The link takes at least {min(rate, 1e8) / 1e6:.1f} MB/s.", where)
    if LARGEST_BYTES / rate > AFFORDABLE_SECONDS:
        yield passed("body-limit", "Large messages were not tried, to spare a slow link.", where)
    else:
        yield _of_large(ask(opener(), address, _filler(LARGEST_BYTES)), where)


def _of_large(answer: Answer | None, where: str) -> Finding:
    size = f"{LARGEST_BYTES / 1e6:.1f} MB"
    if answer is None:
        return warned(
            "body-limit",
            f"A message of {size} got no answer; smaller ones did.",
            where,
            "Ask IT and the centre whether a device in between limits the size of messages.",
        )
    if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return _too_large(where, LARGEST_BYTES)
    return passed("body-limit", f"Messages of {size} go through.", where)


def _too_large(where: str, size: int) -> Finding:
    return failed(
        "body-limit",
        f"Something in between refuses a message of {size / 1e6:.1f} MB (413).",
        where,
        "Ask IT (proxy) and the centre (its TLS edge) to allow bodies of 6 MB; for nginx: client_max_body_size 6m.",
    )


def _filler(size: int) -> bytes:
    """A message of one unknown field of zeros, which a SuperLink reads and ignores."""
    return protobuf_bytes(UNKNOWN_FIELD, bytes(size))
