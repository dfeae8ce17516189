"""What the flow run does around the stages."""

import logging

import pytest

from fmnist.configure import load_named_settings
from fmnist.orchestration.job import _set_up_logging, for_this_machine


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


def test_the_precision_chosen_on_this_machine_is_recorded() -> None:
    """So two machines that train differently have two fingerprints; nothing else is changed."""
    recorded = for_this_machine(load_named_settings({"training.precision": "auto"}))
    precision = recorded.training.precision
    assert precision in ("float32", "bfloat16")
    assert recorded == load_named_settings({"training.precision": precision})
