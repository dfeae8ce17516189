"""Fetching from the public mirrors, good and bad, and from a user's own source of any kind."""

import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fmnist.data.fetch import SUMS, check_source, fetch_files, parse_sums
from fmnist.data.records import (
    FILES,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    DataOrigin,
)
from fmnist.errors import DataError, ExitCode
from fmnist.settings import DataSettings
from tests.support.mirrors import (
    OFFICIAL,
    OWN,
    Behaviour,
    Contents,
    Mirror,
    Mirrors,
    Reply,
    at_first,
    closed_port,
    damaged,
    digest,
    dropping,
    endless,
    four_files,
    hanging_up,
    honest,
    in_cache,
    lying,
    paths_of,
    read,
    refusing,
    settings,
    silent,
    stalling,
    sums_of,
    trickling,
    with_sums,
    write,
)
from tests.support.tiny_s3 import tiny_s3

SHORT = 0.5
"""A timeout that a good server meets and that a test can wait for."""


def test_a_good_mirror_supplies_the_four_files(mirrors: Mirrors, cache: Path) -> None:
    """It is asked once for each file; the origin names it, and each file's digest."""
    mirror = mirrors.start()
    fetched = fetch_files(settings(cache, mirror))
    assert read(fetched) == OFFICIAL
    assert mirror.asked == list(FILES)
    assert in_cache(cache) == set(OFFICIAL.values())
    assert len(list(cache.iterdir())) == 4
    sums = {name: digest(content) for name, content in OFFICIAL.items()}
    assert fetched.origin == DataOrigin(mirror.url, official=True, sha256=sums)


def test_mirrors_are_tried_in_their_order(mirrors: Mirrors, cache: Path) -> None:
    one, two = mirrors.start(refusing(404)), mirrors.start(lying)
    three, four = mirrors.start(), mirrors.start()
    fetched = fetch_files(settings(cache, two, one, four, three))
    order = list(dict.fromkeys(request.mirror for request in mirrors.log))
    assert order == [two.url, one.url, four.url]
    assert fetched.origin.source == four.url


NO_ANSWER = f"no answer within {SHORT:g} s"
# Of each fault: what the mirror does, what is said of it, and whether a retry may help.
FAULTS: dict[str, tuple[Behaviour, str, bool]] = {
    "HTTP 404": (refusing(404), "HTTP 404", False),
    "HTTP 410": (refusing(410), "HTTP 410", False),
    "HTTP 403": (refusing(403), "HTTP 403", False),
    "HTTP 429": (refusing(429), "HTTP 429", True),
    "HTTP 500": (refusing(500), "HTTP 500", True),
    "HTTP 503": (refusing(503), "HTTP 503", True),
    "lies": (lying, digest(damaged(OFFICIAL[TRAIN_IMAGES])), False),
    "never answers": (silent, NO_ANSWER, True),
    "stalls halfway": (stalling, NO_ANSWER, True),
    "always drops halfway": (dropping, "connection dropped", True),
    "hangs up": (hanging_up, "connection dropped", True),
}


@pytest.mark.parametrize(("faulty", "reason", "retryable"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_mirror_is_an_error_alone_and_passed_over_beside_another(
    mirrors: Mirrors,
    cache: Path,
    few_attempts: None,
    faulty: Behaviour,
    reason: str,
    retryable: bool,
) -> None:
    bad, good = mirrors.start(faulty), mirrors.start()
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, bad, timeout=SHORT))
    assert re.search(f"{re.escape(bad.url)}: .*{re.escape(reason)}", str(caught.value))
    assert caught.value.retryable is retryable
    assert in_cache(cache) == set()
    fetched = fetch_files(settings(cache, bad, good, timeout=SHORT))
    assert read(fetched) == OFFICIAL
    assert fetched.origin.source == good.url
    assert set(bad.asked) == {TRAIN_IMAGES}
    assert good.asked == list(FILES)
    assert in_cache(cache) == set(OFFICIAL.values())


def test_a_host_without_an_address_is_passed_over(
    mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def knowing_no_such_name(host: str, *arguments: Any, **named: Any) -> Any:
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *arguments, **named)

    monkeypatch.setattr("socket.getaddrinfo", knowing_no_such_name)
    assert read(fetch_files(settings(cache, "http://nowhere.invalid", mirrors.start()))) == OFFICIAL


def test_a_trickling_mirror_is_given_up_soon(
    mirrors: Mirrors, cache: Path, few_attempts: None, caplog: pytest.LogCaptureFixture
) -> None:
    slow, good = mirrors.start(trickling), mirrors.start()
    fetched = fetch_files(settings(cache, slow, good, timeout=SHORT))
    assert fetched.origin.source == good.url
    assert f"{slow.url}: too slow" in caplog.text
    # It would go on for 100 bytes if it were let.
    assert all(request.sent < 90 for request in slow.requests)


