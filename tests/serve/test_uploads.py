"""Examples and uploads: what is shown, what is refused, and that nothing outside a folder is read."""

import json
import struct
import zlib
from pathlib import Path

import pytest
import serve_support

import tga_jax
from tga_jax.serve import examples
from tga_jax.serve.uploads import Uploads


def line(id: str, image: str | list[str], **fields) -> dict:
    turns = [{"from": "human", "value": "<image>\nDescribe it."}]
    return {"id": id, "image": image, "image_caption": f"a {id}", "conversations": turns, **fields}


def folder_of(path: Path, *lines: dict) -> Path:
    (path / "scenes").mkdir()
    for name in ("a", "b"):
        (path / "scenes" / f"{name}.png").write_bytes(serve_support.png(1))
    (path / "pairs.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return path


def test_examples_in_their_order(tmp_path):
    folder = folder_of(tmp_path, line("b", "scenes/b.png", harmful=True), line("a", "scenes/a.png"))
    found = examples.read(folder)
    assert list(found) == ["b", "a"]
    assert found["b"] == examples.Example("b", folder / "scenes" / "b.png", "Describe it.", "a b", True)
    assert found["a"].harmful is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line("a", "../secret.png")], r"sample 'a' has the picture '\.\./secret\.png', expected one inside"),
        ([line("a", "/etc/passwd")], "sample 'a' has the picture '/etc/passwd', expected one inside"),
        ([line("a", "link.png")], "sample 'a' has the picture 'link.png', expected one inside"),
        ([line("a", "scenes/a.png"), line("a", "scenes/b.png")], "sample 'a' has the id of an earlier one"),
        ([line("a", "scenes/a.png", harmful="yes")], "sample 'a' has 'yes' as `harmful`, expected true or false"),
        (
            [{**line("a", "scenes/a.png"), "conversations": [{"from": "human", "value": "Hi."}]}],
            "sample 'a' has 0 <image> and 1 images",
        ),
    ],
)
def test_examples_that_are_none(tmp_path, lines, message):
    folder = tmp_path / "examples"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(serve_support.png(1))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(tga_jax.UserError, match=message):
        examples.read(folder_of(folder, *lines))


def test_a_folder_without_examples(tmp_path):
    with pytest.raises(tga_jax.UserError, match=r"pairs\.jsonl"):
        examples.read(tmp_path)


def huge_png() -> bytes:
    """20,000 x 10,000 pixels, in a few bytes of header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


REFUSED = {
    "notes.png": (lambda: b"not a picture", "notes.png: cannot be read as an image (in no known format)"),
    "huge.png": (
        huge_png,
        "huge.png: cannot be read as an image (more than 178,956,970 pixels, expected at most 100,000,000)",
    ),
    "long.png": (lambda: bytes(60_000_000), "long.png: has 60.0 MB, expected at most 20 MB"),
}


@pytest.fixture(name="store")
def fixture_store(tmp_path):
    (tmp_path / "kept").mkdir()
    return Uploads(tmp_path / "kept", room=40_000)


@pytest.mark.parametrize("name", REFUSED)
def test_uploads_that_are_refused_are_deleted(tmp_path, store, name):
    data, message = REFUSED[name]
    file = tmp_path / name
    file.write_bytes(data())
    with pytest.raises(tga_jax.UserError) as error:
        store.add(file)
    assert str(error.value) == message
    assert not file.exists()
    assert not list(store.folder.iterdir())


def test_uploads_are_kept_by_their_bytes_while_there_is_room(tmp_path, store):
    names = []
    for seed in (1, 2, 1, 3):
        file = tmp_path / f"{seed}.png"
        file.write_bytes(serve_support.png(seed, (60, 60)))  # 11 kB of noise
        names.append(store.add(file))
        assert not file.exists()
    assert names[0] == names[2]
    assert store.find(names[0]).read_bytes() == serve_support.png(1, (60, 60))
    file = tmp_path / "4.png"
    file.write_bytes(serve_support.png(4, (60, 60)))
    store.add(file)
    assert store.find(names[1]) is None  # the one that nobody asked for since
    assert store.find(names[0]) is not None


@pytest.mark.parametrize("name", ["", "..", "../kept", "nothing", "/etc/passwd"])
def test_no_other_file_is_found(store, name):
    assert store.find(name) is None
