"""One HTTP request: connect, headers, body, each within limits; every way to fail is a ``CrawlFailure``."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from lavic.crawl.addresses import AddressRefusedError, AddressRules, GuardedResolver, checked_url, parsed_url
from lavic.crawl.failures import CrawlFailure

# A body that is not wanted is read all the same up to this size: the connection can then be used again.
_DRAIN_BYTES = 64 * 1024
_KEEP_ALIVE_S = 30.0
_REDIRECTS = (301, 302, 303, 307, 308)
_DNS_CACHE_S = 300
_GZIP_OR_ZLIB = 47  # window bits: 32 to tell by the header, 15 for the largest window


@dataclass(frozen=True)
class Answer:
    """What a host sent.

    Attributes:
        body: whole and unpacked where the code is 200, else empty.
        framed: the host said where the body ends, so that what came is what it has.
    """

    code: int
    url: URL
    headers: Mapping[str, str]
    tags: tuple[str, ...]
    body: bytes
    framed: bool

    @property
    def leads_on(self) -> bool:
        """Whether it names another address instead."""
        return self.code in _REDIRECTS and "Location" in self.headers


def open_session(rules: AddressRules, user_agent: str, workers: int, per_host: int) -> aiohttp.ClientSession:
    """A session that keeps connections, knows no cookies and no proxies, and connects to allowed addresses only."""
    connector = aiohttp.TCPConnector(
        resolver=GuardedResolver(rules),
        socket_factory=rules.make_socket,
        limit=workers,
        limit_per_host=per_host,
        ttl_dns_cache=_DNS_CACHE_S,
        keepalive_timeout=_KEEP_ALIVE_S,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        # Unpacking is done here, where its size is watched.
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"User-Agent": user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
    )


async def request(
    session: aiohttp.ClientSession,
    url: URL,
    headers: Mapping[str, str],
    *,
    max_bytes: int,
    timeout_s: float,
    cut: bool = False,
) -> Answer:
    """GET one address, without following redirects.

    Args:
        cut: of a longer body take the first ``max_bytes`` instead of failing.

    Raises:
        CrawlFailure: with ``http_code`` unset if not even headers came: the host may be dead.
    """
    code: int | None = None
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            code = response.status
            if code == 200:
                body = await _body(response, max_bytes, cut=cut)
            else:
                body = b""
                if (response.content_length or 0) <= _DRAIN_BYTES and "Content-Length" in response.headers:
                    await response.read()
            framed = "Content-Length" in response.headers or response.headers.get("Transfer-Encoding") == "chunked"
            tags = tuple(response.headers.getall("X-Robots-Tag", ()))
            return Answer(code, url, response.headers, tags, body, framed)
    except CrawlFailure:
        raise
    except TimeoutError as error:
        what = "the answer took" if code is None else "the picture took"
        raise CrawlFailure("timeout", f"{what} longer than {timeout_s:.3g} s", passing=True, http_code=code) from error
    except (aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
        raise _failure(error, code) from error


async def _body(response: aiohttp.ClientResponse, max_bytes: int, *, cut: bool) -> bytes:
    """The body, unpacked: whole or, with ``cut``, its beginning.

    Raises:
        CrawlFailure: ``too_large``, as told or as counted, or packed in a way that was not asked for.
    """
    if (response.content_length or 0) > max_bytes and not cut:
        raise _too_large(max_bytes)
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise CrawlFailure("bad_answer", f"the answer is packed as {coding[:20]!r}", http_code=200)
    unpacker = None if coding in ("identity", "") else zlib.decompressobj(_GZIP_OR_ZLIB)
    body = bytearray()
    async for chunk in response.content.iter_any():
        if unpacker is not None:
            chunk = unpacker.decompress(chunk, max_bytes + 1 - len(body))
        body += chunk
        if len(body) > max_bytes:
            if cut:
                return bytes(body[:max_bytes])
            raise _too_large(max_bytes)
    if unpacker is not None and not unpacker.eof:
        raise CrawlFailure("cut_off", "the packed body ends early", passing=True, http_code=200)
    return bytes(body)


def _too_large(max_bytes: int) -> CrawlFailure:
    return CrawlFailure("too_large", f"the picture has more than {max_bytes:,} bytes", http_code=200)


def _failure(error: Exception, code: int | None) -> CrawlFailure:
    """What an exception of the network means; the order is from the special to the general."""
    inner = getattr(error, "os_error", None) or error
    if isinstance(inner, AddressRefusedError) or "is not a public address" in str(inner):
        return CrawlFailure("not_allowed_address", str(inner))
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return CrawlFailure("dns", f"the name cannot be looked up ({inner})", passing=True)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return CrawlFailure("tls", f"no secure connection ({inner})", passing=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return CrawlFailure("connect", f"no connection ({inner})", passing=True)
    if isinstance(error, aiohttp.InvalidURL):
        return CrawlFailure("bad_url", "the address cannot be understood")
    if isinstance(error, aiohttp.ClientPayloadError):
        return CrawlFailure("cut_off", "the body ends early", passing=True, http_code=code)
    if isinstance(error, zlib.error):
        return CrawlFailure("bad_answer", "the packed body is damaged", passing=True, http_code=code)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError):
        return CrawlFailure("reset", "the host broke the connection", passing=True, http_code=code)
    return CrawlFailure("bad_answer", f"no HTTP answer ({type(error).__name__})", passing=True, http_code=code)


def redirected(url: URL, answer: Answer, rules: AddressRules, what: str = "it") -> URL:
    """Where an answer leads on to.

    Args:
        what: that was asked for, the subject of a sentence.

    Raises:
        CrawlFailure: ``bad_url`` or ``not_allowed_address``.
    """
    try:
        return checked_url(str(url.join(parsed_url(answer.headers["Location"]))), rules)
    except CrawlFailure as failure:
        problem = f"{what} redirects to where {failure.message}"
        raise CrawlFailure(failure.kind, problem, http_code=answer.code) from failure
