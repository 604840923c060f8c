"""Starts child processes in order, keeps them up, and stops them in reverse; leaves no orphan behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence

from common.child import Child, OnEvent
from common.errors import AddressInUse
from common.health import HealthCheck, serve_health
from common.keeper import Keeper
from common.log_json import JsonLines


async def supervise(  # noqa: PLR0913 -- what, and how it is told
    stages: Sequence[Sequence[Child]],
    *,
    on_event: OnEvent,
    restart: bool,
    work: Callable[[], Awaitable[None]] | None = None,
    health: HealthCheck | None = None,
    lines: JsonLines | None = None,
) -> signal.Signals | None:
    """Run children until `work` ends, a signal arrives, or one dies.

    Call it from the main thread: the kernel ties children to the thread that starts them. SIGINT and SIGTERM are
    handled here while it runs; a second one while children stop kills them.

    Args:
        stages: The children of a stage start together, once all of the stage before are ready.
        on_event: Called at each change.
        restart: True: a child that dies is started again after 2, 5, 10, 20, 20... s, and after 2 s again once it has
            been up for two minutes; so is one that is not ready in time, until `Child.give_up_s`. False: its death ends
            everything.
        work: Runs when all children are ready, and ends everything when it returns; None: run until a signal.
        health: Where to answer questions about the children's health; None: nowhere.
        lines: Takes the children's output as JSON lines, which their logs then hold too.

    Returns:
        The signal that ended it, or None if `work` did.

    Raises:
        AddressInUse: If a port is taken; nothing was started.
        DeploymentError: If a child was not ready in time, was refused, or died and `restart` is False; everything has
            been stopped.
    """
    for child in (child for stage in stages for child in stage):
        for host, port in child.ports:
            require_free(host, port, name=child.name)
    keepers = [[Keeper(child, on_event, restart=restart, lines=lines) for child in stage] for stage in stages]
    caught: asyncio.Queue[signal.Signals] = asyncio.Queue()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_signals(caught.put_nowait))
        if health is not None:
            await stack.enter_async_context(serve_health(health, [k.state for stage in keepers for k in stage]))
        main = asyncio.create_task(_run(keepers, work))
        waiter = asyncio.create_task(caught.get())
        try:
            await asyncio.wait((main, waiter), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (main, waiter):
                task.cancel()
            result, number = await asyncio.gather(main, waiter, return_exceptions=True)
            await _stop(keepers, caught)
    if isinstance(number, signal.Signals):
        return number
    if isinstance(result, BaseException):
        raise result
    return None


def require_free(host: str, port: int, *, name: str) -> None:
    """Check that nothing listens on a port.

    Raises:
        AddressInUse: If something does, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Servers set this too; without it a connection closed a minute ago would look like a server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AddressInUse(
                f"{name}: port {port} on {host} cannot be used ({error.strerror}); "
                "stop the program that holds it, or name another port in the configuration file"
            ) from error


async def _stop(keepers: list[list[Keeper]], caught: asyncio.Queue[signal.Signals]) -> None:
    """Stop the stages in reverse; a signal meanwhile is from somebody who does not want to wait."""
    now = asyncio.Event()
    impatient = asyncio.create_task(caught.get())
    impatient.add_done_callback(lambda _: now.set())
    try:
        for stage in reversed(keepers):
            await asyncio.gather(*(keeper.stop(now) for keeper in stage))
    finally:
        impatient.cancel()


async def _run(keepers: list[list[Keeper]], work: Callable[[], Awaitable[None]] | None) -> None:
    tasks: list[asyncio.Task[None]] = []
    try:
        async with asyncio.TaskGroup() as group:
            for stage in keepers:
                tasks += [group.create_task(keeper.keep()) for keeper in stage]
                for keeper in stage:
                    await keeper.ready.wait()
            if work is not None:
                await work()
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as failures:
        raise _first(failures) from failures


def _first(failure: BaseException) -> BaseException:
    """One of a group's errors, which may be groups themselves: `work` has tasks of its own."""
    return _first(failure.exceptions[0]) if isinstance(failure, BaseExceptionGroup) else failure


@contextlib.contextmanager
def _signals(handler: Callable[[signal.Signals], object]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, handler, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
