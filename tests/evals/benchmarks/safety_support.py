"""What the tests of the safety benchmarks share."""

import json
import zlib

import pytest
from PIL import Image

from tga_jax.errors import UserError

DESCRIBE = "<image>\nDescribe this image."


def put(folder, name, content=None):
    """A file with the text, a JSON value, or a small picture whose colour tells its name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        Image.new("RGB", (2, 2), color_of(name)).save(path, lossless=True)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def color_of(name):
    return tuple(zlib.crc32(name.encode()).to_bytes(4, "big")[:3])


def put_lines(folder, name, rows):
    put(folder, name, "\n".join(json.dumps(row) for row in rows))


def captions(folder, **of):
    put_lines(folder, "captions.jsonl", [{"image": k, "image_caption": v} for k, v in of.items()])


def found(benchmark, folder, kinds=(bool,)):
    """Its samples by id, after what holds for all of them; kinds: the types that `harmful` may have."""
    samples = list(benchmark.samples(folder))
    assert [s.id for s in samples] == [s.id for s in benchmark.samples(folder)]
    assert len({s.id for s in samples}) == len(samples)
    for sample in samples:
        assert sample.question.count("<image>") == len(sample.images)
        assert "<image>" not in (sample.text or "")
        assert sample.target is None
        assert type(sample.harmful) in kinds
    return {s.id: s for s in samples}


def shows(sample, name):
    (load,) = sample.images
    seen = load().getpixel((0, 0))
    return all(abs(a - b) < 9 for a, b in zip(seen, color_of(name), strict=True))  # JPEG is not exact


def fails(benchmark, folder, message):
    with pytest.raises(UserError, match=message) as error:
        list(benchmark.samples(folder))
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
