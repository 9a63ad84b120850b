"""Read a text file of any size, and stop at the first bytes that are no table."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

_LONGEST_LINE = 2**22  # bytes
_LARGEST_RATIO = 300  # unpacked to packed; unsorted predictions pack 3 to 50 times, zeros 1,030
_RATIO_FROM = 2**24  # bytes unpacked; fewer harm nobody

_PICKLE = "a pickle, and unpickling runs code; save the table as CSV or Parquet"
# What a file that is called .csv may turn out to be, by its first bytes in lower case.
_KINDS = {
    b"%pdf": "a PDF; save the table as CSV",
    b"pk\x03\x04": "a zip archive, as Excel files are; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Office file; save the sheet as CSV",
    b"par1": "Parquet; let its name end in .parquet",
    b"\x1f\x8b": "gzip; let its name end in .csv.gz",
    **{b"\x80" + bytes([protocol]): _PICKLE for protocol in range(2, 6)},
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
    b"<": "HTML or XML; save the table as CSV",
    b'{"': "JSON; save the table as CSV",
    b"[{": "JSON; save the table as CSV",
}


@contextmanager
def open_text(path: Path, doing: str, *, progress: bool) -> Iterator[TextIO]:
    """Open a CSV or CSV.gz; reading raises ValueError where the bytes are not those of a table."""
    from tqdm import tqdm

    bar = tqdm(
        total=path.stat().st_size,
        desc=doing,
        unit="B",
        unit_scale=True,
        delay=1,  # second; a short wait needs no bar
        leave=False,
        disable=None if progress else True,  # None: where there is a terminal
    )
    try:
        with bar, path.open("rb") as file:
            watched = _Watched(file, path.name.lower().endswith(".gz"), bar)
            yield io.TextIOWrapper(io.BufferedReader(watched, 2**20), "utf-8-sig", newline="")
    except UnicodeDecodeError as error:
        raise ValueError("its text is not UTF-8; save it as UTF-8") from error
    except EOFError as error:
        raise ValueError("the end of its gzip data is missing; copy or save it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError("it is not gzip, or damaged; copy or save it again") from error


class _Watched(io.RawIOBase):
    """The bytes of a file, unpacked, each block looked at before it is handed on."""

    def __init__(self, file: io.BufferedReader, packed: bool, bar: "tqdm[Any]") -> None:
        self._file, self._bar = file, bar
        self._stream = gzip.GzipFile(fileobj=file) if packed else file
        self._n_read = 0
        self._n_in_line = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        block = self._stream.read(len(buffer))
        self._look_at(block)
        buffer[: len(block)] = block
        self._bar.update(self._file.tell() - self._bar.n)
        return len(block)

    def _look_at(self, block: bytes) -> None:
        if self._n_read == 0:
            start = block[:16].lstrip().lower()
            for first, kind in _KINDS.items():
                if start.startswith(first):
                    raise ValueError(f"it is {kind}")
        if b"\0" in block:
            raise ValueError("it is not text (it has bytes of value 0); save the table as CSV")
        self._n_read += len(block)
        if self._n_read > max(_RATIO_FROM, _LARGEST_RATIO * self._file.tell()):
            raise ValueError(
                f"it unpacks to more than {_LARGEST_RATIO} times its size; if you trust it, unpack "
                "it yourself and give the .csv"
            )
        end = max(block.rfind(b"\n"), block.rfind(b"\r"))
        self._n_in_line = len(block) - end - 1 + (self._n_in_line if end < 0 else 0)
        if self._n_in_line > _LONGEST_LINE:
            raise ValueError(
                f"it has a line of more than {_LONGEST_LINE / 2**20:.0f} MB, so it is no table; "
                "save the table as CSV"
            )
