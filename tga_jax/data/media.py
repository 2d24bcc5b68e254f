"""Where pictures lie: a folder, a zip or an uncompressed tar, here or in a bucket, read by name."""

import abc
import os
import tarfile
import threading
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from tga_jax.data import bucket, images
from tga_jax.errors import UserError
from tga_jax.workdir import AnyPath, is_remote, reading

_BLOCK = 1 << 18  # bytes read at a time of an archive in a bucket: most pictures at once
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)  # LZMA takes as much memory as a member says
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # first bytes of gzip, bzip2, xz, zstandard


def inside(place: AnyPath, name: str) -> str:
    """The name of a file in a folder or an archive, without `./` and the like. Raises UserError for an absolute name
    and for one that leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        raise UserError(f"{place}: {name!r:.200} is no name inside it, expected one such as folder/picture.jpg")
    return str(path)


class Store(abc.ABC):
    """Files by name, such as `coco/train2017/000000033471.jpg`. May be pickled and read by several threads.

    `read` and `in` raise UserError for an absolute name and for one that leads out of the store.
    """

    def __init__(self, path: AnyPath):
        self.path = path

    def __reduce__(self):
        return open_store, (self.path,)

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Of all files, sorted."""

    @abc.abstractmethod
    def __contains__(self, name: str) -> bool: ...

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """Raises UserError naming the file if there is none, or if it cannot be read."""

    def _inside(self, name: str) -> str:
        return inside(self.path, name)

    def _check_size(self, name: str, size: int) -> None:
        """What an archive says of a file, before memory is taken for it."""
        if not 0 <= size <= images.MAX_BYTES:
            raise UserError(f"{self.path}: {name!r} has {size:,} bytes, expected at most {images.MAX_BYTES:,}")

    def _missing(self, name: str) -> UserError:
        return UserError(f"{self.path}: has no file {name!r}")

    def _unreadable(self, name: str, error: Exception) -> UserError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return UserError(f"{self.path}: {name!r} cannot be read ({reason})")


class _Bucket(Store):
    """A folder of a bucket."""

    def _at(self, name: str) -> str:
        return f"{os.fspath(self.path).rstrip('/')}/{self._inside(name)}"

    def names(self) -> list[str]:
        return bucket.below(self.path)

    def __contains__(self, name: str) -> bool:
        at = self._at(name)
        with reading(self.path):
            return bucket.filesystem().isfile(at)

    def read(self, name: str) -> bytes:
        at = self._at(name)
        try:
            return bucket.filesystem().cat_file(at)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise self._missing(name) from error
        except Exception as error:  # whatever the network, the credentials and the service's libraries raise
            raise self._unreadable(name, error) from error


class _Folder(Store):
    """Links are followed: data sets are often put together of links to where they lie."""

    def names(self) -> list[str]:
        walked = os.walk(self.path, followlinks=True)
        found = (Path(folder, file) for folder, _, files in walked for file in files)
        return sorted(path.relative_to(self.path).as_posix() for path in found)

    def __contains__(self, name: str) -> bool:
        return os.path.isfile(self.path / self._inside(name))

    def read(self, name: str) -> bytes:
        path = self.path / self._inside(name)
        try:
            return images.file_bytes(path)  # pyrefly: ignore
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise self._missing(name) from error
        except OSError as error:
            raise self._unreadable(name, error) from error


class _Zip(Store):
    def __init__(self, path: AnyPath):
        super().__init__(path)
        # Closed with the archive.
        opened: Any = bucket.filesystem().open(os.fspath(path), block_size=_BLOCK) if is_remote(path) else path
        self._file = zipfile.ZipFile(opened)
        self._members = {str(PurePosixPath(m.filename)): m for m in self._file.infolist() if not m.is_dir()}
        self._lock = threading.Lock()  # for opening and closing; members are read at the same time

    def names(self) -> list[str]:
        return sorted(self._members)

    def __contains__(self, name: str) -> bool:
        return self._inside(name) in self._members

    def read(self, name: str) -> bytes:
        if name not in self:
            raise self._missing(name)
        found = self._members[self._inside(name)]
        self._check_size(name, found.file_size)
        if (method := found.compress_type) not in _METHODS:
            expected = "expected stored, deflated or bzip2"
            raise UserError(f"{self.path}: {name!r} is compressed by zip's method {method}, {expected}")
        try:
            with self._lock:
                member = self._file.open(found)
            try:
                return member.read()
            finally:
                with self._lock:
                    member.close()
        except Exception as error:  # an encrypted, damaged or unknown kind of member, each with a type of its own
            raise self._unreadable(name, error) from error


class _Tar(Store):
    def __init__(self, path: Path):
        super().__init__(path)
        self._places: dict[str, tuple[int, int]] = {}
        with tarfile.open(path, "r:") as file:
            before = -1
            while (member := file.next()) is not None:
                if member.offset <= before or member.size < 0:  # from where it would be read again, for ever
                    raise tarfile.ReadError("a member of negative size")
                before = member.offset
                if member.isreg() and not member.issparse():
                    self._places[str(PurePosixPath(member.name))] = (member.offset_data, member.size)
                file.members = []  # pyrefly: ignore  # each has a copy of all global headers
        self._file = path.open("rb")

    def names(self) -> list[str]:
        return sorted(self._places)

    def __contains__(self, name: str) -> bool:
        return self._inside(name) in self._places

    def read(self, name: str) -> bytes:
        if name not in self:
            raise self._missing(name)
        offset, size = self._places[self._inside(name)]
        self._check_size(name, size)
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) < size:
            raise UserError(f"{self.path}: {name!r} is cut off, expected {size} bytes")
        return data


def _open_remote(path: AnyPath) -> Store:
    with reading(path):
        files = bucket.filesystem()
        if not files.isfile(os.fspath(path)):
            if not files.isdir(os.fspath(path)):
                raise UserError(f"{path}: no such file or folder, expected a folder or a .zip")
            return _Bucket(path)
        if path.suffix != ".zip":
            raise UserError(f"{path}: in a bucket, where a tar cannot be searched; expected a folder or a .zip")
        return _Zip(path)


def open_store(path: AnyPath) -> Store:
    """A folder, a zip or an uncompressed tar; an archive's index is read once, here. In a bucket a folder or a zip.

    Raises UserError if it is none of these, with advice for a compressed tar.
    """
    if is_remote(path):
        return _open_remote(path)
    assert isinstance(path, Path)
    try:
        if path.is_dir():
            return _Folder(path)
        if zipfile.is_zipfile(path):
            return _Zip(path)
        with path.open("rb") as file:
            start = file.read(6)
        if start.startswith(_COMPRESSED):
            raise UserError(f"{path}: a compressed tar, which has no random access; unpack it, or use a zip")
        return _Tar(path)
    except UserError:
        raise
    except Exception as error:  # of many types: what a damaged index says is used unchecked
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path}: cannot be read ({reason}), expected a folder, a .zip or an uncompressed .tar"
        ) from error
