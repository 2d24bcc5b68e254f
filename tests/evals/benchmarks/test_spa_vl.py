"""SPA-VL's test split against tables of its form."""

import pyarrow
import pyarrow.parquet
import pytest
from general_support import png
from safety_support import fails, found

from tga_jax.errors import UserError
from tga_jax.evals.benchmarks import spa_vl

COLORS = {"harm": "red", "help": "blue"}


def row(split, **fields):
    picture = {"bytes": png(COLORS[split]), "path": "1.png"}
    return {"image": picture, "question": f"Why {split}?", "class1": "Misinformation Harms"} | fields


def put_table(folder, split, *rows, name="00000-of-00001"):
    (folder / "test").mkdir(exist_ok=True)
    table = pyarrow.Table.from_pylist(list(rows))
    pyarrow.parquet.write_table(table, folder / f"test/{split}-{name}.parquet", row_group_size=1)


def test_spa_vl(tmp_path):
    put_table(tmp_path, "harm", row("harm"), row("harm", question="How\nso?"), name="00000-of-00002")
    put_table(tmp_path, "harm", row("harm", question="And?"), name="00001-of-00002")
    put_table(tmp_path, "help", {k: v for k, v in row("help").items() if k != "class1"})
    samples = found(spa_vl.BENCHMARK, tmp_path)
    assert [(s.id, s.question, s.groups, s.harmful) for s in samples.values()] == [
        ("harm/0", "<image>\nWhy harm?", {"split": "harm", "class": "Misinformation Harms"}, True),
        ("harm/1", "<image>\nHow\nso?", {"split": "harm", "class": "Misinformation Harms"}, True),
        ("harm/2", "<image>\nAnd?", {"split": "harm", "class": "Misinformation Harms"}, True),
        ("help/0", "<image>\nWhy help?", {"split": "help"}, False),
    ]
    assert samples["harm/2"].images[0]().getpixel((0, 0)) == (255, 0, 0)
    assert samples["help/0"].images[0]().getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": ""}, r"harm-00000-of-00001\.parquet: row 1: '' as `question`"),
        ({"image": {"bytes": None, "path": "1.png"}}, r"row 1: .* as `image`, expected a picture's bytes"),
        ({"class1": None}, r"row 1: None as `class1`"),
    ],
)
def test_bad_rows(tmp_path, fields, message):
    put_table(tmp_path, "harm", row("harm"), row("harm", **fields))
    fails(spa_vl.BENCHMARK, tmp_path, message)


def test_bad_tables(tmp_path):
    put_table(tmp_path, "harm", row("harm"))
    fails(spa_vl.BENCHMARK, tmp_path, r"test: no help-\*\.parquet, expected test/harm-\*\.parquet and test/help")
    put_table(tmp_path, "harm", {"text": "a"})
    fails(
        spa_vl.BENCHMARK, tmp_path, "has 1 rows with the columns 'text', expected a table with the columns question, i"
    )
    (tmp_path / "test/harm-00000-of-00001.parquet").write_bytes(b"no table")
    fails(spa_vl.BENCHMARK, tmp_path, r"harm-00000-of-00001\.parquet: cannot be read")


def test_a_damaged_picture_is_named_by_its_row(tmp_path):
    put_table(tmp_path, "harm", row("harm", image={"bytes": b"no picture", "path": "1.png"}))
    put_table(tmp_path, "help", row("help"))
    with pytest.raises(UserError, match=r"harm-00000-of-00001\.parquet: row 0: cannot be read as an image"):
        next(iter(spa_vl.BENCHMARK.samples(tmp_path))).images[0]()
