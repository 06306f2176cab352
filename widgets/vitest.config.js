import { defineConfig } from "vitest/config";

export default defineConfig({
  // Tests clean up the page after them, so one page serves all: starting it takes most of the time.
  test: {
    environment: "happy-dom",
    include: ["tests/*.test.js"],
    isolate: false,
    maxWorkers: 1,
    testTimeout: 5000,
  },
});
