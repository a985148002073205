"""Dates as HTTP writes them, without the standard library's mail package (which brings sockets and dice)."""

from __future__ import annotations

from typing import Final

_DAYS: Final = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(text: str) -> float | None:
    """Return the unix time of `Sun, 06 Nov 1994 08:49:37 GMT`, or None if it is not of this form.

    Source:  RFC 9110 §5.6.7, the one form that is sent
    """
    parts = text.split()
    if len(parts) != 6 or parts[5] != "GMT" or parts[2] not in _MONTHS:
        return None
    numbers = [parts[1], parts[3], *parts[4].split(":")]
    if len(numbers) != 5 or not all(part.isascii() and part.isdigit() and len(part) <= 4 for part in numbers):
        return None
    day, year, hour, minute, second = map(int, numbers)
    if not (1 <= day <= 31 and hour <= 23 and minute <= 59 and second <= 60):
        return None
    return _days(year, _MONTHS.index(parts[2]) + 1, day) * 86400.0 + hour * 3600 + minute * 60 + second


def write_http_date(instant: float) -> str:
    """Return a unix time, from the year 1 to 9999, as `http_date` reads it."""
    days, seconds = divmod(int(instant // 1), 86400)
    era, of_era = divmod(days + 719468, 146097)
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    march = (5 * of_year + 2) // 153
    day = of_year - (153 * march + 2) // 5 + 1
    month = (march + 2) % 12
    year += era * 400 + (month < 2)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{_DAYS[(days + 4) % 7]}, {day:02} {_MONTHS[month]} {year:04} {clock} GMT"


def _days(year: int, month: int, day: int) -> int:
    # Days since 1970-01-01 in the proleptic Gregorian calendar; years begin in March, so that leap days come last.
    year -= month <= 2
    era_year = year % 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return year // 400 * 146097 + era_year * 365 + era_year // 4 - era_year // 100 + day_of_year - 719468
