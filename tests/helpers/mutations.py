"""Seeded mutations of bytes, text and JSON, and a guard that says how a piece of code took them."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dassl.utils import UserError

SECONDS = 20
"""Longer than any case takes on a busy machine; a case that needs more hangs."""

MEMORY = 6 << 30
"""Address space, in bytes, that a case may take beyond what the process has."""

INTERESTING = b"\x00 \xff\xfe\x80\x7f\n\r\t\"'\\/.,:{}[]()-+0129eENaN%$~;|<>&"
WORDS = ["", " ", "0", "-1", "1", "2.5", "1e999", "-inf", "nan", "None", "True", "false", "()", "(0,)", "[1, 2]", "{}",
         "(1,", "'", "x", "a.b", "../../x", "/etc/passwd", "~", "\x00", "\ud800", "é", "😀", "1" * 5000, "9" * 30,
         "[" * 2000, "__import__('os').system('touch hostile')", "!!python/object/apply:os.system [touch hostile]",
         "*a", "&a [*a]", "%s", "${HOME}", "\n", "\u202e", "-0", "0x10", "1_000", "1j", "b'x'", "1e3"]  # fmt: skip
VALUES: list[Any] = [None, True, False, 0, -1, 1, 2**31, 10**30, -(2**63), 0.5, 1e300, float("nan"), float("inf"), "",
                     "x", "../x", "/etc/passwd", "\x00", "\ud800", "a/../../b", ".", "..", [], {}, [[]], {"a": 1},
                     [1, 2, 3], ["a", 0, "b"], "1", " 1 ", "1e3", "١"]  # fmt: skip


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, inserted, removed or doubled; sometimes cut short."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8, 30))):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 2, 4, 16))
        match rng.randrange(6):
            case 0:
                data[at : at + length] = rng.randbytes(length)
            case 1:
                data[at:at] = bytes(rng.choices(INTERESTING, k=length))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + 4 * length]
            case 4:
                data[at : at + length] = rng.choice((b"\xff", b"\x00", b"\x7f")) * length
            case _:
                if rng.random() < 0.3:
                    del data[at:]
    return bytes(data)


def mutate_json(content: Any, rng: random.Random) -> Any:
    """A copy with some value or key replaced, removed, doubled or moved."""
    content = json.loads(json.dumps(content))
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder, key = rng.choice(list(_places(content)) or [(None, None)])
        if holder is None:
            return rng.choice(VALUES)
        match rng.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(rng.choice(holder)))
            case 2 if isinstance(holder, dict):
                holder[rng.choice(WORDS)] = holder.pop(key)
            case 3 if isinstance(holder[key], str) and holder[key]:
                at = rng.randrange(len(holder[key]))
                holder[key] = holder[key][:at] + rng.choice(WORDS) + holder[key][at + 1 :]
            case _:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of each value in it, one of a list's many."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])


class Guard:
    """Runs cases and counts how they end: in a right result, or in a UserError of one line. Anything else is reported.

    Args:
        folder: the only folder that may be written to. The guard has to be the first to see a write, so it is made
            once a process, and acts while a case runs.
    """

    _active: Guard | None = None
    _hooked = False

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder)
        self.right = self.refused = 0
        self.failures: list[str] = []
        self.trespasses: list[str] = []
        if not Guard._hooked:
            sys.addaudithook(_on_event)
            Guard._hooked = True

    def case(self, name: str, action: Callable[[], Any]) -> Any:
        """Run one case; returns its result, or None when it was refused or failed."""
        self.trespasses = []
        try:
            with self._watched():
                result = action()
            self.right += 1
        except UserError as error:
            result = None
            self.refused += 1
            if "\n" in str(error) or len(str(error)) > 4000 or not str(error):
                self.failures.append(f"{name}: the message is not one line: {str(error)[:300]!r}")
        except BaseException as error:
            result = None
            place = traceback.extract_tb(error.__traceback__)[-1]
            own = [f for f in traceback.extract_tb(error.__traceback__) if "/main/" in f.filename][-1:]
            self.failures.append(
                f"{name}: {type(error).__name__}: {str(error)[:200]} "
                f"({place.filename.rpartition('/')[2]}:{place.lineno}, from {[f'{f.name}:{f.lineno}' for f in own]})"
            )
            if isinstance(error, KeyboardInterrupt):
                raise
        self.failures += [f"{name}: {trespass}" for trespass in self.trespasses]
        return result

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        def on_alarm(*_: object) -> None:
            raise TimeoutError(f"no end after {SECONDS} s")

        limits = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        before = signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, limits[1]))
        Guard._active = self
        try:
            yield
        finally:
            Guard._active = None
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            resource.setrlimit(resource.RLIMIT_AS, limits)

    def check(self) -> None:
        """Assert that every case ended well, and that both ends occurred."""
        assert not self.failures, f"{len(self.failures)} of {self.total} cases: " + "\n".join(self.failures[:20])
        assert self.refused and self.right, f"{self.refused} refused, {self.right} right: the mutations test nothing"

    @property
    def total(self) -> int:
        return self.right + self.refused + len(self.failures)


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "os.startfile"}


def _on_event(event: str, arguments: tuple) -> None:
    guard = Guard._active
    if guard is None:
        return
    if event in _FORBIDDEN:
        guard.trespasses.append(f"{event} {arguments!r}"[:200])
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
        guard.trespasses += _outside(guard, event, arguments[:1])
    elif event in _CHANGES:
        guard.trespasses += _outside(guard, event, arguments)


def _outside(guard: Guard, event: str, arguments: tuple) -> list[str]:
    paths = [os.fsdecode(path) for path in arguments if isinstance(path, (str, bytes)) and path]
    allowed = guard.folder + os.sep
    return [
        f"{event} of {path} outside {guard.folder}"
        for path in paths
        if path != os.devnull and not (os.path.realpath(path) + os.sep).startswith(allowed)
    ]
