import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMetrics, quantile, sumOf } from "../src/metrics.ts";

const BEFORE = parseMetrics('# HELP x\nruns_total{graph="a",outcome="success"} 2.0\nd_bucket{le="1.0"} 0\nd_bucket{le="2.0"} 0\nd_bucket{le="+Inf"} 0\n');
const AFTER = parseMetrics('runs_total{graph="a\\"}b",outcome="success"} 5\nruns_total{graph="b",outcome="error"} 1e1\nd_bucket{le="1.0"} 5\nd_bucket{le="2.0"} 10\nd_bucket{le="+Inf"} 10\nnan NaN\n');

test("samples are summed over labels", () => {
  assert.equal(sumOf(BEFORE, "runs_total"), 2);
  assert.equal(sumOf(AFTER, "runs_total"), 15);
  assert.equal(sumOf(AFTER, "runs_total", { outcome: "error" }), 10);
  assert.equal(AFTER[0]?.labels.graph, 'a\\"}b');
});

test("quantiles are those between two readings", () => {
  assert.equal(quantile(BEFORE, AFTER, "d", 0.5), 1);
  assert.equal(quantile(BEFORE, AFTER, "d", 0.75), 1.5);
  assert.equal(quantile(AFTER, AFTER, "d", 0.5), null);
});
