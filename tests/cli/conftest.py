"""Commands run in this process, and the files they are tried on."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner

from geoseg.cli.main import main


@dataclass
class Answer:
    """What a command left on the screen."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    @property
    def message(self) -> str:
        """The error, one paragraph."""
        lines = [line for line in self.err.splitlines() if line.startswith("geoseg: error: ")]
        assert lines, self.err
        return lines[-1].removeprefix("geoseg: error: ")


@pytest.fixture
def geoseg():
    """Runs `geoseg ARGUMENTS` and returns its exit code, standard output and standard error."""

    def run(*arguments: object) -> Answer:
        result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        return Answer(code=result.exit_code, out=result.stdout, err=result.stderr)

    yield run
    logger = logging.getLogger("geoseg")  # the handler writes to a screen that is gone
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
