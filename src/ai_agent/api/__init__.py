"""The face: what Litestar serves."""

import sys

# Litestar imports the whole of advanced-alchemy's ORM for a class of paging that nobody here uses: 0.2 s of a start and
# 14 MB a process. Told that it is absent, Litestar brings its own.
_ABSENT = "advanced_alchemy.service"
if _ABSENT not in sys.modules:
    sys.modules[_ABSENT] = None  # type: ignore[assignment]  # None is how the import system spells "not there"
    import litestar.pagination  # noqa: F401

    del sys.modules[_ABSENT]
