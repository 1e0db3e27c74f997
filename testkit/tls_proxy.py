"""A reverse proxy with TLS in front of a service, which says so in `X-Forwarded-…`."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
from aiohttp import web

from .certificates import Authority
from .http_server import HttpServer

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"})


class TlsProxy(HttpServer):
    """A proxy on 127.0.0.1; use as an async context manager. Clients trust it by the certificate in `ca_file`."""

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__()
        authority = Authority(folder)
        self.ca_file = authority.file
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(*authority.issue("127.0.0.1"))
        self._target = target

    @property
    def base_url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, and its answer back as it comes."""
        said = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": f"127.0.0.1:{self.port}"}
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        content = request.content if request.body_exists else None
        async with (
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)) as session,
            session.request(
                request.method, self._target + request.path_qs, headers=headers | said, data=content,
                allow_redirects=False,
            ) as answer,
        ):  # fmt: skip
            passed = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    passed.headers.add(name, value)
            await passed.prepare(request)
            async for chunk in answer.content.iter_any():
                await passed.write(chunk)
            await passed.write_eof()
            return passed