def test_mirrors_may_be_folders_of_a_server(mirrors: Mirrors, cache: Path) -> None:
    below = {f"data/fashion/{name}": content for name, content in OFFICIAL.items()}
    mirror = mirrors.start(contents=below)
    assert read(fetch_files(settings(cache, f"{mirror.url}/data/fashion/"))) == OFFICIAL


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        pytest.param("SSL_CERT_FILE", "/no/such/file.pem", id="no file of certificates"),
        pytest.param("HTTP_PROXY", "ftp://127.0.0.1:1", id="unknown kind of proxy"),
        pytest.param("ALL_PROXY", "socks5://127.0.0.1:1", id="proxy of a kind not installed"),
    ],
)
def test_connection_variables_that_cannot_be_used_are_a_data_error(
    mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Certificates or a proxy that cannot be used end in a DataError not blamed on the cache."""
    monkeypatch.setenv(variable, value)
    mirror = mirrors.start()
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, mirror))
    assert f"{mirror.url}: " in str(caught.value)
    assert "data.cache" not in str(caught.value)
    assert in_cache(cache) == set()


def test_a_mirror_that_never_stops_sending_is_given_up(
    mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that outgrows any data set is given up instead of filling the disk."""
    monkeypatch.setattr("fmnist.data.sources._MAX_BYTES", 1_000_000)
    with pytest.raises(DataError, match="more than 1,000,000 bytes"):
        fetch_files(settings(cache, mirrors.start(endless)))
    assert in_cache(cache) == set()


def test_every_mirror_is_listed_with_its_own_reason(mirrors: Mirrors, cache: Path) -> None:
    """When all fail, the DataError also says how to supply the files by hand."""
    failing, liar, dead = mirrors.start(refusing(500)), mirrors.start(lying), closed_port()
    missing = mirrors.start(refusing(404))
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, failing, liar, dead, missing))
    _, *listed, advice = str(caught.value).splitlines()
    reasons = {
        failing.url: "HTTP 500",
        liar.url: "SHA256",
        dead: "connect",
        missing.url: "HTTP 404",
    }
    for line, (url, reason) in zip(listed, reasons.items(), strict=True):
        assert line.startswith(f"  {url}: ")
        assert reason in line
    assert all(part in advice for part in ("data.source", "folder", *FILES))
    assert caught.value.exit_code == ExitCode.DATA


def test_the_error_names_only_the_files_that_are_missing(mirrors: Mirrors, cache: Path) -> None:
    half = {name: OFFICIAL[name] for name in (TRAIN_IMAGES, TRAIN_LABELS)}
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, mirrors.start(contents=half)))
    first_line = str(caught.value).splitlines()[0]
    assert TEST_IMAGES in first_line
    assert TEST_LABELS in first_line
    assert TRAIN_IMAGES not in first_line
    assert in_cache(cache) == set(half.values())


@pytest.mark.parametrize(
    ("faults", "retryable"),
    [
        pytest.param((404, 403), False, id="none would pass"),
        pytest.param((404, 503), True, id="the second may pass"),
        pytest.param((503, 404), True, id="the first may pass"),
    ],
)
def test_one_mirror_that_may_recover_makes_the_error_retryable(
    mirrors: Mirrors, cache: Path, faults: tuple[int, int], retryable: bool
) -> None:
    with pytest.raises(DataError) as caught:
        fetch_files(settings(cache, *(mirrors.start(refusing(status)) for status in faults)))
    assert caught.value.retryable is retryable


def test_a_mirror_that_fails_once_is_asked_again(mirrors: Mirrors, cache: Path) -> None:
    recovering, other = mirrors.start(at_first(refusing(500))), mirrors.start()
    fetched = fetch_files(settings(cache, recovering, other))
    assert read(fetched) == OFFICIAL
    assert recovering.asked == [TRAIN_IMAGES, *FILES]
    assert other.asked == []


def test_a_mirror_is_asked_only_so_often(mirrors: Mirrors, cache: Path) -> None:
    failing, without = mirrors.start(refusing(503)), mirrors.start(refusing(404))
    with pytest.raises(DataError):
        fetch_files(settings(cache, failing, without))
    assert failing.asked == [TRAIN_IMAGES] * 4
    assert without.asked == [TRAIN_IMAGES]


