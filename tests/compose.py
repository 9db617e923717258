"""`docker/compose.yaml` as compose reads it: anchors merged, variables put in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[1] / "docker"


def load(variables: Mapping[str, str]) -> Any:
    """Raises KeyError for a variable that has to be set."""

    def value(found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        return variables[name] if default is None else variables.get(name) or default

    text = (DOCKER / "compose.yaml").read_text()
    return yaml.safe_load(re.sub(r"\$\{(?P<name>\w+):(?:\?|-(?P<default>[^}]*))\}", value, text))
