"""Stored runs of a few small files, and what tests do to them."""

import json
import os
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import pytest

from fmnist.errors import DamagedError, ExitCode, JobError
from fmnist.evaluation.gate import Verdict
from fmnist.registry import keys
from fmnist.registry.champion import (
    champion_history,
    current_champion,
    generation_of,
    promote_run,
    roll_back,
)
from fmnist.registry.leftovers import GRACE
from fmnist.registry.records import (
    FORMAT,
    ChampionRecord,
    FileEntry,
    Manifest,
    StoredRun,
    digest_of,
    to_json,
)
from fmnist.registry.runs import read_run, seal_run
from fmnist.store.base import Conflict, Store
from fmnist.store.folder import FolderStore
from tests.support.memory import MemoryStore, WatchedFolder

NOW = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
FILES = {"model.keras": b"weights" * 1000, "figures/a.png": b"\x89PNG", "evaluation.json": b"{}"}
ALL = {*FILES, "id", keys.MANIFEST}
BY = "tests"
# By then everything that a test stores is old enough to be removed, and a day after that as well.
LONG_AFTER = datetime.now(UTC) + 2 * GRACE
EVEN_LATER = LONG_AFTER + GRACE + timedelta(minutes=1)


def run_id(number: int) -> str:
    """The ids of runs in the order of time."""
    return f"20260301T{number:06d}Z-0a1b2c3d"


def seal(folder: Path, run: str, files: Mapping[str, bytes] = FILES) -> Path:
    """Make the folder of a finished run, one of whose files has its id."""
    for name, content in {**files, "id": run.encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal_run(folder, run, NOW)
    return folder


def put(
    store: Store,
    run: str | int,
    *,
    promoted: bool = False,
    files: Mapping[str, bytes] = MappingProxyType({}),
    fingerprint: str | None = None,
) -> StoredRun:
    """Store a run, given by its id or its number, with these files besides its usual ones."""
    name = run if isinstance(run, str) else run_id(run)
    contents = {**FILES, "id": name.encode(), **files}
    for file, content in contents.items():
        store.put_if_absent(keys.of_run(name, file), content)
    entries = {
        file: FileEntry(len(content), digest_of(content)) for file, content in contents.items()
    }
    manifest = to_json(Manifest(FORMAT, name, NOW, entries, fingerprint))
    store.put_if_absent(keys.of_run(name, keys.MANIFEST), manifest)
    stored = read_run(store, name)
    if promoted:
        promote(store, stored)
    return stored


def put_champions(store: Store, *runs: str | int) -> ChampionRecord:
    """Store these runs and promote each in turn; returns the last record."""
    for run in runs:
        put(store, run, promoted=True)
    return champion_of(store)


def put_runs(store: Store, count: int, champions: Collection[int] = ()) -> list[StoredRun]:
    """Store the runs of the numbers 1 to `count`, and promote these of them."""
    return [put(store, each, promoted=each in champions) for each in range(1, count + 1)]


def passed(champion: ChampionRecord | None) -> Verdict:
    """A verdict that promotes, whoever is the champion."""
    return Verdict(True, (), "good enough", generation_of(champion))


def rejected(champion: ChampionRecord | None) -> Verdict:
    """A verdict that does not promote, whoever is the champion."""
    return Verdict(False, (), "not good enough", generation_of(champion))


def never(champion: ChampionRecord | None) -> Verdict:
    """Fail if anything is to be decided again."""
    pytest.fail(f"asked again, about {champion}")


def promote(store: Store, run: StoredRun, accuracy: float = 0.91) -> ChampionRecord:
    """Make a run the champion, whoever is the champion now."""
    result = promote_run(store, run, accuracy, passed(current_champion(store)), never, by=BY)
    assert result.champion
    return result.champion


def rollback(store: Store, run: str | None = None, *, hold: bool = False) -> ChampionRecord:
    """Go back to the previous champion, or to the one named."""
    return roll_back(store, run, reason="it was worse", by=BY, hold=hold)


def moves(store: Store) -> list[str]:
    """Every move of the champion, the latest first, as `3 promotion` of which run."""
    return [f"{each.generation} {each.move} {each.run_id}" for each in champion_history(store)]


def champions(store: Store) -> list[str]:
    """The champion after each move, the latest first."""
    return [record.run_id for record in champion_history(store)]


def remove(store: Store, run: str) -> None:
    for key in list(store.list_entries(f"{keys.of_run(run)}/")):
        store.delete(key)


def overwrite(store: Store, key: str, content: bytes | None) -> None:
    """Replace an object, as no publisher would, or remove it."""
    store.delete(key)
    if content is not None:
        store.put_if_absent(key, content)


def edited(content: bytes | None, **fields: object) -> bytes:
    """A JSON record with other values for some of its fields."""
    return json.dumps({**json.loads(content or b"{}"), **fields}).encode()


def without(field: str) -> Callable[[bytes], bytes]:
    """What leaves a field of a JSON record out."""

    def change(content: bytes) -> bytes:
        record = json.loads(content)
        del record[field]
        return json.dumps(record).encode()

    return change


def refused(action: Callable[[], object], code: ExitCode, *parts: str) -> str:
    """The message of the failure that an action must end with: one line, with these parts."""
    with pytest.raises(JobError) as caught:
        action()
    message = str(caught.value)
    assert caught.value.exit_code == code, message
    assert "\n" not in message and 20 < len(message) < 900, message
    for part in parts:
        assert part in message, message
    return message


def once(
    store: MemoryStore | WatchedFolder,
    moment: str,
    verb: str,
    key: str,
    action: Callable[[], object],
) -> None:
    """Do something `before` or `after` the next such write."""
    usual = getattr(store, moment)

    def act(*write: str) -> None:
        usual(*write)
        if write == (verb, key):
            setattr(store, moment, usual)
            action()

    setattr(store, moment, act)


def overtaken_by(store: MemoryStore | WatchedFolder, action: Callable[[], object]) -> None:
    """Let a rival do something just before the champion's next swap."""
    once(store, "before", "compare_and_swap", keys.CHAMPION, action)


def lose_the_reply(store: MemoryStore | WatchedFolder, meanwhile: Callable[[], object]) -> None:
    """Let the champion's next swap succeed, others move on top, and then refuse it."""

    def refuse() -> None:
        meanwhile()
        raise Conflict("the retried request was refused")

    once(store, "after", "compare_and_swap", keys.CHAMPION, refuse)


SPOILT: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda old: None,
    "cut short": lambda old: old[:-1],
    "with a flipped bit": lambda old: bytes([old[0] ^ 1]) + old[1:],
    "of the same size": lambda old: bytes(len(old)),
}


