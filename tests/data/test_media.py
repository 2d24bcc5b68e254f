"""Picture stores: a folder, a zip and a tar give the same files, and refuse names that lead out of them."""

import io
import os
import pickle
import tarfile
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tga_jax.data.media import open_store
from tga_jax.errors import UserError

FILES = {f"b/{i:02d}.jpg": np.random.default_rng(i).bytes(500 * i) for i in range(40)} | {
    "a.png": b"one",
    "c/é.png": b"2",
}


def as_folder(path):
    for name, data in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


def as_zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.mkdir("b")
        for name, data in FILES.items():
            file.writestr(name, data)


def as_tar(path, mode="w"):
    with tarfile.open(path, mode) as file:
        file.addfile(_member("./b", b"", tarfile.DIRTYPE))
        file.addfile(_member("./link", b"", tarfile.SYMTYPE))
        for name, data in FILES.items():
            file.addfile(_member(f"./{name}", data), io.BytesIO(data))


def _member(name, data, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(data), kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    return member


MAKE = {"pictures": as_folder, "pictures.zip": as_zip, "pictures.tar": as_tar}


@pytest.fixture(params=MAKE)
def store(request, tmp_path):
    MAKE[request.param](tmp_path / request.param)
    return open_store(tmp_path / request.param)


def test_files_by_name(store):
    assert store.names() == sorted(FILES)
    assert {name: store.read(name) for name in FILES} == FILES
    assert store.read("./b//03.jpg") == FILES["b/03.jpg"]
    assert all(name in store for name in FILES)
    assert not any(name in store for name in ("none.jpg", "b", "a.png/x", "x" * 300))


def test_a_copy_in_another_process_and_threads_read_the_same(store):
    copy = pickle.loads(pickle.dumps(store))
    wanted = list(FILES) * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(copy.read, wanted)) == [FILES[name] for name in wanted]


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "b/../../a.png", "b/../a.png", "", ".", "a\0.png"])
def test_a_name_that_leads_out_is_refused(store, name):
    said = f"{store.path}: {name!r} is no name inside it, expected one such as folder/picture.jpg"
    for use in (store.read, store.__contains__):
        with pytest.raises(UserError) as raised:
            use(name)
        assert str(raised.value) == said


@pytest.mark.parametrize("name", ["none.jpg", "b", "a.png/x.jpg"])
def test_a_missing_file_is_named(store, name):
    with pytest.raises(UserError) as raised:
        store.read(name)
    assert str(raised.value) == f"{store.path}: has no file {name!r}"


def test_links_of_a_folder(tmp_path):
    as_folder(tmp_path / "in")
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "1.jpg").write_bytes(b"elsewhere")
    (tmp_path / "in" / "coco").symlink_to(tmp_path / "coco")
    (tmp_path / "in" / "same.png").symlink_to("a.png")
    (tmp_path / "in" / "loop").symlink_to("loop")
    (tmp_path / "itself").symlink_to("in")
    for store in (open_store(tmp_path / "in"), open_store(tmp_path / "itself")):
        assert store.read("same.png") == b"one"
        assert store.read("coco/1.jpg") == b"elsewhere"
        assert "coco/1.jpg" in store.names()
        with pytest.raises(UserError, match=r"'loop' cannot be read \(Too many levels of symbolic links\)"):
            store.read("loop")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_gets_advice(tmp_path, mode):
    path = tmp_path / "pictures.tgz"
    as_tar(path, mode)
    with pytest.raises(UserError) as raised:
        open_store(path)
    assert str(raised.value) == f"{path}: a compressed tar, which has no random access; unpack it, or use a zip"


