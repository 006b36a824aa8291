"""Logs: one JSON object a line on stderr, including Python's warnings and uvicorn's messages."""

import logging

from kilonet.utils.extras import needed_from

with needed_from("serve"):
    from pythonjsonlogger.orjson import OrjsonFormatter

LOGGER = logging.getLogger("kilonet.serve")
_FORMAT = "{levelname}{name}{message}"


def start_logging() -> None:
    """Send this process's logs to stderr: every request, and the warnings and errors of all libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        OrjsonFormatter(_FORMAT, style="{", timestamp="time", rename_fields={"levelname": "level", "name": "logger"})
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    LOGGER.setLevel(logging.INFO)
