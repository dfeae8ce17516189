"""Fixtures for stores: no pauses between attempts, and servers that answer as a test says."""

from tests.support.tiny_s3 import no_pauses, serve, some_keys  # noqa: F401