def test_the_next_mirror_is_asked_only_for_the_rest(mirrors: Mirrors, cache: Path) -> None:
    half = {name: OFFICIAL[name] for name in (TRAIN_IMAGES, TRAIN_LABELS)}
    first, second = mirrors.start(contents=half), mirrors.start()
    assert read(fetch_files(settings(cache, first, second))) == OFFICIAL
    assert second.asked == [TEST_IMAGES, TEST_LABELS]


def test_a_redirect_is_followed(mirrors: Mirrors, cache: Path) -> None:
    target = mirrors.start()

    def elsewhere(_: Mirror, reply: Reply) -> None:
        reply.head(302, 0, Location=f"{target.url}/{reply.request.name}")

    assert read(fetch_files(settings(cache, mirrors.start(elsewhere)))) == OFFICIAL
    assert target.asked == list(FILES)


def labelling(_: Mirror, reply: Reply) -> None:
    """Call the files gzip-encoded, as if they were to be unpacked on the way."""
    reply.head(200, len(reply.content), Content_Encoding="gzip")
    reply.send(reply.content)


def not_stating_the_length(_: Mirror, reply: Reply) -> None:
    """Send a file without its length."""
    reply.head(200)
    reply.send(reply.content)


@pytest.mark.parametrize("odd", [labelling, not_stating_the_length])
def test_a_server_that_sends_files_oddly_is_good_enough(
    mirrors: Mirrors, cache: Path, odd: Behaviour
) -> None:
    """Its files are verified like all others, and kept as they are."""
    assert read(fetch_files(settings(cache, mirrors.start(odd)))) == OFFICIAL


@dataclass
class Own:
    """A source of a user's own, of one kind, whose files may change."""

    kind: str
    url: str
    cache: Path
    served: Contents = field(default_factory=dict)
    prefix: str = ""

    def settings(self, contents: Contents) -> DataSettings:
        """Replace the files; returns the settings that name this source."""
        if self.kind == "folder":
            shutil.rmtree(self.url, ignore_errors=True)
            write(contents, Path(self.url))
        self.served.clear()
        self.served.update({self.prefix + name: content for name, content in contents.items()})
        return DataSettings(source=self.url, cache=self.cache)

    def refused(self, contents: Contents, *parts: str) -> str:
        """The message of the lasting DataError that fetching these files must end in."""
        with pytest.raises(DataError) as caught:
            fetch_files(self.settings(contents))
        assert caught.value.exit_code == ExitCode.DATA
        assert not caught.value.retryable
        message = str(caught.value)
        assert "\n" not in message
        for part in parts:
            assert part in message
        return message


@pytest.fixture(params=["folder", "server", "bucket"])
def own(
    request: pytest.FixtureRequest,
    mirrors: Mirrors,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Own]:
    """A source of each kind."""
    match request.param:
        case "folder":
            yield Own("folder", str(tmp_path / "data"), cache)
        case "server":
            served: Contents = {}
            yield Own("server", mirrors.start(contents=served).url, cache, served)
        case _:
            with tiny_s3(monkeypatch) as server:
                place = "bucket/data/fashion"
                yield Own("bucket", f"s3://{place}", cache, server.objects, f"{place}/")


def test_official_files_need_no_list(own: Own) -> None:
    fetched = fetch_files(own.settings(OFFICIAL))
    assert read(fetched) == OFFICIAL
    assert fetched.origin.official is True
    assert fetched.origin.source == own.url
    in_place = own.kind == "folder"
    assert in_cache(own.cache) == (set() if in_place else set(OFFICIAL.values()))
    assert in_place is (paths_of(fetched) == {name: Path(own.url) / name for name in FILES})


def test_own_files_are_accepted_with_a_matching_list(own: Own) -> None:
    fetched = fetch_files(own.settings(with_sums(OWN)))
    assert read(fetched) == OWN
    assert fetched.origin.official is False
    assert fetched.origin.sha256 == {name: digest(content) for name, content in OWN.items()}


def test_a_matching_list_leaves_official_files_official(own: Own) -> None:
    origin = fetch_files(own.settings(with_sums(OFFICIAL | {"LICENSE": b"MIT"}))).origin
    assert origin.official
    assert set(origin.sha256) == set(FILES)


def test_own_files_without_a_list_are_refused(own: Own) -> None:
    """Other files are refused, with the command that vouches for them; they are not kept."""
    own.refused(
        OFFICIAL | {TEST_IMAGES: OWN[TEST_IMAGES]},
        f"{own.url}/{TEST_IMAGES}", digest(OWN[TEST_IMAGES]), f"sha256sum *-ubyte.gz > {SUMS}",
    )  # fmt: skip
    assert OWN[TEST_IMAGES] not in in_cache(own.cache)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_does_not_match_the_list_is_refused(own: Own, name: str) -> None:
    wrong = damaged(OWN[name])
    own.refused(
        with_sums(OWN) | {name: wrong},
        f"{own.url}/{name} does not match", SUMS, digest(OWN[name]), digest(wrong),
    )  # fmt: skip
    assert wrong not in in_cache(own.cache)


