"""Who may call our events: only the page that this server made.

A WebUI without a password answers every program and every web page that can reach it. A page of another origin can send
requests, but it cannot read ours: it does not know the token in it, and its browser says where the request comes from.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from lib_transfer.errors import RequestError

TOKEN = secrets.token_urlsafe(32)
"""Made once per start of the server, and handed to the page in its own HTML."""

_DEFAULT_PORTS = (":80", ":443")


def check(request: Any, token: object) -> None:
    """Let only our own page pass.

    Args:
        request: the ``gr.Request`` of the event; None where gradio has none.
        token: what the page sent as the token.

    Raises:
        RequestError: the request comes from elsewhere, or from a page that an earlier start of the server made.
    """
    # gradio 3 takes the headers from the body of a request if the body has some: anyone can write those.
    real = getattr(request, "request", None)
    if real is None or not same_origin(real.headers):
        raise RequestError(
            "Nothing was done: the request did not come from this page.",
            hint="Open the WebUI itself in the browser and use the tab there.",
        )
    if not isinstance(token, str) or not hmac.compare_digest(token.encode(errors="replace"), TOKEN.encode()):
        raise RequestError(
            "Nothing was done: the server was started again after this page was opened.", hint="Reload the page."
        )


def same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a page of the server that it goes to, by what the browser says; a program says nothing.

    ``Sec-Fetch-Site`` says it plainly, also behind a proxy that changes ``Host``, and no page can forge it; browsers leave
    it out where the connection is not secure. ``Origin`` has to be compared with the name that the browser called, which a
    proxy passes on as ``X-Forwarded-Host``.
    """
    site = headers.get("sec-fetch-site")
    if site:
        return site == "same-origin"
    origin = headers.get("origin")
    if origin is None:
        return True
    called = [headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")]
    host = _host(urlsplit(origin).netloc)
    return bool(host) and host in map(_host, called)


def _host(text: str) -> str:
    """A host and its port, where that is not the usual one."""
    host = text.strip().casefold()
    return next((host.removesuffix(port) for port in _DEFAULT_PORTS if host.endswith(port)), host)
