"""Log lines: one event a line with its context, for people on a console or as JSON for machines."""

import logging
import sys
from typing import Literal, TypeAlias

import structlog

Logger: TypeAlias = structlog.typing.FilteringBoundLogger


def configure_logging(*, level: str = "info", format: Literal["console", "json"] = "console") -> None:
    """Sends structlog and the standard library's logging to stderr in one format."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if format == "json":
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Each line in one write, or threads' lines would run into one another.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s [%(levelname)s] %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # peft imports it everywhere, and it says each time what its 4-bit kernels, used nowhere here, lack on a CPU.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def get_logger(name: str) -> Logger:
    """A logger whose lines carry `service`=name."""
    logger: Logger = structlog.get_logger(service=name)
    return logger
