"""What a site's health endpoint says beside its processes: the phase and the round, nothing of data or budget."""

from __future__ import annotations

from client.status import read_status
from common.health import HealthCheck
from common.site_config import SiteConfig


def site_health(site: SiteConfig, port: int | None) -> HealthCheck | None:
    """Where the site's supervisor answers, or None if it shall not.

    Args:
        site: The site file.
        port: In place of the file's; None: the file's.
    """

    def details() -> dict[str, object]:
        # A gateway that runs alone may not read it.
        current = read_status(site.state / "status.json")
        return {} if current is None else {"phase": current.phase, "round": current.round, "rounds": current.rounds}

    chosen = site.health_port if port is None else port
    return HealthCheck(site.health_host, chosen, serving=lambda: True, details=details) if chosen else None
