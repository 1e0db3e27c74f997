import assert from "node:assert/strict";
import { test } from "node:test";
import {
  bodyOf,
  type Draft,
  draftOf,
  EMPTY,
  fieldOf,
  fromPreset,
  hasField,
  labelsOf,
  patchOf,
  type RegisteredServer,
  suggestedId,
} from "../src/fleet/registration.ts";
import { adviceFor, problemsOf } from "../src/fleet/registration_rules.ts";
import { EMPTY_TYPE, typeBody, typeDraft, typeNameProblem, typeProblems } from "../src/fleet/type_form.ts";

const draft = (change: Partial<Draft> = {}): Draft => ({
  ...EMPTY,
  id: "s1",
  predict: "http://gpu:8000/v1",
  ...change,
});
const SERVER: RegisteredServer = {
  id: "s1",
  name: "GPU",
  provider: "rack",
  mode: "push",
  endpoints: { predict: "http://gpu:8000/predict", health: "http://gpu:8000/health" },
  async: true,
  callback: true,
  types: ["resize"],
  maxConcurrent: 4,
  weight: 2,
  labels: { gpu: "a100" },
  overflow: { waiting: 100, oldest: null },
  busyStatus: [429, 503],
  authHeader: "X-Key",
  healthAuth: true,
  healthExpect: { status: [200, 204], json: { "$.up": true } },
  removeAfter: null,
  dialect: null,
  model: null,
  exchange: null,
  preset: null,
  models: ["a", "b"],
};

test("a registration has what was filled in, and no default", () => {
  assert.deepEqual(bodyOf(draft()), {
    id: "s1",
    name: "s1",
    provider: "local",
    dialect: "auto",
    endpoints: { predict: "http://gpu:8000/v1" },
  });
  assert.deepEqual(
    bodyOf(
      draft({
        program: "taskstream",
        answers: "later",
        labels: "gpu=a100\nzone = b",
        apiKey: "k",
        removal: "never",
        maxConcurrent: "4",
      }),
    ),
    {
      id: "s1",
      name: "s1",
      provider: "local",
      dialect: "taskstream",
      endpoints: { predict: "http://gpu:8000/v1" },
      async: true,
      callback: true,
      maxConcurrent: 4,
      labels: { gpu: "a100", zone: "b" },
      removeAfter: null,
      apiKey: "k",
    },
  );
});

test("a pulled server has no address, and no key", () => {
  const body = bodyOf(draft({ program: "pull", apiKey: "k", health: "http://x", healthStatus: "200" }));
  assert.deepEqual(body, { id: "s1", name: "s1", provider: "local", mode: "pull" });
});

test("a preset is named, and sets what was not filled in", () => {
  const example = {
    id: "comfy-1",
    name: "ComfyUI",
    provider: "comfyui",
    endpoints: { predict: "http://c/api/prompt", health: "http://c/h" },
  };
  const filled = fromPreset({ ...EMPTY, predict: "http://mine/api/prompt" }, "comfyui", example);
  assert.deepEqual(bodyOf(filled), {
    id: "comfy-1",
    name: "ComfyUI",
    provider: "comfyui",
    preset: "comfyui",
    endpoints: { predict: "http://mine/api/prompt", health: "http://c/h" },
  });
});

test("a number that is none is sent as it was typed, for the service to refuse", () => {
  assert.equal(bodyOf(draft({ maxConcurrent: "many" })).maxConcurrent, "many");
});

test("a server read and not changed needs no patch", () => {
  const read = draftOf(SERVER);
  assert.deepEqual(patchOf(read, read), {});
  assert.equal(read.answers, "later");
  assert.equal(read.busyStatus, "");
  assert.equal(read.removal, "never");
});

test("a patch has what changed alone, and keeps the key unless another is typed", () => {
  const read = draftOf(SERVER);
  assert.deepEqual(patchOf(read, { ...read, name: "GPU 2", health: "" }), {
    name: "GPU 2",
    endpoints: { health: null },
  });
  assert.deepEqual(patchOf(read, { ...read, apiKey: "new" }), { apiKey: "new" });
  assert.deepEqual(patchOf(read, { ...read, removesKey: true }), { apiKey: null });
  assert.deepEqual(patchOf(read, { ...read, overflowWaiting: "" }), { overflow: null });
  assert.deepEqual(patchOf(read, { ...read, answers: "now" }), { async: false, callback: false });
});

test("a registered server is registered again with the same settings", () => {
  const body = bodyOf(draftOf(SERVER));
  assert.deepEqual(body, {
    id: "s1",
    name: "GPU",
    provider: "rack",
    endpoints: { predict: "http://gpu:8000/predict", health: "http://gpu:8000/health" },
    async: true,
    callback: true,
    types: ["resize"],
    maxConcurrent: 4,
    weight: 2,
    labels: { gpu: "a100" },
    overflow: { waiting: 100 },
    authHeader: "X-Key",
    healthAuth: true,
    healthExpect: { status: [200, 204], json: { "$.up": true } },
    models: ["a", "b"],
    removeAfter: null,
  });
});

