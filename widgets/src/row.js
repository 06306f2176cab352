// @ts-check
/** @import {Line} from "./types.js" */
import { paint, pieces } from "./ansi.js";
import { element } from "./dom.js";
import { matchesIn, plainOf, textOf } from "./lines.js";
import { rankText } from "./text.js";

/**
 * One line of the log.
 * @param {Line} line
 * @param {boolean} withRanks  whether it says whose it is
 * @param {string} query  is marked where it occurs
 */
export function logRow(line, withRanks, query) {
  const text = element("span", { class: "anb-text" });
  const matches = matchesIn(plainOf(line), query);
  let at = 0;
  for (const piece of pieces(textOf(line))) {
    for (const { part, isMatch } of split(piece.text, at, matches)) {
      const node = element(isMatch ? "mark" : "span", { text: part });
      paint(node, piece.style);
      text.append(node);
    }
    at += piece.text.length;
  }
  const row = element("div", { class: "anb-row", "data-stream": line.stream });
  if (withRanks) {
    const ranks = rankText(line.ranks);
    row.append(element("span", { class: "anb-who", text: ranks, title: `rank ${ranks}` }));
  }
  row.append(text);
  return row;
}

/**
 * Cut a piece of a line where matches begin and end.
 * @param {string} text
 * @param {number} start  of the piece in the line
 * @param {[number, number][]} matches  in the line
 */
function split(text, start, matches) {
  const parts = [];
  let at = 0;
  for (const [from, to] of matches) {
    const begin = Math.max(from - start, at);
    const end = Math.min(to - start, text.length);
    if (end <= begin) continue;
    if (begin > at) parts.push({ part: text.slice(at, begin), isMatch: false });
    parts.push({ part: text.slice(begin, end), isMatch: true });
    at = end;
  }
  if (at < text.length) parts.push({ part: text.slice(at), isMatch: false });
  return parts;
}
