"""The live view of `aegis top` on a terminal.

It draws what the sampler knows, as often as that has looked. Nothing moves by itself and
only what changed is sent, so it is of use over slow links and without colour.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final, Literal

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from aegis.ops._top_detail import describe
from aegis.ops._top_sampler import MAX_RESOURCES, TopSampler
from aegis.ops._top_tables import VIEWS, Column, Row, View, headline

__all__ = ["TopApp"]

MAX_ROWS: Final = 500
"""Rows that are drawn, the first as they are sorted; a filter finds the others."""

HELP: Final = """\
1 2 3 4, Tab  instances, nodes, resources, failovers
arrows, Page  move
Enter         open what the cursor is on; Esc closes it
s or >, <     sort by the next column, the one before; or click on it
r             the other way round
/             show only rows with a word; Esc shows all again
p or space    hold the picture, and let it go on
? or h        this page
q             quit

Rates and queues come with the beats of the nodes. p99 is how long
the quicker 99 of 100 handlers took since the last look; "-" where
nothing ran."""

_STATES: Final = {
    "healthy": "green",
    "running": "green",
    "ok": "green",
    "draining": "yellow",
    "starting": "yellow",
    "unhealthy": "bold red",
    "no answer": "bold red",
}


def _justified(column: Column) -> Literal["left", "right"]:
    return "right" if column.number else "left"


class _Page(ModalScreen[None]):
    """Text over the table, until it is closed."""

    CSS = """
    _Page { align: center middle; }
    _Page VerticalScroll { width: 90%; height: auto; max-height: 90%; border: round $accent;
                           padding: 0 1; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark,h", "dismiss", "close")
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        """Lay it out."""
        with VerticalScroll() as page:
            page.border_title = self._title
            yield Static(Text(self._text), id="text")

    def show(self, text: str) -> None:
        """Replace the text."""
        self.query_one("#text", Static).update(Text(text))


class TopApp(App[None]):
    """Shows one system until it is left; ``every`` is how many seconds lie between looks."""

    CSS = """
    Screen { layout: vertical; }
    #head { height: auto; padding: 0 1; }
    #tabs { height: 1; padding: 0 1; }
    #filter { display: none; height: 3; }
    #filter.open { display: block; }
    DataTable { height: 1fr; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("s,greater_than_sign", "sort(1)", "sort"),
        Binding("less_than_sign", "sort(-1)", show=False),
        Binding("r", "reverse", "reverse"),
        Binding("slash", "filter", "filter"),
        Binding("p,space", "pause", "pause"),
        Binding("tab", "view(-1)", "next", priority=True),
        Binding("question_mark,h", "help", "help", key_display="?"),
        *(Binding(str(number + 1), f"view({number})", show=False) for number in range(len(VIEWS))),
    ]

    def __init__(self, sampler: TopSampler, *, every: float) -> None:
        super().__init__()
        self.animation_level = "none"
        self.paused = False
        self.chosen = 0
        """The view that is shown, as an index."""
        self.word = ""
        """What rows must have to be shown."""
        self._order = [(view.sorted_by, view.descending) for view in VIEWS]
        self.sampler = sampler
        self._every = every
        self._shown: list[Row] = []
        self._opened: str | None = None
        self._asked = asyncio.Event()
        self._head = Static(id="head")
        self._tabs = Static(id="tabs")
        hint = "show rows with ... (Enter: keep, Esc: all)"
        self._filter = Input(placeholder=hint, id="filter")
        self._table = DataTable[Text](cursor_type="row", id="table")

    @property
    def view(self) -> View:
        """The table that is shown."""
        return VIEWS[self.chosen]

    # -- life ---------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Lay it out."""
        yield self._head
        yield self._tabs
        yield self._filter
        yield self._table
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to look."""
        self._show_columns()
        self.draw()
        self._table.focus()
        self.run_worker(self._look_forever(), exclusive=True)

    async def _look_forever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await self._asked.wait()
            except TimeoutError:
                pass
            self._asked.clear()
            if not self.paused:
                await self.sampler.look(resources=self._wants_resources())
                self.draw()

    def _wants_resources(self) -> bool:
        return self.view.name == "Resources" or self._opened is not None

    # -- drawing ------------------------------------------------------------------------

    def draw(self) -> None:
        """Draw what is known by now."""
        state, view = self.sampler.state, self.view
        line = Text(headline(state.totals()))
        if self.sampler.problem:
            line.append(f"\n{self.sampler.problem}", style="bold red")
        if self.paused:
            line.append("  PAUSED", style="bold yellow")
        self._head.update(line)
        column, descending = self._order[self.chosen]
        rows = [row for row in view.rows(state) if view.matches(row, self.word)]
        self._show_tabs(len(rows))
        self._show_rows(view.sorted(rows, column, descending)[:MAX_ROWS])
        if self._opened is not None and isinstance(self.screen, _Page):
            self.screen.show(describe(state, view, self._opened))

    def _show_tabs(self, rows: int) -> None:
        tabs = Text()
        for number, view in enumerate(VIEWS):
            style = "bold reverse" if number == self.chosen else ""
            tabs.append(f" {number + 1} {view.name} ", style=style).append(" ")
        more = "+" if self.view.name == "Resources" and self.sampler.more_resources else ""
        shown = f" (the first {MAX_ROWS})" if rows > MAX_ROWS else ""
        tabs.append(f"{rows}{more}{shown}")
        if more:
            tabs.append(f" of more than {MAX_RESOURCES}")
        if self.word:
            tabs.append(f"  with {self.word!r}", style="bold")
        self._tabs.update(tabs)

    def _show_columns(self) -> None:
        table = self._table
        table.clear(columns=True)
        self._shown = []
        sorted_by, descending = self._order[self.chosen]
        for number, column in enumerate(self.view.columns):
            mark = (" v" if descending else " ^") if number == sorted_by else ""
            title = Text(f"{column.title}{mark}", justify=_justified(column))
            table.add_column(title, key=str(number))

    def _show_rows(self, rows: list[Row]) -> None:
        table, view = self._table, self.view
        keys = [view.key(row) for row in rows]
        if keys == [view.key(row) for row in self._shown]:
            for row, old in zip(rows, self._shown, strict=True):
                for number, (cell, before) in enumerate(
                    zip(view.cells(row), view.cells(old), strict=True)
                ):
                    if cell != before:
                        table.update_cell(
                            view.key(row), str(number), self._cell(number, cell), update_width=True
                        )
        else:
            cursor = self._key_at_cursor()
            at = table.cursor_row
            table.clear()
            for row, key in zip(rows, keys, strict=True):
                cells = enumerate(view.cells(row))
                table.add_row(*(self._cell(number, cell) for number, cell in cells), key=key)
            # The cursor stays with its row, wherever that has gone.
            table.move_cursor(row=keys.index(cursor) if cursor in keys else at, animate=False)
        self._shown = rows

    def _cell(self, number: int, cell: str) -> Text:
        # Names are data: markup in them means nothing.
        column = self.view.columns[number]
        return Text(cell, style=_STATES.get(cell, ""), justify=_justified(column))

    def _key_at_cursor(self) -> str:
        row = self._table.cursor_row
        return self.view.key(self._shown[row]) if row < len(self._shown) else ""

    # -- keys ---------------------------------------------------------------------------

    def action_view(self, number: int) -> None:
        """Show another table: by number, or the next."""
        self.chosen = (self.chosen + 1) % len(VIEWS) if number < 0 else number
        self._show_columns()
        self.draw()
        self._asked.set()

    def action_sort(self, step: int) -> None:
        """Sort by the next column, or the one before."""
        column, _ = self._order[self.chosen]
        self._sort_by((column + step) % len(self.view.columns))

    def _sort_by(self, column: int) -> None:
        self._order[self.chosen] = column, self.view.columns[column].number
        self._show_columns()
        self.draw()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        column, descending = self._order[self.chosen]
        self._order[self.chosen] = column, not descending
        self._show_columns()
        self.draw()

    def action_pause(self) -> None:
        """Hold the picture, or let it go on."""
        self.paused = not self.paused
        self.draw()
        self._asked.set()

    def action_filter(self) -> None:
        """Ask for a word that rows must have."""
        self._filter.add_class("open")
        self._filter.focus()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(_Page("aegis top", HELP))

    def key_escape(self) -> None:
        """Show all rows again."""
        self._filter.value = ""
        self._close_filter()

    def _close_filter(self) -> None:
        self._filter.remove_class("open")
        self._table.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self.word = event.value.strip()
        self.draw()

    def on_input_submitted(self) -> None:
        """Keep the filter."""
        self._close_filter()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column whose title was clicked; again: the other way round."""
        if event.column_index == self._order[self.chosen][0]:
            self.action_reverse()
        else:
            self._sort_by(event.column_index)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the row."""
        key = self._opened = str(event.row_key.value)

        def closed(_: Any) -> None:
            self._opened = None

        self.push_screen(_Page(key, describe(self.sampler.state, self.view, key)), closed)
        self._asked.set()
