"""What the tests of the general benchmarks share."""

import io
import json
import re

import pytest
from PIL import Image

from tga_jax.errors import UserError

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def png(color="red"):
    file = io.BytesIO()
    Image.new("RGB", (2, 2), color).save(file, "PNG")
    return file.getvalue()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def load(module, folder):
    return list(module.BENCHMARK.samples(folder))


def error(module, folder, message):
    """Loading fails with one line that has the words, after the folder's name."""
    with pytest.raises(UserError, match=re.escape(message)) as info:
        load(module, folder)
    assert "\n" not in str(info.value)
    assert str(folder) in str(info.value)


def question(identity, image, text, **more):
    return {"question_id": identity, "image": image, "text": text, **more}
