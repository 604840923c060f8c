"""What the coordinator's health endpoint says beside its processes: the run that goes on, and who is connected."""

from __future__ import annotations

from common.errors import StoreError
from common.health import HealthCheck
from common.server_config import ServerConfig
from server.progress import read_progress
from server.run_folder import run_folder
from server.store import Store


class CoordinatorHealth:
    """Whether hospitals may connect, and what the current run does.

    Args:
        config: The server file.
        store: Knows the runs.
    """

    def __init__(self, config: ServerConfig, store: Store) -> None:
        self._config, self._store = config, store
        self.open = False

    def check(self, port: int | None) -> HealthCheck | None:
        """Where the coordinator answers, or None if it shall not; a `port` takes the place of the file's."""
        chosen = self._config.health_port if port is None else port
        if not chosen:
            return None
        return HealthCheck(self._config.health_host, chosen, serving=lambda: self.open, details=self.details)

    def details(self) -> dict[str, object]:
        """The oldest run that goes on, which is the one that is carried."""
        try:
            running = next((known.run for known in self._store.runs() if known.state == "running"), None)
        except StoreError:
            return {"run": None, "store": "does not answer"}
        progress = None if running is None else read_progress(run_folder(self._config, running))
        if progress is None:
            return {"run": running}
        return {
            "run": running,
            "phase": progress.phase,
            "round": progress.round,
            "rounds": progress.rounds,
            "connected": list(progress.connected),
        }
