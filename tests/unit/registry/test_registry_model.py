"""The registry against a simple model of it: whatever is done, killed or raced, they agree."""

import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
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
    set_hold,
)
from fmnist.registry.records import ChampionRecord, Manifest, StoredRun, from_json
from fmnist.registry.runs import find_run, later_verdicts, read_run, upload_run
from fmnist.registry.usage import record_use
from tests.support.memory import MemoryStore, WatchedFolder
from tests.support.registry import BY, crash_at, lose_the_reply, overtaken_by, rollback, seal

MOMENTS = st.sampled_from(["before", "after"])


def refused(action: Callable[[], object]) -> None:
    """It must be refused in words: the run may be gone, damaged or forgotten."""
    with pytest.raises(StoreError) as caught:
        action()
    assert "\n" not in str(caught.value)


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
        return self.moves[-1][1] if self.moves else None

    def promote(self, run_id: str, forced: bool = False) -> None:
        """A run becomes the champion, unless it is."""
        if self.champion != run_id:
            self.ways_back[run_id] = self.way_back = self.champion
            self.moves.append(("forced promotion" if forced else "promotion", run_id))

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


class Registry(RuleBasedStateMachine):
    """Does to a store whatever a user, a rival and a killer may do, and keeps the truth beside it."""

    kind: ClassVar[type[MemoryStore] | type[WatchedFolder]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fmnist-"))
        self.truth = Truth()
        self.count_of_runs = 0
        in_memory = self.kind is MemoryStore
        self.store = MemoryStore() if in_memory else WatchedFolder(str(self.folder / "store"))
        # Somebody reads between any two writes.
        self.store.before = self.store.after = lambda verb, key: self.read()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # ---- what is done ---------------------------------------------------------------------------

    def seal(self) -> tuple[str, Path]:
        """A new finished run in a folder, which readers may find from now on."""
        self.count_of_runs += 1
        run_id = f"run-{self.count_of_runs:03d}"
        files = {keys.MODEL: run_id.encode() * 10, keys.EVALUATION: b"{}"}
        folder = seal(self.folder / "work" / run_id, run_id, files)
        self.truth.published[run_id] = {path.name: path.read_bytes() for path in folder.iterdir()}
        return run_id, folder

    def publish(self) -> StoredRun:
        return upload_run(self.store, self.seal()[1])

    def promote(
        self, run: StoredRun, *, passes: bool = True, stale: int = 0, forced: bool = False
    ) -> None:
        """Promote it by a verdict against the champion of so many moves ago."""

        def decide(current: ChampionRecord | None) -> Verdict:
            return Verdict(passes, (), "decided", generation_of(current))

        verdict = Verdict(passes, (), "decided", max(self.generation - stale, 0))
        reason = "I want it" if forced else None
        promote_run(self.store, run, 0.91, verdict, decide, by=BY, forced=reason)

    def make_champion(self, run: StoredRun, *, forced: bool = False) -> None:
        self.promote(run, passes=not forced, forced=forced)
        self.truth.promote(run.run_id, forced)

    def roll_back(self, goal: str) -> None:
        assert rollback(self.store, goal).run_id == goal
        self.truth.rollback(goal)

    def retire(self, run_id: str) -> None:
        assert retire(self.store, [run_id], by="a rival") == (run_id,)
        self.truth.retire(run_id)

    @property
    def generation(self) -> int:
        """The generation that the champion record should have."""
        return len(self.truth.moves)

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

    def moved(self) -> bool:
        """Whether the champion changed since the truth was last noted."""
        return generation_of(current_champion(self.store)) > self.generation

    def free(self) -> list[str]:
        """The runs that may be retired now."""
        taken = self.truth.retired | {self.truth.champion, self.truth.way_back}
        return sorted(self.truth.published.keys() - taken) if self.truth.moves else []

    # ---- the rules ------------------------------------------------------------------------------

    @initialize(promoted=st.booleans())
    def begin(self, promoted: bool) -> None:
        """An empty store, or one with a champion."""
        if promoted:
            self.make_champion(self.publish())

    @rule(passes=st.booleans(), forced=st.booleans(), stale=st.integers(0, 3))
    def publish_and_promote(self, passes: bool, forced: bool, stale: int) -> None:
        """A new run is judged, perhaps against a champion of some moves ago."""
        run = self.publish()
        self.promote(run, passes=passes, stale=stale, forced=forced)
        if passes or forced:
            self.truth.promote(run.run_id, forced and not passes)
        else:
            assert [verdict.promoted for verdict in later_verdicts(self.store, run.run_id)]

    @precondition(lambda self: self.truth.champion)
    @rule(forced=st.booleans())
    def promote_while_the_champion_is_held(self, forced: bool) -> None:
        """A run that passes waits, unless a person forces it; then the champion is released."""
        for held in (True, False):
            set_hold(self.store, held=held, reason="", by=BY)
            self.truth.moves.append(("hold" if held else "release", self.truth.champion))
            if held:
                run = self.publish()
                self.promote(run, forced=forced)
                if forced:
                    self.truth.promote(run.run_id, forced)

    @precondition(lambda self: self.truth.published)
    @rule(data=st.data(), forced=st.booleans())
    def promote_an_earlier_run(self, data: st.DataObject, forced: bool) -> None:
        """A run of the store is promoted, whether or not it was champion or is going."""
        run_id = data.draw(st.sampled_from(sorted(self.truth.published)))
        content = self.truth.published[run_id][keys.MANIFEST]
        run = StoredRun(from_json(Manifest, content, "here"), content)
        if run_id not in self.truth.retired:
            assert find_run(self.store, run_id) == run
            self.make_champion(run, forced=forced)
        elif run_id in current_champion(self.store).retired:
            # Its files went or are going, so only what still remembers it may refuse it.
            refused(lambda: self.promote(run, forced=forced))

    @rule()
    def roll_back_a_step(self) -> None:
        """To the champion before, if there is one left."""
        goal = self.truth.way_back
        if goal is None:
            refused(lambda: rollback(self.store))
        else:
            assert rollback(self.store).run_id == goal
            self.truth.rollback(goal)

    @precondition(lambda self: self.truth.published)
    @rule(data=st.data())
    def roll_back_to_a_named_run(self, data: st.DataObject) -> None:
        """To any run that was the champion and is not going."""
        goal = data.draw(st.sampled_from(sorted(self.truth.published)))
        if goal in self.truth.ways_back and goal not in self.truth.retired:
            self.roll_back(goal)
        else:
            refused(lambda: rollback(self.store, goal))

    @precondition(lambda self: self.truth.moves)
    @rule(data=st.data(), delete=st.sampled_from([0, 1, 9]))
    def retire_and_delete(self, data: st.DataObject, delete: int) -> None:
        """A run is retired, and so many of its files are removed, the manifest first."""
        run_id = data.draw(st.sampled_from(sorted(self.truth.published)))
        if run_id in self.truth.retired - set(current_champion(self.store).retired):
            return
        going = retire(self.store, [run_id], by=BY)
        assert going == ((run_id,) if self.truth.retire(run_id) else ())
        names = [keys.MANIFEST, *sorted(self.truth.published[run_id].keys() - {keys.MANIFEST})]
        for name in names[:delete] if going else ():
            self.store.delete(keys.of_run(run_id, name))

    @rule(place=st.integers(0, 6), moment=MOMENTS, again=st.booleans(), forced=st.booleans())
    def crash_while_publishing(self, place: int, moment: str, again: bool, forced: bool) -> None:
        """The publisher ends at some write; perhaps somebody finishes the run."""
        run_id, folder = self.seal()

        def act() -> None:
            run = upload_run(self.store, folder)
            self.promote(run, passes=not forced, forced=forced)

        crashed = crash_at(self.store, moment, place, act)
        if crashed and again:
            act()
        if not crashed or again:
            assert self.moved()
        if self.moved():
            self.truth.promote(run_id, forced)
        elif not find_run(self.store, run_id):
            del self.truth.published[run_id]

    @precondition(lambda self: self.truth.way_back)
    @rule(place=st.integers(0, 1), moment=MOMENTS, again=st.booleans())
    def crash_while_rolling_back(self, place: int, moment: str, again: bool) -> None:
        """Who rolls back ends at some write; perhaps somebody does it again."""
        goal = self.truth.way_back
        assert crash_at(self.store, moment, place, lambda: rollback(self.store, goal))
        if again:
            rollback(self.store, goal)
            assert self.moved()
        if self.moved():
            self.truth.rollback(goal)

    @precondition(lambda self: self.free())
    @rule(
        data=st.data(), place=st.sampled_from([0, 1, 2, 5, 9]), moment=MOMENTS, again=st.booleans()
    )
    def crash_while_pruning(
        self, data: st.DataObject, place: int, moment: str, again: bool
    ) -> None:
        """Who removes a run ends at some write; perhaps somebody does it again."""
        run_id = data.draw(st.sampled_from(self.free()))

        def act() -> None:
            assert retire(self.store, [run_id], by=BY) == (run_id,)
            for name in sorted(
                self.truth.published[run_id], key=lambda name: name != keys.MANIFEST
            ):
                self.store.delete(keys.of_run(run_id, name))

        crashed = crash_at(self.store, moment, place, act)
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
        run, rival = self.publish(), self.publish()
        verdict = Verdict(True, (), "decided", self.generation)

        def decide(current: ChampionRecord | None) -> Verdict:
            assert not lost
            assert current and current.run_id == rival.run_id
            return Verdict(passes_again, (), "decided again", current.generation)

        def follow() -> None:
            self.truth.promote(run.run_id)
            self.make_champion(rival)

        if lost:
            lose_the_reply(self.store, follow)
        else:
            overtaken_by(self.store, lambda: self.make_champion(rival))
        outcome = promote_run(self.store, run, 0.91, verdict, decide, by=BY)
        if not lost and passes_again:
            self.truth.promote(run.run_id)
        assert outcome.verdict.promoted is (lost or passes_again)
        assert outcome.champion and outcome.champion.run_id == self.truth.champion

    @precondition(lambda self: self.truth.way_back)
    @rule(rival=st.sampled_from(["", "promotes the goal", "rolls back", "retires the goal"]))
    def a_rival_of_a_rollback(self, rival: str) -> None:
        """During a rollback another changes the champion, and may even retire the goal."""
        goal, run = self.truth.way_back, self.publish()

        def meddle() -> None:
            if rival == "rolls back":
                self.roll_back(goal)
                return
            if rival == "promotes the goal":
                self.make_champion(read_run(self.store, goal))
            self.make_champion(run)
            if rival == "retires the goal":
                # Promoted over, it is not the way back any more.
                self.retire(goal)

        overtaken_by(self.store, meddle)
        if rival == "retires the goal":
            refused(lambda: rollback(self.store))
        else:
            # A rival's rollback to the same run is taken for this one, its promotion is not.
            assert rollback(self.store).run_id == goal
            self.truth.rollback(goal)

    @precondition(lambda self: self.truth.way_back)
    @rule()
    def a_rollback_whose_reply_is_lost(self) -> None:
        """Another becomes the champion right after it, which is no reason to go back again."""
        goal, run = self.truth.way_back, self.publish()

        def follow() -> None:
            self.truth.rollback(goal)
            self.make_champion(run)

        lose_the_reply(self.store, follow)
        assert rollback(self.store).run_id == run.run_id

    @precondition(lambda self: self.free())
    @rule(data=st.data())
    def a_run_is_retired_while_it_is_promoted(self, data: st.DataObject) -> None:
        """Removing and promoting cannot cross."""
        run = read_run(self.store, data.draw(st.sampled_from(self.free())))
        overtaken_by(self.store, lambda: self.retire(run.run_id))
        refused(lambda: self.promote(run))

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
    ("kind", "examples"), [(MemoryStore, 200), (WatchedFolder, 40)], ids=["memory", "folder"]
)
def test_the_registry_agrees_with_its_model(
    kind: type[MemoryStore] | type[WatchedFolder], examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is published, promoted, rolled back, removed, killed, raced and read in between."""
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
