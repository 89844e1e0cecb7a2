"""The SuperNode's process: Flower's own command, with a witness of its link that ends it when it stops polling."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from f2b_client.flower_internals import run_supernode
from f2b_client.link import LinkRecorder, write_link
from f2b_client.settings import SiteFolder

STOPPED_POLLING = 75
"""EX_TEMPFAIL of sysexits.h: worth another try."""


def main(arguments: Sequence[str]) -> None:
    """Run `flower-supernode` with all arguments but the first, which is the hospital's folder.

    Flower's command returns when an error ended its polling, and would then stay up for its other thread. It ends here
    instead, so that the supervisor starts it again.
    """
    folder = SiteFolder(Path(arguments[0]))
    write_link(folder, "connecting")
    LinkRecorder(folder).listen()
    sys.argv = ["flower-supernode", *arguments[1:]]
    run_supernode()
    write_link(folder, "disconnected", "the SuperNode stopped polling after an error; log/supernode.log")
    sys.stdout.flush()
    os._exit(STOPPED_POLLING)


if __name__ == "__main__":
    main(sys.argv[1:])
