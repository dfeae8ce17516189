"""Every point at which a scenario can be interrupted: found by a run without fault, then tried."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Self, TypeVar

from tests.faults.children import DONE, attempt, forkserver
from tests.faults.proxy import LONGEST_WAIT, Fault, Point, Proxy
from tests.faults.scenarios import Place, environment_of, examine, make, prepare
from tests.support.processes import S3Server, files_in, new_bucket

# Long enough for any answer of a busy machine; short where the answer never comes.
_PATIENT, _IMPATIENT = 30.0, 0.7
_AT_ONCE = 6
_SYSTEM_CALLS = (
    "openat,write,pwrite64,writev,fsync,fdatasync,ftruncate,link,linkat,rename,renameat,renameat2,"
    "unlink,unlinkat,rmdir,mkdir,mkdirat,chmod,fchmod,fchmodat,flock"
)
_ERRORS = ("ENOSPC", "EIO", "EACCES")
_KILL = "KILL"

Tried = TypeVar("Tried")


@dataclass(frozen=True)
class Row:
    """What came of a scenario on a store: `steps` are its requests or its system calls."""

    store: str
    scenario: str
    steps: int
    points: int
    broken: tuple[str, ...]


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, with their total."""
    steps, points = sum(row.steps for row in rows), sum(row.points for row in rows)
    total = Row("all", "all", steps, points, tuple(itertools.chain(*(row.broken for row in rows))))
    lines = [
        "| store | scenario | requests or calls | points | broken |",
        "|---|---|---:|---:|---:|",
    ]
    for row in (*rows, total):
        figures = f"{row.steps:,} | {row.points:,} | {len(row.broken)}"
        lines.append(f"| {row.store} | {row.scenario} | {figures} |")
    return "\n".join(lines)


