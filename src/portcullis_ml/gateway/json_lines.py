"""What the gate says of itself on standard error, for programs that collect it."""

from __future__ import annotations

import json
import logging

__all__ = ["JsonLines"]


class JsonLines(logging.Formatter):
    """One JSON object a line, with whatever `extra` a record carries."""

    _plain = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        extra = {k: v for k, v in vars(record).items() if k not in self._plain}
        tree = {"at": record.created, "level": record.levelname.lower(), "message": record.getMessage(), **extra}
        if record.exc_info:
            tree["error"] = self.formatException(record.exc_info)
        return json.dumps(tree, default=str)
