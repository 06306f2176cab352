import { expect, test } from "vitest";
import { stateKind, summed } from "../src/ranks.js";
import { clock, duration, exact, memory, rankText, short } from "../src/text.js";
import { isDarkColour } from "../src/theme.js";

test("figures are short and keep their width", () => {
  expect([0, 0.0421, 4.1, 41, 1230.4, 81e6, 4.2e8].map(short)).toEqual([
    "0",
    "0.042",
    "4.10",
    "41.0",
    "1,230",
    "81.0M",
    "420M",
  ]);
  expect([812e6, 1.42e9, 2.1e11].map(memory)).toEqual(["812 MB", "1.4 GB", "210 GB"]);
  expect([8, 65, 7209].map(clock)).toEqual(["0:08", "1:05", "2:00:09"]);
  expect(duration(8.31)).toBe("8.3 s");
  expect([0.39214, 1e-5, Number.NaN, Number.NEGATIVE_INFINITY].map(exact)).toEqual([
    "0.3921",
    "1.00e-5",
    "NaN",
    "−∞",
  ]);
  expect(rankText([0, 1, 2, 5, 7, 8])).toBe("0-2,5,7-8");
});

test("ranks of one state are summed up, the most frequent first", () => {
  const rows = ["failed", "waiting in all_reduce", "waiting in all_reduce"];
  expect(summed(rows.map((state) => ({ state })))).toBe("2 waiting in all_reduce, 1 failed");
  expect(rows.map(stateKind)).toEqual(["failed", "waiting", "waiting"]);
});

test("a page is dark or light by its colour, unknown if transparent", () => {
  expect(isDarkColour("rgb(17, 17, 17)")).toBe(true);
  expect(isDarkColour("rgb(255, 255, 255)")).toBe(false);
  expect(isDarkColour("rgba(0, 0, 0, 0)")).toBeNull();
});
