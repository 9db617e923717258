"""Which events an application has had: what a server sends again after it lost its place is not delivered twice."""

from uuid import UUID

REMEMBERED_EVENTS = 4096
"""So many of a channel are known again when they come under another number."""


class Seen:
    """The latest event ids of one channel."""

    def __init__(self) -> None:
        self._ids: dict[UUID, None] = {}

    def __contains__(self, eid: UUID) -> bool:
        return eid in self._ids

    def is_new(self, eid: UUID) -> bool:
        """Whether it is met for the first time; from now on it is not."""
        if eid in self._ids:
            return False
        self._ids[eid] = None
        if len(self._ids) > REMEMBERED_EVENTS:
            del self._ids[next(iter(self._ids))]
        return True
