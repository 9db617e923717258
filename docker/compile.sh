#!/bin/sh
# Makes an installed environment small, and its first start as fast as the tenth: it goes without what only compilers, type
# checkers and packages' own tests read, and has the bytecode of what is really loaded. Fails when that cannot be loaded.
set -eu
environment="$1"
find "$environment" -depth \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' -o -name '*.cpp' -o -name '*.hpp' \) -delete
find "$environment/lib" -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +
find "$environment/lib" -name '*.so' -exec strip --strip-unneeded {} +

AI_AGENT_DATA_DIR="$(mktemp -d)"
export AI_AGENT_DATA_DIR
"$environment/bin/python3" - << 'EOF'
import importlib, pkgutil
import ai_agent
for module in pkgutil.walk_packages(ai_agent.__path__, "ai_agent."):
    if not module.name.endswith(("__main__", "local_model_server")):  # The last one needs the extra `local`.
        importlib.import_module(module.name)
for name in ("openai", "anthropic"):  # Which a run loads when it needs them.
    importlib.import_module(f"pydantic_ai.models.{name}")
    importlib.import_module(f"pydantic_ai.providers.{name}")
EOF
for command in "db upgrade" "db check" openapi asyncapi "keys create"; do
    # shellcheck disable=SC2086
    "$environment/bin/ai-agent" $command > /dev/null
done
rm -rf "$AI_AGENT_DATA_DIR"
