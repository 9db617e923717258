"""The outbound guard: where the server may go when a user names the address.

Two moments. When an address is written, `fault` says what is wrong with it, without asking a resolver. When a
connection is made, `checked` resolves once and checks every answer, and only a checked address is connected to.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from ipaddress import ip_address

from ai_agent.security.addresses import Network, literal_address, reachable

Resolve = Callable[[str, int], Awaitable[list[str]]]

# Nothing that two parsers could read in two ways: no backslash, no percent sign or letter beyond ASCII in the host.
_URL = re.compile(
    r"https?://(?P<user>[^/?#@\s\\]*@)?(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/[^\s\\#]*)?(?:\?[^\s\\#]*)?",
    re.IGNORECASE | re.ASCII,
)
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", re.IGNORECASE)
RESOLVERS = 4
NOT_ALLOWED = "Is an address that the server does not connect to; the operator allows it with AI_AGENT_OUTBOUND_ALLOW"


class OutboundRefused(Exception):
    """A connection that is not made, or an answer that is not read to its end. The message is for the user."""


@cache
def _resolvers() -> ThreadPoolExecutor:
    """Threads of their own: a name server of a user's that never answers keeps only those who ask for users' names."""
    return ThreadPoolExecutor(RESOLVERS, "outbound-dns")


async def system_resolver(host: str, port: int) -> list[str]:
    """All addresses of a name, the best first. Raises OSError."""
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    answers = await asyncio.get_running_loop().run_in_executor(_resolvers(), ask)
    return list(dict.fromkeys(str(address[0]) for *_, address in answers))


class OutboundGuard:
    def __init__(self, allowed: Sequence[Network], resolve: Resolve = system_resolver):
        self._allowed = tuple(allowed)
        self._resolve = resolve

    def fault(self, url: str) -> str | None:
        """What is wrong with an address that a user writes, None when nothing is known to be."""
        parts = _URL.fullmatch(url)
        if parts is None or int(parts["port"] or 0) > 65_535:
            return "Must be a plain http or https address in ASCII; an international name begins with xn--"
        if parts["user"]:
            return "Must hold no user and password"
        host = parts["host"].strip("[]")
        address = literal_address(host)
        if address is None and (":" in host or _NUMBER.fullmatch(host) or ".." in host or host.startswith(".")):
            return "Names no host"
        return None if address is None or reachable(address, self._allowed) else NOT_ALLOWED

    async def checked(self, host: str, port: int) -> list[str]:
        """The addresses of a host, each of them allowed. Raises OutboundRefused when one is not, OSError."""
        addresses = await self._resolve(host, port)
        if not addresses:
            raise OSError(f"{host} has no address")
        if not all(reachable(ip_address(address), self._allowed) for address in addresses):
            raise OutboundRefused("The server does not connect to this address")
        return addresses
