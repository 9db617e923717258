"""A database that cannot be written for longer than a statement waits, in the middle of a run."""

import sqlite3
import time

from tests.conftest import Server
from tests.faults.driving import database_of
from tests.model_server import Call, ModelServer, Reply
from tests.runs import ended, make_agent, said, start


def test_a_run_between_two_steps_waits_for_its_database(alone: Server, model: ModelServer) -> None:
    model.go_on.clear()
    call = Call("calculator", {"expression": "6 * 7"})
    model.script(Reply("Let me see now.", calls=[call], pause_after=2), Reply("It is forty-two."))
    with alone.client() as api:
        run = start(api, make_agent(api, tools=["calculator"]))
        said(api, run["id"], 1)
        other = sqlite3.connect(database_of(alone).removeprefix("sqlite:///"), isolation_level=None, timeout=10)
        other.execute("BEGIN IMMEDIATE")
        model.go_on.set()
        time.sleep(3.5)  # A statement waits for 2.3 s in all.
        other.execute("ROLLBACK")
        other.close()
        done = ended(api, run["id"])
        assert (done["status"], done["attempt"]) == ("completed", 1)
        answer = api.get(f"/messages/{done['output_message_id']}").json()["content"]
        assert answer == "Let me see now.\n\nIt is forty-two."
