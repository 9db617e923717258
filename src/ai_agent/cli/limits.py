"""What the machine allows a process."""

import resource

SPARE_FILES = 256
"""Beside sockets: connections to databases and providers, the log, files."""


def raise_open_files() -> None:
    """Takes as many open files as the process may have; a shell's own limit is for programs without many sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def open_files() -> int:
    """How many files the server may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
