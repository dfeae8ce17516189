"""Create or update the work pools and the automations on the Prefect server; safe to repeat.

    python deployments/setup.py                 the pool of the stack's worker, and the automations
    python deployments/setup.py --pool docker   only this pool: docker or kubernetes

PREFECT_API_URL and PREFECT_API_AUTH_STRING name the server. Alerts are posted as JSON to
ALERT_WEBHOOK_URL, and in Slack's form to ALERT_SLACK_URL; without either, the automations that post
are left out. If an address refuses an alert, the server tries three more times, and its log names
the address. An alert is due when no run was completed for ALERT_SILENCE_HOURS (26).
"""

import argparse
import copy
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.settings import PREFECT_API_URL
from prefect.types import SecretDict
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

HERE = Path(__file__).resolve().parent
POOLS = {"training": "process", "docker": "docker", "kubernetes": "kubernetes"}
# The block that posts to the address in a variable.
WEBHOOKS = {"ALERT_WEBHOOK_URL": "training-alerts", "ALERT_SLACK_URL": "training-alerts-slack"}


def base_job_template(kind: str) -> dict[str, Any]:
    """The job template of a work pool: ours for containers, Prefect's for processes."""
    if kind == "process":
        return ProcessWorker.get_default_base_job_template()
    return dict(json.loads((HERE / "pools" / f"{kind}.json").read_text()))


def set_up_pool(client: SyncPrefectClient, name: str) -> None:
    """Create a work pool, or update its job template; a paused pool stays paused."""
    template = base_job_template(POOLS[name])
    pool = WorkPoolCreate(name=name, type=POOLS[name], base_job_template=template)
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
    # Copies, since in YAML an alias is the same object again.
    return [copy.deepcopy(declared) for declared in yaml.safe_load(text)["automations"]]


def alert_block(name: str, url: str) -> CustomWebhookNotificationBlock:
    """A block that posts the text of a notification, which is JSON, to an address.

    Not Prefect's `Webhook`: all such blocks share one pool of connections, and the first to finish
    closes it while the others are still posting.
    """
    return CustomWebhookNotificationBlock(
        name=name,
        url="{{ address }}",
        form_data="{{ body }}",
        headers={"Content-Type": "application/json"},
        secrets=SecretDict({"address": url}),
    )


def save_webhooks(environment: Mapping[str, str]) -> dict[str, str]:
    """Save a block for each address that alerts go to; their ids, by the variable's name."""
    return {
        variable: str(alert_block(name, url).save(name, overwrite=True))
        for variable, name in WEBHOOKS.items()
        if (url := environment.get(variable))
    }


def set_up_automations(client: SyncPrefectClient, blocks: Mapping[str, str], hours: float) -> None:
    """Create or update every automation; those that post only if there is a webhook's block."""
    for declared in declared_automations(hours):
        name = declared["name"]
        for action in declared["actions"]:
            if variable := action.pop("webhook", None):
                action["block_document_id"] = blocks.get(variable)
        declared["actions"] = [a for a in declared["actions"] if a.get("block_document_id", True)]
        if not declared["actions"]:
            print(f"automation '{name}': left out, because no {' or '.join(WEBHOOKS)} is set")
            continue
        wanted = AutomationCore.model_validate(declared)
        if there := client.read_automations_by_name(name):
            # Somebody may have switched it off.
            wanted.enabled = there[0].enabled
            client.update_automation(there[0].id, wanted)
            print(f"automation '{name}': updated")
        else:
            client.create_automation(wanted)
            print(f"automation '{name}': created")


def main(environment: Mapping[str, str], arguments: Sequence[str] = ()) -> int:
    """Set the server up; returns the exit code, 1 after a line that says why it failed."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--pool", choices=POOLS, help="create or update this work pool only")
    pool = parser.parse_args(arguments).pool
    server = PREFECT_API_URL.value() or "(no PREFECT_API_URL)"
    try:
        hours = float(environment.get("ALERT_SILENCE_HOURS") or 26)
        with get_client(sync_client=True) as client:
            set_up_pool(client, pool or "training")
            if not pool:
                set_up_automations(client, save_webhooks(environment), hours)
    except (httpx.HTTPError, PrefectException, ValidationError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"setup: the Prefect server at {server} was not set up: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ, sys.argv[1:]))
