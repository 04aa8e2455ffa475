"""Every error geoseg raises on purpose.

GeosegError                 exit 1
 |-- UsageError             exit 2   also ValueError   arguments or configuration
 |-- SceneError             exit 1   also ValueError   an input raster or its georeference
 |-- LabelError             exit 1   also ValueError   reference data: polygons, masks, legends
 |-- PackageError           exit 1   also ValueError   a model package that cannot be trusted
 |-- MismatchError          exit 1   also ValueError   scene and package do not fit together
 |-- OutputError            exit 1   also OSError      a result that cannot be written
 |-- ExecutionError         exit 1   also RuntimeError tiles that failed
 +-- PartialError           exit 3   also RuntimeError some of the work is done and kept

A message has four parts, in this order: what failed, on which file or window, what was expected and
what was found, and what to change. `explain` builds it so that none is forgotten.
"""

from __future__ import annotations

from typing import ClassVar


class GeosegError(Exception):
    """Root of all errors raised by geoseg; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class UsageError(GeosegError, ValueError):
    """Arguments or configuration that cannot be acted on."""

    exit_code = 2


class SceneError(GeosegError, ValueError):
    """An input raster that is missing, broken, or lacks its georeference."""


class LabelError(GeosegError, ValueError):
    """Reference data that does not fit the scene or the legend."""


class PackageError(GeosegError, ValueError):
    """A model package that is incomplete, altered or of an unknown version."""


class MismatchError(GeosegError, ValueError):
    """A scene that is not what the model package was made for."""


class OutputError(GeosegError, OSError):
    """A result that cannot be written where it was asked for."""


class ExecutionError(GeosegError, RuntimeError):
    """Tiles that failed while being computed."""


class PartialError(GeosegError, RuntimeError):
    """Some of the work is done and kept; the rest is not."""

    exit_code = 3


def explain(what: str, *, at: object, expected: object, found: object, change: str) -> str:
    """A one-paragraph message: `what` failed, where, both sides of the comparison, and the remedy."""
    return f"{what}: {at}. Expected {expected}; found {found}. {change}"
