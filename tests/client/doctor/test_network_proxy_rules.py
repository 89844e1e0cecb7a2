"""Which connections go through a proxy: the same answer as httpx's, which Flower uses."""

import ssl
from unittest.mock import patch

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from f2b_client.doctor.network_address import Address, parse_address
from f2b_client.doctor.network_proxy import proxy_for

HOSTS = (
    "centre.example",
    "sub.centre.example",
    "notcentre.example",
    "10.1.2.3",
    "::1",
    "localhost",
    "example",
)
ENTRIES = (
    *HOSTS,
    *(
        ".centre.example",
        "*.example",
        "*",
        "10.0.0.0/8",
        "10.1.2.3/32",
        "centre.example:443",
        "centre.example:99",
    ),
    *(
        "https://centre.example",
        "http://centre.example",
        "all://centre.example",
        "https://centre.example:443",
    ),
    *("CENTRE.example", " centre.example ", "", "[::1]", "10.1.2.3:443", "ample"),
)


CONTEXT = ssl.create_default_context()  # made once: httpx would read all authorities anew for every example


def httpx_takes_a_proxy(host: str, port: int) -> bool:
    with httpx.Client(verify=CONTEXT) as client:
        url = httpx.URL(f"https://{Address(host, port)}/v1/fleet/pull-messages")
        return client._transport_for_url(url) is not client._transport


@given(
    host=st.sampled_from(HOSTS),
    port=st.sampled_from((443, 9443)),
    no_proxy=st.lists(st.sampled_from(ENTRIES), max_size=3),
    names=st.sets(st.sampled_from(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"))),
)
@example(host="10.1.2.3", port=443, no_proxy=["10.1.2.3/32"], names={"HTTPS_PROXY"})
@example(host="centre.example", port=443, no_proxy=["*.example"], names={"HTTPS_PROXY"})
def test_the_doctor_takes_the_way_flower_takes(host, port, no_proxy, names):
    environment = dict.fromkeys(names, "http://proxy.example:3128") | {"NO_PROXY": ",".join(no_proxy)}
    with patch.dict("os.environ", environment, clear=True):
        try:
            expected = httpx_takes_a_proxy(host, port)
        except httpx.InvalidURL:  # httpx itself cannot start with it
            return
        assert (proxy_for(Address(host, port)) is not None) == expected


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("centre.example:443", "centre.example", 443),
        ("10.0.0.1:9443", "10.0.0.1", 9443),
        ("[::1]:443", "::1", 443),
    ],
)
def test_an_address_is_read_and_written_the_same(text, host, port):
    address = parse_address(text)
    assert (address.host, address.port, str(address)) == (host, port, text)
