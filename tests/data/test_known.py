"""The table of data sets, and the check of a download against it."""

import io
import re

import pytest
import rich.console

from tga_jax.data import known
from tga_jax.errors import UserError


def touch(folder, *names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_every_entry_is_whole():
    entries = known.entries()
    assert {entry["name"] for entry in entries} >= {"llava-pretrain", "llava-mix665k", "hod", "pope", "mm-vet"}
    assert len({entry["name"] for entry in entries}) == len(entries)
    for entry in entries:
        assert set(entry) - {"size"} == {"name", "what", "from", "licence", "layout"}
        assert all(isinstance(entry[key], str) and entry[key] for key in ("name", "what", "licence"))
        assert entry["from"]
        for item in entry["layout"]:
            for pattern in [item] if isinstance(item, str) else item:
                assert re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*", pattern)
                assert ".." not in pattern


def test_a_download_is_checked(tmp_path):
    assert known.missing("llava-pretrain", tmp_path) == [
        "blip_laion_cc_sbu_558k.json",
        "images.zip or images/*/*.jpg",
    ]
    touch(tmp_path, "blip_laion_cc_sbu_558k.json", "images/00453/004539375.jpg")
    assert known.missing("LLaVA-Pretrain", tmp_path) == []
    (tmp_path / "images" / "00453" / "004539375.jpg").unlink()
    assert known.missing("llava-pretrain", tmp_path) == ["images.zip or images/*/*.jpg"]
    touch(tmp_path, "images.zip")
    assert known.missing("llava-pretrain", tmp_path) == []


def test_what_is_said(tmp_path):
    console = rich.console.Console(file=io.StringIO(), width=60)
    touch(tmp_path, "llava_v1_5_mix665k.json", "coco/train2017/1.jpg", "gqa/images/1.jpg", "ocr_vqa/images/1.jpg")
    assert known.tell("llava-mix665k", tmp_path, console) == 1
    touch(tmp_path, "textvqa/train_images/1.jpg", "vg/VG_100K/1.jpg", "vg/VG_100K_2/1.jpg")
    assert known.tell("llava-mix665k", tmp_path, console) == 0
    assert console.file.getvalue().splitlines() == [  # type: ignore[reportAttributeAccessIssue]
        f"{tmp_path}: lacks textvqa/train_images/*.jpg",
        f"{tmp_path}: lacks vg/VG_100K/*.jpg",
        f"{tmp_path}: lacks vg/VG_100K_2/*.jpg",
        f"{tmp_path}: not all of llava-mix665k's layout is there",
        f"{tmp_path}: all of llava-mix665k's layout is there",
    ]


def test_an_unknown_name_and_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"^--known: 'laion', expected one of llava-pretrain, llava-mix665k, hod, "):
        known.missing("laion", tmp_path)
    with pytest.raises(UserError) as raised:
        known.missing("hod", tmp_path / "none")
    assert str(raised.value) == f"{tmp_path / 'none'}: no such folder, expected a download of hod"
