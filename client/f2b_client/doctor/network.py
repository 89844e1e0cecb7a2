"""The network half of the doctor: from the kit's address to an answer of the centre's SuperLink."""

from collections.abc import Iterator
from pathlib import Path

from f2b_client.doctor.finding import Check, Finding
from f2b_client.doctor.network_address import is_ip, parse_address, resolve
from f2b_client.doctor.network_admission import check_admission
from f2b_client.doctor.network_certificate import check_ca, check_certificate, read_ca, secure_connection
from f2b_client.doctor.network_peer import check_peer
from f2b_client.doctor.network_polling import check_polling
from f2b_client.doctor.network_proxy import check_environment, proxy_for
from f2b_client.doctor.network_route import Route
from f2b_client.doctor.outcome import BlockedError, failed, passed
from f2b_client.settings import Joined, SiteFolder, load_joined
from face2bone_model.contract.errors import Face2BoneError


def check_connection(folder: SiteFolder) -> Iterator[Finding]:
    """Walk the way to the centre step by step; the first step that fails ends the walk and says why."""
    try:
        yield from _walk(load_joined(folder), folder.keys / "node")
    except Face2BoneError as error:
        yield failed("joined", error.what, "joined/kit.json", error.mend)
    except BlockedError as error:
        yield error.finding


def _walk(joined: Joined, key: Path) -> Iterator[Finding]:
    address = parse_address(joined.address)
    yield passed("address", f"The centre is {address}.", "joined/kit.json")
    ca = read_ca(joined.ca)
    yield from check_ca(ca, joined.ca)
    proxy = proxy_for(address)
    yield from check_environment(address, proxy)
    if proxy is None:
        found = resolve(address)
        number = f"{address.host} is a number; no DNS is needed."
        yield passed("dns", number if is_ip(address.host) else f"{address.host} is {', '.join(found)}.")
    route = Route(address=address, proxy=proxy, ca=joined.ca)
    with route.plain():
        yield passed("connect", f"{address} accepts connections.", str(address))
    if proxy is not None:
        yield passed("proxy", f"The connection goes through {proxy}.", str(proxy))
    with secure_connection(route, ca) as connection:
        yield from check_certificate(connection, str(address))
    yield from check_peer(lambda: secure_connection(route, ca), address)
    yield from check_admission(lambda: secure_connection(route, ca), address, key)


NETWORK_CHECKS: tuple[Check, ...] = (check_connection, check_polling)
"""From the address in the kit to polling."""
