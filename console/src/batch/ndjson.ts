// Lines out of a page of the API: each element of an array as it came, so that numbers and the order of keys stay. Pure.

export interface Split {
  elements: string[];
  /** The object with the array empty. */
  rest: string;
}

/** The elements of the array that is the member `name` of a JSON object, as text. Throws SyntaxError if there is none. */
export function split(page: string, name: string): Split {
  let depth = 0;
  let inArray = false;
  let begin = -1;
  let start = -1;
  const elements: string[] = [];
  const take = (end: number) => {
    const element = page.slice(start, end).trim();
    // A line break of JSON is between tokens: in strings it is escaped.
    if (element) elements.push(element.replace(/[\r\n]+/g, " "));
  };
  for (let at = 0; at < page.length; at += 1) {
    const code = page.charCodeAt(at);
    if (code === 34) {
      const end = closingQuote(page, at);
      if (depth === 1 && !inArray && page.slice(at + 1, end) === name) inArray = true;
      at = end;
    } else if (code === 123 || code === 91) {
      depth += 1;
      if (inArray && depth === 2 && start < 0) begin = start = at + 1;
    } else if (code === 125 || code === 93) {
      depth -= 1;
      if (inArray && depth === 1) {
        take(at);
        return { elements, rest: page.slice(0, begin) + page.slice(at) };
      }
    } else if (code === 44 && inArray && depth === 2) {
      take(at);
      start = at + 1;
    }
  }
  throw new SyntaxError(`there is no array ${name}`);
}

function closingQuote(text: string, opening: number): number {
  let at = opening + 1;
  for (;;) {
    const quote = text.indexOf('"', at);
    if (quote < 0) return text.length;
    let backslashes = 0;
    while (text.charCodeAt(quote - 1 - backslashes) === 92) backslashes += 1;
    if (backslashes % 2 === 0) return quote;
    at = quote + 1;
  }
}
