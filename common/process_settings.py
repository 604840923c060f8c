"""What the site file and the server file both say of the processes that they keep: logs and health."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.child_log import Rotation

LogMaxMib = Annotated[
    int, Field(ge=1, le=10_000, description="largest size of one log file, MiB; then a new one is begun")
]
LogFiles = Annotated[
    int, Field(ge=2, le=100, description="files kept of each log, the one that is written to included")
]
HealthHost = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9.:-]{1,253}$",
        description="address on which health is told; it has no login, so leave it on loopback where you can",
    ),
]
HealthPort = Annotated[int, Field(ge=0, le=65535, description="port of GET /health and GET /live; 0: none")]


def rotation(log_max_mib: int, log_files: int) -> Rotation:
    """How much of a log is kept."""
    return Rotation(max_bytes=log_max_mib << 20, files=log_files)
