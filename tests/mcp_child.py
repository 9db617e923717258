"""An MCP server over standard streams that is hard to end: it forks, ignores signals, and the end of its input, too.

`python mcp_child.py <file>` writes the ids of its processes into the file.
"""

import json
import os
import signal
import sys
import time
from typing import Any

NAMES = ("echo", "die", "hang", "flood", "babble")
ANSWERS = {
    "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "c"}},
    "tools/list": {"tools": [{"name": f"child_{name}", "inputSchema": {"type": "object"}} for name in NAMES]},
}


def stay() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)


def sleep_for_ever() -> None:
    while True:
        time.sleep(60)


def answer(message: dict[str, Any]) -> None:
    name = message["params"]["name"].removeprefix("child_") if message["method"] == "tools/call" else ""
    if name == "die":
        os._exit(1)
    if name == "hang":
        return
    if name == "flood":
        for _ in range(1600):
            sys.stdout.write("x" * 65536)
    if name == "babble":
        sys.stdout.write("Not JSON\n[1]\n" * 100)
        sys.stderr.write("Warning!\n" * 100_000)
    said = {"content": [{"type": "text", "text": str(message.get("params", {}).get("arguments", {}).get("text"))}]}
    result = ANSWERS.get(message["method"], said)
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")
    sys.stdout.flush()


def main() -> None:
    stay()
    grandchild = os.fork()
    if grandchild == 0:
        sleep_for_ever()
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()} {grandchild}\n")
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            answer(message)
    sleep_for_ever()


main()
