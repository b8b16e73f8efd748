"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the installed version, or `source` if the package is not installed."""
    try:
        return version("lars-agent")
    except PackageNotFoundError:
        return "source"
