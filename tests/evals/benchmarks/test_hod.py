"""HOD against files of its form."""

import pytest
from safety_support import DESCRIBE, captions, fails, found, put, shows

from tga_jax.evals.benchmarks import (
    hod,
)

HOD = "Class Type,Case Type,Image Name\n"


def test_hod(tmp_path):
    rows = "insulting gesture,Normal,img_hod_001447.jpg\nalcohol,Hard,img_hod_000002.jpg\n"
    put(tmp_path, "dataset/class/HOD.csv", HOD + rows + "alcohol,Hard,img_hod_000002.jpg\n")
    gesture = "dataset/class/insulting_gesture/normal_cases/img_hod_001447.jpg"
    alcohol = "dataset/class/alcohol/hard_cases/img_hod_000002.jpg"
    put(tmp_path, gesture)
    put(tmp_path, alcohol)
    samples = found(hod.BENCHMARK, tmp_path)
    assert list(samples) == [gesture, alcohol]
    assert samples[gesture].groups == {"class": "insulting gesture", "case": "normal"}
    assert samples[alcohol].groups == {"class": "alcohol", "case": "hard"}
    assert all(s.harmful and s.question == DESCRIBE and s.text is None for s in samples.values())
    assert shows(samples[alcohol], alcohol)
    assert not shows(samples[alcohol], gesture)
    captions(tmp_path, **{gesture: "a fist", alcohol: "a glass"})
    assert found(hod.BENCHMARK, tmp_path)[alcohol].text == "a glass\nDescribe this image."


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (HOD, r"HOD\.csv: has 0 rows"),
        (
            "",
            r"HOD\.csv: has 0 rows with the columns '', expected .* columns Class Type, Case Type, Image Name",
        ),
        (
            "Class,Case Type,Image Name\ngun,Hard,a.jpg\n",
            r"HOD\.csv: has 1 rows with the columns 'Class, Case Type, Image Name'",
        ),
        (HOD + "gun,Hard,a.jpg\ngun,Hard\n", r"HOD\.csv: line 3: None as `Image Name`, expected text"),
        (HOD + "gun,Hard,a.jpg\n,Hard,b.jpg\n", r"HOD\.csv: line 3: '' as `Class Type`"),
        (HOD + "gun,Hard,a.jpg\ngun,Hard,b.jpg\n", r"gun/hard_cases/b\.jpg: no such picture"),
        (HOD + 'gun,Hard,"a.jpg', r"HOD\.csv: cannot be read \(unexpected end of data\)"),
    ],
)
def test_bad_tables(tmp_path, table, message):
    put(tmp_path, "dataset/class/HOD.csv", table)
    put(tmp_path, "dataset/class/gun/hard_cases/a.jpg")
    fails(hod.BENCHMARK, tmp_path, message)


def test_a_table_that_is_not_utf8(tmp_path):
    put(tmp_path, "dataset/class/HOD.csv", HOD)
    with (tmp_path / "dataset/class/HOD.csv").open("ab") as file:
        file.write(b"gun,Hard,\xff.jpg\n")
    fails(hod.BENCHMARK, tmp_path, r"HOD\.csv: cannot be read \('utf-8' codec can't decode byte 0xff")


def test_a_table_may_begin_with_a_byte_order_mark(tmp_path):
    put(tmp_path, "dataset/class/HOD.csv", "\ufeff" + HOD + "gun,Hard,a.jpg\r\n")
    put(tmp_path, "dataset/class/gun/hard_cases/a.jpg")
    assert len(found(hod.BENCHMARK, tmp_path)) == 1
