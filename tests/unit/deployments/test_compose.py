"""What must hold for deployments/compose.yaml and the files beside it."""

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from deployments.stack import SECRETS
from tests.support.processes import ROOT

HERE = ROOT / "deployments"
TEXT = (HERE / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
LASTING = {name: service for name, service in SERVICES.items() if service["restart"] != "no"}
each_service = pytest.mark.parametrize("name", SERVICES)


def test_the_file_is_valid() -> None:
    jsonschema.validate(COMPOSE, get_builtin_schema("vendor.compose-spec"))


@each_service
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", LASTING)
def test_every_lasting_service_is_checked_and_restarted(name: str) -> None:
    """It has a health check and a volume, and comes back after a failure or a reboot."""
    assert LASTING[name]["healthcheck"]["test"]
    assert LASTING[name]["restart"] == "unless-stopped"
    assert LASTING[name]["volumes"]


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_has_a_default(secret: str) -> None:
    """A missing secret stops compose with a message that says how to create it."""
    uses = re.findall(rf"\$\{{{secret}([^}}]*)\}}", TEXT)
    assert any(use.startswith(":?") and "stack.py secrets" in use for use in uses)
    assert all(use == "" or use.startswith(":?") for use in uses)


@each_service
def test_every_volume_is_declared_or_a_file_of_the_project(name: str) -> None:
    """No service mounts a folder of the machine it runs on."""
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        is_file = (HERE / source).is_file() and volume.endswith(":ro")
        assert source in COMPOSE["volumes"] or is_file, volume


def test_the_policy_and_the_worker_name_the_same_place() -> None:
    """The job may write where its store is, read the data besides, and nothing else."""
    url = SERVICES["worker"]["environment"]["FMNIST_STORE__URL"].removeprefix("s3://")
    statements = json.loads((HERE / "minio-policy.json").read_text())["Statement"]
    bucket, _, prefix = url.partition("/")
    assert [statement["Resource"] for statement in statements] == [
        [f"arn:aws:s3:::{bucket}"],
        [f"arn:aws:s3:::{bucket}/{prefix}/*"],
        ["arn:aws:s3:::data"],
        ["arn:aws:s3:::data/fashion-mnist/*"],
    ]
    writing = [each["Resource"] for each in statements if "s3:PutObject" in each["Action"]]
    assert writing == [[f"arn:aws:s3:::{bucket}/{prefix}/*"]]
    assert f"store/{bucket} store/data\n" in (HERE / "minio-setup.sh").read_text()
