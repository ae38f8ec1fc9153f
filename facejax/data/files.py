"""A set of files by name: a directory, or a zip archive read in place."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

from facejax.errors import UserError


class Files(Protocol):
    """Read-only files; `read` is called from several threads at once."""

    names: tuple[str, ...]
    """Relative POSIX paths, sorted."""

    def read(self, name: str) -> bytes:
        """The whole content of `name`, one of `names`.

        Raises:
            OSError: the file could not be read.
        """
        ...


def open_files(path: str) -> Files:
    """Opens a directory or a `.zip`.

    Raises:
        UserError: nothing there, or neither a directory nor a sound zip archive.
    """
    if os.path.isdir(path):
        return Directory(path)
    if not os.path.exists(path):
        raise UserError(path, "does not exist", "give a folder or a .zip file")
    try:
        return Zip(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(path, f"not a readable zip archive ({error})", "copy it again") from error


class Directory:
    """The files beneath a directory; hidden ones are left out."""

    def __init__(self, path: str):
        self._root = Path(path)
        self.names = tuple(sorted(filter(_visible, self._walk())))

    def _walk(self):
        for folder, _, files in os.walk(self._root):
            below = Path(folder).relative_to(self._root)
            yield from ((below / name).as_posix() for name in files)

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()


class Zip:
    """The members of a zip archive, stored or deflated.

    The central directory is parsed once. Members are read by position (`os.pread`), so threads
    share one file without a lock, and each member's CRC is checked.
    """

    def __init__(self, path: str):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the object
        with zipfile.ZipFile(self._file) as archive:
            self._members = {
                info.filename: info
                for info in archive.infolist()
                if not info.is_dir() and _visible(info.filename)
            }
        self.names = tuple(sorted(self._members))

    def read(self, name: str) -> bytes:
        info = self._members[name]
        if info.flag_bits & 0x1:
            raise OSError("encrypted zip member")
        # The lengths of the local header's name and extra field may differ from the central ones.
        local = self._pread(30, info.header_offset)
        if local[:4] != b"PK\x03\x04":
            raise OSError("no zip member where the archive's directory says")
        skip = 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        data = self._pread(info.compress_size, info.header_offset + skip)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompress(data, -zlib.MAX_WBITS, info.file_size)
            except zlib.error as error:
                raise OSError(f"broken zip member ({error})") from error
        elif info.compress_type != zipfile.ZIP_STORED:
            raise OSError(f"zip compression method {info.compress_type} is not supported")
        if zlib.crc32(data) != info.CRC:
            raise OSError("broken zip member (CRC differs)")
        return data

    def _pread(self, size: int, offset: int) -> bytes:
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise OSError("zip archive ends too early")
        return data


def _visible(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
