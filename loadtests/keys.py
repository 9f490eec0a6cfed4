"""Where a load test's API key comes from, and how it stays out of reports."""

import os
from collections.abc import Sequence

# Command-line arguments are visible in the machine's list of processes; this isn't.
KEY_VARIABLE = "DSD_API_KEY"
KEY_HELP = f"an API key; {KEY_VARIABLE} of the environment when absent"


def environments_key() -> str | None:
    """The environment's API key, if there is one."""
    return os.environ.get(KEY_VARIABLE) or None


def without_key(arguments: Sequence[str], key: str | None) -> list[str]:
    """A command's arguments as they may be written down."""
    return [
        f"{argument.removesuffix(key)}..."
        if key and (argument == key or argument.endswith(f"={key}"))
        else argument
        for argument in arguments
    ]
