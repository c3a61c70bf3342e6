"""Find runs of one byte in JPEGs, and say whether they are damage or a flat part of the picture."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.jpeg_segments import ARITHMETIC, FRAMES, HUFFMAN, LOSSLESS, SCAN, scan_data, segments

# A sector that was lost reads as a run of one byte. Compressed data has so long a run only in a flat picture.
_RUN, _STEP, _MAX_RUN = 64, 16, 512
_LONGEST_BLOCK = 32  # bits of a block with texture, in a run
_DC_RANGE = 2047  # of coefficients of 8-bit pixels
_SIXTEEN_ZEROS = 0xF0
_MAX_CORRECTIONS = 128  # bytes of bits that are added to coefficients, between two symbols


def scans_with_runs(content: bytes) -> Iterator[int]:
    """Yield the ends of the scans that have runs of one byte in their data.

    Raises:
        ValueError: such a run cannot be the code of a flat or repetitive part of the picture.
    """
    scans, tables, sampling, runs = scan_data(content), {}, {}, find_runs(content)
    coding = 0
    for code, start, end in segments(content):
        if code in FRAMES:
            coding = code
            sampling = {content[at]: content[at + 1] for at in range(start + 6, end - 2, 3)}
        elif code == HUFFMAN:
            while start + 17 < end:
                tables[content[start]] = _huffman_codes(content[start + 1 : start + 17], content[start + 17 : end])
                start += 17 + sum(content[start + 1 : start + 17])
        elif code == SCAN:
            data, stop = next(scans)
            inside = [(value, length) for at, length, value in runs if data <= at < stop]
            if inside and coding not in (*ARITHMETIC, *LOSSLESS):
                coder = _read_scan(content[start:end], sampling, tables)
                if not all(coder.can_hold(value, length) for value, length in set(inside)):
                    raise ValueError("the JPEG is damaged: a run of one byte replaces its data")
            if inside:
                yield stop


def find_runs(content: bytes, start: int = 0) -> list[tuple[int, int, int]]:
    """Return position, length (64 to 512) and value of runs of 64 equal bytes, of any value but 255.

    A lost sector reads as such a run. A longer run may be listed once, with the length of its first part.
    """
    samples = np.frombuffer(content, np.uint8)[start::_STEP]  # four of them lie in every run
    same = np.flatnonzero(samples[1:] == samples[:-1])
    edges = np.flatnonzero(np.diff(same, prepend=-2, append=len(samples) + 1) > 1)  # of groups in a row
    runs = []
    for left, right in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if right - left < 3:
            continue
        first, last = start + _STEP * (int(same[left]) - 1), start + _STEP * (int(same[right - 1]) + 3)
        value = content[first + _STEP]
        at = content.find(bytes([value]) * _RUN, max(first, start), last)
        if at >= 0 and value != 255:
            part = content[at : at + _MAX_RUN]
            runs.append((at, len(part) - len(part.lstrip(part[:1])), value))
    return runs


def _huffman_codes(counts: bytes, symbols: bytes) -> dict[tuple[int, int], int]:
    """Return the symbols of a Huffman table by (length of the code, code)."""
    codes, code, index = {}, 0, 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[index : index + count]:
            codes[length, code] = symbol
            code += 1
        index, code = index + count, code << 1
    return codes


def _read_scan(header: bytes, sampling: dict[int, int], tables: dict[int, dict]) -> "_Scan":
    """Read the payload of a scan's header."""
    count = header[0]
    blocks = []
    for component, numbers in zip(header[1 : 1 + 2 * count : 2], header[2 : 2 + 2 * count : 2], strict=True):
        factors = sampling.get(component, 0x11) if count > 1 else 0x11
        codes = tables.get(numbers >> 4, {}), tables.get(0x10 | numbers & 15, {})
        blocks += [(component, *codes)] * ((factors >> 4) * (factors & 15))
    first, last, bits = header[1 + 2 * count : 4 + 2 * count]
    return _Scan(blocks, first, last, bits >> 4, bits & 15)


