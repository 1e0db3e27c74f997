// Writes src/api.ts, the types of the API that this client uses, from the API's description.
//   node types.mjs DESCRIPTION TARGET
import { readFileSync, writeFileSync } from "node:fs";
import openapiTS, { astToString } from "openapi-typescript";

/** Operations whose bodies, answers and parameters become types. */
const OPERATIONS = new Set([
  ...["submitTask", "getTask", "cancelTask", "retryTask", "listTasks", "countTasks", "listEvents", "getWhy"],
  ...["submitBatch", "getBatch", "listBatches", "listBatchTasks", "cancelBatch", "retryBatch", "deleteBatch"],
  ...["cancelTasks", "retryTasks", "deleteTasks", "streamTask", "makeStreamToken", "getMe"],
  ...["createSchedule", "listSchedules", "getSchedule", "changeSchedule", "deleteSchedule", "pauseSchedule"],
  ...["resumeSchedule", "runSchedule", "listRuns", "previewSchedule"],
  ...["registerWebhook", "listWebhooks", "getWebhook", "changeWebhook", "deleteWebhook", "rotateSecret", "sendTest"],
  ...["listDeliveries", "getDelivery", "retryDelivery"],
  ...["registerServer", "listServers", "getServer", "changeServer", "removeServer", "setMaintenance", "drainServer"],
  ...["resumeServer", "listTypes", "getType", "putType", "deleteType"],
  ...["takeAttempts", "renewAttempt", "reportProgress", "finishAttempt", "reportFailure", "releaseAttempt"],
  ...["uploadFile", "listFiles", "getFileInfo", "linkFile", "deleteFile"],
  ...["createKey", "listKeys", "getKey", "revokeKey"],
  ...["listQueued", "getQueued", "cancelQueued", "deleteQueued", "queueChapters", "queueOutline"],
]);

const [source, target] = process.argv.slice(2);
const document = JSON.parse(readFileSync(source, "utf8"));
const missing = new Set(OPERATIONS);
const paths = {};
for (const [path, item] of Object.entries(document.paths))
  for (const [method, operation] of Object.entries(item)) {
    if (!missing.delete(operation.operationId)) continue;
    // Errors are alike everywhere: `Problem`.
    const responses = Object.fromEntries(Object.entries(operation.responses).filter(([status]) => status < "300"));
    paths[path] ??= {};
    paths[path][method] = { ...operation, responses };
  }
if (missing.size) {
  console.error(`The description has no operation ${[...missing].join(", ")}.`);
  process.exit(1);
}

/** Schemas that these reach, by name. */
const schemas = {};
function reach(node) {
  if (Array.isArray(node)) node.forEach(reach);
  else if (node && typeof node === "object") {
    const [, name] = /^#\/components\/schemas\/(.+)$/.exec(node.$ref ?? "") ?? [];
    if (name && !(name in schemas)) {
      schemas[name] = document.components.schemas[name];
      reach(schemas[name]);
    }
    Object.values(node).forEach(reach);
  }
}
reach([paths, { $ref: "#/components/schemas/Problem" }, { $ref: "#/components/schemas/WebhookMessage" }]);

const sorted = Object.fromEntries(Object.entries(schemas).sort(([a], [b]) => (a < b ? -1 : 1)));
const nodes = await openapiTS({
  openapi: document.openapi,
  info: document.info,
  paths,
  components: { schemas: sorted },
});
const text = astToString(nodes).replaceAll(/[ \t]+$/gm, "");
writeFileSync(target, `// Made by types.mjs from the API's description. Do not edit: make sdk-types\n\n${text}`);
