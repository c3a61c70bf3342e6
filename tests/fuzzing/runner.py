"""Reading hostile files: in a child that may die of them, or one of them in this process."""

import base64
import contextlib
import itertools
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fuzzing.checkpoints import Checkpoints
from fuzzing.configs import Configs
from fuzzing.images import Images
from fuzzing.labels import Labels
from fuzzing.mutations import MARKER, MEBIBYTE, ROOT, UnexpectedError

KINDS = {"images": Images, "checkpoints": Checkpoints, "labels": Labels, "configs": Configs}
HEADROOM = 2 << 30  # bytes of address space that a child may take on top of its libraries'

# What reading a file must never do; Python reports each to an audit hook before it is done.
FORBIDDEN = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.system",
    "pty.spawn",
    "shutil.rmtree",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
}


@dataclass
class Tally:
    """How the files of a batch ended.

    Attributes:
        files: how many were read.
        results, errors: how many ended in a sound result, and in one clear error.
        unexpected: kind, number, cause of those that ended otherwise.
        crashes, hangs: how many of these killed their child, or had to be stopped.
        slowest_s: the longest that one file took.
        growth_mb: the most that one child's resident memory grew by.
    """

    files: int = 0
    results: int = 0
    errors: int = 0
    unexpected: list[str] = field(default_factory=list)
    crashes: int = 0
    hangs: int = 0
    slowest_s: float = 0.0
    growth_mb: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.files} files: {self.results} results, {self.errors} errors, {len(self.unexpected)} unexpected, "
            f"{self.crashes} crashes, {self.hangs} hangs; the slowest took {self.slowest_s:.1f} s, "
            f"memory grew by {self.growth_mb:.0f} MB"
        )


_seen: list[str] | None = None  # forbidden events while a file is read, None in between


def _watch(event: str, arguments: tuple) -> None:
    """Audit hook: keep a hostile file from what it must not do, and remember that it tried."""
    if _seen is None:
        return
    writes = event == "open" and arguments[0] != os.devnull and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in FORBIDDEN or writes:
        _seen.append(f"{event} {arguments!r}"[:300])
        raise PermissionError(f"{event} while a hostile file is read")


def outcome(target, number: int, folder: Path) -> str:
    """Read one file; return "result" or "error".

    Raises:
        UnexpectedError: it ended in anything else, or did what no file may do.
    """
    global _seen
    attempt = target.prepare(number)
    _seen = []
    try:
        ended = attempt()
    except UnexpectedError:
        raise
    except BaseException as error:
        raise UnexpectedError(f"{type(error).__name__}: {str(error)[:500]}") from error
    finally:
        seen, _seen = _seen, None
        if (folder / MARKER).exists():
            (folder / MARKER).unlink()
            seen.append("the marker was made")
        if seen:
            raise UnexpectedError(f"it ran code: {'; '.join(seen)}")
    return ended


def peak_memory() -> int:
    """Return the largest resident memory of this process, bytes; `getrusage` would begin with its parent's."""
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak[1]) * 1024


def serve(folder: Path, kinds: Iterable[str]) -> None:
    """Be a child: read a kind and a number a line, answer with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    warnings.simplefilter("ignore")
    targets = {}
    for kind in kinds:
        (folder / kind).mkdir()
        targets[kind] = KINDS[kind](folder / kind)
    with Path("/proc/self/statm").open() as sizes:
        taken = int(sizes.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + HEADROOM,) * 2)
    sys.addaudithook(_watch)
    print(json.dumps({"memory": peak_memory()}), file=answers, flush=True)
    for line in sys.stdin:
        kind, number = line.split()
        start = time.perf_counter()
        try:
            answer = {"outcome": outcome(targets[kind], int(number), folder / kind)}
        except UnexpectedError as error:
            answer = {"outcome": "unexpected", "cause": str(error)}
        answer |= {"memory": peak_memory(), "seconds": time.perf_counter() - start}
        print(json.dumps(answer), file=answers, flush=True)


class Child:
    """A process that reads hostile files of some kinds, on one core and within its share of memory."""

    PROGRAM = ("-m", "fuzzing", "serve")
    STARTS_WITHIN_S = 600  # a child imports torch, on a machine that may be busy

    def __init__(self, kinds: Iterable[str]):
        self.folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child lives
        modules = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": modules, "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", *self.PROGRAM, self.folder.name, *kinds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env=environment,
        )
        answer = self._answer(self.STARTS_WITHIN_S)
        if not answer:
            raise RuntimeError(f"no child for {', '.join(kinds)}: {self.end(died=answer is not None)}")
        self.memory_at_start = answer["memory"]

    def _answer(self, seconds: float) -> dict | None:
        """Return the next answer; an empty one if the child has died, None if it does not come in time."""
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else {}

    def ask(self, kind: str, number: int, seconds: float) -> dict | None:
        """Have a file read; see `_answer`."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{kind} {number}\n".encode())
            self.process.stdin.flush()
        return self._answer(seconds)

    def end(self, died: bool = False) -> str:
        """Stop the process unless it has died; return how it ended and the last that it said."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if not died:
            self.process.kill()
        code = self.process.wait()
        self.process.stdout.close()
        self.said.seek(0)
        last = self.said.read().decode(errors="replace").strip().splitlines()[-25:]
        self.said.close()
        self.folder.cleanup()
        how = "it was stopped" if not died else signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{how}; {' | '.join(last)[:1500]}"


def run(numbers: dict[str, Iterable[int]], seconds: float = 10.0) -> dict[str, Tally]:
    """Have the files of some numbers read.

    Args:
        numbers: of the files, for each kind.
        seconds: after which a file counts as one that hangs.

    Returns:
        For each kind how its files ended.
    """
    tallies, child = {kind: Tally() for kind in numbers}, None
    for kind, number in itertools.chain(*(zip(itertools.repeat(kind), numbers[kind]) for kind in numbers)):
        tally, child = tallies[kind], child or Child(tuple(numbers))
        answer = child.ask(kind, number, seconds)
        tally.files += 1
        if not answer:
            tally.hangs += answer is None
            tally.crashes += answer is not None
            word = "hangs" if answer is None else "crashes"
            tally.unexpected.append(f"{kind} {number} {word}: {child.end(died=answer is not None)}")
            child = None
            continue
        tally.results += answer["outcome"] == "result"
        tally.errors += answer["outcome"] == "error"
        if answer["outcome"] == "unexpected":
            tally.unexpected.append(f"{kind} {number}: {answer['cause']}")
        tally.slowest_s = max(tally.slowest_s, answer["seconds"])
        tally.growth_mb = max(tally.growth_mb, (answer["memory"] - child.memory_at_start) / MEBIBYTE)
    if child:
        child.end()
    return tallies


def reproduce(kind: str, number: int, keep: Path | None = None) -> None:
    """Read one file in this process, and print what becomes of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = KINDS[kind](folder)
        if number < len(target.hostile):
            print(target.hostile[number][0])
        content = target.content(number) if hasattr(target, "content") else target.file(number)[1]
        print(len(content), "bytes,", base64.b85encode(content[:60]).decode())
        if keep:
            keep.write_bytes(content)
        sys.addaudithook(_watch)
        start = time.perf_counter()
        before = peak_memory()
        try:
            print(outcome(target, number, folder))
        except UnexpectedError:
            traceback.print_exc()
        grown = (peak_memory() - before) / MEBIBYTE
        print(f"{time.perf_counter() - start:.2f} s, memory grew by {grown:.0f} MB")
