"""Recognise that a training would only repeat that of an earlier run."""

import json
from dataclasses import dataclass

from fmnist.data.records import DataOrigin
from fmnist.environment import Environment
from fmnist.evaluation.gate import Verdict
from fmnist.promotion.stored import GateRequest, digest_of_gate, promote_stored_run, remember
from fmnist.registry import keys
from fmnist.registry.fingerprints import find_by_fingerprint
from fmnist.registry.records import RetiredError, UnknownRunError, digest_of
from fmnist.settings import Settings
from fmnist.store.base import Store

_NUMERICAL = ("tensorflow", "keras", "numpy")


@dataclass(frozen=True)
class Unchanged:
    """A run that trained nothing, since an earlier run has the same fingerprint.

    Attributes:
        run_id: the run that trained nothing.
        earlier: the run with the same fingerprint.
        location: where the earlier run's files are.
        accuracy: the earlier run's test accuracy.
        verdict: the latest verdict on the earlier run.
        judged_again: whether the gate's settings had changed, so that it was judged again.
    """

    run_id: str
    earlier: str
    location: str
    accuracy: float
    verdict: Verdict
    judged_again: bool

    @property
    def reason(self) -> str:
        """Why nothing was trained, and what the gate says if it was asked again."""
        reason = f"unchanged: same data, settings, code and versions as {self.earlier}"
        if not self.judged_again:
            return reason
        return f"{reason}, judged again by the changed gate: {self.verdict.reason}"


def fingerprint_of(settings: Settings, data: DataOrigin, environment: Environment) -> str:
    """A SHA-256 of everything that determines a model, apart from the machine's make."""
    determined = {
        "data": dict(data.sha256),
        "class names": settings.data.class_names,
        "split": settings.split.model_dump(mode="json"),
        "model": settings.model.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude={"when"}),
        "source": environment.source,
        "versions": {name: environment.packages.get(name) for name in _NUMERICAL},
    }
    return digest_of(json.dumps(determined, sort_keys=True).encode())


def find_unchanged(
    store: Store, run_id: str, settings: Settings, fingerprint: str, by: str
) -> Unchanged | None:
    """The complete run with this fingerprint, judged again if the gate's settings have changed.

    Takes three requests, and writes nothing if the gate is the same.
    """
    found = find_by_fingerprint(store, fingerprint)
    if found is None:
        return None
    verdict, gate_changed = found.verdict, found.gate != digest_of_gate(settings.gate)
    if gate_changed:
        request = GateRequest(settings, settings.gate.model_dump(), by)
        try:
            promotion = promote_stored_run(store, found.run_id, request)
        except (RetiredError, UnknownRunError):  # it was pruned meanwhile
            return None
        verdict = promotion.verdict or Verdict(True, reason=promotion.reason)
        remember(store, fingerprint, found.run_id, found.accuracy, settings.gate, verdict)
    return Unchanged(
        run_id,
        found.run_id,
        store.location(keys.of_run(found.run_id)),
        found.accuracy,
        verdict,
        gate_changed,
    )
