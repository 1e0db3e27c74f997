import assert from "node:assert/strict";
import { test } from "node:test";
import { byType, NOTHING, plus, topText } from "../src/fleet/dead.ts";
import {
  limitProblems,
  limitsBody,
  limitsDraft,
  limitText,
  numberIn,
  ownLimitsText,
  previewText,
  used,
} from "../src/fleet/limits.ts";
import { slotsOf, waitingFor } from "../src/fleet/reasons.ts";
import {
  countStates,
  failureRate,
  filtered,
  percent,
  reasonOf,
  roomOf,
  type StatedServer,
  sinceOf,
  stateOf,
  worstFirst,
} from "../src/fleet/server_state.ts";

const ONLINE: StatedServer & { name: string; provider: string; labels: Record<string, string> } = {
  id: "gpu-1",
  name: "GPU",
  provider: "rack",
  labels: { gpu: "a100", zone: "b" },
  status: "online",
  statusReason: "health check answered 200",
  statusSince: "2026-11-30T10:00:00.000Z",
  offlineSince: null,
  maintenance: false,
  maintenanceReason: null,
  maintenanceSince: null,
  circuit: "closed",
  circuitOpenUntil: null,
  circuitReason: null,
  circuitOwner: null,
  busySince: null,
  nextTryAt: null,
  overflow: null,
  activeTasks: 0,
  maxConcurrent: 8,
  currentLimit: 8,
  removed: null,
};
const with_ = (change: Partial<StatedServer>, id = "gpu-1") => ({ ...ONLINE, ...change, id });

test("a server's state is the strongest reason why it gets no tasks", () => {
  const offline = { status: "offline" as const, statusReason: "connection refused" };
  const removed = { since: "2026-11-30T02:17:00.000Z", reason: "offline for more than 180 s", by: {}, returns: true };
  assert.equal(stateOf(ONLINE), "online");
  assert.equal(stateOf(with_(offline)), "offline");
  assert.equal(stateOf(with_({ ...offline, maintenance: true })), "maintenance");
  assert.equal(stateOf(with_({ ...offline, removed })), "gone");
  assert.equal(stateOf(with_({ circuit: "open" })), "open");
  assert.equal(stateOf(with_({ circuit: "half-open" })), "half-open");
  assert.equal(stateOf(with_({ busySince: "2026-11-30T10:00:00.000Z" })), "busy");
  assert.equal(stateOf(with_({ overflow: {} })), "standby");
  assert.equal(stateOf(with_({ overflow: {}, activeTasks: 1 })), "online");
});

test("a state has its reason in words and its own beginning", () => {
  const drained = with_({
    maintenance: true,
    maintenanceReason: "new driver",
    maintenanceSince: "2026-11-30T11:00:00.000Z",
    activeTasks: 1,
  });
  assert.equal(reasonOf(drained), "new driver; 1 task still runs");
  assert.equal(sinceOf(drained), "2026-11-30T11:00:00.000Z");
  assert.equal(reasonOf(with_({ maintenance: true })), "no reason was given");
  assert.equal(
    reasonOf(with_({ circuit: "open", circuitReason: "5 failures in a row", circuitOwner: "bob" })),
    "5 failures in a row, all of bob",
  );
  assert.equal(
    reasonOf(with_({ busySince: "2026-11-30T10:00:00.000Z", currentLimit: 2 })),
    "it says that it is busy; sent 2 of 8 at a time",
  );
  const offline = with_({ status: "offline", statusReason: "refused", offlineSince: "2026-11-30T09:00:00.000Z" });
  assert.equal(sinceOf(offline), "2026-11-30T09:00:00.000Z");
});

test("a server that gets no tasks has no room, and a busy one only what it is sent", () => {
  assert.equal(roomOf(with_({ activeTasks: 3 })), 5);
  assert.equal(roomOf(with_({ maintenance: true })), 0);
  assert.equal(roomOf(with_({ busySince: "2026-11-30T10:00:00.000Z", currentLimit: 2, activeTasks: 1 })), 1);
});

test("the worst servers come first, then by id", () => {
  const servers = [
    ONLINE,
    with_({ status: "offline" }, "b"),
    with_({ circuit: "open" }, "c"),
    with_({ status: "offline" }, "a"),
  ];
  assert.deepEqual(
    worstFirst(servers).map((each) => each.id),
    ["a", "b", "c", "gpu-1"],
  );
  assert.deepEqual(countStates(servers), [
    ["offline", 2],
    ["open", 1],
    ["online", 1],
  ]);
});

test("servers are filtered by state, pool, provider, label and text", () => {
  const servers = [
    ONLINE,
    { ...ONLINE, id: "cpu-1", provider: "cloud", labels: { zone: "c" }, status: "offline" as const },
  ];
  const pools = new Map([["cpu-1", ["render"]]]);
  const filter = { states: [], pool: "", provider: "", label: "", text: "" };
  const ids = (change: object) => filtered(servers, { ...filter, ...change }, pools).map((each) => each.id);
  assert.deepEqual(ids({}), ["gpu-1", "cpu-1"]);
  assert.deepEqual(ids({ states: ["offline"] }), ["cpu-1"]);
  assert.deepEqual(ids({ pool: "render" }), ["cpu-1"]);
  assert.deepEqual(ids({ provider: "rack" }), ["gpu-1"]);
  assert.deepEqual(ids({ label: "gpu" }), ["gpu-1"]);
  assert.deepEqual(ids({ label: "zone=c" }), ["cpu-1"]);
  assert.deepEqual(ids({ text: "CPU" }), ["cpu-1"]);
});

