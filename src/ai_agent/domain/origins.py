"""Where a page is from, as browsers tell it. Source: RFC 6454, "The Web Origin Concept"."""

import re
from typing import NamedTuple

_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


class Origin(NamedTuple):
    """A host in small letters, and the port also where it is the scheme's own."""

    scheme: str
    host: str
    port: int


def parse_origin(text: str) -> Origin:
    """Raises ValueError for what is no origin of a page on the web, such as `null`, or one with a path."""
    parts = _ORIGIN.fullmatch(text.lower())
    if parts is None:
        raise ValueError(text)
    scheme, host, port = parts.groups()
    return Origin(scheme, host, int(port or _PORTS[scheme]))
