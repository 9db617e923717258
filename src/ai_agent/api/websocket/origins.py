"""Which pages may open a socket: browsers let any page try, and say only here whose it is."""

from collections.abc import Set

from litestar.types import Scope

from ai_agent.api.headers import header
from ai_agent.domain.errors import AuthorizationError
from ai_agent.domain.origins import Origin, parse_origin

_SECURE = {"wss", "https"}


class Origins:
    """Those that are listed; where none are, the server's own. Whoever sends no Origin is no browser."""

    def __init__(self, listed: Set[Origin]):
        self._listed = listed

    def check(self, scope: Scope) -> None:
        """Raises AuthorizationError for a page from elsewhere."""
        told = header(scope, b"origin")
        if told is not None and not self._may(told, scope):
            raise AuthorizationError("A page of this origin may not connect here")

    def _may(self, told: str, scope: Scope) -> bool:
        try:
            origin = parse_origin(told)
            return origin in self._listed if self._listed else origin == _own(scope, origin.scheme)
        except ValueError:
            return False


def _own(scope: Scope, scheme: str) -> Origin:
    """The server's origin, as the client named it. Raises ValueError.

    Only a scheme that is secure is known for sure: before another one may stand a proxy that nobody has told us of.
    """
    secure = scope["scheme"] in _SECURE
    return parse_origin(f"{'https' if secure else scheme}://{header(scope, b'host') or ''}")
