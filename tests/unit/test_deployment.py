"""The files in `docker/`: what they say about the server is what the code does."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from compose_spec import PyCompose

from ai_agent.api.v1.health import HealthController
from ai_agent.cli import cli
from ai_agent.settings import Settings, load_settings, variable
from tests.compose import DOCKER, load

CONTAINER_PORT, WORKER_PORT = 8000, 9000
PORTS = {"serve": CONTAINER_PORT, "worker": WORKER_PORT}
HANDLED = 15
"""Seconds that a process may need beside delay and window: the flush of its outbox, and closing."""


def _documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


COMPOSE = load({"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r"})
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("ai-agent:")}
MANIFESTS = {path.name: _documents(path) for path in sorted((DOCKER / "k8s").glob("*.yaml"))}
OBJECTS = [one for name, documents in MANIFESTS.items() if name != "kustomization.yaml" for one in documents]
PODS = {one["metadata"]["name"]: one["spec"]["template"] for one in OBJECTS if one["kind"] in ("Deployment", "Job")}
CONFIG = next(one["data"] for one in OBJECTS if one["kind"] == "ConfigMap")


def _container(name: str) -> Any:
    (container,) = PODS[name]["spec"]["containers"]
    return container


def test_compose_reads_it_and_every_name_is_defined() -> None:
    PyCompose.from_json(json.dumps(COMPOSE)).validate()
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
        volumes = (volume.partition(":")[0] for volume in service.get("volumes", []))
        assert all(volume in COMPOSE["volumes"] or volume.startswith("./") for volume in volumes)


def test_every_setting_that_a_file_names_is_one() -> None:
    known = {variable(name) for name in Settings.__struct_fields__}
    files = [path for path in DOCKER.rglob("*") if path.is_file() and path.suffix != ".json"]
    named = {(path.name, name) for path in files for name in re.findall(r"\bAI_AGENT_[A-Z_]+", path.read_text())}
    assert len({file for file, _ in named}) >= 5
    assert {(file, name) for file, name in named if name not in known} == set()


@pytest.mark.parametrize("settings", [*(service["environment"] for service in OURS.values()), CONFIG])
def test_a_container_starts_with_its_settings(settings: dict[str, str]) -> None:
    assert load_settings({"AI_AGENT_SECRET_KEY": "s" * 32} | settings).drain_window_seconds > 0


def _commands() -> Iterator[list[str]]:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    yield yaml.safe_load(re.findall(r"^CMD (.*)$", dockerfile, re.MULTILINE)[0])
    yield from (service["command"] for service in OURS.values())
    yield from (_container(name)["args"] for name in PODS)


@pytest.mark.parametrize("command", list(_commands()), ids=shlex.join)
def test_every_command_is_one(command: list[str]) -> None:
    group: click.Command = cli
    while isinstance(group, click.Group):
        group = group.commands[command[0]]
        command = command[1:]
    options = group.make_context("ai-agent", list(command)).params
    if group.name in PORTS:
        assert (options["host"], options["port"]) == ("0.0.0.0", PORTS[group.name])


def test_the_image_ends_on_sigterm_and_is_nobody_special() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    for line in ('ENTRYPOINT ["ai-agent"]', "STOPSIGNAL SIGTERM", "USER 10001:10001", f"EXPOSE {CONTAINER_PORT}"):
        assert dockerfile.count(f"\n{line}\n") == 1, line


def _path(test: str) -> str:
    return str(re.findall(r"'(/health/\w+)'", test)[0])


def test_probes_ask_what_is_there_and_a_database_that_is_away_restarts_nobody() -> None:
    live, ready = "/health/live", "/health/ready"
    for container in (_container("ai-agent-api"), _container("ai-agent-worker")):
        paths = {name: probe["httpGet"]["path"] for name, probe in container.items() if "Probe" in name}
        assert paths == {"startupProbe": live, "readinessProbe": ready, "livenessProbe": live}
    assert _path((DOCKER / "Dockerfile").read_text()) == live
    assert {_path(OURS[name]["healthcheck"]["test"][-1]) for name in OURS if name != "migrate"} == {ready}
    for name in OURS.keys() - {"migrate"}:
        port = WORKER_PORT if name.startswith("worker") else CONTAINER_PORT
        assert str(port) in OURS[name]["healthcheck"]["test"][-1]
    assert f"health_uri {ready}" in (DOCKER / "Caddyfile").read_text()
    for name, port in {"ai-agent-api": CONTAINER_PORT, "ai-agent-worker": WORKER_PORT}.items():
        assert [each["containerPort"] for each in _container(name)["ports"]] == [port]
    scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    targets = {target for job in scraped for config in job["static_configs"] for target in config["targets"]}
    assert targets == {f"api-{n}:{CONTAINER_PORT}" for n in (1, 2)} | {f"worker-{n}:{WORKER_PORT}" for n in (1, 2)}
    handlers = (HealthController.get_liveness, HealthController.get_readiness)
    assert [HealthController.path + path for handler in handlers for path in handler.paths] == [live, ready]


def test_what_has_to_be_filled_in_is_in_the_example() -> None:
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert set(example.values()) == {""}
    assert load(dict.fromkeys(example, "x")) is not None
    assert {"AI_AGENT_SECRET_KEY", "AI_AGENT_BOOTSTRAP_API_KEY"} <= set(example)


def test_the_proxy_knows_the_nodes_and_sees_in_time_that_one_drains() -> None:
    caddyfile = (DOCKER / "Caddyfile").read_text()
    nodes = [f"{name}:{CONTAINER_PORT}" for name in OURS if name.startswith("api-")]
    assert COMPOSE["services"]["proxy"]["environment"]["UPSTREAMS"].split() == nodes
    assert f"{{$UPSTREAMS:{' '.join(nodes)}}}" in caddyfile
    interval, timeout, fails = (
        int(re.findall(rf"health_{name} (\d+)", caddyfile)[0]) for name in ("interval", "timeout", "fails")
    )
    address = COMPOSE["services"]["proxy"]["networks"]["front"]["ipv4_address"]
    for name in ("api-1", "api-2"):
        settings = OURS[name]["environment"]
        assert float(settings["AI_AGENT_DRAIN_DELAY_SECONDS"]) > fails * interval + timeout
        assert settings["AI_AGENT_TRUSTED_PROXIES"] == f"{address}/32"


def _drain(settings: dict[str, str]) -> float:
    return float(settings["AI_AGENT_DRAIN_DELAY_SECONDS"]) + float(settings["AI_AGENT_DRAIN_WINDOW_SECONDS"])


def test_whoever_kills_waits_longer_than_a_drain_takes() -> None:
    for service in OURS.values():
        assert int(service["stop_grace_period"].removesuffix("s")) > _drain(service["environment"]) + HANDLED
    for name in ("ai-agent-api", "ai-agent-worker"):
        assert PODS[name]["spec"]["terminationGracePeriodSeconds"] > _drain(CONFIG) + HANDLED


def test_every_pod_is_locked_in() -> None:
    for pod in PODS.values():
        (container,) = pod["spec"]["containers"]
        security = container["securityContext"]
        assert (pod["spec"]["securityContext"]["runAsNonRoot"], security["readOnlyRootFilesystem"]) == (True, True)
        assert (security["allowPrivilegeEscalation"], security["capabilities"]) == (False, {"drop": ["ALL"]})
        assert pod["spec"]["automountServiceAccountToken"] is False


def test_selectors_find_their_pods_and_references_their_objects() -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in OBJECTS}
    for one in OBJECTS:
        selector = one.get("spec", {}).get("selector")
        if selector:
            pod = PODS.get(one["metadata"]["name"], PODS["ai-agent-api"])  # The service is of the API.
            assert selector.get("matchLabels", selector).items() <= pod["metadata"]["labels"].items()
        if one["kind"] == "HorizontalPodAutoscaler":
            assert ("Deployment", one["spec"]["scaleTargetRef"]["name"]) in there
    for name in PODS:
        for source in _container(name)["envFrom"]:
            kind, reference = ("Secret", source.get("secretRef")) if "secretRef" in source else ("ConfigMap", None)
            assert (kind, (reference or source["configMapRef"])["name"]) in there
    resources = MANIFESTS["kustomization.yaml"][0]["resources"]
    assert sorted(resources) == sorted(set(MANIFESTS) - {"kustomization.yaml", "secret.example.yaml"})
