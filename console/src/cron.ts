/** The next times of a cron schedule, for people to check it by. The server decides when it fires. */

const NAMES: Record<number, string[]> = {
  3: ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
  4: ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};
const RANGES: [number, number][] = [[0, 59], [0, 23], [1, 31], [1, 12], [0, 7]];

/** The values that a field allows, or null if it has a form that is not known here. */
function valuesOf(field: string, place: number): Set<number> | null {
  const [lowest, highest] = RANGES[place] as [number, number];
  const values = new Set<number>();
  for (const part of field.toLowerCase().split(",")) {
    const match = /^(\*|\w+)(?:-(\w+))?(?:\/(\d+))?$/.exec(part);
    if (!match) return null;
    const first = match[1] === "*" ? lowest : numberOf(match[1] as string, place);
    const last = match[2] ? numberOf(match[2], place) : match[1] === "*" || match[3] ? highest : first;
    const step = Number(match[3] ?? 1);
    if (first === null || last === null || step < 1 || first < lowest || last > highest) return null;
    // Sunday is 0 and 7.
    for (let value = first; value <= last; value += step) values.add(place === 4 ? value % 7 : value);
  }
  return values;
}

function numberOf(text: string, place: number): number | null {
  if (/^\d+$/.test(text)) return Number(text);
  const index = NAMES[place]?.indexOf(text.slice(0, 3)) ?? -1;
  return index === -1 ? null : index + (place === 3 ? 1 : 0);
}

interface LocalTime {
  minute: number;
  hour: number;
  day: number;
  month: number;
  weekday: number;
}

function localTime(format: Intl.DateTimeFormat, time: number): LocalTime {
  const parts = Object.fromEntries(format.formatToParts(time).map((part) => [part.type, part.value]));
  return {
    minute: Number(parts.minute),
    // Some browsers write midnight as 24.
    hour: Number(parts.hour) % 24,
    day: Number(parts.day),
    month: Number(parts.month),
    weekday: ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"].indexOf(parts.weekday ?? ""),
  };
}

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;
const MAX_DAYS = 800;

/** The next times of a schedule of five fields in a time zone. Empty if the schedule has a form that is not known here. */
export function nextTimes(schedule: string, zone: string, after: number, amount: number): number[] {
  const fields = schedule.trim().split(/\s+/);
  if (fields.length !== 5) return [];
  const sets = fields.map(valuesOf);
  if (sets.includes(null)) return [];
  const [minutes, hours, days, months, weekdays] = sets as Set<number>[] as [Set<number>, Set<number>, Set<number>, Set<number>, Set<number>];
  const format = new Intl.DateTimeFormat("en-US", { timeZone: zone, minute: "2-digit", hour: "2-digit", hourCycle: "h23", day: "numeric", month: "numeric", weekday: "short" });
  const isDay = (local: LocalTime) => {
    if (!months.has(local.month)) return false;
    const anyDay = fields[2] === "*";
    const anyWeekday = fields[4] === "*";
    // As cron does: with both fields set, either one is enough.
    if (!anyDay && !anyWeekday) return days.has(local.day) || weekdays.has(local.weekday);
    return days.has(local.day) && weekdays.has(local.weekday);
  };
  const times: number[] = [];
  let time = Math.floor(after / MINUTE_MS) * MINUTE_MS + MINUTE_MS;
  const end = after + MAX_DAYS * DAY_MS;
  while (times.length < amount && time < end) {
    const local = localTime(format, time);
    // By hours and not by days, because a day with a change of the clock has 23 or 25 of them.
    if (!isDay(local)) time += Math.max(1, 60 - local.minute) * MINUTE_MS;
    else if (!hours.has(local.hour)) time += (60 - local.minute) * MINUTE_MS;
    else {
      if (minutes.has(local.minute)) times.push(time);
      time += MINUTE_MS;
    }
  }
  return times;
}
