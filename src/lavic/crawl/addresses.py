"""Which addresses may be asked: http and https only, and by default nothing but public hosts.

An address is looked at three times: in the URL (also after a redirect), in what a name resolves to, and in the
socket's own destination just before it connects, so that neither DNS nor an odd spelling leads inside.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from lavic.crawl.failures import CrawlFailure
from lavic.layout import data_flags

MAX_URL_CHARS = 8192
_SCHEMES = ("http", "https")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressRefusedError(OSError):
    """An address that may not be asked; an OSError, as connecting code expects."""


class AddressRules:
    """What may be connected to.

    Args:
        allowed: ranges that may be asked although they are not public.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = [ipaddress.ip_network(text) for text in allowed]

    def allows(self, text: str) -> bool:
        """Whether an address, as the system writes it, may be connected to."""
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        if any(address in network for network in self._allowed):
            return True
        return _is_public(address)

    def make_socket(self, addr_info: Any) -> socket.socket:
        """A socket for an address that is about to be connected to.

        Raises:
            AddressRefusedError: it may not be.
        """
        family, kind, protocol, _, destination = addr_info
        if not self.allows(destination[0]):
            raise AddressRefusedError(f"{destination[0]} is not a public address")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


def _is_public(address: Address) -> bool:
    """Not private, loopback, link-local, reserved or multicast, also not inside an IPv6 form of an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        # Site-local (fec0::/10) was for private networks before fc00::/7, and counts as global.
        if address.is_site_local or (inner is not None and not _is_public(inner)):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a mapped, 6to4, Teredo or NAT64 address carries to."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def needed_allowance(address: str) -> str:
    """What --allow_private needs for pictures at an address, as far as it says so itself: "" if nothing."""
    host = URL(address).host or ""
    try:
        literal = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return ""
    return "" if _is_public(literal) else f"{literal}/{literal.max_prefixlen}"


def crawl_command(folder: Path, served_at: str) -> str:
    """What fetches a data set's pictures from the address that its metadata name."""
    allowance = needed_allowance(served_at)
    return f"lavic crawl {data_flags(folder)}" + (f" --allow_private {allowance}" if allowance else "")


class GuardedResolver(AbstractResolver):
    """The system's name resolution without the addresses that may not be asked."""

    def __init__(self, rules: AddressRules) -> None:
        self._rules = rules

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As aiohttp wants it.

        Raises:
            AddressRefusedError: the name has addresses, but none that may be asked.
            OSError: the name has none.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG)
        results = [
            ResolveResult(
                hostname=host,
                host=str(destination[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, destination in found
            if self._rules.allows(str(destination[0]))
        ]
        if found and not results:
            raise AddressRefusedError(f"{host} leads to {found[0][4][0]}, which is not a public address")
        return results

    async def close(self) -> None:
        """Nothing is held."""


def parsed_url(text: str) -> URL:
    """An address from data, or a part of one (``../a.jpg``), without fragment.

    Raises:
        CrawlFailure: ``bad_url``.
    """
    try:
        url = URL(text.strip()).with_fragment(None)
        _ = url.raw_host, url.port
        # yarl takes what no request line can hold, such as half a surrogate pair.
        str(url).encode("ascii")
    except (ValueError, TypeError, IndexError) as error:  # the last from yarl, of http://]n[:@
        raise CrawlFailure("bad_url", "the address cannot be understood") from error
    return url


def checked_url(text: str, rules: AddressRules) -> URL:
    """An address from data as one that may be asked, without fragment.

    Raises:
        CrawlFailure: ``bad_url`` or ``not_allowed_address``.
    """
    if len(text) > MAX_URL_CHARS:
        raise CrawlFailure("bad_url", f"the address is longer than {MAX_URL_CHARS} characters")
    url = parsed_url(text)
    host = url.raw_host
    if url.scheme not in _SCHEMES or not host:
        raise CrawlFailure("bad_url", f"the address is not http or https ({url.scheme[:20] or 'no scheme'})")
    if url.raw_user is not None or url.raw_password is not None:
        raise CrawlFailure("bad_url", "the address holds a user name or password")
    try:
        literal = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return url
    if not rules.allows(str(literal)):
        raise CrawlFailure("not_allowed_address", f"{literal} is not a public address")
    return url
