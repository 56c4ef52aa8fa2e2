"""Which addresses may be asked, however they are spelled."""

from __future__ import annotations

import asyncio
import socket

import pytest

from lavic.crawl.addresses import AddressRefusedError, AddressRules, GuardedResolver, checked_url, needed_allowance
from lavic.crawl.failures import CrawlFailure

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946"]
NOT_PUBLIC = [
    *("127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "feff::1", "ff02::1", "2001:db8::1"),
    # IPv4 inside IPv6: mapped, 6to4 of 10.0.0.1, NAT64 of 127.0.0.1, Teredo whose client is 10.0.0.1
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:0a00:0001::", "64:ff9b::7f00:1", "2001:0:4136:e378::f5ff:fffe"),
    *("", "localhost", "127.1", "0x7f.1", "2130706433"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_asked(address: str) -> None:
    assert AddressRules().allows(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_others_may_not(address: str) -> None:
    assert not AddressRules().allows(address)


def test_a_range_that_is_allowed_reaches_no_further() -> None:
    rules = AddressRules(["127.0.0.1/32", "fc00::/7"])
    assert rules.allows("127.0.0.1")
    assert rules.allows("fc00::5")
    assert not rules.allows("127.0.0.2")
    assert not rules.allows("::ffff:127.0.0.1")


def test_the_socket_itself_refuses() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 80))
    with pytest.raises(AddressRefusedError, match=r"127\.0\.0\.1 is not a public address"):
        AddressRules().make_socket(info)
    AddressRules(["127.0.0.0/8"]).make_socket(info).close()


def test_a_name_that_leads_inside_is_refused() -> None:
    with pytest.raises(AddressRefusedError, match=r"localhost leads to .*not a public address"):
        asyncio.run(GuardedResolver(AddressRules()).resolve("localhost", 80, socket.AF_INET))
    found = asyncio.run(GuardedResolver(AddressRules(["127.0.0.1/32"])).resolve("localhost", 80, socket.AF_INET))
    assert {each["host"] for each in found} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("ftp://example.com/a.jpg", "bad_url"),
        ("file:///etc/passwd", "bad_url"),
        ("javascript:alert(1)", "bad_url"),
        ("data:image/png;base64,AA", "bad_url"),
        ("//example.com/a.jpg", "bad_url"),
        ("no address", "bad_url"),
        ("http://", "bad_url"),
        ("http://example.com:99999/", "bad_url"),
        ("http://[::1", "bad_url"),
        ("http://]n[:@", "bad_url"),
        ("http://\ud800.com/", "bad_url"),
        ("http://me:secret@example.com/", "bad_url"),
        ("http://example.com/" + "a" * 9000, "bad_url"),
        ("http://127.0.0.1/", "not_allowed_address"),
        ("http://[::1]/", "not_allowed_address"),
        ("http://[::ffff:10.0.0.1]/", "not_allowed_address"),
        ("http://169.254.169.254/latest/meta-data", "not_allowed_address"),
    ],
)
def test_an_address_that_may_not_be_asked_is_refused(url: str, kind: str) -> None:
    with pytest.raises(CrawlFailure) as caught:
        checked_url(url, AddressRules())
    assert caught.value.kind == kind
    assert not caught.value.passing


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (" https://m.media-amazon.com/images/I/51I-ZKFJ66S._AC_.jpg\n", None),
        (
            "https://m.media-amazon.com/images/I/51zTZ+M-UgL._AC_.jpg#top",
            "https://m.media-amazon.com/images/I/51zTZ+M-UgL._AC_.jpg",
        ),
        ("http://example.com/a%2Fb c.jpg?x=1&y=%20", "http://example.com/a%2Fb%20c.jpg?x=1&y=%20"),
        ("HTTP://Example.com/ü.jpg", "http://example.com/%C3%BC.jpg"),
    ],
)
def test_an_address_is_asked_for_as_it_was_meant(url: str, asked: str | None) -> None:
    assert str(checked_url(url, AddressRules())) == (asked or url.strip())


@pytest.mark.parametrize(
    ("address", "needed"),
    [
        ("http://127.0.0.1:8000/shop", "127.0.0.1/32"),
        ("http://localhost:8000", "127.0.0.1/32"),
        ("http://[fd00::7]:8000/", "fd00::7/128"),
        ("http://93.184.216.34/", ""),
        ("https://pictures.example.com/", ""),
    ],
)
def test_what_an_address_needs_to_be_allowed(address: str, needed: str) -> None:
    assert needed_allowance(address) == needed
