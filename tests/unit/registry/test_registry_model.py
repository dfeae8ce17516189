"""The registry against a simple model of it: whatever is done, killed or raced, they agree."""

import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fmnist.errors import StoreError
from fmnist.evaluation.gate import Verdict
from fmnist.registry import keys
from fmnist.registry.champion import (
    champion_history,
    current_champion,
    generation_of,
    promote_run,
    read_champion,
    retire,
    roll_back,
)
from fmnist.registry.records import ChampionRecord, Manifest, StoredRun, from_json
from fmnist.registry.runs import find_run, later_verdicts, read_run, seal_run, upload_run
from fmnist.registry.usage import record_use
from fmnist.store.base import Conflict
from tests.support.memory import MemoryStore, WatchedFolder

NOW = datetime(2026, 3, 14, tzinfo=UTC)


class Crash(BaseException):
    """The process ends here."""


@dataclass
class Truth:
    """What should be so: every move made, each by its kind and the champion after it."""

    moves: list[tuple[str, str]] = field(default_factory=list)
    ways_back: dict[str, str | None] = field(default_factory=dict)
    way_back: str | None = None
    published: dict[str, dict[str, bytes]] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)

    @property
    def champion(self) -> str | None:
        """The current champion."""
        return self.moves[-1][1] if self.moves else None

    def promote(self, run_id: str, move: str = "promotion") -> None:
        """A run becomes the champion, unless it is."""
        if self.champion != run_id:
            self.ways_back[run_id] = self.way_back = self.champion
            self.moves.append((move, run_id))

    def rollback(self, run_id: str) -> None:
        """An earlier champion becomes the champion, with the way back that it had, if it stays."""
        if self.champion != run_id:
            back = self.ways_back[run_id]
            self.ways_back[run_id] = self.way_back = None if back in self.retired else back
            self.moves.append(("rollback", run_id))

    def retire(self, run_id: str) -> bool:
        """A run is named as going; whether it may go."""
        assert self.champion
        if run_id in self.retired:
            return True
        if run_id in (self.champion, self.way_back):
            return False
        self.retired.add(run_id)
        self.moves.append(("retirement", self.champion))
        return True

    def was_champion(self, run_id: str) -> bool:
        """Whether it can be rolled back to."""
        return run_id in self.ways_back


