"""A sample of what `make faults` tries in full: faults, races, and how many requests it takes."""

from pathlib import Path

import pytest

from tests.faults.budget import requests_of_publication
from tests.faults.enumeration import Laboratory
from tests.faults.races import check_all_promoted, check_one_winner_each, race
from tests.faults.scenarios import SCENARIOS, Place
from tests.support.processes import S3Server

# Without a common divisor with the number of faults, so that each fault has its turn.
EACH_OF_THE_REQUESTS, EACH_OF_THE_CALLS = 61, 13


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("server", ["minio", "versitygw"])
def test_no_fault_at_a_request_breaks_anything(
    server: str, scenario: str, laboratory: Laboratory, request: pytest.FixtureRequest
) -> None:
    """After a fault at a request, a reader finds a complete champion and a publisher succeeds."""
    running: S3Server = request.getfixturevalue(f"{server}_server")
    row = laboratory.on_server(running, server, scenario, EACH_OF_THE_REQUESTS)
    assert row.points and not row.broken, "\n".join(row.broken)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_fault_at_a_system_call_breaks_anything(scenario: str, laboratory: Laboratory) -> None:
    """After a kill or an error at a call that changes a file, the same holds in a folder."""
    row = laboratory.in_folder(scenario, EACH_OF_THE_CALLS)
    assert row.points and not row.broken, "\n".join(row.broken)


def test_of_publishers_released_together_exactly_one_wins(
    place: Place, laboratory: Laboratory
) -> None:
    """Each round has one winner and clean errors, and the history neither a gap nor a branch."""
    rounds = race(laboratory.context, place, publishers=8, rounds=5, attempts=1)
    assert [len(ended) for ended in rounds] == [8] * 5
    check_one_winner_each(place, rounds)


def test_publishers_that_try_again_are_all_promoted(place: Place, laboratory: Laboratory) -> None:
    """Each of them gets a generation of its own, whoever was faster."""
    rounds = race(laboratory.context, place, publishers=8, rounds=1, attempts=1000)
    assert [len(ended) for ended in rounds] == [8]
    check_all_promoted(place, rounds)


def test_a_publication_takes_at_most_25_requests(
    laboratory: Laboratory, minio_server: S3Server, tmp_path: Path
) -> None:
    """That is for 12 files of 3 MB with their read-back, after 2,000 runs no more than after 10."""
    few = requests_of_publication(laboratory, minio_server, 10, tmp_path)
    many = requests_of_publication(laboratory, minio_server, 2000, tmp_path)
    assert len(few) == len(many) <= 25
