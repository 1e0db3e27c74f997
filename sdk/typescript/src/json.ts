/**
 * JSON whose integers beyond 2^53 survive. `JSON.parse` rounds 9007199254740993 to 9007199254740992; with `bigint` such an
 * integer becomes a BigInt, and a BigInt is sent as an integer.
 */

/** Integers of 16 digits or more; a fraction or an exponent makes a number a float, as JSON.parse has it. */
const STRING_OR_LONG = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MAYBE_LONG = /\d{16}/;
const LONG = /^-?\d{16,}$/;

/** Parse JSON. With `bigint`, integers that a number cannot hold are BigInts. */
export function parse(text: string, bigint: boolean): unknown {
  if (!bigint || !MAYBE_LONG.test(text)) return JSON.parse(text);
  const mark = marker();
  const marked = text.replace(STRING_OR_LONG, (token) =>
    LONG.test(token) && !Number.isSafeInteger(Number(token)) ? `"${mark}${token}"` : token,
  );
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(mark) ? BigInt(value.slice(mark.length)) : value,
  );
}

/** Return a value as JSON; a BigInt as an integer. Throws TypeError for what JSON cannot hold. */
export function stringify(value: unknown): string {
  let mark = "";
  const text = JSON.stringify(value, (_, each) => {
    if (typeof each !== "bigint") return each;
    mark ||= marker();
    return mark + each;
  });
  if (text === undefined) throw new TypeError("the value is not JSON: it is undefined, a function or a symbol");
  return mark ? text.replace(new RegExp(`"${mark}(-?\\d+)"`, "g"), "$1") : text;
}

/** Nobody else can know it, so no text can be taken for a marked number. */
function marker(): string {
  return `int-${randomHex()}:`;
}

/** 128 random bits. `crypto.randomUUID` does not exist on plain http. */
export function randomHex(): string {
  const bytes = new Uint8Array(16);
  if (globalThis.crypto?.getRandomValues) globalThis.crypto.getRandomValues(bytes);
  // React Native has no WebCrypto. A key must be unique, not secret.
  else for (let index = 0; index < bytes.length; index++) bytes[index] = Math.floor(Math.random() * 256);
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