class Laboratory:
    """The runs, stores and processes that the points are tried with; `folder` is where they lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.material = folder / "material"
        self.context: ForkServerContext = forkserver()
        self._numbers = itertools.count()
        self.helpers = ProcessPoolExecutor(os.cpu_count(), self.context)
        self.material.mkdir()
        make(self.material)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.helpers.shutdown()

    def on_server(self, server: S3Server, kind: str, scenario: str) -> Row:
        """Try each fault at each request of a scenario."""
        bucket = new_bucket(server)
        with Proxy(server.endpoint) as proxy:

            def run(point: Point) -> tuple[str, str]:
                return self._try_on_server(scenario, server, bucket, proxy, point)

            dry = Point()
            _expect_success(run(dry))
            requests = list(dry.requests)
            numbers = range(1, len(requests) + 1)
            points = list(itertools.starmap(Point, itertools.product(numbers, Fault)))

            def judged(point: Point) -> str:
                assert point.fault
                ended, wrong = run(point)
                wrong = wrong or _unclean(ended, killed=point.fault.kills)
                if len(point.requests) < point.number:
                    wrong = wrong or "the request did not come"
                if not wrong and ended != DONE and not point.fault.outlasts_retries:
                    wrong = f"not got over: {ended}"
                request = f"request {point.number} ({requests[point.number - 1]})"
                return wrong and f"{kind}, {scenario}, {request}, {point.fault}: {wrong}"

            return self._row(kind, scenario, len(requests), points, judged)

    def _try_on_server(
        self, scenario: str, server: S3Server, bucket: str, proxy: Proxy, point: Point
    ) -> tuple[str, str]:
        """How the process ended, and what is wrong then."""
        name = f"p{next(self._numbers)}"
        proxy.points[name] = point
        direct = Place(f"s3://{bucket}/{name}", environment_of(server))
        through = Place(direct.url, environment_of(replace(server, endpoint=proxy.endpoint)))
        self.helpers.submit(prepare, scenario, direct, self.material).result()
        outcome = self.folder / f"{name}.outcome"
        timeout = _IMPATIENT if point.fault in (Fault.LATE, Fault.NEVER) else _PATIENT
        victim = self._start(scenario, through, outcome, timeout, stopped=False)
        point.kill = victim.kill
        point.started.set()
        _join(victim)
        proxy.settle(point)
        wrong = self.helpers.submit(examine, scenario, direct, self.material).result()
        return _ended(outcome), wrong

    def in_folder(self, scenario: str) -> Row:
        """Try a kill and each error at each system call that changes a file."""
        ended, wrong, trace = self._try_in_folder(scenario, None)
        _expect_success((ended, wrong))
        calls = list(_changing_calls(trace))
        points = list(itertools.product(calls, (_KILL, *_ERRORS)))

        def judged(point: tuple["_Call", str]) -> str:
            call, fault = point
            ended, wrong, trace = self._try_in_folder(scenario, (call, fault))
            wrong = wrong or _unclean(ended, killed=fault == _KILL)
            if fault != _KILL and "(INJECTED)" not in trace:
                wrong = wrong or "the call did not come"
            return wrong and f"folder, {scenario}, {call}, {fault}: {wrong}"

        return self._row("folder", scenario, len(calls), points, judged)

    def _try_in_folder(
        self, scenario: str, point: tuple["_Call", str] | None
    ) -> tuple[str, str, str]:
        """How the process ended, what is wrong then, and the trace of its system calls."""
        name = f"p{next(self._numbers)}"
        root = self.folder / name / "store"
        root.mkdir(parents=True)
        place = Place(str(root), {})
        prepare(scenario, place, self.material)
        outcome, trace = root.parent / "outcome", root.parent / "trace"
        victim = self._start(scenario, place, outcome, _PATIENT, stopped=True)
        tracer = _trace(victim, trace, *(_injection(*point) if point else ()))
        _join(victim)
        tracer.wait(LONGEST_WAIT)
        ended = _ended(outcome)
        parts = [name for name in files_in(root) if name.endswith(".part")]
        wrong = self.helpers.submit(examine, scenario, place, self.material).result()
        may_leave = point and (point[1] == _KILL or point[0].name.startswith("unlink"))
        if not wrong and parts and not may_leave:
            wrong = f"{parts} is left over"
        lines = trace.read_text()
        if not wrong:
            shutil.rmtree(root.parent)
        return ended, wrong, lines

    def _start(
        self, scenario: str, place: Place, outcome: Path, timeout: float, *, stopped: bool
    ) -> BaseProcess:
        arguments = (scenario, place, self.material, outcome, timeout, stopped)
        victim = self.context.Process(target=attempt, args=arguments)
        victim.start()
        return victim

    def _row(
        self,
        kind: str,
        scenario: str,
        steps: int,
        points: Sequence[Tried],
        judged: Callable[[Tried], str],
    ) -> Row:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            broken = tuple(filter(None, pool.map(judged, points)))
        return Row(kind, scenario, steps, len(points), broken)


def _expect_success(found: tuple[str, str]) -> None:
    assert found == (DONE, ""), f"without any fault: {found}"


def _unclean(ended: str, *, killed: bool) -> str:
    """What is wrong with the end of a process: it must be success, or one clear line."""
    if killed:
        return "" if ended == "" else f"it was to be killed, and ended: {ended}"
    if "\n" in ended or not ended:
        return f"no clean end: {ended or 'it died'}"
    return ""


def _ended(outcome: Path) -> str:
    return outcome.read_text() if outcome.exists() else ""


def _join(victim: BaseProcess) -> None:
    victim.join(LONGEST_WAIT)
    if victim.is_alive():
        victim.kill()
        victim.join()
        raise TimeoutError("a publisher hangs")


# ---- system calls -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """A system call: the how-manieth of its name, and the line that the trace has of it."""

    name: str
    number: int
    line: str

    def __str__(self) -> str:
        return f"{self.name} number {self.number} ({self.line})"


def _changing_calls(trace: str) -> Iterator[_Call]:
    """The calls in a trace that change something in the store."""
    seen: Counter[str] = Counter()
    for line in trace.splitlines():
        if not (found := re.match(r"(\w+)\(", line)):
            continue
        name = found[1]
        seen[name] += 1
        in_store = re.search(r'/store[/">]', line)
        if in_store and (name != "openat" or "O_CREAT" in line):
            yield _Call(name, seen[name], line)


def _injection(call: _Call, fault: str) -> tuple[str, ...]:
    what = f"signal={_KILL}" if fault == _KILL else f"error={fault}"
    return ("-e", f"inject={call.name}:{what}:when={call.number}")


def _trace(victim: BaseProcess, trace: Path, *injection: str) -> subprocess.Popen[bytes]:
    """Let strace look on from here to the end of a process that has stopped itself."""
    assert victim.pid
    _await_status(victim.pid, "State:\tT")
    tracer = subprocess.Popen(
        ["strace", "-y", "-s", "0", "-e", f"trace={_SYSTEM_CALLS}", *injection,
         "-o", str(trace), "-p", str(victim.pid)],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _await_status(victim.pid, f"TracerPid:\t{tracer.pid}")
    os.kill(victim.pid, signal.SIGCONT)
    return tracer


def _await_status(pid: int, wanted: str) -> None:
    deadline = time.monotonic() + LONGEST_WAIT
    while wanted not in Path(f"/proc/{pid}/status").read_text():
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} is not as expected: {wanted}")
        time.sleep(0.001)
