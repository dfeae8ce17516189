"""Create or update the work pools and the automations on the Prefect server; safe to repeat.

    python deployments/setup.py

PREFECT_API_URL and PREFECT_API_AUTH_STRING name the server. Alerts are posted as JSON to
ALERT_WEBHOOK_URL; without it, the automations that post are left out. An alert is due when no run
was judged for ALERT_SILENCE_HOURS (26).
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

HERE = Path(__file__).resolve().parent
POOLS = {"training": "process", "docker": "docker", "kubernetes": "kubernetes"}


def base_job_template(kind: str) -> dict[str, Any]:
    """The job template of a work pool: ours for containers, Prefect's for processes."""
    if kind == "process":
        return ProcessWorker.get_default_base_job_template()
    return dict(json.loads((HERE / "pools" / f"{kind}.json").read_text()))


def set_up_pools(client: SyncPrefectClient) -> None:
    """Create the work pools, or update their job templates; a paused pool stays paused."""
    for name, kind in POOLS.items():
        template = base_job_template(kind)
        pool = WorkPoolCreate(name=name, type=kind, base_job_template=template)
        try:
            client.create_work_pool(pool)
            print(f"work pool {name}: created")
        except ObjectAlreadyExists:
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
            print(f"work pool {name}: updated")


def declared_automations(hours: float) -> list[dict[str, Any]]:
    """The automations of automations.yaml, with an alert after that many hours of silence."""
    values = {"ALERT_SILENCE_HOURS": f"{hours:g}", "ALERT_SILENCE_SECONDS": f"{hours * 3600:g}"}
    text = (HERE / "automations.yaml").read_text()
    text = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)
    return list(yaml.safe_load(text)["automations"])


def set_up_automations(client: SyncPrefectClient, url: str, hours: float) -> None:
    """Create or update every automation; those that post to a webhook only if `url` is given."""
    block = str(Webhook(url=url).save("training-alerts", overwrite=True)) if url else None
    for declared in declared_automations(hours):
        name = declared["name"]
        posts = [action for action in declared["actions"] if action["type"] == "call-webhook"]
        if posts and not block:
            print(f"automation '{name}': left out, because ALERT_WEBHOOK_URL is not set")
            continue
        for action in posts:
            action["block_document_id"] = block
        wanted = AutomationCore.model_validate(declared)
        if there := client.read_automations_by_name(name):
            # Somebody may have switched it off.
            wanted.enabled = there[0].enabled
            client.update_automation(there[0].id, wanted)
            print(f"automation '{name}': updated")
        else:
            client.create_automation(wanted)
            print(f"automation '{name}': created")


def main(environment: Mapping[str, str]) -> int:
    """Set the server up; returns the exit code, 1 after a line that says why it failed."""
    server = PREFECT_API_URL.value() or "(no PREFECT_API_URL)"
    try:
        hours = float(environment.get("ALERT_SILENCE_HOURS") or 26)
        with get_client(sync_client=True) as client:
            set_up_pools(client)
            set_up_automations(client, environment.get("ALERT_WEBHOOK_URL", ""), hours)
    except (httpx.HTTPError, PrefectException, ValidationError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"setup: the Prefect server at {server} was not set up: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
