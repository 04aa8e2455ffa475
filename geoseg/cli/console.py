"""What every command shares: output, progress, errors and exit codes."""

from __future__ import annotations

import functools
import json
import logging
import sys
import traceback
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from geoseg.errors import GeosegError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from geoseg.jobs import Progress

_log = logging.getLogger(__name__)
_STOPPED = (
    "stopped by the user; nothing half-written is left. The same `predict`, `vectorize` or `train` goes on "
    "where it stopped or last kept its state, other commands start again"
)
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class _JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class Console:
    """Prints results to standard output and everything else to standard error."""

    def __init__(self, *, as_json: bool, verbosity: int, log_json: bool = False) -> None:
        self.as_json = as_json
        """Results are one JSON document; nothing else goes to standard output."""
        self.verbosity = verbosity
        """-1 quiet, 0 normal, 1 and 2 verbose."""
        self.log_json = log_json
        """Remarks, errors and progress are JSON lines, like the log."""
        self.answered = False
        """A result has been shown: an error that comes after it is no second JSON document."""

    def result(self, document: Mapping[str, Any], lines: Sequence[str]) -> None:
        """The command's result: the document with --json, else the lines (none with -q)."""
        self.answered = True
        if self.as_json:
            click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        elif self.verbosity >= 0:
            for line in lines:
                click.echo(line)

    def note(self, text: str) -> None:
        """A remark on standard error, silent with -q."""
        if self.verbosity >= 0:
            self._tell(logging.INFO, text, text)

    def warn(self, text: str) -> None:
        """Something that deserves a look, silent with -q."""
        if self.verbosity >= 0:
            self._tell(logging.WARNING, text, f"geoseg: warning: {text}")

    def error(self, text: str) -> None:
        """An error; whether it ends the command is the caller's business."""
        self._tell(logging.ERROR, text, f"geoseg: error: {text}")

    def _tell(self, level: int, record: str, line: str) -> None:
        if self.log_json:
            _log.log(level, "%s", record)
        else:
            click.echo(line, err=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
        """A table as lines: the first column to the left, the others, numbers, to the right."""
        return _table(columns, rows, justify="right")

    def facts(self, subject: str, facts: Mapping[str, object]) -> list[str]:
        """Names and values as lines, all to the left; a list of texts has a line for each."""
        rows = [(name.replace("_", " "), _shown(value)) for name, value in facts.items()]
        return [subject, *_table(("", ""), rows, justify="left")[1:]]

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """A callback (what, done, total): a bar on a terminal, else a plain line now and then."""
        if self.verbosity < 0:
            yield lambda _what, _done, _total: None
        elif sys.stderr.isatty() and not self.log_json:
            with _bar(title) as report:
                yield report
        else:
            yield _plain_lines(title, self.note)


def _shown(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    separator = "\n" if all(isinstance(v, str) for v in value) else ", "
    return separator.join(map(str, value))


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, justify: Literal["left", "right"]
) -> list[str]:
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify=justify if i else "left")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    rich = RichConsole(width=110, force_terminal=False, markup=False)
    with rich.capture() as capture:
        rich.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=RichConsole(stderr=True)) as bars:
        task = bars.add_task(title, total=None)

        def report(what: str, done: int, total: int) -> None:
            bars.update(task, description=f"{title}: {what}", completed=done, total=total)

        yield report


def _plain_lines(title: str, tell: Callable[[str], None]) -> Progress:
    """At most about ten lines per stage."""
    last: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if last.get(what) != tenth:
            last[what] = tenth
            tell(f"{title}: {what} {done}/{total}")

    return report


def command_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds --json, -v, -q and --log-json, and turns errors into messages and exit codes.

    The command receives a `console` and may raise any GeosegError.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
    @click.option("-v", "--verbose", count=True, help="Log more; twice for debugging.")
    @click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
    @click.option("--log-json", is_flag=True, help="Log as JSON lines on standard error.")
    @functools.wraps(function)
    def wrapped(*, as_json: bool, verbose: int, quiet: bool, log_json: bool, **arguments: Any) -> None:
        verbosity = -1 if quiet else min(verbose, 2)
        _set_up_logging(verbosity, as_json=log_json)
        console = Console(as_json=as_json, verbosity=verbosity, log_json=log_json)
        try:
            function(console=console, **arguments)
        except GeosegError as error:
            fail(console, str(error), type(error).__name__, error.exit_code)
        except KeyboardInterrupt:
            fail(console, _STOPPED, "Interrupted", 130)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence: a message and an exit code
            if verbosity > 0:
                traceback.print_exc()
            text = f"unexpected {type(error).__name__}: {error}. Run with -v for the traceback and report it."
            fail(console, text, type(error).__name__, 1)

    return wrapped


def fail(console: Console, message: str, kind: str, code: int) -> None:
    """Prints one paragraph (and, with --json, a document if there is none yet) and exits with `code`."""
    if console.as_json and not console.answered:
        click.echo(json.dumps({"error": {"kind": kind, "message": message}}, ensure_ascii=False))
    console.error(message)
    raise click.exceptions.Exit(code)


def _set_up_logging(verbosity: int, *, as_json: bool) -> None:
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if as_json else plain)
    logger = logging.getLogger("geoseg")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if as_json and verbosity == 0 else _LEVELS[verbosity])
    # Dask reports workers that we stop ourselves, at length; what matters comes to us as an exception.
    logging.getLogger("distributed").setLevel(logging.CRITICAL if verbosity <= 1 else logging.INFO)
