"""32 publishers released together, 100 rounds, on three stores."""

import pytest

from tests.faults.enumeration import Laboratory
from tests.faults.races import check_all_promoted, check_one_winner_each, race
from tests.faults.scenarios import Place

pytestmark = pytest.mark.timeout(900)


def test_exactly_one_of_32_publishers_wins_each_of_100_rounds(
    place: Place, laboratory: Laboratory
) -> None:
    """One winner for each generation, clean errors for the rest, a history without gap or branch."""
    rounds = race(laboratory.context, place, publishers=32, rounds=100, attempts=1)
    assert [len(ended) for ended in rounds] == [32] * 100
    check_one_winner_each(place, rounds)


def test_all_of_32_publishers_are_promoted_in_the_end(place: Place, laboratory: Laboratory) -> None:
    """Publishers that try again get a generation each, none of them lost and none of them twice."""
    (ended,) = race(laboratory.context, place, publishers=32, rounds=1, attempts=1000)
    assert len(ended) == 32
    check_all_promoted(place, ended)
