"""Fixtures for the doctor: servers that supply small data files."""

from tests.support.mirrors import mirrors, official  # noqa: F401