class _Scan(NamedTuple):
    """What the data of a Huffman-coded scan consists of."""

    blocks: list[tuple[int, dict, dict]]  # of an MCU: component, codes of DC and of AC coefficients
    first: int
    last: int
    refined: int  # 0, unless the scan adds bits to coefficients
    shift: int

    def can_hold(self, value: int, length: int) -> bool:
        """Say whether a run of a byte can be data of a flat or repetitive part of a picture.

        The run is decoded from each of its first bits and from each block of an MCU. Most fail soon: they have too many
        coefficients, or a mean that leaves the range of 8 bits. The blocks of a texture must be short as well, because
        it is by chance that their bits repeat with each byte; those of a flat part do so whenever their codes allow.

        Bits that are added to coefficients may have any pattern. Only zeros for longer than encoders collect such bits
        are checked: they must be able to mean "end of block".
        """
        if self.refined:
            first = min((code for code in self.blocks[0][2].items() if code[0][1] == 0), default=(0, 0))[1]
            return value > 0 or length <= _MAX_CORRECTIONS or self.last == 0 or first & 15 == 0
        known: dict[tuple[int, int], tuple[int, int] | None] = {}
        return any(
            self._lasts(value, phase, block, 8 * length - _LONGEST_BLOCK, known)
            for phase in range(8)
            for block in range(len(self.blocks))
        )

    def _lasts(self, value: int, position: int, block: int, end: int, known: dict) -> bool:
        means = {component: (0, 0, 0) for component, *_ in self.blocks}  # relative: now, lowest, highest
        while position < end:
            state = position % 8, block
            if state not in known:
                known[state] = self._decode_block(value, *state)
            if known[state] is None:
                return False
            bits, difference = known[state]
            now, lowest, highest = means[self.blocks[block][0]]
            now += difference << self.shift
            lowest, highest = min(now, lowest), max(now, highest)
            if highest - lowest > _DC_RANGE:
                return False
            means[self.blocks[block][0]] = now, lowest, highest
            position, block = position + bits, (block + 1) % len(self.blocks)
        return True

    def _decode_block(self, value: int, phase: int, block: int) -> tuple[int, int] | None:
        """Return the number of bits of a block and the difference of its DC coefficient; None if it cannot be."""
        _, dc_codes, ac_codes = self.blocks[block]
        position, difference, is_flat, index = phase, 0, True, self.first
        if index == 0:
            symbol, position = _read_symbol(dc_codes, value, position)
            if symbol is None or symbol > 11:
                return None
            bits = _bits(value, position, symbol)
            difference = bits if symbol == 0 or bits >> (symbol - 1) else bits + 1 - (1 << symbol)
            position, index, is_flat = position + symbol, 1, symbol == 0
        after_zeros = False
        while index <= self.last:
            symbol, position = _read_symbol(ac_codes, value, position)
            if symbol is None or symbol & 15 > 10:
                return None
            if symbol & 15 == 0 and symbol != _SIXTEEN_ZEROS:  # end of block, or of many in progressive JPEGs
                if after_zeros:
                    return None
                position += symbol >> 4
                break
            index += (symbol >> 4) + 1
            position += symbol & 15
            after_zeros, is_flat = symbol == _SIXTEEN_ZEROS, False
            if index > self.last + 1 or position - phase > _LONGEST_BLOCK:
                return None
        length = position - phase
        return (length, difference) if 0 < length <= _LONGEST_BLOCK or (is_flat and length) else None


def _bits(value: int, position: int, count: int) -> int:
    """Return up to 16 bits at a position of a run of a byte."""
    return (value * 0x010101 >> (24 - position % 8 - count)) & ((1 << count) - 1)


def _read_symbol(codes: dict[tuple[int, int], int], value: int, position: int) -> tuple[int | None, int]:
    """Return the symbol at a position of a run of a byte, None if there is none, and the position behind it."""
    for length in range(1, 17):
        symbol = codes.get((length, _bits(value, position, length)))
        if symbol is not None:
            return symbol, position + length
    return None, position
