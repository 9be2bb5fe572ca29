/** When the events of a finished run came. They are stored without a time, but the steps that made them have one. */

import type { Step } from "./inspector.tsx";
import type { ServerEvent } from "./sse.ts";

export interface TimedEvent {
  /** Milliseconds after the beginning of the run. */
  atMs: number;
  event: ServerEvent;
}

/** The times of a run's events: those of a step are spread evenly over it. `updates` is the last event of a step. */
export function timesOf(events: ServerEvent[], steps: Step[], startMs: number): TimedEvent[] {
  const made = steps.filter((step) => step.endMs > step.startMs || step.names.length > 0);
  // The first steps, such as the input, send no `updates`. So the last ones belong to the events.
  const loops = made.slice(-Math.max(1, events.filter((event) => event.name === "updates").length));
  const timed: TimedEvent[] = [];
  let group: ServerEvent[] = [];
  let index = 0;
  const close = () => {
    const step = loops[Math.min(index, loops.length - 1)];
    const from = step ? step.startMs - startMs : 0;
    const length = step ? step.endMs - step.startMs : 0;
    group.forEach((event, at) => timed.push({ atMs: Math.max(0, from + (length * (at + 1)) / group.length), event }));
    group = [];
    index++;
  };
  for (const event of events) {
    group.push(event);
    if (event.name === "updates") close();
  }
  if (group.length > 0) close();
  return timed;
}
