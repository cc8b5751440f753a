"""The page /docs: everything that it loads is of this service."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from asgi import ask
from fastapi import FastAPI

from serving.http import AllowedHosts, SameSite, add_docs
from serving.http.docs_page import PAGE, START
from serving.metrics import Metrics

LOADED = re.findall(r"""(?:src|href)="([^"]+)\"""", PAGE)


@pytest.fixture(scope="module")
def app() -> SameSite:
    inner = FastAPI(docs_url=None, redoc_url=None)
    add_docs(inner)
    return SameSite(inner, AllowedHosts("127.0.0.1"), Metrics())


def got(app: SameSite, path: str) -> httpx.Response:
    """The answer to a client that waits for all of it."""

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get(path)

    return asyncio.run(asked())


def test_the_page_and_all_that_it_loads_come_from_the_service(app):
    files = [one for one in LOADED if not one.startswith("data:")]
    assert len(files) == 3
    for file in ["/docs", *files, re.search('url: "([^"]+)"', START)[1]]:
        assert not urlsplit(file).scheme
        assert not urlsplit(file).netloc
        answer = got(app, urljoin("/docs", file))
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
        assert answer.content
    types = [got(app, urljoin("/docs", file)).headers["content-type"].partition(";")[0] for file in files]
    assert types == ["text/css", "text/javascript", "text/javascript"]


def test_nothing_but_files_of_the_service_runs_in_the_page_and_no_frame_shows_it(app):
    policy = ask(app, "/docs", method="GET").headers["content-security-policy"]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert (parts["default-src"], parts["script-src"], parts["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert "<script>" not in PAGE
    assert "http" not in PAGE + START


def test_there_is_no_page_that_needs_another_site(app):
    assert ask(app, "/redoc", method="GET").status == 404


@pytest.mark.parametrize(
    "path", ["/docs/assets/../../__init__.py", "/docs/assets/%2e%2e/__init__.py", "/docs/assets//etc/passwd"]
)
def test_no_other_file_is_served(app, path):
    assert ask(app, path, method="GET").status == 404
