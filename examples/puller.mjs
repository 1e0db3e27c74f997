import { setTimeout as sleep } from "node:timers/promises";

const [, , api, server] = process.argv;

async function post(path, token, body) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const request = { method: "POST", headers, body: JSON.stringify(body) };
  for (;;) {
    const answer = await fetch(`${api}/attempts/${path}`, request).catch(() => null);
    if (answer?.ok) return answer.json();
    if (answer?.status < 500) throw new Error(await answer.text());
    await sleep(1000); // no link, or no service: a report that comes late changes nothing
  }
}

async function work({ text, seconds = 0 }, signal) { // the long, costly work: it stops when told to
  await sleep(seconds * 1000, null, { signal });
  return { shouted: text.toUpperCase() };
}

for (;;) {
  const { attempts } = await post("take", process.env.TOKEN, { server, wait: 30 });
  for (const { attempt, token, input, leaseSeconds } of attempts) {
    const over = new AbortController();
    const renew = async () => (await post(`${attempt}/renew`, token, {})).status === "gone" && over.abort();
    const renewal = setInterval(renew, (leaseSeconds * 1000) / 3);
    try {
      await post(`${attempt}/done`, token, { result: await work(input, over.signal) });
    } catch (error) {
      await post(`${attempt}/fail`, token, { error: `${error}` });
    }
    clearInterval(renewal);
  }
}
