"""What `/metrics` tells a test."""

import time
from collections.abc import Callable

import httpx

Lines = dict[str, float]


class Told:
    """What `/metrics` told when it was asked last. `url` is the server's."""

    def __init__(self, url: str):
        self._url = url
        self.lines = self.now()

    def now(self) -> Lines:
        samples = [line.rpartition(" ") for line in told_by(self._url).splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}

    def grows(self, grown: Callable[[Lines], bool]) -> None:
        """Waits until what each line has grown by since then is as it should be."""
        deadline = time.monotonic() + 30
        while not grown(by := _difference(self.lines, self.now())):
            assert time.monotonic() < deadline, {name: value for name, value in by.items() if "_bucket" not in name}
            time.sleep(0.05)
        self.lines = self.now()


def _difference(before: Lines, after: Lines) -> Lines:
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


def told_by(url: str) -> str:
    answer = httpx.get(f"{url}/metrics", timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.text
