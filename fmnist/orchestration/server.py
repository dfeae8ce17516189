"""The Prefect server a run reports to: the configured one, or a temporary one."""

import base64
import contextlib
import logging
import os
import signal
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
from packaging.version import Version
from prefect import settings as prefect
from prefect.client.orchestration import get_client
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.exceptions import Abort, PrefectException
from prefect.flows import load_flow_from_entrypoint
from prefect.logging.handlers import APILogWorker
from prefect.utilities import engine
from sqlalchemy.engine import make_url

from fmnist import process
from fmnist.errors import JobError, PrefectError, without_credentials, writing
from fmnist.orchestration.link import bound_waits, new_link, reason
from fmnist.orchestration.temporary_server import LOG, TemporaryServer
from fmnist.prefect_import import prefect_import
from fmnist.promotion.unchanged import Unchanged
from fmnist.report.run import Run
from fmnist.settings import Settings

logger = logging.getLogger("fmnist.flow")

_LONGEST_FIRST_ANSWER = 10
_LONGEST_LOOK = 3
_LONGEST_DRAIN = 3
_SMALLEST_ROOM = 8 * 2**20  # A new database takes five megabytes.
_SECONDS_BETWEEN_HEARTBEATS = 30


def run_flow(
    load: Callable[[], Callable[..., Any]], settings: Settings, own: TemporaryServer
) -> Run | Unchanged:
    """Load a flow and run it in this process, on the configured Prefect server or `own`.

    What the stages came to is the outcome, also if Prefect can no longer be told.

    Raises:
        JobError: the run failed for a foreseeable reason.
        PrefectError: no server answers, or it was lost before the run came to anything.
        KeyboardInterrupt: the run was interrupted.
    """
    url, login = api_address_and_login()
    if url:
        own.end()
        ask_server(url, login)
    else:
        check_own_database()
        own.begin()
    flow = load()
    if not url:
        _wait_for(own)
    with prefect.temporary_settings(run_settings(None if url else own)), new_link() as link:
        try:
            _let_events_fail_fast()
            bound_waits()
            process.hold_back()
            # With its own, Prefect would record a run that is stopped while it starts as crashed.
            engine._prefect_sigterm_handler = cast(Any, signal.getsignal(signal.SIGTERM))
            state = flow(settings, return_state=True)
            if state.is_cancelled():
                raise KeyboardInterrupt
            return cast(Run | Unchanged, state.result())
        except (httpx.HTTPError, PrefectException, Abort) as error:
            if isinstance(link.outcome, JobError):
                raise link.outcome from error
            if link.outcome is None and isinstance(error, Abort):
                raise KeyboardInterrupt from error
            if link.outcome is None:
                raise PrefectError(
                    f"lost the Prefect server at {_address()} ({reason(error)}); see its log, then "
                    "run again"
                ) from error
            logger.warning(
                "Prefect was not told how this run ended: its server is lost (%s)", reason(error)
            )
            return link.outcome
        finally:
            # What is still to be sent is sent before the server is let go.
            EventsWorker.drain_all(_LONGEST_DRAIN)
            APILogWorker.drain_all(_LONGEST_DRAIN)
            EventsWorker.set_client_override(None)


def load_flow(file: Path) -> Callable[..., Any]:
    """The flow `training_job` of a file."""
    try:
        return load_flow_from_entrypoint(f"{file}:training_job")
    except FileNotFoundError:
        process.check_current_folder()  # which Prefect looks at
        raise


def api_address_and_login() -> tuple[str, str | None]:
    """Address and login of the Prefect API; no address if a run would start a temporary server."""
    with prefect_import(), warnings.catch_warnings():
        # A run would fail over such a file, while here Prefect only warns and ignores it.
        warnings.filterwarnings("error", "Failed to load profiles")
        api = prefect.Settings().api
    login = api.auth_string.get_secret_value() if api.auth_string else None
    return (api.url or "").rstrip("/"), login


