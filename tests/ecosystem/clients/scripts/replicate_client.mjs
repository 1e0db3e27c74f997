// What a program with Replicate's SDK for JavaScript (1.4) does. Each action prints JSON, a text a line.
import { readFile } from "node:fs/promises";
import Replicate, { validateWebhook } from "replicate";

const replicate = new Replicate({ baseUrl: `${process.env.REPLICATE_BASE_URL}/v1`, auth: process.env.REPLICATE_API_TOKEN });
const say = (value) => console.log(JSON.stringify(value));

/** Read a prediction until it is as wanted. */
async function until({ id }, holds) {
  for (;;) {
    const prediction = await replicate.predictions.get(id);
    if (holds(prediction)) return prediction;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** An output as JSON; of a file, its bytes as text. */
async function shown(output) {
  if (output instanceof ReadableStream) {
    const blob = await output.blob();
    return { file: Buffer.from(await blob.arrayBuffer()).toString("latin1") };
  }
  return Array.isArray(output) ? Promise.all(output.map(shown)) : output;
}

const actions = {
  async run(model, given, wait) {
    try {
      const mode = wait ? { wait: { mode: "block", timeout: JSON.parse(wait) } } : {};
      say(await shown(await replicate.run(model, { input: JSON.parse(given), ...mode })));
    } catch (error) {
      say({ failed: error.message.replace("Prediction failed: ", "") });
    }
  },

  async iterate(model, given) {
    const version = (await replicate.models.get(...model.split("/"))).latest_version.id;
    for (const piece of await replicate.run(`${model}:${version}`, { input: JSON.parse(given) })) say(piece);
  },

  async stream(model, given) {
    for await (const event of replicate.stream(model, { input: JSON.parse(given) })) say([event.event, event.data]);
  },

  async cancel(model, given) {
    const prediction = await replicate.predictions.create({ model, input: JSON.parse(given) });
    await until(prediction, ({ status }) => status === "processing");
    say((await replicate.predictions.cancel(prediction.id)).status);
    say((await replicate.wait(prediction)).status);
  },

  async progress(model, given) {
    const prediction = await replicate.predictions.create({ model, input: JSON.parse(given) });
    const { status, logs } = await until(prediction, (found) => found.logs.includes("%"));
    say([status, Number(/(\d+)%\|/.exec(logs)[1]) / 100, logs]);
  },

  async pages() {
    for await (const page of replicate.paginate(replicate.predictions.list)) say(page.length);
  },

  async upload(model, path) {
    const file = await readFile(path);
    say(await shown(await replicate.run(model, { input: { mode: "read", f: file } })));
    const inline = `data:text/plain;base64,${file.toString("base64")}`;
    say(await shown(await replicate.run(model, { input: { mode: "read", f: inline } })));
    const made = await replicate.files.create(new File([file], "in.txt", { type: "text/plain" }), { a: "b" });
    const listed = (await replicate.files.list()).results.length;
    say([made.name, made.size, (await replicate.files.get(made.id)).id === made.id, listed]);
    await replicate.files.delete(made.id);
    say((await replicate.files.list()).results.length);
  },

  async webhook(model, webhook) {
    const more = { webhook, webhook_events_filter: ["completed"] };
    say((await replicate.predictions.create({ model, input: { answer: 1 }, ...more })).id);
  },

  async validate(headers, body) {
    const { key } = await replicate.webhooks.default.secret.get();
    say(await validateWebhook({ headers: JSON.parse(headers), body }, key));
  },

  async catalog(model) {
    const [owner, name] = model.split("/");
    const found = await replicate.models.get(owner, name);
    const versions = (await replicate.models.versions.list(owner, name)).results;
    say([`${found.owner}/${found.name}`, found.latest_version.id === versions[0].id]);
    say((await replicate.models.search(owner)).results.map((each) => `${each.owner}/${each.name}`));
    say((await replicate.hardware.list()).map((each) => each.sku));
    say((await replicate.accounts.current()).username);
  },

  async errors(model) {
    const stranger = new Replicate({ baseUrl: `${process.env.REPLICATE_BASE_URL}/v1`, auth: "nonsense" });
    for (const call of [
      () => stranger.predictions.list(),
      () => replicate.predictions.get("00000000000000000000000000~alice"),
      () => replicate.predictions.create({ version: "0".repeat(64), input: {} }),
      () => replicate.predictions.create({ model, input: { answer: 1, mode: 7 } }),
    ])
      try {
        await call();
        say(null);
      } catch (error) {
        const text = error.message.slice(error.message.indexOf("{"), error.message.lastIndexOf("}") + 1);
        say([error.response.status, JSON.parse(text).title]);
      }
  },
};

const [action, ...given] = process.argv.slice(2);
await actions[action](...given);
