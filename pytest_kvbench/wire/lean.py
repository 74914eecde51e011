"""httpx without its command line, which loads rich, pygments and click: half of its start-up."""

from __future__ import annotations

import sys

_COMMAND_LINE = "httpx._main"

if _COMMAND_LINE in sys.modules or "httpx" in sys.modules:
    import httpx
else:
    sys.modules[_COMMAND_LINE] = None  # type: ignore[assignment]  # how the import system says no
    try:
        import httpx  # which does without, as where its extra is not installed
    finally:
        del sys.modules[_COMMAND_LINE]

__all__ = ["httpx"]
