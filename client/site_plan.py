"""The plan that a site follows, as its site file names it."""

from __future__ import annotations

from common.config import load_settings
from common.errors import ConfigError
from common.plan import Plan
from common.site_config import SiteConfig


def load_plan(config: SiteConfig) -> Plan:
    """Read the site's plan and check that it names this hospital, and enough others.

    Raises:
        ConfigError: If the file is wrong, names no hospitals yet or not this one, or fewer hospitals than this site
            asks for.
    """
    plan = load_settings(config.plan, Plan)
    if plan.federation is None:
        raise ConfigError(f"{config.plan}: a plan without hospitals; name the agreed plan that provision has written")
    names = [hospital.name for hospital in plan.roster]
    if config.hospital not in names:
        raise ConfigError(
            f"{config.plan}: the roster names {', '.join(names)}, not {config.hospital}; ask the organiser"
        )
    if config.privacy.min_cohort > len(names):
        raise ConfigError(
            f"privacy.min_cohort: seen {config.privacy.min_cohort} in the site file, {config.plan} names {len(names)} "
            "hospitals; at most as many as hospitals is allowed, else this site could never take part"
        )
    return plan
