"""Make, resume, check and update a pack's folder (`data/pack_format.py`), whatever interrupts it.

Every finished record is entered into the journal with its checksum. On resuming, records whose bytes match their
checksum are kept, and the finished pack is the same, byte for byte, as without an interruption.
"""

import json
import os
import shutil
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, BinaryIO

from data.files import exclusive_lock, listing, write_text
from data.pack_format import JOURNAL, MANIFEST, VIEWS, Entry, PackError, PackPlan, Record, partial_folder, read_pack
from data.packing import PackWriter


class UnfinishedPack:
    """A pack that is being made, checked or updated, by one process at a time (`pack_lock`).

    A finished pack is never written to: an updated one is made beside it and takes its place.

    Args:
        folder: the finished pack.
        plan: its intended content.

    Attributes:
        entries: of the records that are intact and in their place in the unfinished pack, by index in the plan.

    Raises:
        PackError: the folder holds something else, or a pack of other photographs or with other settings.
    """

    def __init__(self, folder: str | os.PathLike, plan: PackPlan):
        self.folder = Path(folder)
        self.partial = partial_folder(folder)
        self.plan = plan
        self.exists = self.folder.is_dir()
        self._finished = self._find_intact(self.folder)  # as they are listed there
        self.entries = {
            index: replace(entry, record=plan.records[index])
            for index, entry in self._find_intact(self.partial).items()
            if entry.record.offset == plan.records[index].offset
        }

    def _find_intact(self, folder: Path) -> dict[int, Entry]:
        """Return the entries of a folder's intact records, by index in the plan."""
        settings, entries = read_pack(folder)
        if settings is None:
            if folder == self.folder and self.exists and any(folder.iterdir()):
                raise PackError(f"{folder} exists and is not a pack: choose another --out")
            return {}
        remedy = "Choose another --out, or replace it with --overwrite"
        differences = self.plan.differences(settings)
        if differences:
            raise PackError(f"{folder} was made with other settings: {differences}. {remedy}")
        # Photographs may be added, removed or changed; but a pack with none of these belongs to another data set.
        by_image = {entry.record.image: entry for entry in entries}
        current = {
            index: by_image[record.image]
            for index, (record, path) in enumerate(zip(self.plan.records, self.plan.paths, strict=True))
            if record.image in by_image and by_image[record.image].is_of(path)
        }
        if entries and not current:
            raise PackError(
                f"{folder} was made of other photographs: none of its {len(entries)} is among these "
                f"{len(self.plan.records)} as they are now. {remedy}"
            )
        views = folder / VIEWS
        if not views.is_file():  # deleted, or the process was killed before creating it
            return {}
        with views.open("rb") as file:
            return {
                index: entry
                for index, entry in current.items()
                if entry.record.identity == self.plan.records[index].identity
                and zlib.crc32(self._read(file, entry.record)) == entry.crc32
            }

    def _read(self, file: BinaryIO, record: Record) -> bytes:
        file.seek(record.offset)
        return file.read(record.size(self.plan.spec))

    @property
    def todo(self) -> list[int]:
        """Indices in the plan of the records that are still to be made."""
        return [i for i in range(len(self.plan.records)) if i not in self.entries and i not in self._finished]

    @property
    def is_whole(self) -> bool:
        """Whether the finished pack exists and its views need no change."""
        offsets = {index: entry.record.offset for index, entry in self._finished.items()}
        planned = {index: record.offset for index, record in enumerate(self.plan.records)}
        return self.exists and offsets == planned and (self.folder / VIEWS).stat().st_size == self.plan.size

    def settle(self) -> None:
        """Enter new modification times into a whole pack's manifest; delete what interrupted updates have left."""
        if [entry.record for entry in self._finished.values()] != list(self.plan.records):
            self._write_manifest(self.folder, self._finished)
        for leftover in (self.partial, self._replaced):
            remove_pack(leftover)

    def free_bytes_needed(self) -> int:
        """Return how much disk space the unfinished pack still needs."""
        path = self.partial / VIEWS
        # Blocks, because the file has its full length from the start, with holes.
        used = getattr(path.stat(), "st_blocks", 0) * 512 if path.exists() else 0
        return max(0, self.plan.size - used)

    def begin(self) -> PackWriter:
        """Create or reopen the unfinished folder and return the photographs that are still to be packed."""
        foreign = _foreign_files(self.folder)
        if foreign:
            raise PackError(f"{self.folder} cannot be replaced: it also holds {listing(foreign)}; move them elsewhere")
        self.partial.mkdir(parents=True, exist_ok=True)
        lines = [self.plan.settings, *map(asdict, self.entries.values())]
        write_text(self.partial / JOURNAL, "".join(json.dumps(line) + "\n" for line in lines))
        (self.partial / MANIFEST).unlink(missing_ok=True)
        todo, views = self.todo, self.partial / VIEWS
        with views.open("ab") as file:
            file.truncate(self.plan.size)
        for index, entry in self._finished.items():
            if index not in self.entries:
                with (self.folder / VIEWS).open("rb") as source, views.open("r+b") as file:
                    file.seek(self.plan.records[index].offset)
                    file.write(self._read(source, entry.record))
                self.record(index, entry)
        return PackWriter(self.plan, todo, views)

    def record(self, index: int, entry: Entry) -> None:
        """Enter a written record into the journal."""
        self.entries[index] = replace(entry, record=self.plan.records[index])
        with (self.partial / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(asdict(self.entries[index])) + "\n")

    def finish(self) -> None:
        """Replace the journal by the manifest and put the folder in its place; every record must be written."""
        with (self.partial / VIEWS).open("rb") as file:
            os.fsync(file.fileno())
        self._write_manifest(self.partial, self.entries)
        (self.partial / JOURNAL).unlink()
        remove_pack(self._replaced)
        if self.exists:
            self.folder.rename(self._replaced)
        self.partial.rename(self.folder)
        remove_pack(self._replaced)

    @property
    def _replaced(self) -> Path:
        """Where the previous pack is until the new one has taken its place."""
        return self.folder.with_name(self.folder.name + ".replaced")

    def _write_manifest(self, folder: Path, entries: dict[int, Entry]) -> None:
        records = [asdict(replace(entries[index], record=record)) for index, record in enumerate(self.plan.records)]
        manifest = self.plan.settings | {"bytes": self.plan.size, "records": records}
        write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def pack_lock(folder: str | os.PathLike) -> IO:
    """Return an open file beside a pack; until it is closed, no other process can make or update the pack.

    Raises:
        PackError: another process does so already.
    """
    folder = Path(folder)
    try:
        return exclusive_lock(folder.with_name(f".{folder.name}.lock"))
    except BlockingIOError:
        raise PackError(
            f"{folder}: another process is making this pack; wait for it, or choose another --out"
        ) from None


def remove_pack(folder: Path) -> None:
    """Delete a pack, finished or not, if there is one.

    Raises:
        PackError: the folder holds other files.
    """
    if not folder.exists():
        return
    foreign = _foreign_files(folder)
    if foreign:
        raise PackError(f"{folder} is not a pack: it holds {listing(foreign)}; nothing was deleted")
    shutil.rmtree(folder)


def _foreign_files(folder: Path) -> list[str]:
    """Return the names in a folder that are not a pack's, nor those of the temporary files that a crash leaves."""
    if not folder.exists():
        return []
    own = (VIEWS, MANIFEST, JOURNAL)
    temporary = tuple(f".{name}." for name in own)
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name not in own and not (name.startswith(temporary) and name.endswith(".tmp"))]