test("fields are those of the program", () => {
  const shown = (program: string, field: keyof Draft) => hasField(draft({ program }), field);
  assert.deepEqual([shown("bare", "exchange"), shown("openai", "exchange")], [true, false]);
  assert.deepEqual([shown("taskstream", "answers"), shown("bare", "answers")], [true, false]);
  assert.deepEqual([shown("pull", "predict"), shown("pull", "labels")], [false, true]);
  assert.deepEqual([shown("oip", "model"), shown("openai", "model")], [true, false]);
});

test("what is wrong is said at its field while one types", () => {
  const wrong = (change: Partial<Draft>) =>
    Object.entries(problemsOf(draft(change))).map(([field, text]) => `${field} ${text}`);
  assert.deepEqual(wrong({}), []);
  assert.match(wrong({ id: "a/b" })[0] ?? "", /^id must not have a slash/);
  assert.match(wrong({ id: "cleanup" })[0] ?? "", /^id is reserved/);
  assert.match(wrong({ predict: "gpu:8000" })[0] ?? "", /^predict must begin with/);
  assert.match(wrong({ predict: "http://u:p@gpu/" })[0] ?? "", /^predict must not have a user/);
  assert.match(wrong({ program: "oip" })[0] ?? "", /^predict must name the model/);
  assert.deepEqual(wrong({ program: "oip", model: "m" }), []);
  assert.match(wrong({ maxConcurrent: "0" })[0] ?? "", /^maxConcurrent must be between 1 and 10,000/);
  assert.match(wrong({ labels: "=x" })[0] ?? "", /^labels each line/);
  assert.match(wrong({ healthStatus: "200, 99" })[0] ?? "", /^healthStatus 99/);
  assert.match(wrong({ healthJson: "[1]" })[0] ?? "", /^healthJson must be an object/);
  assert.match(wrong({ program: "bare", exchange: "{" })[0] ?? "", /^exchange must be JSON/);
  assert.match(wrong({ apiKey: " k" })[0] ?? "", /^apiKey must be printable/);
  assert.deepEqual(wrong({ program: "pull", predict: "" }), []);
});

test("a server that nothing would show alive is advised to name a health address", () => {
  assert.match(adviceFor(draft({ program: "bare" })).health ?? "", /heartbeats/);
  assert.equal(adviceFor(draft({ program: "openai" })).health, undefined);
});

test("a refusal of the service finds its field", () => {
  assert.equal(fieldOf("$.server.endpoints.predict"), "predict");
  assert.equal(fieldOf("$.server.healthExpect.json.x"), "healthJson");
  assert.equal(fieldOf("$.exchange.poll.done"), "exchange");
  assert.equal(fieldOf("$.types[3]"), "types");
  assert.equal(fieldOf("$.preset"), "program");
  assert.equal(fieldOf("$.server"), null);
});

test("an id is suggested from the address", () => {
  assert.equal(suggestedId("http://gpu-1.lan:8000/v1"), "gpu-1-8000");
  assert.equal(suggestedId("https://api.example.com/v1"), "api");
  assert.equal(suggestedId("http://10.0.0.7:8000/"), "10.0.0.7-8000");
  assert.equal(suggestedId("http"), "");
  assert.deepEqual(labelsOf("a=1, b=2=3\n\nc"), { a: "1", b: "2=3", c: "" });
});

test("a type's form sends its own settings alone, and the schema as it was written", () => {
  const own = {
    pool: "gpu",
    attempts: 5,
    perSecond: 2.5,
    indexed: ["$.a"],
    onConflict: "replace",
    sessionAffinity: true,
    model: "acme/flux",
  };
  assert.deepEqual(JSON.parse(typeBody(typeDraft({ own, schema: null }))), own);
  assert.equal(
    typeBody({ ...EMPTY_TYPE, schema: "own", schemaText: '{"maximum": 9007199254740993}' }),
    '{"schema":{"maximum": 9007199254740993}}',
  );
  assert.equal(
    typeBody({ ...EMPTY_TYPE, pool: "a", schema: "server", schemaServer: "s1" }),
    '{"pool":"a","schemaFrom":{"server":"s1"}}',
  );
});

test("a type's form says what is wrong", () => {
  const wrong = (change: object) => Object.keys(typeProblems({ ...EMPTY_TYPE, ...change }));
  assert.deepEqual(wrong({}), []);
  assert.deepEqual(wrong({ attempts: "0" }), ["attempts"]);
  assert.deepEqual(wrong({ burst: "3" }), ["burst"]);
  assert.deepEqual(wrong({ pool: "a b" }), ["pool"]);
  assert.deepEqual(wrong({ model: "acme//flux" }), ["model"]);
  assert.deepEqual(wrong({ model: "acme/flux-1.1:v2" }), []);
  assert.deepEqual(wrong({ indexed: "$.a\nb" }), ["indexed"]);
  assert.deepEqual(wrong({ schema: "own", schemaText: "{" }), ["schemaText"]);
  assert.deepEqual(wrong({ schema: "server" }), ["schemaServer"]);
  assert.equal(typeNameProblem("a.b"), undefined);
  assert.match(typeNameProblem("-a") ?? "", /1 to 64/);
});
