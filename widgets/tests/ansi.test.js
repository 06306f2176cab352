import { expect, test } from "vitest";
import { paint, pieces, plainText } from "../src/ansi.js";

const look = (line) => pieces(line).map(({ text, style }) => [text, style.fg, style.bold]);

test("the 16, 256 and true colours of a terminal", () => {
  expect(look("a\x1b[1;31mb\x1b[0mc")).toEqual([
    ["a", "", false],
    ["b", "1", true],
    ["c", "", false],
  ]);
  expect(look("\x1b[94mx\x1b[38;5;208my\x1b[38;5;244mz")).toEqual([
    ["x", "12", false],
    ["y", "rgb(255,135,0)", false],
    ["z", "rgb(128,128,128)", false],
  ]);
  expect(look("\x1b[38;2;1;2;300mx\x1b[39my")).toEqual([
    ["x", "rgb(1,2,255)", false],
    ["y", "", false],
  ]);
});

test("other sequences and control characters are left out", () => {
  const line = "\x1b[2K\x1b[1Gdone\x1b]8;;http://x\x07link\x1b]8;;\x07\x07 \x1b[?25hok\x08";
  expect(plainText(line)).toBe("donelink ok");
  const together = pieces(line)
    .map(({ text }) => text)
    .join("");
  expect(together).toBe("donelink ok");
});

test("inverse takes the page's colours where the text has none", () => {
  const node = { style: {} };
  paint(node, pieces("\x1b[7mx")[0].style);
  expect(node.style).toEqual({ color: "var(--anb-paper)", backgroundColor: "var(--anb-ink)" });
});
