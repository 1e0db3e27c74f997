/** Follows a task to its end and prints what came, for a test that kills the service meanwhile. */
import { Taskstream } from "../src/index.ts";

const { TASKSTREAM_URL: url, TASKSTREAM_TOKEN: token, TASK: taskId = "" } = process.env;
const client = new Taskstream({ url, token });
const waited = client.wait(taskId);
const sequences: number[] = [];
let output = "";
for await (const item of client.stream(taskId, { after: "0" })) {
  if (!("event" in item)) continue;
  if (item.sequence !== null && item.type !== "ProgressReported") sequences.push(item.sequence);
  output += (item.event as { output?: string }).output ?? "";
  console.log(`at ${output}`);
}
console.log(JSON.stringify({ output, sequences, result: (await waited).result?.data }));
