"""A run's link to its Prefect server: whether it is there, and what the run came to without it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpx
from prefect.client import base
from prefect.client.orchestration import get_client
from prefect.concurrency import _leases
from prefect.exceptions import Abort

from fmnist.errors import JobError
from fmnist.promotion.unchanged import Unchanged
from fmnist.report.run import Run

logger = logging.getLogger("fmnist.flow")

_LONGEST_OUTAGE = 600.0
_LONGEST_PAUSE = 15.0
_LONGEST_ANSWER = 5.0

_parse_retry_after = base._parse_retry_after


@dataclass
class Link:
    """The link of one run to its server.

    Attributes:
        lost: whether the server was lost and is not back yet.
        outcome: what the stages came to, as soon as it is known.
    """

    lost: bool = False
    outcome: Run | Unchanged | JobError | None = None

    def note(self, error: Exception | None) -> None:
        """Say once that the server was lost, and once that it is back."""
        if error and not self.lost:
            logger.warning(
                "the Prefect server was lost (%s); the run goes on without it", reason(error)
            )
        elif self.lost and not error:
            logger.warning("the Prefect server is back")
        self.lost = error is not None


_current: ContextVar[Link | None] = ContextVar("link", default=None)


@contextmanager
def new_link() -> Iterator[Link]:
    """Keep the link of the run that this block makes."""
    token = _current.set(Link())
    try:
        yield current_link()
    finally:
        _current.reset(token)


def current_link() -> Link:
    """The link of the current run."""
    link = _current.get()
    if link is None:
        link = Link()
        _current.set(link)
    return link


def reason(error: BaseException) -> str:
    """Why a request failed, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def bound_waits() -> None:
    """Bound the pauses that a server asks Prefect's clients for, and let a run outlive its slot.

    Prefect has settings for neither. It would cancel a deployment's run that can no longer renew
    its place under the concurrency limit, as after a restart of the server. Safe to repeat.
    """

    def parse(value: str) -> float | None:
        seconds = _parse_retry_after(value)
        return None if seconds is None else min(seconds, _LONGEST_PAUSE)

    def go_on(exc: BaseException, *_: Any, **__: Any) -> None:
        logger.warning(
            "the server no longer keeps other runs of this deployment waiting (%s); one that "
            "starts now does no harm",
            reason(exc),
        )

    base._parse_retry_after = parse
    _leases._handle_lease_renewal_failure = go_on


def settle(outcome: Run | Unchanged | JobError) -> bool:
    """Note what the run came to, and wait for a lost server; returns whether it can be told."""
    link = current_link()
    link.outcome = outcome
    deadline = time.monotonic() + _LONGEST_OUTAGE
    pause = 1.0
    with get_client(sync_client=True) as client:
        health = f"{client.api_url}".rstrip("/") + "/health"
    while True:
        try:
            httpx.get(health, timeout=_LONGEST_ANSWER).raise_for_status()
        except httpx.HTTPError as error:
            link.note(error)
        else:
            link.note(None)
            return True
        if time.monotonic() + pause > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def end_if_lost() -> None:
    """End the flow without another call to a server that did not come back.

    Raises:
        Abort: Prefect's engine passes it on and proposes no state, which would take minutes.
    """
    if current_link().lost:
        raise Abort("it did not come back")
