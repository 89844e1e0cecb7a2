"""One site on a recorded wire: a hostile coordinator tries what it can, an honest study runs, and at last the site is
sent to another address.
"""

import socket
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from coordinator import Centre, array, ask, message, running_centre, wait_for_node
from federation_runs import CLIENT, free_port
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.cli.build import build_fab_from_files
from hospital import SITE, Canary, Template, approve_study, equip, study_text
from hostile import a_request, initial
from recorder import HttpMessage, RecordingProxy, Sniffer, Watcher

from f2b_client.receipts import Receipt, read_receipts
from f2b_client.settings import SiteFolder
from f2b_server.settings import StudyFolder
from face2bone_model.contract.bundle import BUNDLE_FILES, study_bundle
from face2bone_model.contract.keys import Phase, Split
from face2bone_model.contract.payload import decode
from face2bone_model.contract.request import Request
from face2bone_model.contract.study import Study
from face2bone_model.models.trunk import FrozenTrunk
from face2bone_model.system.processes import start, stop

MARK = "stolen-by-the-bundle"
EVIL_APP = f"import pathlib; pathlib.Path('{{marker}}').write_text('{MARK}'); raise SystemExit"
REDIRECTED_SECONDS = 20.0
BOMB_BYTES = 200_000_000
"""Less than a thousandth of it when packed."""


@dataclass
class Wire:
    """What was on the wire, and what the site itself knows of it."""

    folder: SiteFolder
    study: Study
    canaries: list[Canary]
    proxy: RecordingProxy
    node: int
    marker: Path
    """The file a bundle's code would have written."""
    foreign: dict[str, Message] = field(default_factory=dict)
    """Replies to runs with bundles that are not ours."""
    hostile: dict[str, Message] = field(default_factory=dict)
    """Replies to hostile messages, by what was tried."""
    honest: dict[str, Message] = field(default_factory=dict)
    asked: dict[str, bytes] = field(default_factory=dict)
    """Every payload that was sent as a request."""
    kernel: dict[int, int] | None = None
    """TCP bytes by the site's port, as the kernel saw them; None where nobody may look."""
    watcher: Watcher | None = None
    called: set[tuple[str, int]] = field(default_factory=set)
    """Addresses the site's processes were seen to call until the end of the study."""
    redirected: int = 0
    """How often the site was told to go to another address."""
    trapped: list[bytes] = field(default_factory=list)
    """What arrived at that address."""
    began: float = 0.0
    ended: float = 0.0

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        return read_receipts(self.folder.receipts)

    @property
    def vectors(self) -> list[np.ndarray]:
        """Every model the honest centre asked about or got back."""
        asked = (self.asked[name] for name in self.honest)
        tensors = [decode(one)[0] for one in (*asked, *map(payload_of, self.honest.values()))]
        return [one["vector"] for one in tensors if "vector" in one]


def payload_of(reply: Message) -> bytes:
    return reply.content.array_records["payload"]["payload"].data


def record_wire(root: Path, template: Template, trunk: FrozenTrunk) -> Wire:
    """Run all of it."""
    path, canaries = template.copy_to(root / "zq-ward-north")
    study_folder = StudyFolder(root / "study")
    study_folder.path.mkdir()
    with running_centre(study_folder, f"127.0.0.1:{free_port()}") as centre:
        proxy = RecordingProxy(centre.address, centre.ca, centre.certificate, centre.key)
        folder = equip(path, proxy.address)
        (folder.joined / "ca.pem").write_bytes(centre.ca.read_bytes())
        study = approve_study(folder, study_text(trunk.digest))
        node = centre.register(SITE, (folder.keys / "node.pub").read_text())
        wire = Wire(folder, study, canaries, proxy, node, root / "marker", began=time.time())
        try:
            _run_client(root, wire, centre)
        finally:
            proxy.close()
    wire.ended = time.time()
    return wire


def _run_client(root: Path, wire: Wire, centre: Centre) -> None:
    sniffer = _sniffer(wire.proxy.port)
    environment = {"OMP_NUM_THREADS": "1", "F2B_WEIGHTS": str(root / "none")}
    command = [*CLIENT, "start", "--site", str(wire.folder.path)]
    client = start("client", command, log=root / "client.log", environment=environment)
    wire.watcher = Watcher(client.process.pid)
    try:
        for name, bundle in foreign_bundles(wire.marker).items():
            with centre.run(bundle) as grid:
                wait_for_node(grid, wire.node, client)
                wire.foreign |= ask(grid, {name: message(wire.node, b"go")})
        with centre.run(study_bundle()) as grid:
            wire.hostile = ask(grid, hostile_messages(wire))
            _run_study(wire, grid)
        wire.called = wire.watcher.called
        _send_elsewhere(wire)
    finally:
        stop([client], seconds=60)
        wire.watcher.stop()
        if sniffer:
            wire.kernel = sniffer.stop()


