import assert from "node:assert/strict";
import { test } from "node:test";
import { readJson } from "../src/text/json.ts";
import { filesIn, mediaIn } from "../src/text/media.ts";

const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

function base64(text: string): string {
  return Buffer.from(text.padEnd(60, "\0"), "latin1").toString("base64");
}

test("base64 is known by its first bytes, whatever its key is", () => {
  const wave = base64("RIFF\x10\x20\x30\x40WAVEfmt ");
  const text = JSON.stringify({
    a: PNG,
    b: [wave],
    c: base64("\0\0\0\x20ftypisom"),
    d: base64("GIF89a"),
    e: base64("plain text"),
  });
  const found = mediaIn(readJson(text));
  assert.deepEqual(
    found.map((media) => [media.path, media.mediaType]),
    [
      ["$.a", "image/png"],
      ["$.b[0]", "audio/wav"],
      ["$.c", "video/mp4"],
      ["$.d", "image/gif"],
    ],
  );
  assert.equal(found[0]?.bytes, Buffer.from(PNG, "base64").length);
});

test("a data address is shown only for images, audio and video, never SVG or HTML", () => {
  const text = JSON.stringify([
    `data:image/png;base64,${PNG}`,
    `data:image/svg+xml;base64,${base64("<svg onload=alert(1)>")}`,
    `data:text/html;base64,${base64("<script>")}`,
    'data:image/png;base64,"><script>',
    "javascript:alert(1)//https://x",
  ]);
  assert.deepEqual(
    mediaIn(readJson(text)).map((media) => media.path),
    ["$[0]"],
  );
});

test("addresses are links, and escaped slashes are slashes", () => {
  const found = mediaIn(readJson(`{"u":"https:\\/\\/example.org\\/a.png","i":"${PNG.replaceAll("/", "\\/")}"}`));
  assert.deepEqual(
    found.map((media) => [media.kind, media.kind === "link" ? media.content : media.content === PNG]),
    [
      ["link", "https://example.org/a.png"],
      ["image", true],
    ],
  );
});

test("the files of a result are found, those of other hosts and paths are not", () => {
  const text = JSON.stringify({
    data: [
      { $ref: "/api/task/01J~a/result/file/3", mediaType: "image/png", bytes: 48213 },
      { bytes: 1, $ref: "https://tasks.example.org/x/api/task/01J~a/result/file?sequence=12" },
      { $ref: "/api/servers" },
      { $ref: "#/components/schemas/x" },
    ],
  });
  assert.deepEqual(filesIn(readJson(text)), [
    { path: "$.data[0]", address: "/api/task/01J~a/result/file/3", mediaType: "image/png", bytes: 48213 },
    {
      path: "$.data[1]",
      address: "https://tasks.example.org/x/api/task/01J~a/result/file?sequence=12",
      mediaType: "",
      bytes: null,
    },
  ]);
});
