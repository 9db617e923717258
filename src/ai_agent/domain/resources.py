"""What has an address of its own, and requests that hold only for one state of it."""

from typing import ClassVar

import msgspec

from ai_agent.domain.errors import PreconditionFailed

Versions = frozenset[int]
"""Row versions that a client has seen, from its `If-Match`."""


class Resource(msgspec.Struct, dict=True):
    """A row with an address. Its version grows with every change and is its entity tag; it is no field of the body."""

    row_version: ClassVar[int] = 1

    def expect(self, versions: Versions | None) -> None:
        """Raises PreconditionFailed when the row is not in one of these versions; None accepts any."""
        if versions is not None and self.row_version not in versions:
            raise PreconditionFailed("The resource has changed since; get it again")
