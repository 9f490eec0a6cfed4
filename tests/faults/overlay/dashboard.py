"""Serve's REST interface on a head, called as KubeRay v1.7.0's operator calls it.

Its client is `ray-operator/controllers/ray/utils/dashboardclient/dashboard_httpclient.go`.
"""

from typing import Any

import httpx

from .serve_config import Config

_PORT = 8265
# The operator gives up on a call after that, and tries again at its next round.
_TIMEOUT_S = 2


class Refused(Exception):
    """The head refused a configuration; the message is its answer."""


class Dashboard:
    """Serve's REST interface on a head; `token` is the cluster's, if it has one."""

    def __init__(self, address: str, token: str | None) -> None:
        self._url = f"http://{address}:{_PORT}/api/serve/applications/"
        self._headers = {} if token is None else {"x-ray-authorization": f"Bearer {token}"}

    def details(self) -> dict[str, Any]:
        """All that Serve tells; empty where the head doesn't answer."""
        try:
            reply = httpx.get(
                self._url,
                params={"api_type": "declarative"},
                headers=self._headers,
                timeout=_TIMEOUT_S,
            )
            reply.raise_for_status()
            details: dict[str, Any] = reply.json()
        except (httpx.HTTPError, ValueError):
            return {}
        return details

    def put(self, config: Config) -> bool:
        """Send the configuration; False where the head doesn't answer in time.

        Raises:
            Refused: the head says that it is wrong.
        """
        try:
            reply = httpx.put(self._url, json=config, headers=self._headers, timeout=_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        if reply.status_code == 400:
            raise Refused(reply.text)
        return reply.is_success


def running(details: dict[str, Any]) -> bool:
    """Whether there is an application, and all are RUNNING: what the operator calls ready."""
    applications = details.get("applications") or {}
    return bool(applications) and all(app["status"] == "RUNNING" for app in applications.values())
