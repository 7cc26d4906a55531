"""Another selection for a while: how an export asks for the exact one."""

import contextlib
import threading
from collections.abc import Iterator

_local = threading.local()


@contextlib.contextmanager
def override_selection(selection: str) -> Iterator[None]:
    """Layers called in this scope select as told. The scope belongs to the thread.

    Args:
        selection: `"exact"`, or `"lsh"` for each layer's own selection.
    """
    previous = _local.__dict__.get("selection", "lsh")
    _local.selection = selection
    try:
        yield
    finally:
        _local.selection = previous


def selection_in_force() -> str:
    """The selection of the innermost scope; `"lsh"` outside any."""
    return _local.__dict__.get("selection", "lsh")
