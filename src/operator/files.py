"""`taskstream files`: upload, list, download and delete files."""

from __future__ import annotations

import argparse
import mimetypes
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import msgspec

from .client import path
from .commands import NounCommands, OperatorSession
from .failures import CommandFailed, WrongUsage
from .nouns import Body, change, show, sure, yes_option
from .output import Column
from .progress import progress_bar
from .text import number, when

CHUNK = 256 * 1024
PART = ".part"
"""End of the name of a file that is not complete; the next download resumes it."""


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    commands = NounCommands(parser)
    listing = commands.add("list", list_files, "list files, newest first", lists=True)
    listing.add_argument("--owner", metavar="USER", help="of this user; default: all that you may see")
    listing.add_argument("--purpose", metavar="NAME", help="only those of this purpose")
    commands.add("show", show_file, "show a file, without its bytes", "file")
    uploading = commands.add("upload", upload_file, "upload a file and print its id", "source")
    uploading.add_argument("--name", help="default: that of the file")
    uploading.add_argument("--type", metavar="TYPE", help="media type; default: by the name")
    uploading.add_argument("--purpose", metavar="NAME", help="lists filter by it")
    uploading.add_argument("--expires-in", metavar="TIME", help="such as 2d; it is kept until then, and deleted then")
    uploading.add_argument("--key", metavar="KEY", help="Idempotency-Key: the same key is the same file")
    downloading = commands.add("download", download_file, "download a file; resumes what was begun", "file")
    downloading.add_argument("--to", metavar="PATH", help="default: the name of the file, here; `-`: stdout")
    linking = commands.add("link", link_file, "print a signed link, which needs no token", "file")
    linking.add_argument("--for", dest="seconds", type=float, default=3600.0, metavar="SECONDS", help="default: 3600")
    deleting = commands.add("delete", delete_file, "delete a file", "file")
    yes_option(deleting)


async def list_files(session: OperatorSession) -> int:
    """Print files."""
    options = session.options
    columns = [
        Column("ID", lambda file: file["id"]),
        Column("BYTES", lambda file: number(file["bytes"]), right=True),
        Column("TYPE", lambda file: file["mediaType"]),
        Column("CREATED", lambda file: when(file["createdAt"], session.now, exact=options.exact)),
        Column("EXPIRES", lambda file: when(file["expiresAt"], session.now, exact=options.exact), optional=True),
        Column("NAME", lambda file: file["name"], long=True),
    ]
    query = [(name, value) for name in ("owner", "purpose") if (value := getattr(options, name))]
    return await session.table("/api/files", "files", columns, query, "no files: `taskstream files upload PATH`")


def _facts(session: OperatorSession, file: Body) -> Iterable[tuple[str, object]]:
    yield "id", file["id"]
    yield "name", file["name"]
    yield "type", file["mediaType"]
    yield "bytes", number(file["bytes"])
    yield "sha256", file["sha256"]
    yield "purpose", file["purpose"]
    yield "owner", file["owner"]
    yield "task", file["taskId"]
    yield "created", when(file["createdAt"], session.now)
    yield "expires", when(file["expiresAt"], session.now) if file["expiresAt"] else None
    yield from ((f"metadata {name}", value) for name, value in file["metadata"].items())


async def show_file(session: OperatorSession) -> int:
    return await show(session, path("files", session.options.file, "info"), _facts)


async def upload_file(session: OperatorSession) -> int:
    """Upload a file, part by part, and print its id."""
    options, source = session.options, Path(session.options.source)
    content, size = _opened(source)
    name = options.name if options.name is not None else source.name
    query = [
        ("name", name),
        ("type", options.type or mimetypes.guess_type(name)[0] or "application/octet-stream"),
        *([("purpose", options.purpose)] if options.purpose else []),
        *([("expiresIn", options.expires_in)] if options.expires_in else []),
    ]
    headers = {"Content-Length": str(size), **({"Idempotency-Key": options.key} if options.key else {})}
    with content, progress_bar(session.output, source.name, size) as shown:

        async def chunks() -> AsyncIterator[bytes]:
            done = 0
            while chunk := content.read(CHUNK):
                yield chunk
                done += len(chunk)
                shown(done)

        answer = await session.client.upload("/api/files", query, chunks(), headers)
    if session.output.json:
        session.output.raw(answer.content)
    else:
        session.output.line(str(answer.body["id"]))
    return 0


def _opened(source: Path) -> tuple[BinaryIO, int]:
    """Return a file to read, and its size. Raises WrongUsage."""
    try:
        content = source.open("rb")
        return content, os.fstat(content.fileno()).st_size
    except OSError as error:
        raise WrongUsage(f"{source}: {error.strerror}") from None


async def download_file(session: OperatorSession) -> int:
    """Download a file into a part file, which is renamed once it is complete; a later call resumes it."""
    options = session.options
    info: dict[str, Any] = (await session.client.get(path("files", options.file, "info"))).body
    where = path("files", options.file)
    if options.to == "-":
        await _copy(session, where, info, 0, sys.stdout.buffer.write)
        return 0
    name = Path(options.to) if options.to else Path(Path(str(info["name"])).name or options.file)
    target = name / (Path(str(info["name"])).name or options.file) if name.is_dir() else name
    part = target.with_name(target.name + PART)
    try:
        done = part.stat().st_size if part.exists() else 0
        with part.open("ab") as file:
            await _copy(session, where, info, done if done <= info["bytes"] else _again(file), file.write)
        part.replace(target)
    except OSError as error:
        raise WrongUsage(f"{target}: {error.strerror}") from None
    if session.output.json:
        session.output.raw(msgspec.json.encode({**info, "path": str(target)}))
    else:
        session.output.line(str(target))
    return 0


def _again(file: Any) -> int:
    """Drop what a part file has: it is of another file."""
    file.truncate(0)
    return 0


async def _copy(session: OperatorSession, where: str, info: Body, done: int, write: Callable[[bytes], object]) -> None:
    """Write the bytes of a file from a place on. Raises CommandFailed unless they are complete."""
    size = int(info["bytes"])
    if done == size:
        return
    headers = {"Range": f"bytes={done}-", "If-Range": f'"{info["sha256"]}"'} if done else {}
    with progress_bar(session.output, str(info["name"] or info["id"]), size) as shown:
        async with session.client.download(where, headers) as response:
            if done and response.status != 206:
                raise CommandFailed(f"{where} has changed; remove the `{PART}` file, and download it again")
            try:
                async for chunk in response.content.iter_chunked(CHUNK):
                    write(chunk)
                    done += len(chunk)
                    shown(done)
            except aiohttp.ClientError as error:
                raise CommandFailed(f"broken off after {done} of {size} bytes ({error}); run it again") from None
    if done != size:
        raise CommandFailed(f"broken off after {done} of {size} bytes; run it again to resume")


async def link_file(session: OperatorSession) -> int:
    where, body = path("files", session.options.file, "links"), {"expiresIn": session.options.seconds}
    return await change(session, "POST", where, body, lambda link: str(link["url"]))


async def delete_file(session: OperatorSession) -> int:
    sure(session, f"Delete the file {session.options.file}?")
    return await change(session, "DELETE", path("files", session.options.file), None, f"deleted {session.options.file}")