def test_the_list_takes_precedence_over_the_official_digests(own: Own) -> None:
    own.refused(OFFICIAL | {SUMS: sums_of(OWN)}, "does not match")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param(b"", "does not list", id="empty"),
        pytest.param(b"<html>\nNot found</html>", "line 1", id="no list at all"),
        pytest.param(sums_of(OWN) + b"0123  short\n", "line 5", id="short digest"),
        pytest.param(b"\xff\xfe" + sums_of(OWN), "line 1", id="not text"),
        pytest.param(
            sums_of({name: content for name, content in OWN.items() if name != TEST_LABELS}),
            f"does not list {TEST_LABELS}",
            id="incomplete",
        ),
    ],
)
def test_a_bad_list_is_refused(own: Own, content: bytes, found: str) -> None:
    own.refused(OWN | {SUMS: content}, f"{own.url}/{SUMS}", found, "sha256sum")
    assert in_cache(own.cache) == set()


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "without a list"])
@pytest.mark.parametrize("name", [TRAIN_IMAGES, TEST_LABELS])
def test_a_missing_file_is_named(own: Own, name: str, listed: bool) -> None:
    contents = with_sums(OFFICIAL) if listed else OFFICIAL
    rest = {other: content for other, content in contents.items() if other != name}
    own.refused(rest, f"{own.url}/{name}: is not there", "data.source", *FILES)


def test_a_changed_list_brings_the_changed_files(own: Own) -> None:
    fetch_files(own.settings(with_sums(OWN)))
    assert read(fetch_files(own.settings(with_sums(four_files(3))))) == four_files(3)


def test_a_source_can_be_checked_without_a_download(own: Own) -> None:
    """A complete source passes its check and nothing is kept; one that lacks a file fails it."""
    assert f"{own.url} has the official files" in check_source(own.settings(OFFICIAL))
    assert in_cache(own.cache) == set()
    contents = {name: content for name, content in OFFICIAL.items() if name != TEST_LABELS}
    with pytest.raises(DataError, match=f"{TEST_LABELS}: is not there"):
        check_source(own.settings(contents))


