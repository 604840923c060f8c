"""Python's clock a day ahead, for every process with this folder on PYTHONPATH."""

import datetime as dt
import time

AHEAD = dt.timedelta(days=1)


class WrongDatetime(dt.datetime):
    """The standard one, but for the time of day."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "WrongDatetime":
        """A day ahead."""
        return super().now(tz) + AHEAD


right_time = time.time
dt.datetime = WrongDatetime  # type: ignore[misc]
time.time = lambda: right_time() + AHEAD.total_seconds()
