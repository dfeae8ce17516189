"""Fixtures for fetching: small official files, and servers that supply them."""

from tests.support.mirrors import cache, few_attempts, mirrors, no_proxy_and_no_pauses, official  # noqa: F401
