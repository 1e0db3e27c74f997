import assert from "node:assert/strict";
import { test } from "node:test";
import { href, match, parseAddress } from "../src/router.ts";

test("an address has a path and a query", () => {
  const { path, query } = parseAddress("#/tasks?status=FAILED&endedSince=-1h&type=a&type=b");
  assert.equal(path, "/tasks");
  assert.deepEqual(query.getAll("type"), ["a", "b"]);
  assert.equal(parseAddress("").path, "/");
});

test("an id with any characters survives its way through an address", () => {
  for (const id of ["01KDW~alice", "01KDW~a/b c?d#e%", "01KDW~ünï", "01KDW~%2F"]) {
    const { path } = parseAddress(href("/task/{id}", { id }));
    assert.deepEqual(match("/task/{id}", path), { id });
  }
});

test("a pattern matches its own form only", () => {
  assert.equal(match("/fleet/{id}", "/fleet"), null);
  assert.equal(match("/fleet/{id}", "/fleet/a/b"), null);
  assert.deepEqual(match("/fleet/new", "/fleet/new"), {});
  assert.deepEqual(match("/", "/"), {});
});
