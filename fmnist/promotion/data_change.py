"""Compare a run's data with those of the champion it is judged against."""

import logging

from fmnist.data.records import DataChange, DataOrigin, DataRecord, DataStatistics
from fmnist.data.statistics import compare_statistics, notable_changes
from fmnist.errors import StoreError
from fmnist.registry import keys
from fmnist.registry.records import ChampionRecord
from fmnist.registry.runs import read_record, read_run
from fmnist.settings import DataSettings
from fmnist.store.base import Store

logger = logging.getLogger(__name__)


def compare_data(
    store: Store,
    champion: ChampionRecord | None,
    data: DataOrigin,
    statistics: DataStatistics,
    settings: DataSettings,
) -> DataChange | None:
    """How these data differ from the champion's; one log line warns of what is notable.

    This decides nothing: where they cannot be compared, the record says why.
    """
    if champion is None:
        return None
    try:
        run = read_run(store, champion.run_id, champion.manifest_sha256)
        before = read_record(store, run, keys.DATA, DataRecord)
    except StoreError as error:
        return DataChange(champion.run_id, reason=str(error))
    if before.sha256 == data.sha256:
        return DataChange(champion.run_id, reason="they are the very same files")
    if before.statistics is None:
        return DataChange(champion.run_id, reason="that run kept no statistics of its data")
    if [one.name for one in before.statistics.classes] != [*settings.class_names]:
        return DataChange(champion.run_id, reason="its classes have other names")
    change = DataChange(champion.run_id, compare_statistics(before.statistics, statistics))
    if notable := notable_changes(change.sets, settings):
        logger.warning(
            "the data differ from those of the champion %s: %s", champion.run_id, "; ".join(notable)
        )
    return change
