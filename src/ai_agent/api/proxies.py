"""Where a request really comes from: proxies may say so, but only those that the operator trusts."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from litestar.types import Scope

from ai_agent.api.headers import header

UNKNOWN = "unknown"


class TrustedProxies:
    """Reads `X-Forwarded-For` and `X-Forwarded-Proto` of peers inside the networks."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network]):
        self._networks = networks
        self._trusts = lru_cache(maxsize=1024)(self._inside)

    def tell(self, scope: Scope) -> None:
        """Sets `client_address`, and the scheme that the client has used."""
        peer = client[0] if (client := scope.get("client")) else UNKNOWN
        if not self._networks or not self._trusts(peer):
            scope["client_address"] = _plain(peer)  # type: ignore[typeddict-unknown-key]  # ours, read by limits and audit
            return
        scope["client_address"] = self._client(peer, header(scope, b"x-forwarded-for") or "")  # type: ignore[typeddict-unknown-key]
        # Of several proxies the first one has seen the client.
        if (header(scope, b"x-forwarded-proto") or "").partition(",")[0].strip().lower() == "https":
            scope["scheme"] = "https"

    def _client(self, peer: str, forwarded: str) -> str:
        """The nearest address that is no proxy of ours: what stands further left, anybody may have written."""
        nearest = _plain(peer)
        for text in reversed(forwarded.split(",")):
            address = _address(text)
            if address is None:
                break
            nearest = _plain(address)
            if not self._trusts(nearest):
                break
        return nearest

    def _inside(self, host: str) -> bool:
        try:
            address = ip_address(_plain(host))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _address(text: str) -> str | None:
    """The address of `203.0.113.7`, `203.0.113.7:5678`, `2001:db8::7` or `[2001:db8::7]:5678`, else None."""
    text = text.strip(' "')
    host = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0] if "." in text else text
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return None


@lru_cache(maxsize=1024)
def _plain(host: str) -> str:
    """An IPv4 address that a socket for both families wrote as IPv6, as IPv4."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
