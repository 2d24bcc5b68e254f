"""Pictures that people upload: checked, and kept for as long as the server runs and there is room."""

import hashlib
import os
import shutil
from pathlib import Path

from tga_jax.data import images
from tga_jax.errors import UserError

MAX_BYTES = 20_000_000  # of a picture
ROOM = 1_000_000_000  # bytes of all of them


class Uploads:
    """By the SHA-256 of their bytes, so that a link can name one, in a folder of at most `room` bytes."""

    def __init__(self, folder: Path, room: int = ROOM):
        self.folder, self.room = folder, room

    def add(self, file: Path) -> str:
        """The name under which the picture is kept; the file is moved, or deleted if it is refused.

        Raises UserError, naming the file by its last part alone, for one that is too large or no picture.
        """
        try:
            size = file.stat().st_size
            if size > MAX_BYTES:
                raise UserError(f"{file.name}: has {size / 1e6:.1f} MB, expected at most {MAX_BYTES / 1e6:.0f} MB")
            data = file.read_bytes()
            images.decode(data, file.name)
            name = hashlib.sha256(data).hexdigest()[:24]
            shutil.move(file, self.folder / name)
            self._make_room()
            return name
        finally:
            file.unlink(missing_ok=True)

    def find(self, name: str) -> Path | None:
        """None if there is none of this name any more."""
        path = self.folder / name
        if not name.isalnum() or not path.is_file():
            return None
        os.utime(path)  # the oldest go first
        return path

    def _make_room(self) -> None:
        files = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        total = sum(path.stat().st_size for path in files)
        for path in files[:-1]:
            if total <= self.room:
                return
            total -= path.stat().st_size
            path.unlink()