def _send_elsewhere(wire: Wire) -> None:
    """Answer the site's next question with the order to ask another address, without encryption."""
    with _trap(wire.trapped) as address:
        head = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{address}/inside\r\nContent-Length: 0\r\n\r\n"

        def redirect(request: HttpMessage) -> bytes | None:
            if "/pull-messages " not in request.first_line:
                return None
            wire.redirected += 1
            return head.encode()

        wire.proxy.tamper = redirect
        end = time.time() + REDIRECTED_SECONDS
        while not wire.redirected and time.time() < end:
            time.sleep(0.2)
        time.sleep(2.0)
        wire.proxy.tamper = lambda _: None


@contextmanager
def _trap(heard: list[bytes]) -> Iterator[str]:
    """An address that writes down whatever arrives."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while True:
                try:
                    visitor, _ = listener.accept()
                except OSError:
                    return
                with visitor:
                    heard.append(visitor.recv(1 << 16))

        threading.Thread(target=listen, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _sniffer(port: int) -> Sniffer | None:
    try:
        return Sniffer(port)
    except (PermissionError, AttributeError):
        return None


def foreign_bundles(marker: Path) -> dict[str, bytes]:
    """Bundles that bring code, or are ours but for one thing."""
    code = EVIL_APP.format(marker=marker).encode()
    shadow = BUNDLE_FILES["pyproject.toml"].replace(
        b'fab-include = ["/README.md"]', b'fab-include = ["/README.md", "/**/*.py"]'
    )
    files = {**BUNDLE_FILES, "pyproject.toml": shadow}
    return {
        "code in place of our client": build_fab_from_files({**files, "f2b_client/app.py": code})[0],
        "code that runs on import": build_fab_from_files({**files, "sitecustomize.py": code})[0],
        "a bundle that unpacks to far more than it is": _bomb(),
    }


def _bomb() -> bytes:
    """Our bundle, but for a very long comment in its pyproject.toml."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pyproject.toml", b"#" * BOMB_BYTES + b"\n" + BUNDLE_FILES["pyproject.toml"])
        archive.writestr("README.md", BUNDLE_FILES["README.md"])
    return buffer.getvalue()


def hostile_messages(wire: Wire) -> dict[str, Message]:
    """Messages that are not ours, by what they try."""
    node, good = wire.node, a_request(wire.study, Phase.DESCRIBE, 0).encode()
    payload = ArrayRecord({"payload": array(good)})

    def record(content: Mapping, kind: str = "query", group: str = "") -> Message:
        return Message(RecordDict(dict(content)), node, kind, group_id=group, ttl=600)

    settings = ConfigRecord({"path": "/etc/passwd", "include": ["labels", "scores"], "code": b"\x80\x04."})
    wishes = {
        "a configuration beside the request": record({"payload": payload, "config": settings}),
        "a metric beside the request": record({"payload": payload, "m": MetricRecord({"per_patient": 1})}),
        "a configuration alone": record({"config": settings}),
        "nothing at all": record({}),
        "a path as the record's name": record({"../../keys/node": payload}),
        "a patient as the array's name": record({"payload": ArrayRecord({"ZQCANARYHA0100003": array(good)})}),
        "many arrays": record({"payload": ArrayRecord({f"a{i}": array(good) for i in range(40)})}),
        "a shape that lies": record({"payload": ArrayRecord({"payload": array(good, shape=(10**9,))})}),
        "a pickle by name": record({"payload": ArrayRecord({"payload": array(good, stype="pickle")})}),
        "a pickle": record({"payload": ArrayRecord({"payload": array(b"\x80\x04cos\nsystem\n.")})}),
        "thirty megabytes": record({"payload": ArrayRecord({"payload": array(bytes(30_000_000))})}),
        "Flower's own training": record({"payload": payload}, kind="train"),
        "Flower's own evaluation": record({"payload": payload}, kind="evaluate"),
        "another action": record({"payload": payload}, kind="query.export"),
        "another study": message(
            node, a_request(wire.study, Phase.DESCRIBE, 0, study_hash="e" * 64).encode()
        ),
        "a round the study has not": message(node, a_request(wire.study, Phase.DESCRIBE, 7).encode()),
        "another model": message(
            node, a_request(wire.study, Phase.TRAIN, 1, signature_digest="0" * 64).encode()
        ),
    }
    for name, one in wishes.items():
        content = one.content.array_records.get("payload")
        if content is not None and "payload" in content:
            wire.asked[name] = content["payload"].data
    return wishes


def _run_study(wire: Wire, grid) -> None:
    """Describe, two rounds, both evaluations, and the last question once more."""

    def one(name: str, request: Request) -> Message:
        wire.asked[name] = request.encode()
        label = f"{request.phase}-{request.round}"
        reply = ask(grid, {name: message(wire.node, wire.asked[name], group=label)})[name]
        wire.honest[name] = reply
        return reply

    vector = initial(wire.study)
    one("describe", a_request(wire.study, Phase.DESCRIBE, 0))
    for number in (1, 2):
        reply = one(f"train {number}", a_request(wire.study, Phase.TRAIN, number, vector=vector))
        vector = decode(payload_of(reply))[0]["vector"]
    for split in (Split.VALIDATION, Split.TEST):
        one(str(split), a_request(wire.study, Phase.EVALUATE, 2, vector=vector, split=split))
    one("test again", a_request(wire.study, Phase.EVALUATE, 2, vector=vector, split=Split.TEST))