def spoil(store: MemoryStore, key: str, change: Callable[[bytes], bytes | None]) -> None:
    overwrite(store, key, change(store.objects[key]))


class Crash(BaseException):
    """The process ends here."""


def crash_at(
    store: MemoryStore | WatchedFolder, moment: str, place: int, action: Callable[[], object]
) -> bool:
    """Do something, but end `before` or `after` so many writes; whether it ended so."""
    usual, left = getattr(store, moment), place

    def crash(verb: str, key: str) -> None:
        nonlocal left
        usual(verb, key)
        if left == 0:
            raise Crash
        left -= 1

    setattr(store, moment, crash)
    try:
        action()
    except Crash:
        return True
    finally:
        setattr(store, moment, usual)
    return False


def age(store: MemoryStore | FolderStore) -> None:
    """Let everything in a store have been written at `LONG_AFTER`."""
    if isinstance(store, MemoryStore):
        store.modified = dict.fromkeys(store.modified, LONG_AFTER)
        return
    for path in Path(store.location("")).rglob("*"):
        os.utime(path, (LONG_AFTER.timestamp(), LONG_AFTER.timestamp()))


def load(content: bytes) -> None:
    """Take everything except one text for a network."""
    if content == b"no network":
        raise DamagedError("model.keras holds no network of this project: really")


def champion_of(store: Store) -> ChampionRecord:
    """The current champion, which must exist."""
    found = current_champion(store)
    assert found
    return found
