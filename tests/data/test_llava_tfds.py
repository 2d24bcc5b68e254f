"""Samples and pictures as array_record: what goes in comes out, builds resume, and no TensorFlow is needed."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from tga_jax.data import llava_json, llava_tfds
from tga_jax.data.llava_tfds import ArrayRecords, build
from tga_jax.errors import UserError

ROOT = Path(__file__).parents[2]


def sample(i: int) -> dict:
    """Text alone, one picture, or three with one of them twice; each with a field that we do not know."""
    names = [[], [f"b/{i}.jpg"], ["é.png", f"b/{i}.jpg", "é.png"]][i % 3]
    turns = [{"from": "human", "value": "<image>" * len(names) + "What?"}, {"from": "gpt", "value": f"It is {i}. ☕"}]
    image = {"image": names if len(names) > 1 else names[0]} if names else {}
    return {"id": i, "conversations": turns, "source": {"page": i}, "image_caption": "a cup", **image}


SAMPLES = [sample(i) for i in range(20)]
PICTURES = {"é.png": b"\xff\0picture"} | {f"b/{i}.jpg": bytes([i]) * (1000 + i) for i in range(20)}


@pytest.fixture
def given(tmp_path):
    for name, data in PICTURES.items():
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).write_bytes(data)
    (tmp_path / "data.json").write_text(json.dumps(SAMPLES, indent=1))
    return tmp_path / "data.json", tmp_path / "pictures", tmp_path / "built"


def check(records: ArrayRecords) -> None:
    assert len(records) == len(SAMPLES)
    for i, original in enumerate(SAMPLES):
        value = records[i]
        assert {**value, "image": None} == {**original, "image": None}
        parsed = llava_json.parse(value, records.where(i))
        expected = llava_json.parse(original, "")
        assert [records.read(name) for name in parsed.images] == [PICTURES[name] for name in expected.images]
        assert parsed.turns == expected.turns
        assert all(name in records for name in parsed.images)


def test_what_goes_in_comes_out(given):
    build(*given, shards=3)
    records = ArrayRecords(given[2])
    check(records)
    check(pickle.loads(pickle.dumps(records)))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(records.__getitem__, [*range(20)] * 10))
    assert [row["id"] for row in found] == [*range(20)] * 10
    assert (records[1]["image"], records[2]["image"]) == ("1:b/1.jpg", ["2:é.png", "2:b/2.jpg", "2:é.png"])
    assert records.where(4) == f"{given[2]}: sample 5"
    assert records.names()[:3] == ["10:b/10.jpg", "11:b/11.jpg", "11:é.png"]
    for name in ("1:b/2.jpg", "b/1.jpg", "99:b/1.jpg", "-1:b/1.jpg", ""):
        assert name not in records
        with pytest.raises(UserError) as raised:
            records.read(name)
        assert str(raised.value) == f"{given[2]}: has no file {name!r}"
    with pytest.raises(IndexError):
        records[20]


def test_every_build_has_the_same_bytes(given):
    """Also another process's: a message's fields, if they may stand in any order, have another in each."""
    data, pictures, folder = given
    build(data, pictures, folder, shards=3)
    code = "import sys; from pathlib import Path; from tga_jax.data import llava_tfds\n"
    code += "llava_tfds.build(*map(Path, sys.argv[1:]), shards=3)"
    again = folder.with_name("again")
    subprocess.run([sys.executable, "-c", code, data, pictures, again], check=True, cwd=ROOT)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    for path in folder.glob("*.array_record-*"):
        reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
        for record in reader.read_all():
            assert tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True) == record


def test_tensorflow_datasets_reads_it_and_tensorflow_is_not_imported(given):
    build(*given, shards=2)
    code = """
import json, sys
import tensorflow_datasets as tfds
source = tfds.builder_from_directory(sys.argv[1]).as_data_source(split="train")
rows = [source[i] for i in range(len(source))]
print(json.dumps([[json.loads(r["sample"]), [n.decode() for n in r["names"]], [len(d) for d in r["images"]]]
                  for r in rows]))
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code, given[2]], capture_output=True, text=True, check=True, cwd=ROOT)
    rows = json.loads(done.stdout)
    assert [row for row, _, _ in rows] == SAMPLES
    for (_, names, sizes), original in zip(rows, SAMPLES, strict=True):
        assert names == list(llava_json.parse(original, "").images)
        assert sizes == [len(PICTURES[name]) for name in names]