test("a failure rate is never shown as none if there was one", () => {
  assert.equal(failureRate({ finished: 0, failed: 0, attemptsFailed: 0 }), null);
  assert.deepEqual(failureRate({ finished: 6, failed: 1, attemptsFailed: 1 }), { share: 0.25, ended: 8 });
  assert.deepEqual([0, 0.0001, 0.002, 0.61, 0.999, 1].map(percent), [
    "0 %",
    "< 0.1 %",
    "0.2 %",
    "61 %",
    "> 99 %",
    "100 %",
  ]);
});

test("what waiting tasks wait for begins with what a person must change", () => {
  const found = waitingFor({ queued: 31, "pool-paused": 4, time: 0, "owner-limit": 90 });
  assert.deepEqual(
    found.map((each) => each.reason),
    ["pool-paused", "owner-limit", "queued"],
  );
  assert.deepEqual(
    slotsOf([
      { available: true, running: 2, room: 6 },
      { available: false, running: 1, room: 0 },
    ]),
    { running: 3, slots: 9, available: 1 },
  );
});

test("limits are worded with their units, and 0 means none", () => {
  assert.equal(limitText("perSecond", 2), "2/s");
  assert.equal(limitText("stored", 1_800_000_000), "1.8 GB");
  assert.equal(limitText("concurrency", 0), "none");
  assert.equal(limitText("waiting", 100_000), "100,000");
  assert.equal(ownLimitsText({ concurrency: 5, perSecond: 2, burst: 10 }), "5 at once · 2/s, burst 10");
  assert.equal(ownLimitsText({ stored: 0 }), "any bytes stored");
  assert.equal(used(6, 5), 1);
  assert.equal(used(6, null), null);
});

test("a form of limits sends what is the owner's own, and nothing if all are the service's", () => {
  const draft = limitsDraft({ concurrency: 5, waiting: 0 });
  assert.deepEqual(limitsBody(draft), { concurrency: 5, waiting: 0 });
  assert.equal(limitsBody(limitsDraft(null)), null);
  draft.stored = { choice: "own", text: "2 GiB" };
  assert.deepEqual(limitsBody(draft), { concurrency: 5, waiting: 0, stored: 2147483648 });
  assert.equal(numberIn("stored", "512"), 512);
  assert.equal(numberIn("stored", "1.5kB"), 1500);
  assert.ok(Number.isNaN(numberIn("stored", "much")));
});

test("a preview of limits says what they hold, release and refuse", () => {
  const preview = { wouldHold: 1037, wouldRelease: 0, over: 0, refuses: [] };
  assert.equal(previewText(preview), "Now it would hold 1,037 more, release 0.");
  assert.equal(
    previewText({ ...preview, over: 2, refuses: ["waiting"] }),
    "Now it would hold 1,037 more, release 0, 2 running beyond it go on, submits would be refused at once: waiting.",
  );
});

test("a form of limits says what is wrong before it is sent", () => {
  const draft = limitsDraft(null);
  const wrong = (name: "concurrency" | "burst" | "perSecond" | "stored", text: string) =>
    limitProblems({ ...draft, [name]: { choice: "own", text } })[name];
  assert.match(wrong("concurrency", "1.5") ?? "", /whole number/);
  assert.match(wrong("concurrency", "0") ?? "", /more than 0/);
  assert.match(wrong("burst", "5") ?? "", /starts per second/);
  assert.match(wrong("perSecond", "") ?? "", /a number/);
  assert.match(wrong("stored", "x") ?? "", /bytes/);
  assert.equal(wrong("concurrency", "5"), undefined);
});

test("outcomes of pages add up, refusals by their reason", () => {
  const page = { matched: 3, done: 1, unchanged: 1, refused: [{ reason: "too late", count: 1 }] };
  assert.deepEqual(plus(plus(NOTHING, page), page), {
    matched: 6,
    done: 2,
    unchanged: 2,
    refused: [{ reason: "too late", count: 2 }],
  });
});

test("dead letters are grouped by type with their kinds and ages", () => {
  const letter = (type: string, failureKind: string, endedAt: number) => ({
    id: "1",
    type,
    failureKind,
    endedAt,
    updatedAt: 0,
    serverId: null,
    error: null,
  });
  assert.deepEqual(
    byType([letter("a", "timeout", 5), letter("b", "error", 1), letter("a", "error", 3), letter("a", "timeout", 4)])[0],
    {
      type: "a",
      count: 3,
      first: 3,
      last: 5,
      kinds: [
        ["timeout", 2],
        ["error", 1],
      ],
    },
  );
  assert.equal(topText({ "gpu-2": 2, "gpu-7": 39, "": 1, x: 1 }), "gpu-7 39, gpu-2 2, 2 more");
});
