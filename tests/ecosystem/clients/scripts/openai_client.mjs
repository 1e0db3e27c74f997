// What a program with OpenAI's SDK for JavaScript does. Each action prints JSON, a text a line.
import OpenAI, { toFile } from "openai";

const MESSAGES = [{ role: "user", content: "tell" }];
const say = (value) => console.log(JSON.stringify(value));
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const actions = {
  async chat(model) {
    const answer = await new OpenAI().chat.completions.create({ model, messages: MESSAGES, n: 2 });
    say([answer.choices[1].message.content, answer.usage.total_tokens, Boolean(answer._request_id)]);
  },

  async stream(model, wish = "tell") {
    const messages = [{ role: "user", content: wish }];
    try {
      for await (const part of await new OpenAI().chat.completions.create({ model, messages, stream: true })) {
        say(part.choices[0].delta.content);
      }
    } catch (error) {
      say({ error: error.message });
    }
  },

  async others(model) {
    const client = new OpenAI();
    say((await client.completions.create({ model, prompt: "tell" })).choices[0].text);
    say((await client.embeddings.create({ model, input: "a", encoding_format: "float" })).data[0].embedding);
    const models = [];
    for await (const each of client.models.list()) models.push(each.id);
    say(models);
    say((await client.models.retrieve(model)).object);
  },

  async errors(model) {
    const client = new OpenAI();
    const calls = [
      () => client.chat.completions.create({ model: "none", messages: MESSAGES }),
      () => client.chat.completions.create({ model, messages: [{ role: "user", content: "refuse 400" }] }),
      () => client.responses.retrieve("resp_00000000000000000000000000"),
      () => client.responses.create({ model, input: "a", previous_response_id: "resp_1" }),
      () => new OpenAI({ apiKey: "wrong" }).models.list(),
    ];
    for (const call of calls) {
      try {
        await call();
      } catch (error) {
        say([error.constructor.name, error.status, String(error.code), error.param ?? null]);
      }
    }
  },

  async many(model, count) {
    const client = new OpenAI({ maxRetries: 0 });
    await Promise.all(
      Array.from({ length: Number(count) }, async () => {
        const answer = await client.chat.completions.create({ model, messages: MESSAGES });
        say(answer.choices[0].message.content);
      }),
    );
  },

  async background(model) {
    const client = new OpenAI();
    let response = await client.responses.create({ model, input: "tell", background: true, metadata: { a: "b" } });
    say(response.status);
    while (["queued", "in_progress"].includes(response.status)) {
      await pause(50);
      response = await client.responses.retrieve(response.id);
    }
    say([response.status, response.output_text, response.usage.output_tokens, response.metadata]);
    const roles = [];
    for await (const item of client.responses.inputItems.list(response.id)) roles.push(item.role);
    say(roles);
    await client.responses.delete(response.id);
    await client.responses.retrieve(response.id).catch((error) => say(error.status === 404 ? "gone" : error.message));
  },

  async cancel(model) {
    const client = new OpenAI();
    const response = await client.responses.create({ model, input: "hold", background: true });
    const statuses = [];
    for (let time = 0; time < 2; time += 1) statuses.push((await client.responses.cancel(response.id)).status);
    say(statuses);
  },

  async resume(model, wish) {
    const client = new OpenAI({ maxRetries: 5 });
    const ends = ["response.completed", "response.failed", "response.incomplete"];
    let [id, last, hasEnded] = ["", -1, false];
    let events = await client.responses.create({ model, input: wish, background: true, stream: true });
    while (!hasEnded) {
      try {
        for await (const event of events) {
          last = event.sequence_number;
          if (event.type === "response.created") id = event.response.id;
          hasEnded = ends.includes(event.type);
          say([last, event.type, event.type.endsWith("text.delta") ? event.delta : null]);
        }
      } catch {
        // cut off
      }
      while (!hasEnded) {
        try {
          events = await client.responses.retrieve(id, { stream: true, starting_after: last });
          break;
        } catch {
          await pause(100);
        }
      }
    }
    say({ text: (await client.responses.retrieve(id)).output_text });
  },

  async batch(model, count, wish = "tell") {
    const client = new OpenAI({ maxRetries: 5 });
    const body = { model, messages: [{ role: "user", content: wish }] };
    const line = { method: "POST", url: "/v1/chat/completions", body };
    const content = Array.from({ length: Number(count) }, (_, n) => JSON.stringify({ custom_id: `line-${n}`, ...line }));
    const text = `${content.join("\n")}\n`;
    const file = await client.files.create({ file: await toFile(Buffer.from(text), "in.jsonl"), purpose: "batch" });
    say([file.purpose, file.bytes === text.length, (await (await client.files.content(file.id)).text()) === text]);
    let made = await client.batches.create({
      input_file_id: file.id,
      endpoint: "/v1/chat/completions",
      completion_window: "24h",
      metadata: { a: "b" },
    });
    say([made.status, made.metadata]);
    const over = ["completed", "failed", "expired", "cancelled"];
    while (!over.includes((made = await client.batches.retrieve(made.id)).status)) {
      if (wish === "hold" && made.status === "in_progress") await client.batches.cancel(made.id);
      await pause(100);
    }
    const output = made.output_file_id ? await (await client.files.content(made.output_file_id)).text() : "";
    const results = output.split("\n").filter(Boolean).map((each) => JSON.parse(each).custom_id);
    say([made.status, made.request_counts.completed, results.length, new Set(results).size]);
    const batches = [];
    for await (const each of client.batches.list()) batches.push(each.id);
    const files = [];
    for await (const each of client.files.list()) files.push(each.id);
    say([batches.includes(made.id), files.includes(file.id)]);
    say((await client.files.delete(file.id)).deleted);
  },
};

await actions[process.argv[2]](...process.argv.slice(3));
