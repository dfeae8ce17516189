"""What a publication costs in a store that has seen 10,000 of them."""

from pathlib import Path

import pytest

from tests.faults.budget import requests_of_publication
from tests.faults.enumeration import Laboratory
from tests.support.processes import S3Server


@pytest.mark.timeout(600)
def test_a_publication_costs_the_same_after_10000_runs(
    laboratory: Laboratory, minio_server: S3Server, tmp_path: Path
) -> None:
    """The number of requests does not depend on how many runs and champions there were."""
    few = requests_of_publication(laboratory, minio_server, 10, tmp_path)
    many = requests_of_publication(laboratory, minio_server, 10_000, tmp_path)
    assert len(few) == len(many) <= 25
