"""How tables look in a terminal."""

import rich.box
import rich.table


def table(*columns: str | rich.table.Column, title: str | None = None, caption: str | None = None) -> rich.table.Table:
    """Without lines between columns, so that many fit into 80 characters."""
    return rich.table.Table(
        *columns, title=title, caption=caption, title_justify="left", caption_justify="left",
        box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