def shards(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.glob("llava-train*")}


def test_an_interrupted_build_keeps_its_finished_shards(given):
    source, pictures, folder = given
    lost = pictures / "b" / "19.jpg"
    lost.rename(pictures / "aside")
    with pytest.raises(UserError) as raised:
        build(*given, shards=4)
    said = f"sample '19': {pictures}: has no file 'b/19.jpg'"
    assert str(raised.value).startswith(f"{source}: line ")
    assert str(raised.value).endswith(said)
    build_shards = shards(folder)
    assert "llava-train.array_record-00003-of-00004" not in build_shards
    with pytest.raises(UserError) as raised:
        ArrayRecords(folder)
    said = "no finished build, expected a folder that `tga build-data` has written"
    assert str(raised.value) == f"{folder}: {said}"

    (folder / ".llava-train.array_record-00003-of-00004.aside").write_text("half")  # of a process that was killed
    (pictures / "aside").rename(lost)
    build(*given, shards=4)
    check(ArrayRecords(folder))
    assert len(shards(folder)) == 4
    assert build_shards.items() <= shards(folder).items()
    assert not list(folder.glob(".*"))

    whole = shards(folder)
    build(*given, shards=4)
    assert shards(folder) == whole


def test_a_stopped_build_leaves_no_half_shard(given, monkeypatch):
    original = llava_tfds._record

    def record(file, store, row):
        if row == 15:
            raise KeyboardInterrupt
        return original(file, store, row)

    with monkeypatch.context() as patch:
        patch.setattr(llava_tfds, "_record", record)
        with pytest.raises(KeyboardInterrupt):
            build(*given, shards=2)
    assert "llava-train.array_record-00001-of-00002" not in shards(given[2])
    assert not list(given[2].glob(".*"))
    build(*given, shards=2)
    check(ArrayRecords(given[2]))


def test_a_folder_of_another_build_is_left_alone(given):
    source, _, folder = given
    build(*given, shards=2)
    before = shards(folder)
    with pytest.raises(UserError) as raised:
        build(*given, shards=3)
    assert str(raised.value) == (f"{folder} holds another run: config.shards is 2 there and 3 now; choose another --to")
    old = source.read_text()
    source.write_text(json.dumps(SAMPLES))
    said = rf"{folder}: samples, {source}, is not what this run began with: had .* bytes and has .*choose another --to;"
    with pytest.raises(UserError, match=said):
        build(*given, shards=2)
    source.write_text(old)
    (given[1] / "b" / "1.jpg").write_bytes(b"another picture")
    with pytest.raises(UserError, match=rf"{folder}: images, {given[1]}, is not what .*: b/1.jpg had .* and has 15;"):
        build(*given, shards=2)
    assert shards(folder) == before


def test_bad_input_is_named(given):
    source, _, folder = given
    with pytest.raises(UserError) as raised:
        build(source, None, folder)
    said = "sample '1' has an image, expected --images with its folder"
    assert str(raised.value) == f"{source}: line 19, item 2: {said}"
    source.write_text(json.dumps([*SAMPLES, {"id": "x", "conversations": []}]))
    with pytest.raises(UserError, match=r"data\.json: line 1, item 21: sample 'x' has no question and answer"):
        build(source, given[1], folder.with_name("other"))


def test_a_lost_or_damaged_shard_is_named(given):
    build(*given, shards=2)
    last = given[2] / "llava-train.array_record-00001-of-00002"
    whole = last.read_bytes()
    last.unlink()
    with pytest.raises(UserError) as raised:
        ArrayRecords(given[2])
    assert str(raised.value) == f"{last}: no such file, expected a shard; build the data again"
    last.write_bytes(whole[:100] + bytes(len(whole) - 100))
    with pytest.raises(UserError, match=r"built: sample 11: cannot be read \(.*; build the data again$"):
        ArrayRecords(given[2])[10]
    last.write_bytes(whole)
    (given[2] / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=r"built: cannot be read \(.*\); build the data again$"):
        ArrayRecords(given[2])
    build(*given, shards=2)
    check(ArrayRecords(given[2]))
