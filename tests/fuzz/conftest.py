"""How long to look: `make fuzz` draws many times as many requests as `make test`."""

from hypothesis import settings

settings.register_profile("long", settings.get_profile("default"), max_examples=1_000)