class Registry(RuleBasedStateMachine):
    """Does to a store whatever a user, a rival and a killer may do, and keeps the truth beside it."""

    kind: ClassVar[type[MemoryStore] | type[WatchedFolder]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fmnist-"))
        self.truth = Truth()
        self.count = 0
        self.store = MemoryStore() if self.kind is MemoryStore else self._folder_store()
        self.quiet()

    def _folder_store(self) -> WatchedFolder:
        return WatchedFolder(str(self.folder / "store"))

    def teardown(self) -> None:
        """Remove what was made."""
        shutil.rmtree(self.folder)

    # ---- what is done ---------------------------------------------------------------------------

    def seal(self) -> tuple[str, Path]:
        """A new finished run in a folder."""
        self.count += 1
        run_id = f"run-{self.count:03d}"
        folder = self.folder / "work" / run_id
        folder.mkdir(parents=True)
        (folder / "model.keras").write_bytes(run_id.encode() * 10)
        (folder / "evaluation.json").write_bytes(b"{}")
        seal_run(folder, run_id, NOW)
        return run_id, folder

    def publish(self, run_id: str, folder: Path) -> StoredRun:
        """Copy it into the store."""
        run = upload_run(self.store, folder)
        self.truth.published[run_id] = {path.name: path.read_bytes() for path in folder.iterdir()}
        return run

    def promote(
        self, run: StoredRun, passes: bool, seen_generation: int, forced: str | None = None
    ) -> ChampionRecord | None:
        """Promote it by a verdict against the champion of that generation."""

        def decide(current: ChampionRecord | None) -> Verdict:
            return Verdict(passes, (), "decided", generation_of(current))

        verdict = Verdict(passes, (), "decided", seen_generation)
        return promote_run(
            self.store, run, 0.91, verdict, decide, by="tests", forced=forced
        ).champion

    @property
    def generation(self) -> int:
        """The generation that the champion record should have."""
        return len(self.truth.moves)

    def quiet(self) -> None:
        """Nobody meddles any more; but somebody reads between any two writes."""
        self.store.before = self.store.after = lambda verb, key: self.read()

    def read(self) -> None:
        """A concurrent reader finds a complete champion that was, is or is about to be."""
        if current_champion(self.store) is None:
            assert not self.truth.moves
            return
        current, files = read_champion(self.store)
        assert hashlib.sha256(files[keys.MANIFEST]).hexdigest() == current.manifest_sha256
        assert files == self.truth.published[current.run_id]
        assert current.generation in (self.generation, self.generation + 1)
        assert current.run_id not in current.retired

    def crash_at(self, place: int, moment: str, action: Callable[[], object]) -> bool:
        """Do it, but end at that write, before or after it; whether it ended so."""
        left = place

        def crash(verb: str, key: str) -> None:
            nonlocal left
            self.read()
            if left == 0:
                raise Crash
            left -= 1

        setattr(self.store, moment, crash)
        try:
            action()
        except Crash:
            return True
        finally:
            self.quiet()
        return False

    def meddle(self, rival: Callable[[], object]) -> None:
        """Let a rival act just before the next swap of the champion record."""

        def act(verb: str, key: str) -> None:
            self.read()
            if (verb, key) == ("compare_and_swap", keys.CHAMPION):
                self.quiet()
                rival()

        self.store.before = act

    def refused(self, action: Callable[[], object]) -> None:
        """It must be refused in words, and change nothing."""
        with pytest.raises(StoreError) as caught:
            action()
        assert "\n" not in str(caught.value)

    def moved(self) -> bool:
        """Whether the champion changed since the truth was last noted."""
        return generation_of(current_champion(self.store)) > self.generation

    # ---- the rules ------------------------------------------------------------------------------

    @initialize(promoted=st.booleans())
    def begin(self, promoted: bool) -> None:
        """An empty store, or one with a champion."""
        if promoted:
            run_id, folder = self.seal()
            self.promote(self.publish(run_id, folder), True, 0)
            self.truth.promote(run_id)

    @rule(passes=st.booleans(), forced=st.booleans(), stale=st.integers(0, 3))
    def publish_and_promote(self, passes: bool, forced: bool, stale: int) -> None:
        """A new run is judged, perhaps against a champion of some moves ago."""
        run_id, folder = self.seal()
        since = max(self.generation - stale, 0)
        run = self.publish(run_id, folder)
        self.promote(run, passes, since, "I want it" if forced else None)
        if passes or forced:
            self.truth.promote(run_id, "forced promotion" if forced else "promotion")
        else:
            assert [verdict.promoted for verdict in later_verdicts(self.store, run_id)]

    @precondition(lambda self: self.truth.published)
    @rule(data=st.data(), forced=st.booleans())
    def promote_an_earlier_run(self, data: st.DataObject, forced: bool) -> None:
        """A run of the store is promoted, whether or not it was champion or is going."""
        run_id = data.draw(st.sampled_from(sorted(self.truth.published)))
        run = find_run(self.store, run_id)
        if run_id in self.truth.retired:
            gone = StoredRun(
                from_json(Manifest, self.truth.published[run_id][keys.MANIFEST], "here"),
                self.truth.published[run_id][keys.MANIFEST],
            )
            # Its files went or are going, so only what still remembers it may refuse it.
            current = current_champion(self.store)
            if current and run_id in current.retired:
                self.refused(lambda: self.promote(run or gone, True, self.generation))
            return
        assert run
        self.promote(run, True, self.generation, "I want it" if forced else None)
        self.truth.promote(run_id, "forced promotion" if forced else "promotion")

    @rule()
    def roll_back(self) -> None:
        """To the champion before, if there is one left."""
        goal = self.truth.way_back
        if goal is None:
            self.refused(lambda: roll_back(self.store, None, reason="worse", by="tests"))
            return
        assert roll_back(self.store, None, reason="worse", by="tests").run_id == goal
        self.truth.rollback(goal)

    @precondition(lambda self: self.truth.published)
    @rule(data=st.data())
    def roll_back_to_a_named_run(self, data: st.DataObject) -> None:
        """To any run that was the champion and is not going."""
        goal = data.draw(st.sampled_from(sorted(self.truth.published)))

        def act() -> ChampionRecord:
            return roll_back(self.store, goal, reason="worse", by="tests")

        if not self.truth.was_champion(goal) or goal in self.truth.retired:
            self.refused(act)
            return
        assert act().run_id == goal
        self.truth.rollback(goal)

    @precondition(lambda self: self.truth.moves)
    @rule(data=st.data(), delete=st.integers(0, 3))
    def retire_and_delete(self, data: st.DataObject, delete: int) -> None:
        """A run is retired, and so many of its files are removed, the manifest first."""
        run_id = data.draw(st.sampled_from(sorted(self.truth.published)))
        forgotten = run_id in self.truth.retired
        current = current_champion(self.store)
        if forgotten and current and run_id not in current.retired:
            return
        going = retire(self.store, [run_id], by="tests")
        assert going == ((run_id,) if self.truth.retire(run_id) else ())
        names = [keys.MANIFEST, *sorted(self.truth.published[run_id].keys() - {keys.MANIFEST})]
        for name in names[:delete] if going else ():
            self.store.delete(keys.of_run(run_id, name))

    @rule(
        place=st.integers(0, 5),
        moment=st.sampled_from(["before", "after"]),
        again=st.booleans(),
        forced=st.booleans(),
    )
    def crash_while_publishing(self, place: int, moment: str, again: bool, forced: bool) -> None:
        """The publisher ends at some write; perhaps somebody finishes the run."""
        run_id, folder = self.seal()
        since = self.generation
        # The reader may find it to be the champion before this machine knows of it.
        self.truth.published[run_id] = {path.name: path.read_bytes() for path in folder.iterdir()}

        def act() -> None:
            run = upload_run(self.store, folder)
            self.promote(run, True, since, "I want it" if forced else None)

        crashed = self.crash_at(place, moment, act)
        if crashed and again:
            act()
        if not crashed or again:
            assert self.moved()
        if self.moved():
            self.truth.promote(run_id, "forced promotion" if forced else "promotion")
        elif not find_run(self.store, run_id):
            del self.truth.published[run_id]

    @precondition(lambda self: self.truth.way_back)
    @rule(place=st.integers(0, 1), moment=st.sampled_from(["before", "after"]), again=st.booleans())
    def crash_while_rolling_back(self, place: int, moment: str, again: bool) -> None:
        """Who rolls back ends at some write; perhaps somebody does it again."""
        goal = self.truth.way_back
        assert goal

        def act() -> ChampionRecord:
            return roll_back(self.store, goal, reason="worse", by="tests")

        assert self.crash_at(place, moment, act)
        if again:
            act()
            assert self.moved()
        if self.moved():
            self.truth.rollback(goal)

    @precondition(lambda self: self.truth.moves)
    @rule(
        data=st.data(),
        place=st.integers(0, 4),
        moment=st.sampled_from(["before", "after"]),
        again=st.booleans(),
    )
    def crash_while_pruning(
        self, data: st.DataObject, place: int, moment: str, again: bool
    ) -> None:
        """Who removes a run ends at some write; perhaps somebody does it again."""
        going = self.truth.published.keys() - self.truth.retired
        going -= {self.truth.champion, self.truth.way_back}
        if not going:
            return
        run_id = data.draw(st.sampled_from(sorted(going)))

        def act() -> None:
            assert retire(self.store, [run_id], by="tests") == (run_id,)
            for name in (keys.MANIFEST, "evaluation.json", "model.keras"):
                self.store.delete(keys.of_run(run_id, name))

        crashed = self.crash_at(place, moment, act)
        if crashed and again:
            act()
        if self.moved():
            self.truth.retire(run_id)
        else:
            assert crashed and not again
            assert find_run(self.store, run_id)

    @rule(passes_again=st.booleans(), lost=st.booleans())
    def a_rival_promotes(self, passes_again: bool, lost: bool) -> None:
        """Between decision and swap, or right after the swap, another run becomes the champion."""
        (run_id, folder), (rival_id, rival_folder) = self.seal(), self.seal()
        run, rival = self.publish(run_id, folder), self.publish(rival_id, rival_folder)
        since = self.generation

        def overtake() -> None:
            self.promote(rival, True, generation_of(current_champion(self.store)))
            self.truth.promote(rival_id)

        if lost:

            def follow(verb: str, key: str) -> None:
                if (verb, key) == ("compare_and_swap", keys.CHAMPION):
                    self.quiet()
                    self.truth.promote(run_id)
                    overtake()
                    raise Conflict("the retried request was refused")

            self.store.after = follow
        else:
            self.meddle(overtake)

        def decide(current: ChampionRecord | None) -> Verdict:
            assert not lost
            assert current and current.run_id == rival_id
            return Verdict(passes_again, (), "decided again", current.generation)

        verdict = Verdict(True, (), "decided", since)
        outcome = promote_run(self.store, run, 0.91, verdict, decide, by="tests")
        self.quiet()
        if not lost and passes_again:
            self.truth.promote(run_id)
        assert outcome.verdict.promoted is (lost or passes_again)
        assert outcome.champion and outcome.champion.run_id == self.truth.champion

    @precondition(lambda self: self.truth.way_back)
    @rule(
        rival=st.sampled_from(
            ["promotes", "promotes the goal", "rolls back", "retires the goal", "comes after"]
        )
    )
    def a_rival_of_a_rollback(self, rival: str) -> None:
        """During a rollback another changes the champion, and may even retire the goal."""
        goal = self.truth.way_back
        assert goal
        run_id, folder = self.seal()
        run = self.publish(run_id, folder)

        def promote() -> None:
            self.promote(run, True, self.generation)
            self.truth.promote(run_id)

        def rolls_back() -> None:
            roll_back(self.store, goal, reason="worse", by="a rival")
            self.truth.rollback(goal)

        def retires() -> None:
            # Twice promoted over, it is not the way back any more.
            promote()
            assert retire(self.store, [goal], by="a rival") == (goal,)
            self.truth.retire(goal)

        def act() -> ChampionRecord:
            return roll_back(self.store, goal, reason="worse", by="tests")

        def promotes_the_goal() -> None:
            self.promote(read_run(self.store, goal), True, self.generation)
            self.truth.promote(goal)
            promote()

        def follow(verb: str, key: str) -> None:
            if (verb, key) == ("compare_and_swap", keys.CHAMPION):
                self.quiet()
                self.truth.rollback(goal)
                promote()
                raise Conflict("the retried request was refused")

        if rival == "comes after":
            self.store.after = follow
            assert act().run_id == run_id
            return
        rivals = {
            "promotes": promote,
            "promotes the goal": promotes_the_goal,
            "rolls back": rolls_back,
            "retires the goal": retires,
        }
        self.meddle(rivals[rival])
        if rival == "retires the goal":
            self.refused(act)
        else:
            assert act().run_id == goal
            self.truth.rollback(goal)
        self.quiet()

    @rule(data=st.data())
    def a_run_is_retired_while_it_is_promoted(self, data: st.DataObject) -> None:
        """Removing and promoting cannot cross."""
        free = self.truth.published.keys() - self.truth.retired
        free -= {self.truth.champion, self.truth.way_back}
        if not free or not self.truth.moves:
            return
        run_id = data.draw(st.sampled_from(sorted(free)))
        run = read_run(self.store, run_id)

        def retire_it() -> None:
            assert retire(self.store, [run_id], by="a rival") == (run_id,)
            self.truth.retire(run_id)

        self.meddle(retire_it)
        self.refused(lambda: self.promote(run, True, self.generation))
        self.quiet()

    @rule(run_id=st.integers(1, 5), test_set=st.sampled_from(["ab", "cd"]))
    def count(self, run_id: int, test_set: str) -> None:
        """A test set judges a model; the same one counts once."""
        before = record_use(self.store, test_set, f"run-{run_id}")
        assert record_use(self.store, test_set, f"run-{run_id}") == before

    # ---- what always holds ----------------------------------------------------------------------

    @invariant()
    def the_champion_is_whole(self) -> None:
        """By the digests, and the one that it should be."""
        current = current_champion(self.store)
        assert (current.run_id if current else None) == self.truth.champion
        assert generation_of(current) == self.generation
        assert (current.rollback_to if current else None) == self.truth.way_back
        if current and current.rollback_to:
            assert find_run(self.store, current.rollback_to)
        self.read()

    @invariant()
    def the_history_is_that_of_the_moves(self) -> None:
        """Each move once, in its order, its generation one higher; each knows whom it followed."""
        history = list(champion_history(self.store))[::-1]
        assert [(current.move, current.run_id) for current in history] == self.truth.moves
        assert [current.generation for current in history] == list(range(1, len(history) + 1))
        runs = [None, *(current.run_id for current in history)]
        assert [current.previous for current in history] == runs[:-1]
        for before, after in itertools.pairwise(history):
            # A run that is going is no champion, and no promotion makes it one.
            assert after.run_id not in before.retired
            assert after.run_id not in after.retired

    @invariant()
    def runs_never_change(self) -> None:
        """A published run is as it was; one that was retired may be going, but not changing."""
        for run_id, files in self.truth.published.items():
            for name, content in files.items():
                found = self.store.read(keys.of_run(run_id, name))
                if run_id in self.truth.retired:
                    assert found in (None, content)
                else:
                    assert found == content


@pytest.mark.parametrize(
    ("kind", "examples"), [(MemoryStore, 500), (WatchedFolder, 60)], ids=["memory", "folder"]
)
def test_the_registry_agrees_with_its_model(
    kind: type[MemoryStore] | type[WatchedFolder], examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is published, promoted, rolled back, removed, killed, raced and read in between."""
    monkeypatch.setattr("fmnist.registry.champion._LONGEST_PAUSE", 0)
    # What reaches the disk is tested with the store.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    machine = type(f"Registry{kind.__name__}", (Registry,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
