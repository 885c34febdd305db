"""Points in time: ISO texts in, int64 microseconds since 1970 UTC out, and back."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

MICROSECONDS_PER_SECOND = 1_000_000
MICROSECONDS_PER_DAY = 86_400 * MICROSECONDS_PER_SECOND


def parse_instant(value: object) -> int:
    """Read a point in time as int64 microseconds since 1970 UTC.

    Args:
        value: an ISO date or date-time (text or object); without an offset it is UTC. An ``int`` is
            taken as microseconds already.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, bool) or not isinstance(value, int | str | date):
        raise ValueError(f"wanted an ISO date or date-time, found {value!r}")
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(
                f"wanted an ISO date or date-time such as 2011-06-01 or 2011-06-01T12:00:00Z, "
                f"found {value!r}"
            ) from None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    delta = value - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * MICROSECONDS_PER_SECOND + delta.microseconds


def format_instant(microseconds: int) -> str:
    """Write a point in time as ISO 8601 UTC, microseconds only where there are any."""
    seconds, rest = divmod(microseconds, MICROSECONDS_PER_SECOND)
    try:
        text = (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat()
    except OverflowError:  # datetime ends with the year 9999; milliseconds taken for seconds do not
        return f"a time in the year {1970 + seconds // 31_556_952}"
    return text + (f".{rest:06d}Z" if rest else "Z")


Instant = Annotated[
    int, BeforeValidator(parse_instant), PlainSerializer(format_instant, when_used="json")
]
