"""Where a request really comes from: proxies may say so, but only those that the operator trusts."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from litestar.types import HTTPScope

from ai_agent.api.headers import header

UNKNOWN = "unknown"


class TrustedProxies:
    """Reads `X-Forwarded-For` and `X-Forwarded-Proto` of peers inside the networks."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network]):
        self._networks = networks
        self._trusts = lru_cache(maxsize=1024)(self._inside)

    def tell(self, scope: HTTPScope) -> None:
        """Sets `client_address`, and the scheme that the client has used."""
        peer = client[0] if (client := scope.get("client")) else UNKNOWN
        if not self._networks or not self._trusts(peer):
            scope["client_address"] = _plain(peer)  # type: ignore[typeddict-unknown-key]  # ours, read by limits and audit
            return
        scope["client_address"] = self._client(peer, header(scope, b"x-forwarded-for") or "")  # type: ignore[typeddict-unknown-key]
        if (header(scope, b"x-forwarded-proto") or "").strip().lower() == "https":
            scope["scheme"] = "https"

    def _client(self, peer: str, forwarded: str) -> str:
        """The nearest address that is no proxy of ours: what stands further left, anybody may have written."""
        nearest = _plain(peer)
        for text in reversed(forwarded.split(",")):
            try:
                nearest = _plain(str(ip_address(text.strip())))
            except ValueError:
                break
            if not self._trusts(nearest):
                break
        return nearest

    def _inside(self, host: str) -> bool:
        try:
            address = ip_address(_plain(host))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


@lru_cache(maxsize=1024)
def _plain(host: str) -> str:
    """An IPv4 address that a socket for both families wrote as IPv6, as IPv4."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
