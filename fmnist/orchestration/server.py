"""The Prefect server a run reports to: the configured one, or a temporary one."""

import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
from prefect import settings as prefect
from prefect.client.orchestration import get_client
from prefect.exceptions import Abort, PrefectException, TerminationSignal
from pydantic import ValidationError

from fmnist.errors import PrefectError, without_credentials
from fmnist.promotion.unchanged import Unchanged
from fmnist.report.run import Run
from fmnist.settings import Settings

_LONGEST_SERVER_START = 180
_LONGEST_FIRST_ANSWER = 15
_SECONDS_BETWEEN_HEARTBEATS = 30


def run_flow(flow: Callable[..., Any], settings: Settings) -> Run | Unchanged:
    """Run the flow in this process, on the configured Prefect server or a temporary one.

    Raises:
        JobError: the run failed for a foreseeable reason.
        PrefectError: no server answers, or it was lost during the run.
        KeyboardInterrupt: the run was interrupted.
    """
    with prefect.temporary_settings(run_settings()):
        try:
            _check_server()
            state = flow(settings, return_state=True)
            if state.is_cancelled():
                raise KeyboardInterrupt
            return cast(Run | Unchanged, state.result())
        except (TerminationSignal, Abort) as error:
            raise KeyboardInterrupt from error
        except (httpx.HTTPError, PrefectException) as error:
            raise PrefectError(
                f"lost the Prefect server at {_address()} ({error}); see its log, then run again"
            ) from error


def api_address_and_login() -> tuple[str, str | None]:
    """Address and login of the Prefect API; no address if a run would start a temporary server."""
    try:
        with warnings.catch_warnings():
            # A run would fail over such a file, while here Prefect only warns and ignores it.
            warnings.filterwarnings("error", "Failed to load profiles")
            api = prefect.Settings().api
    # Prefect has no error of its own for some of what can be wrong in its files.
    except (OSError, ValueError, UserWarning) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            fault = error.errors(include_url=False, include_input=False)[0]
            reason = f"{'.'.join(map(str, fault['loc'])) or 'an address'}: {fault['msg']}"
        raise PrefectError(
            f"Prefect's settings cannot be read ({reason}); correct PREFECT_API_URL, or whatever "
            "else is wrong in the environment, in prefect.toml or in Prefect's profiles"
        ) from error
    login = api.auth_string.get_secret_value() if api.auth_string else None
    return (api.url or "").rstrip("/"), login


def run_settings() -> dict[Any, Any]:
    """The Prefect settings that a run started by hand needs."""
    # Where an automation marks runs without a heartbeat as crashed, this run must send one too.
    found: dict[Any, Any] = {prefect.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: _SECONDS_BETWEEN_HEARTBEATS}
    if not prefect.PREFECT_API_URL.value():
        found |= {
            prefect.PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
            prefect.PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: _LONGEST_SERVER_START,
            # Its telemetry prints a traceback if the database is locked when it starts.
            prefect.PREFECT_SERVER_ANALYTICS_ENABLED: False,
        }
    return found


def _check_server() -> None:
    """Send the configured Prefect server a first request, or start the temporary one."""
    patience = {
        prefect.PREFECT_API_REQUEST_TIMEOUT: _LONGEST_FIRST_ANSWER,
        prefect.PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    try:
        with (
            prefect.temporary_settings(patience if prefect.PREFECT_API_URL.value() else {}),
            _interrupts_held_back(),
            get_client(sync_client=True) as client,
        ):
            client.read_flows(limit=1)
    except (httpx.HTTPError, PrefectException, RuntimeError, ValueError) as error:
        raise no_answer(_address(), error) from error


def no_answer(address: str, error: Exception) -> PrefectError:
    """The failure of a first request to a Prefect server."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return PrefectError(
        f"no Prefect server answers at {address} ({reason}); start it or correct PREFECT_API_URL, "
        "or unset that to use a temporary server"
    )


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Protect processes started in this block from the terminal's Ctrl-C.

    Ctrl-C reaches every process of the command. The temporary server, which is started in here,
    inherits the blocked signal and so survives to record that the run was cancelled; its parent
    then ends it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _address() -> str:
    return without_credentials(prefect.PREFECT_API_URL.value() or "a temporary address")
