import { conformance } from "./conformance.ts";
import { serviceWorld } from "./world.ts";

const { TASKSTREAM_URL: url, TASKSTREAM_JWT_SECRET: secret } = process.env;
if (!url || !secret) throw new Error("tests/sdk/typescript starts the service that this needs");
conformance("the real service", () => serviceWorld(url, secret));