def run_settings(own: TemporaryServer | None = None) -> dict[Any, Any]:
    """The Prefect settings that a run started by hand needs, on the configured server or `own`."""
    # The flow waits for a lost server itself; with Prefect's five, each call takes a minute.
    common = {prefect.PREFECT_CLIENT_MAX_RETRIES: 2}
    if own:
        return common | {prefect.PREFECT_API_URL: own.url, prefect.PREFECT_UI_URL: ""}
    # Where an automation marks runs without a heartbeat as crashed, this run must send one too.
    return common | {prefect.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: _SECONDS_BETWEEN_HEARTBEATS}


def _wait_for(own: TemporaryServer) -> None:
    if fault := own.fault():
        log = prefect.Settings().home.expanduser().absolute() / LOG
        raise PrefectError(
            f"the temporary Prefect server cannot be used: {fault}; its log is {log}; correct what "
            "it says, or start a server and set PREFECT_API_URL"
        )


def _let_events_fail_fast() -> None:
    """Try once to send an event, which is sent again with a later one; ten tries take 7 s each."""
    if not prefect.PREFECT_API_KEY.value():
        with get_client(sync_client=True) as client:
            address = str(client.api_url).rstrip("/")
        EventsWorker.set_client_override(
            PrefectEventsClient, api_url=address, reconnection_attempts=1
        )


def ask_server(url: str, login: str | None) -> Version:
    """The version of the Prefect server at this address, asked once and not for long."""
    key = base64.b64encode(os.fsencode(login or "")).decode()
    headers = {"authorization": f"Basic {key}"} if login else {}
    shown = without_credentials(url)
    try:
        with httpx.Client(headers=headers, timeout=_LONGEST_FIRST_ANSWER) as client:
            answer = client.get(f"{url}/admin/version").raise_for_status()
        return Version(str(answer.json()))
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise PrefectError(
                f"{shown} refuses the login (HTTP {status}); "
                f"{'correct' if login else 'set'} PREFECT_API_AUTH_STRING"
            ) from error
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise no_answer(shown, error) from error
        raise PrefectError(
            f"{shown} does not tell its version (HTTP {status}); is PREFECT_API_URL the address of "
            "a Prefect API, with /api at its end?"
        ) from error
    # Not all of what an address can be wrong in is an error of httpx's own.
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise no_answer(shown, error) from error


def check_own_database() -> str:
    """Check that the temporary server can write Prefect's folder and read its database there."""
    # Read now, as the address is, and not when Prefect was imported.
    found = prefect.Settings()
    home = found.home.expanduser()
    with writing(home, "set PREFECT_HOME to another folder", PrefectError):
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as stream:
            stream.write(bytes(_SMALLEST_ROOM))
            stream.flush()
    given = found.server.database.connection_url
    url = make_url(given.get_secret_value() if given else f"sqlite:///{home / 'prefect.db'}")
    database = Path(url.database or home / "prefect.db") if url.database != ":memory:" else home
    if url.get_backend_name() != "sqlite" or not database.is_file():
        return f"{home} can be written"
    if fault := _fault_of(database):
        raise PrefectError(
            f"Prefect's database {database} is damaged ({fault}); move it out of the way "
            f"(mv {database} {database}.damaged) and a new one is made; it holds Prefect's record "
            "of earlier runs, but no model"
        )
    return (
        f"its database {database} has {database.stat().st_size / 1e6:.0f} MB; deleting it while no "
        "run is active loses only Prefect's record of earlier runs"
    )


def _fault_of(database: Path) -> str:
    """What is wrong with an SQLite file; nothing if it takes too long to look at all of it."""
    deadline = time.monotonic() + _LONGEST_LOOK
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=1)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            return "" if found == "ok" else found
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        busy = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT)
        return "" if code in busy else str(error)


def no_answer(address: str, error: Exception) -> PrefectError:
    """The failure of a first request to a Prefect server."""
    return PrefectError(
        f"no Prefect server answers at {address} ({reason(error)}); start it or correct "
        "PREFECT_API_URL, or unset that to use a temporary server"
    )


def _address() -> str:
    return without_credentials(prefect.PREFECT_API_URL.value() or "a temporary address")
