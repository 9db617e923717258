"""A provider that is not configured is named, with the setting that is missing."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Server


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("bare")
    server = Server(f"sqlite:///{folder}/x.db", folder)
    with server.client() as client:
        yield client
    server.stop()


@pytest.mark.parametrize(("provider", "setting"), [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")])
def test_a_missing_key_is_named(bare: httpx.Client, provider: str, setting: str) -> None:
    body = {"name": provider, "model_config": {"provider": provider, "model": "m"}}
    agent = bare.post("/agents", json=body).json()["id"]
    response = bare.post(f"/agents/{agent}/execute", json={"message": "x"})
    assert (response.status_code, response.json()["code"]) == (502, "external_service_error")
    assert setting in response.json()["message"]
    assert response.json()["details"]["is_retryable"] is False
