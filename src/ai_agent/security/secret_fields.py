"""The secrets among the fields of a resource's rows, as their column `secrets` holds them: by field, sealed."""

from collections.abc import Mapping
from uuid import UUID

import msgspec

from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.fields import KEPT_SECRET, StoredJson, to_json
from ai_agent.security.secret_box import SecretBox

_decoder = msgspec.json.Decoder(dict[str, str])

NO_SECRETS = to_json({})


def check_kept(given: Mapping[str, str | None], *, moved: bool) -> None:
    """Raises InvalidFields for secrets that are kept and would go to another place than before.

    Whoever may change a row could else send its secrets to a server of their own.
    """
    if moved and (kept := [name for name, value in given.items() if value == KEPT_SECRET]):
        raise InvalidFields([FieldError(name, "Is required anew when it is to go to another address") for name in kept])


class SecretFields:
    """Seals and opens them. Each is bound to the resource, the row's id and the field."""

    def __init__(self, box: SecretBox, resource: str):
        self._box = box
        self._resource = resource

    def seal(self, row_id: UUID, given: Mapping[str, str | None], present: StoredJson) -> StoredJson:
        """The column after a write: `***` keeps what is present, null removes it. Raises InvalidFields."""
        before = _decoder.decode(present)
        if missing := [name for name, value in given.items() if value == KEPT_SECRET and name not in before]:
            raise InvalidFields([FieldError(name, "There is no secret to keep") for name in missing])
        sealed = {
            name: before[name] if value == KEPT_SECRET else self._box.seal(value, self._place(row_id, name))
            for name, value in given.items()
            if value is not None
        }
        return to_json(sealed)

    def open(self, row_id: UUID, secrets: StoredJson, field: str) -> str | None:
        """None when there is none. Raises UnreadableSecret."""
        sealed = _decoder.decode(secrets).get(field)
        return None if sealed is None else self._box.open(sealed, self._place(row_id, field))

    def reseal(self, row_id: UUID, secrets: StoredJson) -> StoredJson | None:
        """The column under the newest key, None when it is so already. Raises UnreadableSecret."""
        sealed = _decoder.decode(secrets)
        fresh = {name: self._box.reseal(text, self._place(row_id, name)) for name, text in sealed.items()}
        return to_json(fresh) if fresh != sealed else None

    def _place(self, row_id: UUID, field: str) -> str:
        return f"{self._resource}/{row_id}/{field}"
