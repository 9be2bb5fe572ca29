/** Prometheus text as numbers: sums over labels, and quantiles of histograms. */

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

export function parseMetrics(text: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (!match) continue;
    const labels: Record<string, string> = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) labels[name as string] = value as string;
    samples.push({ name: match[1] as string, labels, value: Number(match[3]) });
  }
  return samples;
}

/** The sum of all samples of a name whose labels are these. */
export function sumOf(samples: Sample[], name: string, labels: Record<string, string> = {}): number {
  let sum = 0;
  for (const sample of samples) {
    if (sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value)) sum += sample.value;
  }
  return sum;
}

/** A quantile of what a histogram counted between two readings, or null if it counted nothing. */
export function quantile(before: Sample[], after: Sample[], name: string, share: number): number | null {
  const counts = new Map<number, number>();
  const add = (samples: Sample[], sign: number) => {
    for (const sample of samples) {
      if (sample.name !== `${name}_bucket`) continue;
      const bound = sample.labels.le === "+Inf" ? Infinity : Number(sample.labels.le);
      counts.set(bound, (counts.get(bound) ?? 0) + sign * sample.value);
    }
  };
  add(after, 1);
  // Buckets only grow, so the difference is what was counted between the readings.
  add(before, -1);
  const bounds = [...counts.keys()].sort((a, b) => a - b);
  const total = counts.get(Infinity) ?? 0;
  if (total <= 0) return null;
  let lowerBound = 0;
  let lowerCount = 0;
  for (const bound of bounds) {
    const count = counts.get(bound) as number;
    if (count >= share * total) {
      // The last bucket has no upper end, so nothing between the two can be estimated.
      if (bound === Infinity) return lowerBound;
      return count === lowerCount ? bound : lowerBound + ((bound - lowerBound) * (share * total - lowerCount)) / (count - lowerCount);
    }
    lowerBound = bound;
    lowerCount = count;
  }
  return lowerBound;
}
