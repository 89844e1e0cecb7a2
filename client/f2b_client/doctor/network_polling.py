"""A client that runs and no longer hears from the centre: alive to every probe, deaf all the same."""

import time
from collections.abc import Iterator

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.link import read_link
from f2b_client.settings import SiteFolder
from f2b_client.site_lock import running_pid
from f2b_client.state import State, read_state

STALLED_SECONDS = 60.0
"""A SuperNode at rest asks every 5 s, and gives a sign of life every 20 s while it works."""
FIRST_POLL_SECONDS = 120.0
"""Starting, and the lease of a node that was killed, take their time."""
WHERE = "state/link.json"
MEND = (
    "`f2b-client stop` and `f2b-client start`. If it happens again, read log/supernode.log: it says what the "
    "centre, or somebody on the way, answered."
)


def check_polling(folder: SiteFolder) -> Iterator[Finding]:
    """Compare the last poll that the centre answered with the clock."""
    supervisor, link = read_state(folder, "supervisor"), read_link(folder)
    if running_pid(folder) is None or supervisor is None or supervisor.doing != "connected":
        yield passed("polling", "No client of this site is connected now.")
    elif link is None:
        yield from _never_polled(time.time() - supervisor.since)
    else:
        yield from _judge(link, time.time() - link.at)


def _never_polled(seconds: float) -> Iterator[Finding]:
    if seconds > FIRST_POLL_SECONDS:
        yield failed("polling", f"The client runs for {seconds:.0f} s and has not polled once.", WHERE, MEND)
    else:
        yield passed("polling", "The client has just started.")


def _judge(link: State, silence: float) -> Iterator[Finding]:
    said = f"The client runs; the centre last answered it {silence:.0f} s ago"
    if link.doing == "stalled" or silence > STALLED_SECONDS:
        yield failed("polling", f"{said} ({link.detail}).", WHERE, MEND)
    elif link.doing == "disconnected":
        yield warned("polling", f"{said} ({link.detail}).", WHERE, "Look at the findings about the network.")
    else:
        yield passed("polling", "The client polls the centre.")
