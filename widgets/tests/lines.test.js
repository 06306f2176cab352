import { expect, test } from "vitest";
import { columns, lineAt, linesOf, matchesIn, matching, offsets, visible } from "../src/lines.js";

const line = (number, text, ranks = [0]) => ({ number, ranks, stream: "stdout", text });
const many = Array.from({ length: 5000 }, (_, n) => line(n, n % 100 ? "x" : "y".repeat(250)));

test("a window takes few lines of many, whatever their heights", () => {
  const starts = offsets(many, 100);
  expect(starts[1]).toBe(3); // 250 characters in 100 columns
  expect(starts.at(-1)).toBe(5000 + 50 * 2);
  const [first, last] = visible(starts, 2000, 18);
  expect(starts[first]).toBeLessThan(2000);
  expect(starts[last]).toBeGreaterThan(2018);
  expect(last - first).toBeLessThan(40);
  expect(lineAt(starts, 1)).toBe(0);
  expect(lineAt(starts, 1e9)).toBe(4999);
});

test("an empty log has an empty window", () => {
  expect(visible(offsets([], 80), 0, 18)).toEqual([0, 0]);
});

test("wide characters take two columns, an emoji too", () => {
  expect([columns("abc"), columns("日本"), columns("🙂"), columns("é")]).toEqual([3, 4, 2, 1]);
});

test("a rank's log has the lines that it shares", () => {
  const lines = [line(0, "a", [0, 1]), line(1, "b", [1]), line(2, "c", [0])];
  expect(linesOf(lines, 1).map(({ text }) => text)).toEqual(["a", "b"]);
  expect(linesOf(lines, null)).toBe(lines);
});

test("search does not care for case, and looks through colours", () => {
  const lines = [line(0, "Loss 1"), line(1, "nothing"), line(2, "lo\x1b[31mss\x1b[0m: LOSS")];
  expect(matching(lines, "loss")).toEqual([0, 2]);
  expect(matching(lines, "")).toEqual([]);
  expect(matchesIn("loss: LOSS", "loss")).toEqual([
    [0, 4],
    [6, 10],
  ]);
});