def test_a_folder_in_the_home_may_be_given_with_a_tilde(
    official: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(OFFICIAL, tmp_path / "data")
    assert read(fetch_files(DataSettings(source="~/data"))) == OFFICIAL


def test_a_list_that_cannot_be_read_is_a_data_error(official: None, tmp_path: Path) -> None:
    folder = write(OFFICIAL, tmp_path / "data")
    (folder / SUMS).mkdir()
    with pytest.raises(DataError, match=SUMS):
        fetch_files(DataSettings(source=str(folder)))


@pytest.mark.parametrize("kind", ["nothing", "a file"])
def test_a_missing_folder_is_a_data_error(official: None, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data"
    if kind == "a file":
        folder.write_text("no folder")
    with pytest.raises(DataError, match=r"data\.source") as caught:
        fetch_files(DataSettings(source=str(folder)))
    assert f"there is no folder {folder}" in str(caught.value)


def from_server(mirror: Mirror | str, cache: Path, timeout: float = 10) -> DataSettings:
    """Settings that name this server as the source."""
    url = mirror.url if isinstance(mirror, Mirror) else mirror
    return DataSettings(source=url, cache=cache, timeout=timeout)


@pytest.mark.parametrize("named", ["source", "mirrors"])
def test_a_server_that_is_down_is_a_retryable_error(
    official: None, cache: Path, named: str
) -> None:
    url = closed_port()
    data = from_server(url, cache) if named == "source" else settings(cache, url)
    with pytest.raises(DataError, match=f"{url}.*cannot connect") as caught:
        fetch_files(data)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("faulty", "reason", "retryable"),
    [
        pytest.param(refusing(503), "HTTP 503", True, id="HTTP 503"),
        pytest.param(silent, "no answer", True, id="never answers"),
        pytest.param(stalling, "no answer", True, id="stalls halfway"),
        pytest.param(dropping, "connection dropped", True, id="drops halfway"),
        pytest.param(trickling, "too slow", False, id="trickles"),
    ],
)
def test_a_list_that_does_not_come_is_not_taken_for_missing(
    mirrors: Mirrors, cache: Path, faulty: Behaviour, reason: str, retryable: bool
) -> None:
    mirror = mirrors.start(faulty, with_sums(OFFICIAL))
    with pytest.raises(DataError, match=f"{mirror.url}/{SUMS}.*{reason}") as caught:
        fetch_files(from_server(mirror, cache, timeout=SHORT))
    assert caught.value.retryable is retryable
    assert set(mirror.asked) == {SUMS}


def test_only_the_list_is_asked_for_when_the_files_are_cached(
    mirrors: Mirrors, cache: Path
) -> None:
    mirror = mirrors.start(contents=with_sums(OWN))
    fetch_files(from_server(mirror, cache))
    mirror.requests.clear()
    assert read(fetch_files(from_server(mirror, cache))) == OWN
    assert mirror.asked == [SUMS]


@pytest.mark.parametrize("faulty", [dropping, stalling], ids=["drops", "stalls"])
def test_a_server_that_breaks_off_is_asked_again(
    mirrors: Mirrors, cache: Path, faulty: Behaviour
) -> None:
    def once(mirror: Mirror, reply: Reply) -> None:
        first = mirror.asked.count(TEST_IMAGES) == 1 and reply.request.name == TEST_IMAGES
        (faulty if first else honest)(mirror, reply)

    mirror = mirrors.start(once, with_sums(OWN))
    assert read(fetch_files(from_server(mirror, cache, timeout=SHORT))) == OWN
    assert mirror.asked.count(TEST_IMAGES) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_server_that_refuses_to_show_a_list_has_none(
    mirrors: Mirrors, cache: Path, status: int
) -> None:
    def without_list(mirror: Mirror, reply: Reply) -> None:
        (refusing(status) if reply.request.name == SUMS else honest)(mirror, reply)

    mirror = mirrors.start(without_list, contents=OFFICIAL | {SUMS: b""})
    assert fetch_files(from_server(mirror, cache)).origin.official
    assert mirror.asked == [SUMS, *OFFICIAL]


@pytest.mark.parametrize(
    ("profile", "told"), [("no-such-profile", "no-such-profile"), ("", "AWS_ACCESS_KEY_ID")]
)
def test_an_unusable_aws_configuration_is_a_data_error(
    official: None, cache: Path, monkeypatch: pytest.MonkeyPatch, profile: str, told: str
) -> None:
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    with pytest.raises(DataError, match=told):
        fetch_files(DataSettings(source="s3://bucket/data", cache=cache))


A, B = "0123456789abcdef" * 4, "f" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(f"{A}  one\n{B}  two\n", {"one": A, "two": B}, id="text"),
        pytest.param(f"{A} *one\n", {"one": A}, id="binary"),
        pytest.param(f"{A}  ./one\n{B} *./two\n", {"one": A, "two": B}, id="in this folder"),
        pytest.param(f"{A.upper()}  One\n", {"One": A}, id="uppercase digest"),
        pytest.param(f"\n{A}  one\n\n  \n{B}  two\n\n", {"one": A, "two": B}, id="blank lines"),
        pytest.param(f"{A}  one", {"one": A}, id="no newline at the end"),
        pytest.param(f"{A}  one\r\n{B}  two\r\n", {"one": A, "two": B}, id="Windows line ends"),
        pytest.param(f"{A}  a name\n", {"a name": A}, id="space in the name"),
        pytest.param("", {}, id="empty"),
    ],
)
def test_lists_of_digests_are_read_in_every_usual_form(text: str, expected: dict[str, str]) -> None:
    assert parse_sums(text) == expected


@pytest.mark.parametrize(
    ("line", "number"),
    [
        pytest.param(f"{A[:-1]}  one", 1, id="digest too short"),
        pytest.param(f"{A}0  one", 1, id="digest too long"),
        pytest.param(f"{A[:-1]}g  one", 1, id="not hexadecimal"),
        pytest.param(A, 1, id="no name"),
        pytest.param(f"{A}  ", 1, id="blank name"),
        pytest.param(f"{A} *", 1, id="marker without a name"),
        pytest.param(f"{A} one", 1, id="one space"),
        pytest.param(f"{A}\tone", 1, id="tab"),
        pytest.param(f"one  {A}", 1, id="the wrong way round"),
        pytest.param(f"SHA256 (one) = {A}", 1, id="BSD form"),
        pytest.param(f"{A}  one\n\n{B}", 3, id="fault in the third line"),
    ],
)
def test_malformed_lists_of_digests_are_refused(line: str, number: int) -> None:
    with pytest.raises(ValueError, match=f"line {number} "):
        parse_sums(line)
