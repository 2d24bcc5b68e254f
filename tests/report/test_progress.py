"""Bars in a terminal; in a pipe a line a minute."""

import io

import pytest
import rich.console

from tga_jax.report import progress
from tga_jax.report.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """One clock for ours and rich's, in seconds, moved by hand."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def pipe() -> rich.console.Console:
    return rich.console.Console(file=io.StringIO(), width=30)


def lines(console: rich.console.Console) -> list[str]:
    return console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_pipe_gets_a_line_a_minute_for_each_task(clock):
    console = pipe()
    with Progress(console) as bar:
        bar.get_time = lambda: clock[0]
        one, two = bar.add_task("answers to a benchmark [a]", total=4000), bar.add_task("verdicts", total=10)
        for second in range(150):
            clock[0] = 1000.0 + second
            bar.advance(one, 10)
            if second == 100:
                bar.update(two, completed=3, shown="loss 0.123")
    found = lines(console)
    assert len(found) == 3
    assert found[0] == "answers to a benchmark [a]: 610 of 4,000, 6 min left"
    assert found[1].startswith("verdicts: 3 of 10, loss 0.123")
    assert found[2].startswith("answers to a benchmark [a]: 1,210 of 4,000, ")


def test_what_has_no_total_is_named_once(clock):
    console = pipe()
    with Progress(console) as bar:
        task = bar.add_task("drawing", total=None)
        clock[0] += 1000
        bar.update(task)
        bar.remove_task(task)
    assert lines(console) == ["drawing ..."]


def test_short_work_says_nothing(clock):
    console = pipe()
    with Progress(console, transient=True) as bar:
        assert list(bar.track(range(3), description="rows")) == [0, 1, 2]
    assert lines(console) == []


def test_without_a_console_there_is_nothing_to_show(clock, capsys):
    with Progress(None) as bar:
        task = bar.add_task("rows", total=3)
        clock[0] += 100
        bar.advance(task)
        assert bar.tasks[0].completed == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("color", [True, False])
def test_a_terminal_gets_a_bar_without_colours_if_asked(monkeypatch, color):
    monkeypatch.setenv("TERM", "xterm")
    (monkeypatch.delenv if color else monkeypatch.setenv)("NO_COLOR", *([False] if color else ["1"]))
    console = rich.console.Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    with Progress(console) as bar:
        bar.update(bar.add_task("rows", total=3), completed=2, shown="loss 0.5")
    shown = "\n".join(lines(console))
    assert "2/3" in shown
    assert "loss 0.5" in shown
    assert ("\x1b[3" in shown) == color


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (59.4, "59 s"), (61, "1 min"), (3599, "60 min"), (5400, "1.5 h")]
)
def test_lengths_of_time(seconds, said):
    assert progress._length(seconds) == said
