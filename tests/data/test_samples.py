"""Files of samples: every row as json reads it, one at a time, and errors that name the line."""

import codecs
import json
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import hypothesis.strategies as st
import pytest

from tga_jax.data import samples
from tga_jax.data.samples import SampleFile
from tga_jax.errors import UserError

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("samples")


@hypothesis.settings(max_examples=120)
@hypothesis.given(
    rows=st.lists(VALUES, min_size=1, max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    mark=st.sampled_from([b"", codecs.BOM_UTF8]),
    around=st.sampled_from(["", " ", "\n\n", "\r\n\t"]),
)
def test_rows_are_those_of_json_wherever_the_file_is_cut(
    folder, rows, chunk, indent, ascii_only, mark, around
):  # fmt: skip
    listed, lines = folder / "a.json", folder / "a.jsonl"
    text = around + json.dumps(rows, indent=indent, ensure_ascii=ascii_only) + around
    listed.write_bytes(mark + text.encode())
    lines.write_bytes(mark + "".join(json.dumps(r, ensure_ascii=ascii_only) + f"\n{around}" for r in rows).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "_CHUNK", chunk)
        files = SampleFile(listed), SampleFile(lines)
    for file in files:
        assert len(file) == len(rows)
        assert list(file) == rows
        assert file[len(rows) - 1] == rows[-1]


def test_places(tmp_path):
    listed, lines = tmp_path / "a.json", tmp_path / "a.jsonl"
    listed.write_text('[{"a":\n 1}, 2,\n\n"é\\n"\n, 4]\n')
    file = SampleFile(listed)
    assert list(file) == [{"a": 1}, 2, "é\n", 4]
    assert [file.where(i) for i in range(4)] == [
        f"{listed}: line {line}, item {i}" for i, line in enumerate((1, 2, 4, 5), 1)
    ]
    lines.write_text('1\n\n \n"b"\n3')
    file = SampleFile(lines)
    assert list(file) == [1, "b", 3]
    assert [file.where(i) for i in range(3)] == [f"{lines}: line {line}" for line in (1, 4, 5)]


def test_a_copy_in_another_process_and_threads_read_the_same(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"n": i, "text": "x" * (i % 50)} for i in range(500)]))
    file = pickle.loads(pickle.dumps(SampleFile(path)))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(file.__getitem__, range(500)))
    assert [row["n"] for row in found] == list(range(500))


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "a.json"
    row = json.dumps({"text": "x" * 1000})
    path.write_text("[" + ",\n".join([row] * 12_000) + "]")  # 12 MB
    tracemalloc.start()
    file = SampleFile(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(file) == 12_000
    assert peak < 6e6


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ": empty, expected samples in LLaVA's JSON"),
        (b" \n", ": empty, expected samples in LLaVA's JSON"),
        (b"[ ]", ": empty, expected samples in LLaVA's JSON"),
        (b'\n{"a": 1}', ": line 2: '{', expected a list of samples; JSON lines are called .jsonl"),
        (b'{"a": 1}\n{"a": 2}', ": line 1: '{', expected a list of samples; JSON lines are called .jsonl"),
        (b'[1,\n{"a" 2}, ' + b"3, " * 20, ": line 2: not JSON (Expecting ':' delimiter)"),
        (b'[1,\n{"a\nb": 2}, ' + b"3, " * 20, ": line 2: not JSON (Invalid control character at)"),
        (b"[1,\n2\n,]", ": line 3: not JSON (Expecting value), or the file breaks off"),
        (b"[1,\n2\n3]", ": line 3: '3', expected a comma or the end of the list"),
        (b"[1,\n2\n", ": line 3: the file breaks off, expected a comma or the end of the list"),
        (b"[1,\n2", ": line 2: the file breaks off, expected a comma or the end of the list"),
        (b'[1,\n{"a": ', ": line 2: not JSON (Expecting value), or the file breaks off"),
        (b'[1,\n{"a": "b' + b"c" * 99, ": line 2: not JSON (Unterminated string starting at), or the file breaks off"),
        (b"[1]\n\n[2]", ": line 3: '[' behind the list, expected nothing"),
        (b'[1,\n"a\xff"]', ": line 2: not UTF-8 (byte 6 of the file)"),
        (b'["\xc3\xa9",\n\n"\xe2\x82', ": line 3: not UTF-8 (byte 9 of the file)"),
        (b"[1,\n" + b"[" * 200_000, ": line 2: not JSON (maximum recursion depth exceeded"),
        (b"[1,\n" + b"9" * 5000 + b"]", ": line 2: not JSON (Exceeds the limit (4300 digits)"),
    ],
)
@pytest.mark.parametrize("chunk", [1 << 20, 8])
def test_a_bad_list_is_named(tmp_path, monkeypatch, content, said, chunk):
    monkeypatch.setattr(samples, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        SampleFile(path)
    assert str(raised.value).startswith(f"{path}{said}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": ', "not JSON (Expecting value, column 6)"),
        (b"1 2", "not JSON (Extra data, column 3)"),
        (b'"\xff"', "not UTF-8 (byte 10 of the file)"),
        (b"[" * 200_000, "not JSON (maximum recursion depth exceeded"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path, line, said):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'"first"\n\n' + line + b'\n"last"\n')
    file = SampleFile(path)
    assert (len(file), file[0], file[2]) == (3, "first", "last")
    with pytest.raises(UserError) as raised:
        file[1]
    assert str(raised.value).startswith(f"{path}: line 3: {said}")


def test_an_unfit_path_is_named(tmp_path):
    for name, said in (
        ("none.json", "cannot be read (No such file or directory), expected samples in LLaVA's JSON"),
        ("a.txt", "expected a name in .json (a list of samples) or .jsonl (a sample a line)"),
    ):
        with pytest.raises(UserError) as raised:
            SampleFile(tmp_path / name)
        assert str(raised.value) == f"{tmp_path / name}: {said}"
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(UserError, match=r"empty\.jsonl: empty, expected samples"):
        SampleFile(tmp_path / "empty.jsonl")


def test_a_file_that_goes_away_or_changes_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    file = SampleFile(path)
    path.write_text("{x: 2}")
    with pytest.raises(UserError, match=r"a\.json: line 1, item 1: not JSON"):
        file[0]
    path.unlink()
    with pytest.raises(UserError, match=r"a\.json: cannot be read \(No such file or directory\)"):
        file[0]
    with pytest.raises(IndexError):
        file[2]
    with pytest.raises(IndexError):
        file[-1]
