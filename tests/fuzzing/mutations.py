"""What the kinds of hostile files have in common: how content is damaged, and what a clear error is."""

from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MARKER = "code was run"  # this file appears in the folder of a child if an attack has succeeded
MEBIBYTE = 1 << 20
EXTREMES = (0, 1, 2, 127, 128, 255, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1)


class UnexpectedError(Exception):
    """A hostile file led neither to a sound result nor to one clear error."""


def check_message(error: Exception, start: str, anywhere: bool = False) -> None:
    """Check that an error says in one line of reasonable length which file is meant."""
    message = str(error)
    named = start.removesuffix(": ") in message if anywhere else message.startswith(start)
    if not named or message == start or len(message.splitlines()) != 1 or len(message) > 3000:
        raise UnexpectedError(f"{len(message)} letters, no clear message: {message[:500]!r}") from error
    cause = error
    while cause:
        if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
            raise UnexpectedError(
                f"it was the kernel that kept it from taking more memory: {message[:500]!r}"
            ) from error
        cause = cause.__cause__ or cause.__context__


def pick(generator: np.random.Generator, choices):
    """Return one of the choices; numpy's own `choice` would turn them into an array."""
    return choices[int(generator.integers(len(choices)))]


def place(generator: np.random.Generator, content: bytes) -> int:
    """Return a position, every third time near the beginning, where headers are, and sometimes near the end."""
    near = {0: 64, 1: 256, 2: 1024}.get(int(generator.integers(6)), len(content))
    position = int(generator.integers(max(1, min(near, len(content)))))
    return max(0, len(content) - 1 - position) if generator.random() < 0.15 else position


def flip_bits(generator: np.random.Generator, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(int(generator.integers(1, 17))):
        damaged[place(generator, content)] ^= 1 << int(generator.integers(8))
    return bytes(damaged)


def overwrite(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    new = generator.bytes(int(generator.integers(1, 33)))
    return content[:at] + new + content[at + len(new) :]


def overwrite_with_an_extreme(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    new = extreme_bytes(generator, pick(generator, (1, 2, 4)))
    return content[:at] + new + content[at + len(new) :]


def truncate(generator: np.random.Generator, content: bytes) -> bytes:
    return content[: 1 + place(generator, content)]


def delete(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    return content[:at] + content[at + int(generator.integers(1, 257)) :] or b"\0"


def duplicate(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    return content[:at] + content[at : at + int(generator.integers(1, 513))] * 2 + content[at:]


def insert(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    return content[:at] + generator.bytes(int(generator.integers(1, 257))) + content[at:]


def blank(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    gap = min(int(generator.integers(1, 513)), len(content) - at)
    return content[:at] + bytes([pick(generator, (0, 0xFF))]) * gap + content[at + gap :]


BLIND = (flip_bits, overwrite, overwrite_with_an_extreme, truncate, delete, duplicate, insert, blank)


def extreme_bytes(generator: np.random.Generator, size: int, order: str | None = None) -> bytes:
    """Return a number that a careless reader would trip over, in `size` bytes."""
    return (pick(generator, EXTREMES) % 256**size).to_bytes(size, order or pick(generator, ("little", "big")))


def rearrange(generator: np.random.Generator, parts: list) -> list:
    """Delete, double, move or swap parts of a file."""
    parts = list(parts)
    one, other = (int(generator.integers(len(parts))) for _ in range(2))
    action = int(generator.integers(4))
    if action == 0:
        del parts[one]
    elif action == 1:
        parts.insert(other, parts[one])
    elif action == 2:
        parts[one], parts[other] = parts[other], parts[one]
    else:
        parts[other:other] = [parts[one]] * int(generator.integers(2, 200))
    return parts