def test_what_is_no_store_is_named(tmp_path):
    (tmp_path / "empty.tar").touch()
    (tmp_path / "text.tar").write_text("text" * 1000)
    as_zip(tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-200])
    for name, said in (
        ("none", "No such file or directory"),
        ("empty.tar", "empty file"),
        ("text.tar", "invalid header"),
        ("cut.zip", "invalid header"),
    ):
        with pytest.raises(UserError) as raised:
            open_store(tmp_path / name)
        expected = f"cannot be read ({said}), expected a folder, a .zip or an uncompressed .tar"
        assert str(raised.value) == f"{tmp_path / name}: {expected}"


def test_a_damaged_archive_names_the_file(tmp_path):
    as_tar(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:30_000])
    with pytest.raises(UserError, match=r"a\.tar: cannot be read \(unexpected end of data\), expected a folder"):
        open_store(tmp_path / "a.tar")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("a.png", b"picture" * 9)
    (tmp_path / "b.zip").write_bytes((tmp_path / "b.zip").read_bytes().replace(b"picture", b"PICTURE"))
    with pytest.raises(UserError) as raised:
        open_store(tmp_path / "b.zip").read("a.png")
    assert str(raised.value) == f"{tmp_path / 'b.zip'}: 'a.png' cannot be read (Bad CRC-32 for file 'a.png')"
    as_tar(tmp_path / "c.tar")
    store = open_store(tmp_path / "c.tar")
    with (tmp_path / "c.tar").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(UserError, match=r"c\.tar: 'b/39\.jpg' is cut off, expected 19500 bytes"):
        store.read("b/39.jpg")


def test_sizes_that_an_archive_declares_are_checked_before_they_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.png", b"picture")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(_member("a.png", b"picture"), io.BytesIO(b"picture"))
    size = b"20000000000\0"  # of base 8: 2^31
    _in_tar(tmp_path / "a.tar", 0, {124: size})
    with (tmp_path / "a.tar").open("r+b") as file:
        file.truncate(2**31 + 2**16)  # of holes
    for name in ("a.zip", "a.tar"):
        with pytest.raises(UserError, match=r"'a\.png' has 2,147,483,648 bytes, expected at most 268,435,456$"):
            open_store(tmp_path / name).read("a.png")


def _in_tar(path, at, fields):
    """Fields of the header there set, and its checksum made right."""
    data = bytearray(path.read_bytes())
    for place, value in fields.items():
        data[at + place : at + place + len(value)] = value
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"S"])
@pytest.mark.parametrize("size", [b"\xff" * 10 + b"\xfa\0", b"\x80" + b"\xff" * 11, b"77777777777\0"])
def test_a_tar_header_of_negative_or_endless_size(tmp_path, kind, size):
    """Of the first kind Python's reader would read the same member for ever."""
    as_tar(tmp_path / "a.tar")
    at = (tmp_path / "a.tar").read_bytes().index(b"a.png", 1024) // 512 * 512
    _in_tar(tmp_path / "a.tar", at, {124: size, 156: kind})
    with pytest.raises(UserError, match=r"a\.tar: (cannot be read|'a\.png' has [\d,]+ bytes|has no file)"):
        open_store(tmp_path / "a.tar").read("a.png")


def test_headers_for_all_members_are_kept_once(tmp_path):
    """Python's reader copies them for every member, and keeps all members: 100 MB here, of a file of one."""
    with tarfile.open(tmp_path / "a.tar", "w", pax_headers={f"key{i}": "v" for i in range(2000)}) as file:
        for i in range(1000):
            file.addfile(tarfile.TarInfo(f"{i}.png"))
    tracemalloc.start()
    assert len(open_store(tmp_path / "a.tar").names()) == 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_members_that_are_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as file:  # which takes the memory that it says
        file.writestr("a.png", b"picture")
    with pytest.raises(UserError, match=r"'a\.png' is compressed by zip's method 14, expected stored"):
        open_store(tmp_path / "a.zip").read("a.png")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("a.png", b"picture")
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"'a\.png' cannot be read \(.*encrypted.*password"):
        open_store(tmp_path / "b.zip").read("a.png")


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"'a\.png' cannot be read \(no regular file\)"):
        open_store(tmp_path).read("a.png")
