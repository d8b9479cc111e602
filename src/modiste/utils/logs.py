"""Format of log messages on the console and in a run's log file."""

from __future__ import annotations

import logging

from modiste.utils.terminal import clean


class Line(logging.Formatter):
    """Formats messages without the logger's name, with control characters escaped.

    >>> Line().format(logging.makeLogRecord({"msg": "3 rows dropped", "levelno": 30, "levelname": "WARNING"}))
    'Warning: 3 rows dropped'
    """

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.WARNING:
            record = logging.makeLogRecord(record.__dict__)
            record.msg, record.args = f"{record.levelname.capitalize()}: {record.getMessage()}", None
        return clean(super().format(record))
