"""Tell the Prefect server what a person did to the champion, for automations to react to."""

import logging

import httpx
from prefect import settings as prefect
from prefect.client.orchestration import get_client
from prefect.events import Event, Resource
from prefect.exceptions import PrefectException

from fmnist.errors import PrefectError, without_credentials
from fmnist.orchestration.server import api_address_and_login
from fmnist.registry.records import ChampionRecord

logger = logging.getLogger("fmnist.events")

_LONGEST_WAIT = 5


def announce_move(champion: ChampionRecord, location: str) -> None:
    """Emit the event `fmnist.champion.<move>`, if a Prefect server is configured and answers.

    The move was made and is in the store's history: a failure is only logged.
    """
    patience = {
        prefect.PREFECT_API_REQUEST_TIMEOUT: _LONGEST_WAIT,
        prefect.PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    try:
        if not api_address_and_login()[0]:
            return
        with prefect.temporary_settings(patience), get_client(sync_client=True) as client:
            event = _event(champion, location).model_dump(mode="json")
            client.request("POST", "/events", json=[event])
    except (
        *(httpx.HTTPError, httpx.InvalidURL, PrefectException, PrefectError),
        *(OSError, RuntimeError, ValueError),
    ) as error:
        reason = without_credentials((str(error).splitlines() or [type(error).__name__])[0])
        logger.warning("the move was made, but Prefect was not told of it (%s)", reason)


def _event(champion: ChampionRecord, location: str) -> Event:
    run_id = champion.run_id
    return Event(
        event=f"fmnist.champion.{champion.move.replace(' ', '-')}",
        resource=Resource(
            {"prefect.resource.id": f"fmnist.run.{run_id}", "prefect.resource.name": run_id}
        ),
        payload={
            "run_id": run_id,
            "previous": champion.previous,
            "generation": champion.generation,
            "accuracy": champion.accuracy,
            "held": champion.held,
            "reason": champion.reason,
            "by": champion.by,
            "report": f"{location}/report.md",
        },
    )
