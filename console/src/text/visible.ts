// Text from outside, with what the eye cannot see made visible: marks that turn the direction of text, control
// characters, and halves of characters. Copying takes the original.

export interface Run {
  text: string;
  /** True: the text stands for a character that is not shown, as in `U+202E`. */
  isMark: boolean;
}

// Controls but tab, line feed and carriage return; marks of direction; zero width; line and paragraph separators;
// the byte order mark; halves of surrogate pairs; tags.
const MARK =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]|\udb40[\udc00-\udc7f]/g;

/** Without a place of its own: `matchAll` begins at that of its expression. */
const ANY_MARK = new RegExp(MARK.source);

/** Split a text into what is shown as it is and names of what is not seen. */
export function visible(text: string): Run[] {
  const runs: Run[] = [];
  let reached = 0;
  for (const found of text.matchAll(MARK)) {
    if (found.index > reached) runs.push({ text: text.slice(reached, found.index), isMark: false });
    runs.push({ text: nameOf(found[0]), isMark: true });
    reached = found.index + found[0].length;
  }
  if (reached < text.length || runs.length === 0) runs.push({ text: text.slice(reached), isMark: false });
  return runs;
}

function nameOf(character: string): string {
  return `U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}`;
}

/** True if nothing in a text needs a name: the quick way for most texts. */
export function isPlain(text: string): boolean {
  return !ANY_MARK.test(text);
}

/** The first characters of a text, without cutting a character in half. */
export function beginning(text: string, length: number): string {
  if (text.length <= length) return text;
  const last = text.charCodeAt(length - 1);
  return text.slice(0, last >= 0xd800 && last <= 0xdbff ? length - 1 : length);
}
