"""Claiming a work folder, and writing without leaving half a file."""

import contextlib
import errno
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tga_jax import workdir
from tga_jax.errors import UserError


def test_a_folder_belongs_to_its_first_config(tmp_path):
    folder = tmp_path / "run"
    config = {"steps": 4, "optim": {"schedule": ((".*", 1.0),)}}
    workdir.claim(folder, config)
    workdir.claim(folder, config)
    assert json.loads((folder / "config.json").read_text())["steps"] == 4
    with pytest.raises(UserError, match=r"holds another run: config\.steps is 4 there and 5 now"):
        workdir.claim(folder, {**config, "steps": 5})
    with pytest.raises(UserError, match=r"config\.optim\.schedule is"):
        workdir.claim(folder, {**config, "optim": {"schedule": ((".*", 2.0),)}})


def test_a_strange_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"not empty and without config\.json"):
        workdir.claim(tmp_path, {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: cannot be read .* expected a run's config"):
        workdir.claim(tmp_path, {})


def test_differences():
    assert workdir.differences({"a": 1, "b": {"c": [1]}}, {"a": 1, "b": {"c": [1]}}) == []
    assert workdir.differences({"b": {"c": [1]}}, {"b": {"c": [2]}}) == ["config.b.c is [1] there and [2] now"]
    found = workdir.differences({"b": {"c": 1, "d": 0}}, {"b": {"c": 2, "d": 0}, "z": 1})
    assert found == ["config.b.c is 1 there and 2 now", "config.z is null there and 1 now"]


def test_what_may_change_does_not_make_another_run(tmp_path):
    folder = tmp_path / "run"
    workdir.claim(folder, {"steps": 4, "keep": 2})
    assert workdir.holds(folder, {"steps": 4, "keep": 3}, may_change=("keep",))
    with pytest.raises(UserError, match=r"config\.steps is 4 there and 5 now; choose another --workdir"):
        workdir.holds(folder, {"steps": 5, "keep": 3}, may_change=("keep",))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    workdir.write_json(path, {"x": 1})
    original = path.read_text()

    def full(self, text, **_):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=f"{tmp_path}: no space left on the disk"):
        workdir.write_json(path, {"x": 2})
    assert path.read_text() == original
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "full"), "no space left"),
        (OSError(errno.EDQUOT, "quota"), "no space left"),
        (RuntimeError("RESOURCE_EXHAUSTED: write"), "no space left"),
        (PermissionError(errno.EACCES, "no"), "cannot write here"),
        (OSError(errno.EROFS, "read-only"), "cannot write here"),
    ],
)
def test_disk_errors_name_the_folder(error, named):
    with pytest.raises(UserError, match=f"/some/where: {named}"), workdir.disk_errors(Path("/some/where")):
        raise error


def test_other_errors_pass():
    with pytest.raises(KeyError), workdir.disk_errors(Path("x")):
        raise KeyError("x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "a.json: no such file, expected a table"),
        ("{", "a.json: cannot be read (Expecting property name"),
        ('{"rows": 1}', "a.json: lacks columns, expected a table"),
        ("[]", "a.json: is a list, expected a table, an object"),
        ('{"rows": 1, "columns": 2}', None),
    ],
)
def test_what_is_wrong_with_json_is_named(tmp_path, text, said):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    if said is None:
        assert workdir.read_json(path, "a table", ("rows", "columns")) == {"rows": 1, "columns": 2}
        return
    with pytest.raises(UserError) as error:
        workdir.read_json(path, "a table", ("rows", "columns"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_several_threads_may_write_the_same_file_at_once(tmp_path):
    """As two trainings of one process do whose samples are the same."""

    def write(text: str) -> None:
        with workdir.replacing(tmp_path / "a") as aside:
            aside.write_text(text)
            time.sleep(0.02)
            assert aside.read_text() == text

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, str(i)) for i in range(4)]:
            done.result()
    assert (tmp_path / "a").read_text() in "0123"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_or_folder_takes_its_name_only_when_whole(tmp_path):
    target = tmp_path / "a"
    target.write_text("old")
    with contextlib.suppress(ZeroDivisionError), workdir.replacing(target) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    with contextlib.suppress(ZeroDivisionError), workdir.new_folder(tmp_path / "b") as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with workdir.new_folder(tmp_path / "b") as folder:
        (folder / "whole").write_text("whole")
    with pytest.raises(UserError, match="b: not empty, expected a new folder"), workdir.new_folder(tmp_path / "b"):
        pass
    assert (tmp_path / "b" / "whole").read_text() == "whole"


