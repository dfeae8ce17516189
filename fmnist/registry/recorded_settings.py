"""The settings that a stored run was made with, whichever version stored it."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fmnist.configure import describe_faults
from fmnist.errors import DamagedError
from fmnist.registry import keys
from fmnist.registry.records import StoredRun
from fmnist.registry.runs import read_record
from fmnist.settings import RENAMED, sections
from fmnist.store.base import Store

Section = TypeVar("Section", bound=BaseModel)


def recorded_section(store: Store, run: StoredRun, name: str, kind: type[Section]) -> Section:
    """A section of the settings that a run was made with.

    A setting that was added since has its default; a setting that no longer exists is ignored.
    """
    recorded = read_record(store, run, keys.SETTINGS, dict[str, Any]).get(name, {})
    try:
        return kind.model_validate(recorded, extra="ignore")
    except ValidationError as error:
        where = store.location(keys.of_run(run.run_id, keys.SETTINGS))
        raise DamagedError(
            f"{where} cannot be read: {name}: {describe_faults(error)[0]}; it was damaged or "
            "written by another version"
        ) from error


def recorded_changes(store: Store, run: StoredRun) -> Mapping[str, Any]:
    """The settings of a run that differ from today's defaults, by their present names."""
    defaults = _by_full_name(
        {name: section().model_dump(mode="json") for name, section in sections().items()}
    )
    recorded = _by_full_name(read_record(store, run, keys.SETTINGS, dict[str, Any]))
    renamed = {f"training.{old}": f"training.{new}" for old, new in RENAMED.items()}
    present = {renamed.get(name, name): value for name, value in recorded.items()}
    return {
        name: value
        for name, value in present.items()
        if name not in defaults or value != defaults[name]
    }


def _by_full_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for section, values in settings.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
