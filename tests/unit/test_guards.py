"""Who may call what."""

from typing import Any

import pytest

import ai_agent.api  # noqa: F401  # isort: skip  # before Litestar; it says why
from litestar import Controller, Litestar, get, post

from ai_agent.api.guards import PUBLIC, check_scope, needs, require_declared_scopes
from ai_agent.domain.errors import AuthorizationError, ConfigurationError
from ai_agent.domain.identity import Principal, Scope


def app(*handlers: Any) -> Litestar:
    return Litestar(list(handlers), openapi_config=None, logging_config=None)


@get("/public", opt=PUBLIC)
async def public() -> None: ...


@get("/scoped", opt=needs(Scope.SESSIONS_READ))
async def scoped() -> None: ...


@get("/forgotten")
async def forgotten() -> None: ...


class Things(Controller):
    path = "/things"

    @get(opt=needs(Scope.TOOLS_READ))
    async def list_things(self) -> None: ...

    @post()
    async def create_thing(self) -> None: ...


def test_an_application_whose_operations_declare_their_scopes_starts() -> None:
    require_declared_scopes(app(public, scoped))


@pytest.mark.parametrize(("handler", "name"), [(forgotten, "forgotten"), (Things, "create_thing")])
def test_an_application_does_not_start_when_an_operation_declares_no_scope(handler: Any, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        require_declared_scopes(app(public, scoped, handler))


@pytest.mark.parametrize("scope", list(Scope))
def test_an_admin_may_do_everything(scope: Scope) -> None:
    check_scope(Principal("a", frozenset({"admin"})), scope)


@pytest.mark.parametrize("scope", list(Scope))
def test_a_scope_allows_what_it_names_and_nothing_else(scope: Scope) -> None:
    principal = Principal("a", frozenset({str(scope)}))
    check_scope(principal, scope)
    if scope is not Scope.ADMIN:
        assert [other for other in Scope if principal.may(other)] == [scope]


@pytest.mark.parametrize("scope", list(Scope))
def test_nobody_may_do_anything_without_a_scope(scope: Scope) -> None:
    with pytest.raises(AuthorizationError) as caught:
        check_scope(Principal("a", frozenset()), scope)
    assert caught.value.details == {"scope": scope}
    assert scope in caught.value.message
