// Accepts tasks over HTTP and adds them to a BullMQ queue; `GET /done` counts those whose result is stored.
// Environment: PORT, REDIS_PORT.
import { Queue } from "bullmq";
import Fastify from "fastify";

const queue = new Queue("tasks", { connection: { host: "127.0.0.1", port: Number(process.env.REDIS_PORT) } });
await queue.waitUntilReady();
const app = Fastify({ logger: false });

app.post("/task", async (request) => {
  const job = await queue.add("task", request.body, {
    attempts: 3,
    backoff: { type: "exponential", delay: 1000 },
    removeOnComplete: false,
  });
  return { id: job.id };
});
app.get("/done", async () => ({ done: await queue.getCompletedCount() }));
await app.listen({ host: "127.0.0.1", port: Number(process.env.PORT) });
