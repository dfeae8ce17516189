"""Under which conditions a figure was measured, in one line."""

from datetime import UTC, datetime

from fmnist.environment import describe_environment


def line() -> str:
    """Date, machine, versions and commit."""
    environment = describe_environment()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {environment.processor}, {environment.cores} cores, "
        f"{environment.platform}; Python {environment.python}, TensorFlow "
        f"{environment.packages['tensorflow']}, Keras {environment.packages['keras']}; "
        f"code {(environment.commit or 'unknown')[:12]}"
    )
