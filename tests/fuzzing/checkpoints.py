"""Hostile checkpoints, weights and calibrations: malicious pickles, bombs, and damaged content."""

import functools
import io
import math
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from fuzzing.images import scene
from fuzzing.mutations import BLIND, MARKER, MEBIBYTE, UnexpectedError, check_message, pick, rearrange


class _Call:
    """Pickles to a call, which a careless reader makes while it reads."""

    def __init__(self, function: Callable, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def malicious_objects(marker: Path) -> dict[str, object]:
    """Return objects whose unpickling would make the marker."""
    import torch

    return {
        "open": _Call(open, str(marker), "w"),
        "os.system": _Call(os.system, f"touch '{marker}'"),
        "exec": _Call(exec, f"open({str(marker)!r}, 'w').close()"),
        "eval": _Call(eval, f"open({str(marker)!r}, 'w')"),
        "getattr": _Call(getattr, _Call(Path, str(marker)), "touch"),
        "functools.partial": _Call(map, _Call(functools.partial, open, str(marker), "w"), ()),
        "torch.save": _Call(torch.save, {}, str(marker)),
        "numpy": _Call(np.save, str(marker), 0),
    }


def nested(levels: int, kind: type = list):
    """Return containers of two to each level: a few hundred bytes in a pickle, and 2**levels when written out."""
    bomb = kind("x")
    for _ in range(levels):
        bomb = kind((bomb, bomb))
    return bomb


class _Disguised:
    """Pickles to a dict in which a value hides one of dict's own methods; such attributes travel in a pickle."""

    def __init__(self, content: dict, hidden: str):
        self.content, self.hidden = content, hidden

    def __reduce__(self):
        return OrderedDict, (), {self.hidden: 5}, None, iter(self.content.items())


class Checkpoints:
    """`load_model` of every file, and a score of what it has loaded."""

    KINDS = (
        *("ours", "content", "pickle", "content", "legacy"),
        *("bare", "safetensors", "content", "pickle", "calibration"),
    )

    def __init__(self, folder: Path):
        import torch
        from safetensors.torch import save

        from data.decode import ImageError
        from data.views import ViewSpec, make_views
        from models import build_model
        from utils.calibration import Calibration
        from utils.checkpoint import load_model
        from utils.errors import CheckpointError
        from utils.weights_file import write_weights_file

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.refusal, self.too_long, self.load, self.views = CheckpointError, ImageError, load_model, make_views
        self.folder, self.save = folder, write_weights_file
        spec = ViewSpec(resize=72, crop_size=64, views=("aesthetic",))
        self.model = build_model("SwinT", backbone="timm:test_resnet", view_sizes=spec.view_sizes).eval()
        self.fields = {
            "model": {"name": "SwinT", "backbone": "timm:test_resnet"},
            "state_dict": self.model.state_dict(),
            "normalisation": self.model.normalisation,
            "view_spec": spec.to_dict(),
            "mos_scale": {"mean": 0.5, "sd": 0.1},
            "calibration": Calibration((0.9, 0.2, 0.5, 0.1), "validation").to_dict(),
            "branch_means": {"aesthetic": 0.1},
            "metrics": {"SRCC": 0.5},
            "options": {"run": "r", "lr": 1e-3, "metadata": None},
            "epoch": 3,
        }
        self.save(folder / "sound.pth", self.fields)
        state = self.fields["state_dict"]
        np.save(folder / "sound.npy", [0.9, 0.2, 0.5, 0.1])
        head = {f"quality.{name}": value for name, value in self.model.quality.state_dict().items()}
        self.sound = {
            "ours": (folder / "sound.pth").read_bytes(),
            "bare": self._saved(head),
            "legacy": self._saved(head, _use_new_zipfile_serialization=False),
            "safetensors": save({name: value.contiguous() for name, value in state.items()}),
            "calibration": (folder / "sound.npy").read_bytes(),
        }
        self.hostile = [*self._malicious(), *self._bombs()]

    @staticmethod
    def _saved(content, **options) -> bytes:
        import torch

        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        return buffer.getvalue()

    def _malicious(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield the malicious objects, each in every place in which a reader might unpickle it."""
        of_objects = _npy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (4,)}")
        for name, attack in malicious_objects(self.folder / MARKER).items():
            bare, within = pickle.dumps(attack), {"state_dict": attack, "format": "uiqa-checkpoint", "version": 1}
            yield f"{name} in a pickle", "c.pth", bare
            yield f"{name} in an old pickle", "c.pth", pickle.dumps(attack, 0)
            yield f"{name} in a zip of torch's", "c.pth", self._saved(attack)
            yield f"{name} among a checkpoint's entries", "c.pth", self._saved({**self.fields, "options": attack})
            yield f"{name} as its weights", "c.pth", self._saved(within)
            yield f"{name} in torch's older format", "c.pth", self._saved(within, _use_new_zipfile_serialization=False)
            yield f"{name} called safetensors", "c.safetensors", bare
            yield f"{name} in a calibration", "c.npy", of_objects + bare

    def _bombs(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield small files that ask for much: memory, time, or a wrong kind of value."""
        import torch

        changed = functools.partial(self._with, self.fields)
        sides = {"crop_size": 10**6, "resize": 10**6}
        huge = {"view_spec": self.fields["view_spec"] | sides}
        yield "a view of 10**12 pixels", "c.pth", self._saved(self._ours(huge))
        sides = {"crop_size": 20_000, "resize": 20_000}
        yield "a view of 4 * 10**8 pixels", "c.pth", self._saved(self._ours({"view_spec": huge["view_spec"] | sides}))
        for backbone in (
            *("timm:vit_giant_patch14_224", "timm:convnext_xxlarge", "timm:resnet18.no_such_tag", "swin_b"),
            *("timm:hf-hub:someone/something", "timm:local-dir:/tmp", "timm:"),
        ):
            yield backbone, "c.pth", self._saved(changed(("model", "backbone"), backbone))
        yield "weights from elsewhere", "c.pth", self._saved(changed(("model", "pretrained"), True))
        places = (("view_spec", "saliency"), ("model", "name"), ("model", "backbone"), ("branch_means", "aesthetic"))
        for path in places:
            yield f"a nest for {path}", "c.pth", self._saved(changed(path, nested(40)))
            yield f"a nest of tuples for {path}", "c.pth", self._saved(changed(path, nested(40, tuple)))
        yield "views in a nest", "c.pth", self._saved(changed(("view_spec", "views"), (nested(40, tuple),)))
        yield "a nest for a checkpoint", "c.pth", self._saved(nested(40))
        for key in ("get", "items", "keys", "copy", "values"):
            yield f"a dict without {key}", "c.pth", self._saved(_Disguised(self._ours({}), key))
            disguised = _Disguised(self.fields["state_dict"], key)
            yield f"weights without {key}", "c.pth", self._saved(self._ours({"state_dict": disguised}))
            yield f"bare weights without {key}", "c.pth", self._saved(_Disguised(self.fields["state_dict"], key))
        entries = dict(_entries(self._saved({"x": torch.zeros(1000)})))
        [pickled] = (name for name in entries if name.endswith("data.pkl"))
        count = 400 * MEBIBYTE // 4
        entries[pickled] = entries[pickled].replace(b"M\xe8\x03", b"J" + struct.pack("<i", count))
        yield "weights of 400 MB that are not there", "c.pth", _zip_of(entries.items())
        yield "weights that swell to 400 MB", "c.pth", _zip_of(entries.items(), swollen="archive/data/0")
        yield "a zip with an entry that swells", "c.pth", _zip_of(_entries(self._saved({"x": 0})), swollen="archive/y")
        wide = {"state_dict": self.fields["state_dict"] | {"quality.0.weight": torch.zeros(1).expand(10**6, 10**6)}}
        yield "weights of 10**12 numbers", "c.pth", self._saved(self._ours(wide))
        for deep in (b"(" * 10**6, b"]" * 10**6 + b"a" * (10**6 - 1) + b"."):
            yield "a deep pickle", "c.pth", b"\x80\x02" + deep
        for size in (2**63, 2**40, 10**9):
            yield f"a header of {size} bytes", "c.safetensors", struct.pack("<Q", size) + b"{}"
        wide = b'{"x": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 4]}}'
        yield "a shape beyond the data", "c.safetensors", struct.pack("<Q", len(wide)) + wide + bytes(4)
        for shape in ("(4000000000,)", "(1000000000000,)", "(-4,)", "()"):
            header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
            yield f"a calibration of {shape}", "c.npy", _npy_header(header) + bytes(32)

    def _ours(self, changes: dict) -> dict:
        return {"format": "uiqa-checkpoint", "version": 1, **self.fields, **changes}

    def _with(self, fields: dict, path: tuple[str, ...], value) -> dict:
        """Return a checkpoint's content with one value, two levels down, replaced."""
        outer, inner = path
        return self._ours({outer: {**fields[outer], inner: value}})

    def file(self, number: int) -> tuple[str, bytes]:
        """Return the name and the content of a number's file."""
        if number < len(self.hostile):
            return self.hostile[number][1:]
        generator = np.random.default_rng([2, number])
        kind = self.KINDS[number % len(self.KINDS)]
        if kind == "content":
            return "c.pth", self._saved(self._mutated_content(generator))
        if kind == "pickle":
            return "c.pth", _with_mutated_pickle(generator, self.sound[pick(generator, ("ours", "bare"))])
        content = self.sound[kind]
        if kind == "safetensors" and generator.random() < 0.7:
            length = 8 + int.from_bytes(content[:8], "little")
            content = pick(generator, (_mutate_text, *BLIND))(generator, content[:length]) + content[length:]
        else:
            for _ in range(int(generator.integers(1, 4))):
                content = pick(generator, BLIND)(generator, content)
        return {"calibration": "c.npy", "safetensors": "c.safetensors"}.get(kind, "c.pth"), content

    def _mutated_content(self, generator: np.random.Generator) -> dict:
        """Return a checkpoint's content with one to three values replaced or left out."""
        import torch

        values = (
            *(None, True, -1, 0, 2**31, 10**400, 0.5, math.nan, math.inf, "", "x", "0", b"\0", [], {}, (), [1, 2]),
            *(torch.zeros(2), torch.zeros(0), torch.zeros((), dtype=torch.int64), torch.zeros(2, 2).to_sparse()),
            *(torch.zeros(2, dtype=torch.complex64), torch.empty(2, device="meta")),
            *(torch.device("cuda"), torch.Size([1])),
            *({"name": "UIQA"}, {1: 2}, ["aesthetic", "aesthetic"], ["distortion"], "swin_t", "x" * 100_000, 1e308),
        )
        content = self._ours({})
        for _ in range(int(generator.integers(1, 4))):
            outer = pick(generator, sorted(content))
            value = content[outer]
            if isinstance(value, dict) and value and generator.random() < 0.8:
                inner = pick(generator, list(value))
                changed = {**value, inner: pick(generator, values)}
                if generator.random() < 0.15:
                    del changed[inner]
                content[outer] = changed
            elif outer != "format" and generator.random() < 0.8:
                content[outer] = pick(generator, values)
            else:
                del content[outer]
        return content

    def prepare(self, number: int) -> Callable[[], str]:
        name, content = self.file(number)
        path = self.folder / name
        path.write_bytes(content)
        of_calibration = name.endswith(".npy")
        paths = (self.folder / "sound.pth", path) if of_calibration else (path,)
        refusals = (self.refusal, ValueError) if of_calibration else self.refusal

        def attempt() -> str:
            try:
                loaded = self.load(*paths)
            except refusals as error:
                check_message(error, f"{path}: ")
                return "error"
            self._check_score(loaded)
            return "result"

        return attempt

    def _check_score(self, loaded) -> None:
        """What has been loaded can score a photograph, or says why it cannot."""
        import torch

        try:
            views = self.views(scene(90, 80, 0), loaded.view_spec, loaded.view_spec.evaluation_fractions())
        except self.too_long:
            return
        with torch.inference_mode():
            score = loaded.model(**{name: view[None] for name, view in views.items()})
        if score.shape != (1, 1):
            raise UnexpectedError(f"a score of shape {tuple(score.shape)}")
        if loaded.calibration is not None:
            with np.errstate(all="ignore"):
                loaded.calibration(np.array([0.5]))


def _npy_header(description: bytes) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(description)) + description


def _zip_of(entries: Iterable[tuple[str, bytes]], swollen: str | None = None) -> bytes:
    """Return a zip as torch writes it; or one of compressed entries, of which one swells to 400 MB when it is read."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if swollen else 0) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice, which may be meant
        for name, data in entries:
            if name != swollen:
                archive.writestr(name, data)
        if swollen:
            with archive.open(swollen, "w") as entry:
                for _ in range(400):
                    entry.write(bytes(MEBIBYTE))
    return buffer.getvalue()


def _entries(archive: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return [(name, opened.read(name)) for name in opened.namelist()]


def _with_mutated_pickle(generator: np.random.Generator, archive: bytes) -> bytes:
    """Return a checkpoint whose checksums hold and whose pickle is damaged, or whose entries are rearranged."""
    entries = _entries(archive)
    if generator.random() < 0.2:
        entries = rearrange(generator, entries)
    else:
        at = next(index for index, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
        name, data = entries[at]
        for _ in range(int(generator.integers(1, 4))):
            data = pick(generator, (*BLIND, _mutate_text))(generator, data)
        entries[at] = name, data
    return _zip_of(entries)


def _mutate_text(generator: np.random.Generator, content: bytes) -> bytes:
    """Replace a number or a word, of several places one."""
    found = list(re.finditer(rb"[0-9]+|[A-Za-z_]{2,}", content)) or [re.match(b"", content)]
    one, other = pick(generator, found), pick(generator, found)
    new = pick(generator, (other[0], b"-1", b"0", b"99999999999999999999", b"1e999", b"null", b"", b"F64", b"[]"))
    return content[: one.start()] + new + content[one.end() :]
