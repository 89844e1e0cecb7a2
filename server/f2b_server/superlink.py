"""The centre's Flower processes: a SuperLink over TLS with node authentication, and its executor."""

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from f2b_server.certificates import make_ca, make_server_certificate
from f2b_server.enrolment import roster
from f2b_server.flower_control import FlowerControl
from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import DeadlineError
from face2bone_model.contract.study import load_study
from face2bone_model.system.files import write_atomic
from face2bone_model.system.processes import Child, start, stop

START_SECONDS = 90.0


@dataclass(frozen=True)
class SuperLink:
    """A running SuperLink and the node ids of the roster's sites."""

    address: str
    ca: Path
    nodes: dict[str, int]
    children: tuple[Child, ...]

    def check(self) -> None:
        """Raise if one of its processes ended."""
        for child in self.children:
            child.check()


@contextmanager
def running_superlink(folder: StudyFolder, address: str) -> Iterator[SuperLink]:
    """Start SuperLink and executor, register the roster's keys, stop both at the end.

    The SuperLink's state lives in memory: rounds resume from our checkpoints and nodes are registered again from
    the roster, so no weights lie unencrypted in a database.

    Raises:
        DeadlineError: the SuperLink does not answer in time.
        ProcessError: it ended.
    """
    host, port = address.rsplit(":", 1)
    ca = make_ca(folder.ca, load_study(folder.study).name)
    certificate, key = make_server_certificate(folder.ca, [host])
    secret = folder.flower / "executor.secret"
    if not secret.exists():
        write_atomic(secret, secrets.token_bytes(32), mode=0o600)
    scripts = Path(sys.executable).parent
    environment = {"FLWR_HOME": str(folder.flower.resolve()), "OMP_NUM_THREADS": "1"}
    superlink = start(
        "SuperLink",
        [
            str(scripts / "flower-superlink"),
            *("--host", host, "--port", port),
            *("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key), "--ssl-ca-certfile", str(ca)),
            *("--enable-supernode-auth", "--isolation", "process"),
            *("--superexec-auth-secret-file", str(secret), "--disable-runtime-dependency-installation"),
        ],
        log=folder.log / "superlink.log",
        environment=environment,
    )
    children = [superlink]
    try:
        _wait_until_up(superlink, address, ca)
        children.append(
            start(
                "Executor",
                [
                    str(scripts / "flower-superexec"),
                    *("--runtime-api-address", address, "--root-certificates", str(ca)),
                    *("--superexec-auth-secret-file", str(secret)),
                ],
                log=folder.log / "serverapp.log",
                environment=environment,
            )
        )
        with FlowerControl(address, ca) as control:
            nodes = {entry.site: control.register(entry.site, entry.public_key) for entry in roster(folder)}
        yield SuperLink(address, ca, nodes, tuple(children))
    finally:
        stop(children)


def _wait_until_up(superlink: Child, address: str, ca: Path) -> None:
    end = time.time() + START_SECONDS
    with FlowerControl(address, ca) as control:
        while time.time() < end:
            superlink.check()
            if control.answers():
                return
            time.sleep(0.5)
    raise DeadlineError(
        f"The SuperLink at {address} did not answer within {START_SECONDS:.0f} s.", f"See {superlink.log}."
    )
