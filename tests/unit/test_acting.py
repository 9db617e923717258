"""`?owner_id=`: in whose place a caller reads."""

import pytest

from ai_agent.api.acting import acting_for, reads_owned
from ai_agent.api.guards import IDENTIFIED, PUBLIC, needs
from ai_agent.domain.errors import AuthorizationError
from ai_agent.domain.identity import Principal, Scope, Tier

ADMIN = Principal("boss", frozenset({"admin"}), Tier.PREMIUM)
CLERK = Principal("clerk", frozenset(set(Scope) - {Scope.ADMIN}))


def test_an_admin_reads_in_an_owners_place_and_is_else_what_he_was() -> None:
    assert acting_for(ADMIN, "shop") == Principal("shop", ADMIN.scopes, ADMIN.tier)


@pytest.mark.parametrize("principal", [ADMIN, CLERK])
def test_without_an_owner_or_with_himself_everybody_is_himself(principal: Principal) -> None:
    assert acting_for(principal, None) is acting_for(principal, principal.subject) is principal


@pytest.mark.parametrize("owner", ["shop", "boss", "", "Clerk", "clerk "])
def test_who_is_no_admin_reads_in_nobodys_place(owner: str) -> None:
    with pytest.raises(AuthorizationError):
        acting_for(CLERK, owner)


def test_only_what_is_somebodys_is_read_for_him() -> None:
    assert reads_owned("GET", needs(Scope.SESSIONS_READ))
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert not reads_owned(method, needs(Scope.SESSIONS_READ))
    for opt in (PUBLIC, IDENTIFIED, needs(Scope.ADMIN), {}):
        assert not reads_owned("GET", opt)
