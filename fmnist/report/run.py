"""Everything a report says about a run."""

from dataclasses import dataclass
from datetime import datetime

from fmnist.data.records import DataChange, DataOrigin, PreparedData
from fmnist.environment import Environment
from fmnist.evaluation.gate import Verdict
from fmnist.evaluation.records import Against, Evaluation
from fmnist.registry.records import ChampionRecord
from fmnist.settings import Settings
from fmnist.training.records import TrainingResult

CHAMPION_AND_CHALLENGER = "Champion and challenger"
MEAN_IMAGES = "Mean image of each class"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        run_id: sorts by time.
        started_at: when the flow began.
        location: where the run's files lie in the store.
        settings: all settings it was made with.
        fingerprint: identifies everything that determines the model.
        data: which data, and where they came from.
        prepared: the three sets on this machine.
        training: how the network came about.
        evaluation: its figures on the test set.
        verdict: whether it is promoted, and why.
        environment: code, machine and versions.
        champion_before: the champion it was judged against; `None` if there was none.
        against: the comparison with that champion; `None` if there was none.
        data_change: how the data differ from that champion's; `None` if there was none.
    """

    run_id: str
    started_at: datetime
    location: str
    settings: Settings
    fingerprint: str
    data: DataOrigin
    prepared: PreparedData
    training: TrainingResult
    evaluation: Evaluation
    verdict: Verdict
    environment: Environment
    champion_before: ChampionRecord | None
    against: Against
    data_change: DataChange | None = None

    @property
    def champion_after(self) -> str | None:
        """The run id of the champion once this run is published."""
        if self.verdict.promoted:
            return self.run_id
        return self.champion_before.run_id if self.champion_before else None