def test_of_many_differences_a_few_are_named(tmp_path):
    old = {"long": "x" * 400, **{f"f{i}": i for i in range(9)}}
    workdir.claim(tmp_path / "run", old)
    with pytest.raises(UserError) as error:
        workdir.holds(tmp_path / "run", {"long": 1, **{f"f{i}": -1 for i in range(9)}})
    said = str(error.value).partition("holds another run: ")[2]
    assert said.startswith("config.f0 is 0 there and -1 now, config.f1 is 1")
    assert said.endswith("config.f4 is 4 there and -1 now, and 5 more; choose another --workdir")
    assert workdir.differences(old, {**old, "long": 1})[0] == f'config.long is "{"x" * 59} ... there and 1 now'


def test_of_long_values_the_place_is_shown_at_which_they_differ():
    one, other = (f"/mnt/{'x' * 300}/{name}/{'y' * 100}" for name in ("a", "b"))
    [found] = workdir.differences({"p": one}, {"p": other})
    xs, ys = "x" * 19, "y" * 38
    assert found == f"config.p is ... {xs}/a/{ys} ... there and ... {xs}/b/{ys} ... now"


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_a_file_in_a_folders_place_is_named(tmp_path, place):
    (tmp_path / "file").write_text("mine")

    def made_new():
        with workdir.new_folder(tmp_path / place):
            pass

    makers = [made_new, lambda: workdir.claim(tmp_path / place, {"a": 1})]
    makers += [lambda: workdir.write_text(tmp_path / place / "name.json", "{}")]
    for make in makers:
        with pytest.raises(UserError, match=r"is a file, or lies below one, expected a folder$"):
            make()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_a_files_place_is_named(tmp_path):
    with pytest.raises(UserError, match=r"is a folder, expected the name of a file$"):
        workdir.write_text(tmp_path, "{}")
    assert not list(tmp_path.iterdir())


def test_what_two_would_make_one_makes_at_a_time(tmp_path):
    path = tmp_path / "parts" / "x"

    def grow(_) -> None:
        with workdir.alone(path):
            known = path.read_text() if path.exists() else ""
            time.sleep(0.05)
            path.write_text(known + "x")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(grow, range(4)))
    assert path.read_text() == "xxxx"


KEEPS = """
import sys, time
from pathlib import Path
from tga_jax import workdir
with getattr(workdir, sys.argv[1])(Path(sys.argv[2])):
    print("in", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["working", "new_folder"])
def test_a_second_process_is_refused_until_the_first_has_ended_however_it_does(tmp_path, how):
    path = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", KEEPS, how, str(path)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"in\n"
        before = sorted(tmp_path.iterdir())
        expected = rf"^{path}: another process is at work on it, expected to wait for its end or another \S+$"
        with pytest.raises(UserError, match=expected), getattr(workdir, how)(path):
            pass
        assert sorted(tmp_path.iterdir()) == before
        first.kill()
        first.wait()
        with getattr(workdir, how)(path):
            pass
    assert [found.name for found in tmp_path.iterdir()] == (["run"] if how == "new_folder" else [])


def test_processes_that_work_together_do_not_refuse_each_other(tmp_path):
    path = tmp_path / "run"
    with contextlib.ExitStack() as held:
        for process in (0, 1):
            held.enter_context(workdir.working(path, process=process))
        with pytest.raises(UserError, match=r"another --to$"):
            held.enter_context(workdir.working(path, "--to", 1))
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_removed_while_one_waited_is_taken_anew(tmp_path):
    """Many short locks, of which none may be held twice: who waits has opened a file that is removed then."""
    inside, most = [], []

    def once(_) -> None:
        with workdir.alone(tmp_path / "x"):
            inside.append(None)
            most.append(len(inside))
            time.sleep(0.001)
            inside.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(once, range(200)))
    assert set(most) == {1}
    assert not list(tmp_path.iterdir())
