"""Ray's and the model libraries' switches, before any test module imports them; the browser."""

from serve.settings import go_offline, prepare_ray_environment
from tests.chromium import browser, open_page

__all__ = ["browser", "open_page"]

prepare_ray_environment()
go_offline()
