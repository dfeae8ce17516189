"""What the flow run does around the stages."""

import logging

import pytest

from fmnist.orchestration.job import _set_up_logging


def test_what_is_logged_outside_a_run_is_not_sent_to_prefect(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Prefect would warn that it does not know to which run it belongs."""
    from prefect.logging.configuration import setup_logging

    monkeypatch.setattr(logging.getLogger("fmnist"), "handlers", [])
    setup_logging()
    _set_up_logging()
    logging.getLogger("fmnist.test").warning("after the run")
    assert not recwarn.list
