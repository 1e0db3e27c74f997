/** Return the items whose text has the letters of what was typed, in order; the best first. */
export function rank<Item extends { text: string; note: string }>(typed: string, items: Item[]): Item[] {
  const wanted = typed.trim().toLowerCase();
  if (!wanted) return items;
  return items
    .map((item, place) => ({ item, place, score: score(wanted, item) }))
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score || a.place - b.place)
    .map(({ item }) => item);
}

function score(wanted: string, { text, note }: { text: string; note: string }): number {
  const given = text.toLowerCase();
  if (given === wanted) return 5;
  if (given.startsWith(wanted)) return 4;
  if (given.split(/[\s\-_.]/).some((word) => word.startsWith(wanted))) return 3;
  if (given.includes(wanted)) return 2;
  if (`${note} ${text}`.toLowerCase().includes(wanted)) return 1;
  return letters(wanted, given) ? 0.5 : 0;
}

function letters(wanted: string, given: string): boolean {
  let at = 0;
  for (const letter of given) if (letter === wanted[at]) at += 1;
  return at === wanted.length;
}
