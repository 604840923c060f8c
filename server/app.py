"""The ServerApp: composes one run from its folder and hands it to Flower."""

from __future__ import annotations

import contextlib
import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from common.config import load_settings
from common.errors import DeploymentError, FedwardError, PlanError, StoreError
from common.identity import Identity
from common.plan import Plan
from common.server_config import ServerConfig, load_server
from server.guard import refuse_learning_code, refuse_secret_key
from server.history import StoredHistory
from server.lock import hold
from server.long_messages import LongMessages
from server.mask_store import MaskStore
from server.one_by_one import OneByOneGrid
from server.progress import Progress, ProgressFile
from server.requests import RequestWriter
from server.run_folder import CONFIG_VARIABLE, CONNECT_TIMEOUT_KEY, PLAN_FILE, RUN_KEY, run_folder
from server.steps import steps_after
from server.store import Store
from server.strategy import SecureAggregation

log = logging.getLogger(__name__)
LOG_FILE = "serverapp.log"
LOCK_FILE = "serverapp.lock"
LOCK_WAIT_S = 30.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, or go on with, the run that the run configuration names."""
    refuse_learning_code()
    config_path = Path(os.environ[CONFIG_VARIABLE])
    config = load_server(config_path)
    refuse_secret_key(config.folder, config_path.parent)
    run = str(context.run_config[RUN_KEY])
    folder = run_folder(config, run)
    _log_to(folder / LOG_FILE, config)
    plan = load_settings(folder / PLAN_FILE, Plan)
    busy = f"another ServerApp still carries run {run}; it ends by itself once it notices that the SuperLink is gone"
    with hold(folder / LOCK_FILE, wait_s=LOCK_WAIT_S, busy=busy):
        progress = ProgressFile(folder, Progress(run, plan.name, plan.last_training_round))
        with contextlib.closing(Store(config.folder)) as store:
            try:
                _run(config, plan, run=run, flower=grid, store=store, progress=progress, context=context)
            except FedwardError as error:
                log.error("stopped: %s", error)  # noqa: TRY400 -- a sentence for the operator, no fault of the program
                progress.end("stopped", str(error), again=isinstance(error, DeploymentError | StoreError))
                raise
            except Exception as error:
                log.exception("stopped by an unexpected error")
                reason = f"unexpected {type(error).__name__}; see {folder / LOG_FILE}"
                progress.end("stopped", reason, again=True)
                raise


def _run(  # noqa: PLR0913 -- the parts of one run
    config: ServerConfig,
    plan: Plan,
    *,
    run: str,
    flower: Grid,
    store: Store,
    progress: ProgressFile,
    context: Context,
) -> None:
    identity = Identity.load(config.identity_key)
    if identity.public_hex != plan.agreed.coordinator:
        raise PlanError(
            f"plan '{plan.name}' names another coordinator than the key {config.identity_key}; "
            "use the plan of this federation"
        )
    steps = steps_after(plan, store.last_complete_round(run))
    with contextlib.closing(MaskStore(config.folder, run)) as masks:
        history = StoredHistory(store, masks, run)
        long = LongMessages(plan, run, sign=identity.sign, folder=run_folder(config, run))
        with contextlib.closing(OneByOneGrid(flower, long)) as grid:
            strategy = SecureAggregation(
                RequestWriter(plan, run, identity.sign, history, long=long),
                steps,
                grid=grid,
                store=store,
                masks=masks,
                progress=progress,
                connect_timeout_s=float(context.run_config[CONNECT_TIMEOUT_KEY]),
            )
            # The stock loop calls nothing of a Grid but send_and_receive.
            strategy.start(cast(Grid, grid), ArrayRecord(), num_rounds=len(steps), timeout=plan.cohort.round_timeout_s)
    refuse_learning_code()
    store.end(run, "finished", reason="")
    progress.end("finished", "")


def _log_to(path: Path, config: ServerConfig) -> None:
    # Opened at the first line: a ServerApp that waits for another one to end must not turn over that one's log.
    handler = RotatingFileHandler(
        path, maxBytes=config.log_max_mib << 20, backupCount=config.log_files - 1, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("server")
    logger.addHandler(handler)
    logger.setLevel(config.log_level.upper())
