/** Workers of this build. The policy of trusted types lets no other address become a worker. */
declare const WORKER_FILES: Readonly<Record<string, string>>;

interface TrustedTypes {
  createPolicy(
    name: string,
    rules: { createScriptURL: (url: string) => string },
  ): { createScriptURL: (url: string) => string };
}

const trusted = (globalThis as { trustedTypes?: TrustedTypes }).trustedTypes;
const allowed = new Set(Object.values(WORKER_FILES).map((file) => new URL(`assets/${file}`, document.baseURI).href));
const policy = trusted?.createPolicy("console", {
  createScriptURL: (url) => {
    if (!allowed.has(url)) throw new TypeError("not a worker of the console");
    return url;
  },
});

/** Start the worker `src/**\/<name>.worker.ts`. */
export function startWorker(name: string): Worker {
  const file = WORKER_FILES[name];
  if (!file) throw new Error(`there is no worker ${name}`);
  const url = new URL(`assets/${file}`, document.baseURI).href;
  return new Worker(policy ? policy.createScriptURL(url) : url, { name });
}
