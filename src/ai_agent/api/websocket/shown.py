"""Which events of a channel a client is shown."""

from collections.abc import Sequence

from ai_agent.domain.events import EventFrame


class Shown:
    """Those that the client wants, all where it names none, without those that are hidden from it.

    `message.*` is every type that begins with `message.`; `hidden` are beginnings, too.
    """

    def __init__(self, wanted: Sequence[str] = (), hidden: tuple[str, ...] = ()):
        self._types = frozenset(wanted)
        self._prefixes = tuple(pattern[:-1] for pattern in wanted if pattern.endswith("*"))
        self.hide(hidden)

    def hide(self, hidden: tuple[str, ...]) -> None:
        """These, in place of those before."""
        self._hidden = hidden
        self.everything = not (self._types or hidden)

    def __contains__(self, event: EventFrame) -> bool:
        return self.wants(event.type)

    def wants(self, kind: str) -> bool:
        wanted = not self._types or kind in self._types or kind.startswith(self._prefixes)
        return wanted and not kind.startswith(self._hidden)
