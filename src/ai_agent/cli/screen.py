"""The terminal: what it shows, and what is typed there."""

import contextlib
from typing import NoReturn

from rich.console import Console


class _Screen(Console):
    def on_broken_pipe(self) -> NoReturn:
        """That a reader such as `head` has had enough is no failure."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()
        raise SystemExit(0)


console = _Screen(highlight=False, emoji=False)

# What a model says may not move the cursor, name the window or ring the bell.
_CONTROLS = {code: None for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Text of somebody else's without what a terminal would obey."""
    return text.translate(_CONTROLS)


def show(text: str, *, end: str = "\n", style: str | None = None) -> None:
    """Text of somebody else's, as it is: no markup, and nothing that a terminal would obey."""
    console.print(printable(text), end=end, style=style, markup=False, soft_wrap=True)


def ask(prompt: str) -> str:
    """A line without its outer white space. Raises EOFError at the end of input, KeyboardInterrupt for Ctrl-C."""
    return input(prompt).strip()


def edit(prompt: str, text: str) -> str:
    """As `ask`, with a text to change; where the terminal cannot do that, it is typed anew."""
    try:
        import readline
    except ImportError:
        return ask(prompt)
    readline.set_startup_hook(lambda: readline.insert_text(text))
    try:
        return ask(prompt)
    finally:
        readline.set_startup_hook()
