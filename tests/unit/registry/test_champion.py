"""The champion: how it changes, who wins a race, and what a crash leaves behind."""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fmnist.errors import DamagedError, ExitCode, SettingsError, StoreError
from fmnist.evaluation.gate import Verdict, undecided
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
from fmnist.registry.records import (
    FORMAT,
    ChampionRecord,
    PromotionResult,
    checked_run_id,
    new_run_id,
    to_json,
)
from fmnist.registry.runs import later_verdicts, read_run, upload_run
from tests.support import records
from tests.support.memory import MemoryStore
from tests.support.registry import (
    ALL,
    BY,
    FILES,
    SPOILT,
    champion_of,
    champions,
    crash_at,
    edited,
    lose_the_reply,
    moves,
    never,
    overtaken_by,
    overwrite,
    passed,
    promote,
    put,
    put_champions,
    refused,
    rejected,
    remove,
    rollback,
    spoil,
    without,
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def two(store: MemoryStore) -> MemoryStore:
    """A store in which the run "two" was promoted after the run "one"."""
    put_champions(store, "one", "two")
    return store


def test_there_is_no_champion_before_the_first_promotion(store: MemoryStore, sealed: Path) -> None:
    """A store without promoted runs, empty or not, has none to read, go back from or retire by."""
    assert current_champion(store) is None
    run = upload_run(store, sealed).run_id
    assert current_champion(store) is None
    assert list(champion_history(store)) == []
    for action in (
        lambda: read_champion(store),
        lambda: rollback(store),
        lambda: retire(store, [run], by=BY),
    ):
        refused(action, ExitCode.STORE, "no run was promoted yet")
    assert current_champion(store) is None


def test_a_promotion_is_recorded(store: MemoryStore, sealed: Path) -> None:
    """The record names the run, the one it replaced, the time, the reason and the program."""
    assert put_champions(store, "one").previous is None
    started = datetime.now(UTC)
    promoted = promote(store, upload_run(store, sealed), 0.92)
    assert promoted == current_champion(store)
    assert started <= promoted.moved_at <= datetime.now(UTC)
    manifest = store.objects[keys.of_run(records.RUN_ID, keys.MANIFEST)]
    assert promoted == ChampionRecord(
        format=FORMAT,
        run_id=records.RUN_ID,
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        accuracy=0.92,
        moved_at=promoted.moved_at,
        previous="one",
        generation=2,
        rollback_to="one",
        move="promotion",
        reason="good enough",
        by=BY,
    )


def test_a_promotion_is_safe_to_repeat(store: MemoryStore, sealed: Path) -> None:
    """Promoting the champion again keeps its date and its predecessor."""
    store.objects[keys.CHAMPION] = to_json(records.champion())
    run = upload_run(store, sealed)
    first = promote(store, run)
    for verdict in (passed(records.champion()), passed(first)):
        outcome = promote_run(store, run, 0.99, verdict, never, by=BY)
        assert outcome == PromotionResult(verdict, first, first)
    assert current_champion(store) == first
    assert first.previous == records.champion().run_id
    rival = put_champions(store, "rival")
    outcome = promote_run(store, run, 0.99, passed(records.champion()), never, by=BY)
    assert (outcome.champion, outcome.made) == (rival, first)


def test_only_the_champion_record_is_replaced_and_is_in_the_history_by_then(
    store: MemoryStore,
) -> None:
    """It was copied there, byte for byte, before the swap."""
    put_champions(store, *"AB")
    before, place = store.objects[keys.CHAMPION], len(store.writes)
    put_champions(store, "C")
    moved = [write for write in store.writes[place:] if "runs/" not in write[1]]
    assert moved == [("put_if_absent", keys.of_generation(2)), ("compare_and_swap", keys.CHAMPION)]
    assert store.objects[keys.of_generation(2)] == before
    assert [key for verb, key in store.writes if verb == "compare_and_swap"] == [keys.CHAMPION] * 3
    created = [key for verb, key in store.writes if verb == "put_if_absent"]
    assert keys.CHAMPION not in created
    assert len(created) == len(set(created))


def test_the_history_has_every_record_the_latest_first_and_is_read_on_demand(
    store: MemoryStore,
) -> None:
    """Promotions, rollbacks and retirements are all there, each of the next generation."""
    put_champions(store, *"ABC")
    rollback(store)
    retire(store, ["C"], by=BY)
    earlier = ["3 promotion C", "2 promotion B", "1 promotion A"]
    assert moves(store) == ["5 retirement B", "4 rollback B", *earlier]
    store.delete(keys.of_generation(1))
    history = champion_history(store)
    assert [next(history).run_id for _ in range(4)] == list("BBCB")
    with pytest.raises(DamagedError, match="00000001.json is missing: the history has a gap"):
        next(history)


def test_the_champion_is_read_completely(store: MemoryStore) -> None:
    """Without names all its files are read, and the manifest; otherwise those that are named."""
    run = put(store, "one")
    promoted = promote(store, run)
    found, files = read_champion(store)
    assert found == promoted
    assert files == FILES | {"id": b"one", keys.MANIFEST: run.content}
    assert read_champion(store, "model.keras") == (promoted, {"model.keras": FILES["model.keras"]})


def test_a_champion_removed_while_it_was_read_is_read_again(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_champions(store, "old")
    read, manifest = store.read, f"runs/old/{keys.MANIFEST}"

    def read_late(key: str, limit: int | None = None) -> bytes | None:
        if key == manifest and key in store.objects:
            put_champions(store, "new", "newest")
            store.delete(key)
        return read(key)

    monkeypatch.setattr(store, "read", read_late)
    assert read_champion(store, "id")[1] == {"id": b"newest"}


# ---- damage -------------------------------------------------------------------------------------


@contextlib.contextmanager
def unchanged(store: MemoryStore) -> Iterator[None]:
    """Nothing in the store may change."""
    before = dict(store.objects)
    yield
    assert store.objects == before


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another version": (lambda old: edited(old, format=3), "format"),
    "the first version": (lambda old: edited(old, format=1), "format"),
    "no version": (without("format"), "format"),
    "generation 0": (lambda old: edited(old, generation=0), "generation"),
    "a fractional generation": (lambda old: edited(old, generation=1.5), "generation"),
    "a generation in words": (lambda old: edited(old, generation="last"), "generation"),
    "no digest": (without("manifest_sha256"), "manifest_sha256"),
    "not a digest": (lambda old: edited(old, manifest_sha256="0x"), "manifest_sha256"),
    "a naive time": (lambda old: edited(old, moved_at="2026-03-14T09:26:53"), "moved_at"),
    "an unknown move": (lambda old: edited(old, move="coup"), "move"),
    "an accuracy in words": (lambda old: edited(old, accuracy="very good"), "accuracy"),
    "a run id that climbs out": (lambda old: edited(old, run_id="../x"), "run_id"),
    "such a previous run": (lambda old: edited(old, previous="a/b"), "previous"),
    "such a way back": (lambda old: edited(old, rollback_to=".."), "rollback_to"),
    "such a retired run": (lambda old: edited(old, retired=["a", "/etc"]), "retired"),
    "cut short": (lambda old: old[: len(old) // 2], "JSON"),
    "empty": (lambda _: b"", "JSON"),
    "not text": (lambda _: b"\x00\xff" * 100, "JSON"),
    "a list": (lambda old: b"[" + old + b"]", "its content"),
    "a number": (lambda _: b"1", "its content"),
    "deeply nested": (lambda _: b'{"a":' * 50_000, "cannot be read"),
}


@pytest.mark.parametrize(("change", "told"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_champion_record_stops_everything(
    change: Callable[[bytes], bytes], told: str, two: MemoryStore
) -> None:
    """Neither a reader nor a publisher mistakes it for no champion, or overwrites it."""
    run = put(two, "new")
    two.objects[keys.CHAMPION] = change(two.objects[keys.CHAMPION])
    with unchanged(two):
        for action in (
            lambda: current_champion(two),
            lambda: read_champion(two),
            lambda: list(champion_history(two)),
            lambda: promote_run(two, run, 0.91, passed(None), passed, by=BY),
            lambda: promote_run(two, run, 0.91, passed(None), passed, by=BY, forced="must"),
            lambda: rollback(two),
            lambda: rollback(two, run.run_id),
            lambda: retire(two, ["one"], by=BY),
        ):
            refused(action, ExitCode.DAMAGED, two.location(keys.CHAMPION), told, "another version")


STRAYS: dict[str, tuple[dict[str, object], str]] = {
    "a run that does not exist": ({"run_id": "absent"}, "is missing"),
    "another digest": ({"manifest_sha256": "0" * 64}, "SHA-256 differs"),
    "another run's digest": ({"run_id": "one"}, "SHA-256 differs"),
}


@pytest.mark.parametrize(("fields", "told"), STRAYS.values(), ids=STRAYS.keys())
def test_a_champion_record_that_leads_to_no_run_is_not_followed(
    fields: dict[str, object], told: str, two: MemoryStore
) -> None:
    """The reader names what is missing or different, and the next promotion repairs it."""
    two.objects[keys.CHAMPION] = edited(two.objects[keys.CHAMPION], **fields)
    with unchanged(two):
        refused(lambda: read_champion(two), ExitCode.DAMAGED, keys.MANIFEST, told)
    assert put_champions(two, "new").generation == 3
    assert read_champion(two)[0].run_id == "new"


HISTORIES: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "a gap": (lambda _: None, "the history has a gap"),
    "a later generation": (lambda old: edited(old, generation=5), "out of order"),
    "the same generation": (lambda old: edited(old, generation=2), "out of order"),
    "generation 0": (lambda old: edited(old, generation=0), "generation"),
    "cut short": (lambda old: old[:-9], "cannot be read"),
    "another version": (lambda old: edited(old, format=9), "format"),
    "a run that climbs out": (lambda old: edited(old, run_id="../x"), "run_id"),
}


@pytest.mark.parametrize(("change", "told"), HISTORIES.values(), ids=HISTORIES.keys())
def test_a_damaged_history_is_reported_and_continues_from_there(
    change: Callable[[bytes], bytes | None], told: str, two: MemoryStore
) -> None:
    """Nobody reads or goes back past the damage; the champion can still be read and replaced."""
    key = keys.of_generation(1)
    overwrite(two, key, change(two.objects[key]))
    with unchanged(two):
        refused(lambda: list(champion_history(two)), ExitCode.DAMAGED, key, told)
        refused(lambda: rollback(two), ExitCode.DAMAGED, key, told)
        assert read_champion(two)[0].run_id == "two"
    assert put_champions(two, "new").generation == 3


SWAPS = {
    "two files of a run": ("runs/two/model.keras", "runs/two/evaluation.json"),
    "a file of two runs": ("runs/two/id", "runs/one/id"),
    "the manifests of two runs": (f"runs/two/{keys.MANIFEST}", f"runs/one/{keys.MANIFEST}"),
}


@pytest.mark.parametrize(("one", "other"), SWAPS.values(), ids=SWAPS.keys())
def test_swapped_files_are_noticed(one: str, other: str, two: MemoryStore) -> None:
    """No swapped file is returned or rolled back to, and a new run can still be promoted."""
    two.objects |= {one: two.objects[other], other: two.objects[one]}
    with unchanged(two):
        refused(lambda: read_champion(two), ExitCode.DAMAGED, "runs/two/", "SHA-256 differs")
        if "/one/" in other:
            refused(lambda: rollback(two), ExitCode.DAMAGED, other, "SHA-256 differs")
    put_champions(two, "new")
    assert read_champion(two)[0].run_id == "new"


# ---- clocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1970, 2025, 2999, 9999])
def test_a_wrong_clock_hinders_neither_a_run_nor_a_later_move(
    year: int, two: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run from any time gets a valid id, is promoted, replaced, and can be rolled back."""
    clock = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    run = put(two, checked_run_id(new_run_id(clock)))
    with monkeypatch.context() as patched:
        patched.setattr(
            "fmnist.registry.champion.datetime", type("Clock", (), {"now": lambda _zone: clock})
        )
        assert promote(two, run).moved_at == clock
    assert abs(put_champions(two, "new").moved_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert [rollback(two).run_id, rollback(two).run_id] == [run.run_id, "two"]
    assert [record.generation for record in champion_history(two)] == [6, 5, 4, 3, 2, 1]


# ---- verdicts that reject -----------------------------------------------------------------------


def test_a_rejected_run_moves_nothing(store: MemoryStore) -> None:
    """The champion record stays as it is, and the later verdict is kept with the run's id."""
    first = put_champions(store, "one")
    outcome = promote_run(store, put(store, "two"), 0.8, rejected(first), never, by=BY)
    assert outcome == PromotionResult(rejected(first), first)
    assert current_champion(store) == first
    assert later_verdicts(store, "two") == [rejected(first)]
    assert later_verdicts(store, "one") == []


def test_what_was_not_decided_is_decided_when_it_is_promoted(store: MemoryStore) -> None:
    """A verdict that was left open is asked for, even if the champion has not moved since."""
    first = put_champions(store, "one")
    run = put(store, "two")
    open_verdict = undecided("the store was away", first.generation)
    outcome = promote_run(store, run, 0.8, open_verdict, rejected, by=BY)
    assert outcome == PromotionResult(rejected(first), first)
    outcome = promote_run(store, run, 0.92, open_verdict, passed, by=BY)
    assert outcome.verdict == passed(first)
    assert outcome.champion and outcome.champion.run_id == "two"


def test_a_forced_promotion_records_its_reason(store: MemoryStore) -> None:
    """A person's reason is recorded for good, with the verdict that it overrode."""
    verdict, run = rejected(put_champions(store, "one")), put(store, "two")
    reason = "the demo is today"
    outcome = promote_run(store, run, 0.8, verdict, never, by="fmnist promote", forced=reason)
    assert outcome.champion == current_champion(store)
    put_champions(store, "three")
    forced = list(champion_history(store))[1]
    assert (forced.run_id, forced.move, forced.by) == ("two", "forced promotion", "fmnist promote")
    assert forced.reason == "the demo is today (verdict: not good enough)"


# ---- rivals -------------------------------------------------------------------------------------


def test_a_loser_of_a_race_decides_again_against_the_new_champion(store: MemoryStore) -> None:
    first = put_champions(store, "one")
    run, rival = put(store, "two"), put(store, "rival")
    asked = []

    def decide(current: ChampionRecord | None) -> Verdict:
        asked.append(current)
        return replace(passed(current), reason="better than the rival too")

    overtaken_by(store, lambda: promote(store, rival))
    outcome = promote_run(store, run, 0.92, passed(first), decide, by=BY)
    assert [current.run_id for current in asked] == ["rival"]
    assert outcome.verdict == decide(asked[0])
    assert outcome.champion == current_champion(store)
    assert outcome.champion.reason == "better than the rival too"
    assert outcome.champion.previous == outcome.champion.rollback_to == "rival"
    assert moves(store) == ["3 promotion two", "2 promotion rival", "1 promotion one"]


@pytest.mark.parametrize("moment", ["before the promotion", "during it"])
def test_a_verdict_against_an_earlier_champion_is_asked_for_again(
    moment: str, store: MemoryStore
) -> None:
    """The run may be rejected now: the rival stays, and the second verdict is recorded."""
    first = put_champions(store, "one")
    run, rival = put(store, "two"), put(store, "rival")
    if moment == "during it":
        overtaken_by(store, lambda: promote(store, rival))
    else:
        promote(store, rival)
    outcome = promote_run(store, run, 0.92, passed(first), rejected, by=BY)
    assert outcome == PromotionResult(rejected(champion_of(store)), champion_of(store))
    assert later_verdicts(store, "two") == [outcome.verdict]
    assert moves(store) == ["2 promotion rival", "1 promotion one"]


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_promotion_that_always_loses_ends(attempts: int, store: MemoryStore) -> None:
    """After a limited number of attempts it fails, may be retried, and has left nothing behind."""
    run = put(store, "two")
    rivals: list[str] = []

    def overtake() -> None:
        rivals.append(f"rival-{len(rivals)}")
        put_champions(store, rivals[-1])
        overtaken_by(store, overtake)

    overtaken_by(store, overtake)
    with pytest.raises(StoreError, match=f"at each of {attempts} attempts") as caught:
        promote_run(store, run, 0.9, passed(None), passed, by=BY, attempts=attempts)
    assert caught.value.retryable
    assert len(rivals) == attempts
    assert champions(store) == rivals[::-1]


@pytest.mark.parametrize("forced", [None, "I want it"])
@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("rivals", [[], ["rival"]], ids=["alone", "replaced since"])
def test_a_promotion_whose_reply_was_lost_is_not_repeated(
    forced: str | None, attempts: int, rivals: list[str], store: MemoryStore
) -> None:
    """It is recognised, also after the last attempt, even under the champion that replaced it."""
    first, run = put_champions(store, "one"), put(store, "two")
    verdict = rejected(first) if forced else passed(first)
    lose_the_reply(store, lambda: put_champions(store, *rivals))
    outcome = promote_run(store, run, 0.92, verdict, never, by=BY, forced=forced, attempts=attempts)
    assert outcome.verdict == verdict
    assert outcome.champion == current_champion(store)
    assert outcome.made and (outcome.made.run_id, outcome.made.generation) == ("two", 2)
    assert champions(store) == [*rivals, "two", "one"]
    assert outcome.made.move == ("forced promotion" if forced else "promotion")


@pytest.mark.parametrize(
    "open_one", [rejected(None), undecided("the store was away", 0), undecided("", 1)]
)
def test_a_repeated_promotion_has_the_verdict_that_counted(
    open_one: Verdict, store: MemoryStore
) -> None:
    """If the run was promoted by a later decision than the caller's, that decision is repeated.

    It is repeated against the champion that was replaced, whoever is the champion now.
    """
    first = put_champions(store, "one")
    run = put(store, "two", promoted=True)
    put_champions(store, "rival")
    asked = []

    def decide(current: ChampionRecord | None) -> Verdict:
        asked.append(current)
        return passed(current)

    outcome = promote_run(store, run, 0.92, open_one, decide, by=BY)
    assert asked == [first]
    assert outcome.verdict == passed(first)
    assert outcome.champion and outcome.champion.run_id == "rival"
    assert len(moves(store)) == 3


def test_a_promotion_that_cannot_be_decided_again_still_counts(store: MemoryStore) -> None:
    """If the earlier champion is gone, or a person forced it, the record's reason is returned."""
    put_champions(store, "one")
    run = put(store, "two")
    made = promote(store, run)
    rival = put_champions(store, "rival")
    outcome = promote_run(store, run, 0.92, undecided("", 1), rejected, by=BY)
    assert outcome == PromotionResult(Verdict(True, (), made.reason, 1), rival, made)
    assert later_verdicts(store, "two") == []


def test_a_run_is_not_rejected_by_a_champion_that_was_removed_meanwhile(store: MemoryStore) -> None:
    """If the comparison failed only because of that, it is repeated with the current champion."""
    first = put_champions(store, "one")
    run = put(store, "two")
    met = []

    def decide(current: ChampionRecord | None) -> Verdict:
        met.append(current.run_id if current else None)
        if current == first:
            put_champions(store, "rival")
            return rejected(current)
        return passed(current)

    outcome = promote_run(store, run, 0.92, undecided("", 0), decide, by=BY)
    assert met == ["one", "rival"]
    assert outcome.champion and outcome.champion.run_id == "two"
    assert later_verdicts(store, "two") == []


def test_a_history_that_holds_another_record_of_this_generation_stops_every_move(
    store: MemoryStore,
) -> None:
    champion = put_champions(store, "one")
    run = put(store, "two")
    store.objects[keys.of_generation(1)] = b"another"
    told = "00000001.json differs from the champion.json"
    with pytest.raises(DamagedError, match=told) as caught:
        promote_run(store, run, 0.92, passed(champion), never, by=BY)
    assert not caught.value.retryable
    assert current_champion(store) == champion


def test_a_rollback_to_a_run_is_not_its_promotion(store: MemoryStore) -> None:
    """A run that was rolled back to since the verdict, and replaced again, is still promoted."""
    one = put(store, "one", promoted=True)
    second = put_champions(store, "two")
    rollback(store, "one")
    put_champions(store, "three")
    outcome = promote_run(store, one, 0.91, passed(second), passed, by=BY)
    assert outcome.champion and outcome.champion.run_id == "one"
    assert moves(store)[0] == "5 promotion one"


# ---- rolling back -------------------------------------------------------------------------------


def test_an_earlier_run_can_be_made_champion_again(store: MemoryStore) -> None:
    """It has its own accuracy, and names the champion it replaced; once more changes nothing."""
    first = promote(store, put(store, "one"), 0.9142)
    promote(store, put(store, "two"), 0.9)
    back = rollback(store, "one")
    assert (back.run_id, back.accuracy, back.previous) == ("one", 0.9142, "two")
    assert back.manifest_sha256 == first.manifest_sha256
    assert (back.generation, back.move) == (3, "rollback")
    assert (back.reason, back.by) == ("it was worse", BY)
    assert rollback(store, "one") == back == current_champion(store)


def test_only_an_earlier_champion_can_be_restored(store: MemoryStore) -> None:
    """Any other run is a matter for the gate; one that does not exist is not to be promoted."""
    champion = put_champions(store, "one")
    put(store, "two")
    told = "two was never the champion; `fmnist promote two`"
    refused(lambda: rollback(store, "two"), ExitCode.STORE, told)
    message = refused(lambda: rollback(store, "absent"), ExitCode.SETTINGS, "no run absent")
    assert "promote" not in message
    assert current_champion(store) == champion


def test_a_rollback_to_a_run_that_was_removed_long_ago_is_no_damage(store: MemoryStore) -> None:
    """The history tells a run that was pruned from one that was lost."""
    put_champions(store, *"ABC")
    assert retire(store, ["A"], by=BY) == ("A",)
    remove(store, "A")
    put(store, "D")
    assert retire(store, ["D"], by=BY) == ("D",)
    assert champion_of(store).retired == ("D",)
    refused(lambda: rollback(store, "A"), ExitCode.STORE, "A was removed by `fmnist prune`")
    remove(store, "B")
    refused(lambda: rollback(store, "B"), ExitCode.DAMAGED, "is missing, although")


# ---- hold and release ---------------------------------------------------------------------------


def test_without_a_champion_there_is_nothing_to_hold(store: MemoryStore) -> None:
    refused(
        lambda: set_hold(store, held=True, reason="", by=BY),
        ExitCode.STORE,
        "no run was promoted yet",
    )
    assert store.list_names("") == []


def test_a_held_champion_stays_until_it_is_released(store: MemoryStore) -> None:
    """A run that passes is not promoted meanwhile, and has a verdict that says why."""
    put_champions(store, "one")
    held = set_hold(store, held=True, reason="it is good", by=BY)
    assert (held.move, held.held, held.run_id, held.generation) == ("hold", True, "one", 2)
    assert set_hold(store, held=True, reason="again", by=BY) == held
    two = put(store, "two")
    result = promote_run(store, two, 0.91, passed(held), never, by=BY)
    assert result.made is None and result.verdict.word == "held"
    assert [each.word for each in later_verdicts(store, "two")] == ["held"]
    assert retire(store, ["two"], by=BY) and champion_of(store).held
    released = set_hold(store, held=False, reason="", by=BY)
    assert (released.move, released.held) == ("release", False)
    put_champions(store, "three")
    assert (champion_of(store).run_id, champion_of(store).held) == ("three", False)


def test_a_person_may_replace_a_held_champion(store: MemoryStore) -> None:
    """By force or by a rollback; the hold, which a person put there, stays."""
    put_champions(store, "one")
    held = set_hold(store, held=True, reason="", by=BY)
    forced = promote_run(store, put(store, "two"), 0.91, passed(held), never, by=BY, forced="new")
    made = forced.made
    assert made and (made.move, made.forced, made.held) == ("forced promotion", True, True)
    assert rollback(store, hold=True).held
    assert not champion_of(store).forced


@pytest.mark.parametrize("hold", [True, False])
def test_a_rollback_holds_unless_told_not_to(hold: bool, store: MemoryStore) -> None:
    put_champions(store, "one", "two")
    assert rollback(store, hold=hold).held is hold


def test_a_reason_given_for_a_run_that_passes_is_kept_and_nothing_was_forced(
    store: MemoryStore,
) -> None:
    made = promote_run(store, put(store, 1), 0.9, passed(None), never, by=BY, forced="why").made
    assert made and (made.move, made.forced) == ("promotion", False)
    assert made.reason == "why (verdict: good enough)"


@pytest.mark.parametrize("held", [True, False])
def test_a_hold_whose_reply_was_lost_is_made_once(held: bool, store: MemoryStore) -> None:
    put_champions(store, "one")
    if not held:
        set_hold(store, held=True, reason="", by=BY)
    before = champion_of(store).generation
    lose_the_reply(store, lambda: None)
    assert set_hold(store, held=held, reason="", by=BY).generation == before + 1


def test_a_hold_that_was_released_before_its_reply_came_is_not_made_again(
    store: MemoryStore,
) -> None:
    put_champions(store, "one")
    lose_the_reply(store, lambda: set_hold(store, held=False, reason="", by="another"))
    assert not set_hold(store, held=True, reason="", by=BY).held
    assert moves(store) == ["3 release one", "2 hold one", "1 promotion one"]


def test_rollbacks_go_back_step_by_step(store: MemoryStore) -> None:
    """After A, B and C they lead to B, then to A, and then there is nothing to go back to."""
    put_champions(store, *"ABC")
    assert [rollback(store).run_id, rollback(store).run_id] == ["B", "A"]
    refused(lambda: rollback(store), ExitCode.STORE, "no champion before A to go back to")
    assert champions(store) == list("ABCBA")
    put_champions(store, "D")
    assert rollback(store).run_id == "A"


@pytest.mark.parametrize("gone", ["being removed", "removed", "removed and forgotten"])
def test_a_rollback_leaves_no_way_back_to_a_run_that_is_gone(gone: str, store: MemoryStore) -> None:
    """After A, B and C, without A, it leads to B, from where nothing is left to go back to."""
    put_champions(store, *"ABC")
    retire(store, ["A"], by=BY)
    if gone != "being removed":
        remove(store, "A")
    if gone == "removed and forgotten":
        put(store, "D")
        retire(store, ["D"], by=BY)
    back = rollback(store)
    assert (back.run_id, back.rollback_to) == ("B", None)
    refused(lambda: rollback(store), ExitCode.STORE, "no champion before B to go back to")
    assert current_champion(store) == back


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT.keys())
def test_a_damaged_run_is_not_restored(
    name: str, change: Callable[[bytes], bytes | None], two: MemoryStore
) -> None:
    """Every file of the earlier champion is checked before the champion changes."""
    champion = current_champion(two)
    spoil(two, f"runs/one/{name}", change)
    for run_id in (None, "one"):
        with pytest.raises(DamagedError, match=re.escape(f"memory/runs/one/{name}")):
            rollback(two, run_id)
    assert current_champion(two) == champion


@pytest.mark.parametrize(
    ("rivals", "after"),
    [("", "BCBA"), ("D", "BDCBA"), ("BD", "BDBCBA")],
    ids=["goes back too", "is promoted", "is promoted after the goal"],
)
def test_a_rollback_gets_where_it_was_asked_to_whatever_a_rival_does(
    rivals: str, after: str, store: MemoryStore
) -> None:
    """Another's rollback to the same run is taken for this one, a promotion of that run is not."""
    put_champions(store, *"ABC")
    put(store, "D")

    def meddle() -> None:
        for rival in rivals:
            promote(store, read_run(store, rival))
        if not rivals:
            rollback(store)

    overtaken_by(store, meddle)
    assert rollback(store) == current_champion(store)
    assert champions(store) == list(after)
    assert moves(store)[0] == f"{len(after)} rollback B"


def test_a_rollback_whose_reply_was_lost_is_not_repeated(store: MemoryStore) -> None:
    """It is recognised in the history even when another champion stands on top of it."""
    put_champions(store, *"AB")
    lose_the_reply(store, lambda: put_champions(store, "rival"))
    assert rollback(store).run_id == "rival"
    assert champions(store) == ["rival", "A", "B", "A"]


def test_a_rollback_that_failed_says_how_to_try_again(store: MemoryStore) -> None:
    """Without a name a second try might go back one champion further."""
    put_champions(store, *"ABC")

    def lose_every_answer(verb: str, key: str) -> None:
        raise StoreError("no answer", retryable=True)

    store.after = lose_every_answer
    with pytest.raises(StoreError, match="name the run: `fmnist rollback B`") as caught:
        rollback(store)
    assert caught.value.retryable
    store.after = lambda verb, key: None
    assert rollback(store, "B").run_id == "B"
    assert moves(store)[0] == "4 rollback B"


# ---- retiring runs -------------------------------------------------------------------


def test_a_retired_run_never_becomes_the_champion(store: MemoryStore) -> None:
    one = put(store, "one", promoted=True)
    put_champions(store, "two", "three")
    assert retire(store, ["one"], by=BY) == ("one",)
    current = champion_of(store)
    assert current.retired == ("one",)
    for verdict in (passed(None), passed(current)):
        for reason in (None, "I want it"):
            with pytest.raises(StoreError, match="one was removed by"):
                promote_run(store, one, 0.91, verdict, passed, by=BY, forced=reason)
    refused(lambda: rollback(store, "one"), ExitCode.STORE, "one was removed by")
    assert current_champion(store) == current
    put_champions(store, "four")
    refused(lambda: rollback(store, "one"), ExitCode.STORE, "one was removed by")


@pytest.mark.parametrize("move", ["promotion", "rollback"])
def test_a_run_retired_just_before_the_swap_does_not_become_the_champion(
    move: str, store: MemoryStore
) -> None:
    """Removing and promoting cannot cross: the swap is refused, and then so is the run."""
    one = put(store, "one", promoted=True)
    third = put_champions(store, "two", "three")
    overtaken_by(store, lambda: retire(store, ["one"], by=BY))
    with pytest.raises(StoreError, match="one was removed by"):
        if move == "promotion":
            promote_run(store, one, 0.91, passed(third), passed, by=BY)
        else:
            rollback(store, "one")
    assert moves(store)[0] == "4 retirement three"


def test_a_run_that_was_retired_and_forgotten_is_not_promoted_by_an_old_verdict(
    store: MemoryStore,
) -> None:
    """A retirement since the verdict counts, even if later records no longer mention it."""
    first = put_champions(store, "one")
    gone = put(store, "gone")
    retire(store, ["gone"], by=BY)
    remove(store, "gone")
    put(store, "other")
    retire(store, ["other"], by=BY)
    current = champion_of(store)
    assert current.retired == ("other",)
    with pytest.raises(StoreError, match="gone was removed by"):
        promote_run(store, gone, 0.91, passed(first), passed, by=BY)
    assert current_champion(store) == current


def test_a_retirement_heeds_the_moves_that_came_before_it(store: MemoryStore) -> None:
    """It leaves a run out that was promoted meanwhile, and adds to what another retired."""
    put_champions(store, *"ABCD")
    late = put(store, "late")
    overtaken_by(store, lambda: promote(store, late))
    assert retire(store, ["late", "A"], by=BY) == ("A",)
    assert (champion_of(store).run_id, champion_of(store).retired) == ("late", ("A",))
    overtaken_by(store, lambda: retire(store, ["B"], by="a rival"))
    assert retire(store, ["C"], by=BY) == ("C",)
    assert set(champion_of(store).retired) == {"A", "B", "C"}


def test_a_retirement_is_a_move_that_changes_no_champion(store: MemoryStore) -> None:
    """Neither the champion nor the way back is retired, nor what is no run id, whoever asks."""
    before = put_champions(store, *"ABC")
    with pytest.raises(SettingsError, match="is not a run id"):
        retire(store, ["A", "../one"], by=BY)
    assert current_champion(store) == before
    assert retire(store, ["A", "B", "C"], by="fmnist prune") == ("A",)
    current = champion_of(store)
    assert current == replace(
        before,
        moved_at=current.moved_at,
        previous="C",
        generation=4,
        move="retirement",
        reason="1 run removed",
        by="fmnist prune",
        retired=("A",),
    )
    assert read_champion(store, "id")[1] == {"id": b"C"}
    assert rollback(store).run_id == "B"


def test_a_retirement_whose_reply_was_lost_is_not_repeated(store: MemoryStore) -> None:
    """It is recognised in the history even when the run is gone and forgotten by now."""
    put_champions(store, *"ABC")
    lose_the_reply(store, lambda: put_champions(store, "rival"))
    for _ in range(2):
        assert retire(store, ["A"], by=BY) == ("A",)
    assert moves(store)[:3] == ["5 promotion rival", "4 retirement C", "3 promotion C"]

    def finish_it_and_go_on() -> None:
        remove(store, "A")
        remove(store, "B")
        put(store, "D")
        retire(store, ["D"], by="a rival")

    lose_the_reply(store, finish_it_and_go_on)
    assert retire(store, ["B"], by=BY) == ()
    current = champion_of(store)
    assert (current.generation, current.by, current.retired) == (7, "a rival", ("D",))


def test_retired_runs_are_remembered_until_they_are_gone(store: MemoryStore) -> None:
    """A later retirement keeps those of which something is left, and forgets the others."""
    put_champions(store, *"ABCDE")
    retire(store, ["A", "B"], by=BY)
    remove(store, "A")
    store.delete(f"runs/B/{keys.MANIFEST}")
    retire(store, ["C"], by=BY)
    assert champion_of(store).retired == ("B", "C")
    rollback(store)
    assert put_champions(store, "F").retired == ("B", "C")


# ---- crashes ------------------------------------------------------------------------------------


def nobody(store: MemoryStore) -> None:
    """No champion yet."""


def three(store: MemoryStore) -> None:
    put_champions(store, *"ABC")


def one_with_a_past(store: MemoryStore) -> None:
    """A champion with promotions, a rollback and a retirement behind it."""
    three(store)
    rollback(store)
    retire(store, ["C"], by=BY)


def publish(store: MemoryStore, sealed: Path, old: ChampionRecord | None) -> None:
    promote_run(store, upload_run(store, sealed), 0.91, passed(old), never, by=BY)


def go_back(store: MemoryStore, sealed: Path, old: ChampionRecord | None) -> None:
    rollback(store, "B")


def retire_one(store: MemoryStore, sealed: Path, old: ChampionRecord | None) -> None:
    retire(store, ["A"], by=BY)


def records_in(store: MemoryStore) -> dict[int, bytes]:
    """The bytes of every champion record, the one current and those of the past, by generation."""
    kept = {
        int(name[:8]): store.objects[f"history/{name}"] for name in store.list_names("history/")
    }
    if current := current_champion(store):
        content = store.objects[keys.CHAMPION]
        assert kept.setdefault(current.generation, content) == content
    return kept


# Of each: the champions before, what is done, its last write, and the move in the end.
CRASHES: list[tuple[Callable[..., None], Callable[..., None], int, str]] = [
    (nobody, publish, len(ALL), f"1 promotion {records.RUN_ID}"),
    (one_with_a_past, publish, len(ALL) + 1, f"6 promotion {records.RUN_ID}"),
    (three, go_back, 1, "4 rollback B"),
    (three, retire_one, 1, "4 retirement C"),
]


@pytest.mark.parametrize(
    ("scene", "act", "place", "last", "move"),
    [
        pytest.param(scene, act, place, last, move, id=f"{scene.__name__}-{act.__name__}-{place}")
        for scene, act, last, move in CRASHES
        for place in range(last + 1)
    ],
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_leaves_the_old_champion_or_the_new_and_can_be_repeated(
    scene: Callable[..., None],
    act: Callable[..., None],
    place: int,
    last: int,
    move: str,
    moment: str,
    store: MemoryStore,
    sealed: Path,
) -> None:
    """Readers then see it completely, and the history loses no byte."""
    scene(store)
    old, past = current_champion(store), records_in(store)
    assert crash_at(store, moment, place, lambda: act(store, sealed, old))
    if (place, moment) == (last, "after"):
        assert moves(store)[0] == move
    else:
        assert current_champion(store) == old
    if current_champion(store):
        read_champion(store)
    if keys.of_run(records.RUN_ID, keys.MANIFEST) in store.objects:
        assert {keys.of_run(records.RUN_ID, name) for name in FILES} <= store.objects.keys()
    assert past.items() <= records_in(store).items()

    act(store, sealed, old)
    champion, files = read_champion(store)
    assert files.items() >= FILES.items()
    assert champion.manifest_sha256 == hashlib.sha256(files[keys.MANIFEST]).hexdigest()
    assert champion.previous == (old.run_id if old else None)
    assert moves(store)[0] == move
    # The history is complete, with each record once and byte for byte.
    assert past.items() <= records_in(store).items()
    generations = [record.generation for record in champion_history(store)]
    assert generations == list(range(generation_of(old) + 1, 0, -1))
