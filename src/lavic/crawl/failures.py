"""Why a picture was not fetched: a class to count, whether it may pass, and what to tell the user of each."""

from __future__ import annotations


class CrawlFailure(Exception):  # noqa: N818, an outcome of one picture and no error of the run
    """One picture could not be had.

    Args:
        kind: the class under which it is counted, such as ``http_404`` or ``timeout``.
        message: the details, a clause.
        passing: whether asking again later may help.
        http_code: of the answer, where there was one.
        retry_after_s: how long the host asked to wait.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        passing: bool = False,
        http_code: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.passing = passing
        self.http_code = http_code
        self.retry_after_s = retry_after_s


class Waiting(Exception):  # noqa: N818
    """The picture's host is dead for now: it is to be asked for later, at no cost to it.

    Args:
        host: name and port.
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


class Stopped(Exception):  # noqa: N818
    """The run is being stopped, so the picture was given up before it was tried (again)."""


def http_failure(code: int, retry_after_s: float | None = None) -> CrawlFailure:
    """The failure that an answer's code means; server trouble and "too many" may pass, the rest will not."""
    passing = code in (408, 425, 429) or (code >= 500 and code not in (501, 505))
    message = f"the host answered {code}{and_asked(retry_after_s)}"
    return CrawlFailure(f"http_{code}", message, passing=passing, http_code=code, retry_after_s=retry_after_s)


def and_asked(retry_after_s: float | None) -> str:
    """The end of a clause about an answer: how long to wait, if the host asked for that."""
    return "" if retry_after_s is None else f" and asked to wait {retry_after_s:.0f} s"


#: Classes of pictures at hosts that nothing more is asked of: dead ones, and those that asked to be left alone.
HOST_DOWN, ASKED_TO_WAIT = "host_down", "asked_to_wait"
LEFT_ALONE = (HOST_DOWN, ASKED_TO_WAIT)


#: What a reason that nearly all pictures share means, and what to do.
EXPLANATIONS = {
    "http_401": "The host wants a login, which lavic does not have.",
    "http_403": "The host refuses this crawler or this network. Look whether its terms allow crawling; fewer "
    "--workers, a --rate, or a --user_agent with your address may help.",
    "http_404": "The pictures are gone, or the addresses in the metadata are not those of pictures.",
    "http_429": "The host finds this too much. Run again later with a lower --rate and fewer --workers.",
    "http_503": "The host is overloaded or blocks this crawler. Run again later with a lower --rate.",
    "dns": "No host name can be looked up. Is this machine online?",
    "connect": "No connection comes about. Is this machine online, and does it need a proxy (lavic uses none)?",
    HOST_DOWN: "Is the host down, or is this machine offline? Run the same command again later.",
    ASKED_TO_WAIT: "Run again later with a lower --rate and fewer --workers; a longer --max_wait_s waits for it.",
    "timeout": "The host answers too slowly. Fewer --workers or a longer --timeout_s may help.",
    "tls": "The hosts' certificates are not accepted. Is this machine's clock right, and a proxy in between?",
    "robots": "The host's robots.txt forbids this crawler. Ask its owner; --ignore_robots fetches all the same.",
    "noai": "The host forbids use for AI (X-Robots-Tag). Ask its owner; --ignore_x_robots_tag keeps all the same.",
    "not_an_image": "The host sends pages instead of pictures, maybe a login or a question whether this is a robot.",
    "not_allowed_address": "The addresses lead into a private network. --allow_private CIDR allows one.",
    "no_url": "The metadata has no addresses where they are expected: look at images[i].large, image or --url_column.",
    "bad_url": "The metadata's addresses are not http or https.",
}


def explanation(kind: str) -> str:
    """What a reason means and what to do, one or two sentences."""
    return EXPLANATIONS.get(kind, "The report has the details of each picture.")
