"""Files that their owner alone may read: whatever holds clients' questions, names or secrets."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["make_private"]


def make_private(path: str | Path) -> None:
    """Make an empty file that its owner alone may read, unless there is one; that one stays as it is."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
