// Takes tasks from the queue, calls the backend with each, and stores its answer as the result.
// Environment: REDIS_PORT, BACKEND_URL, SLOTS.
import { Worker } from "bullmq";
import { Pool } from "undici";

const backend = new Pool(process.env.BACKEND_URL, { connections: Number(process.env.SLOTS) });
const headers = { "content-type": "application/json" };

async function call(job) {
  const body = JSON.stringify({ task_id: job.id, request: job.data });
  const answer = await backend.request({ path: "/predict/0", method: "POST", headers, body });
  if (answer.statusCode !== 200) throw new Error(`status ${answer.statusCode}`);
  return answer.body.json();
}

const connection = { host: "127.0.0.1", port: Number(process.env.REDIS_PORT) };
const worker = new Worker("tasks", call, { connection, concurrency: Number(process.env.SLOTS) });
await worker.waitUntilReady();
