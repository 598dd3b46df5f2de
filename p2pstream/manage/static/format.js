// Numbers, durations and times as people read them. Absent values are a dash, never a zero.

export const NONE = "–";
const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** 1,204; from a hundred thousand on 1.2M */
export function count(value) {
  if (!known(value)) return NONE;
  return value < 100_000 ? whole.format(value) : compact.format(value);
}

function digits(value) {
  if (value >= 100) return whole.format(value);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Requests a second. */
export function rate(value) {
  if (!known(value)) return NONE;
  if (value === 0) return "0";
  return value >= 10_000 ? compact.format(value) : digits(value);
}

/** 99.98 %; rounded towards the worse, so that 100 % is all of them. */
export function percent(value) {
  if (!known(value)) return NONE;
  if (value >= 100) return "100 %";
  const places = value >= 99 ? 100 : 10;
  return `${(Math.floor(value * places) / places).toFixed(value >= 99 ? 2 : 1)} %`;
}

/** How many of them failed, in percent: 0, 0.02 %, 1.5 %; never rounded to none. */
export function failed(failures, requests) {
  if (!requests) return NONE;
  if (!failures) return "0";
  const value = (100 * failures) / requests;
  if (value < 0.01) return "< 0.01 %";
  return `${value.toFixed(value < 1 ? 2 : 1)} %`;
}

/** Whether so many failed that it should be seen. */
export const many = (failures, requests) => failures > 0 && failures >= requests / 100;

/** A share of 1 as percent. */
export function share(value) {
  if (!known(value)) return NONE;
  const all = value * 100;
  return `${all > 0 && all < 10 ? all.toFixed(1) : Math.round(all)} %`;
}

/** 0.42 ms, 18.3 ms, 1.25 s */
export function millis(value) {
  if (!known(value)) return NONE;
  return value < 1000 ? `${digits(value)} ms` : `${digits(value / 1000)} s`;
}

/** 1.2 MB, in powers of 1000 */
export function bytes(value) {
  if (!known(value)) return NONE;
  if (value < 1000) return `${whole.format(value)} B`;
  let unit = -1;
  let left = value;
  while (left >= 1000 && unit < 4) {
    left /= 1000;
    unit += 1;
  }
  return `${digits(left)} ${["kB", "MB", "GB", "TB", "PB"][unit]}`;
}

/** The two largest units of a duration in seconds: 3 d 4 h */
export function duration(seconds) {
  if (!known(seconds)) return NONE;
  const all = Math.max(0, Math.floor(seconds));
  const units = [["d", 86_400], ["h", 3_600], ["m", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => all >= size);
  if (first < 0) return "0 s";
  const [unit, size] = units[first];
  const next = units[first + 1];
  const rest = next ? Math.floor((all % size) / next[1]) : 0;
  return `${Math.floor(all / size)} ${unit}${rest ? ` ${rest} ${next[0]}` : ""}`;
}

const two = (value) => String(value).padStart(2, "0");
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** 14:03:09 of an epoch time, local */
export function clock(at, seconds = true) {
  const when = new Date(at * 1000);
  const short = `${two(when.getHours())}:${two(when.getMinutes())}`;
  return seconds ? `${short}:${two(when.getSeconds())}` : short;
}

export const day = (at) => date.format(new Date(at * 1000));

/** 14:03:09 for today, 12 Nov 14:03 else */
export function moment(at) {
  if (!known(at)) return NONE;
  const today = new Date(at * 1000).toDateString() === new Date().toDateString();
  return today ? clock(at) : `${day(at)} ${clock(at, false)}`;
}

export const ago = (at, now) => (known(at) ? `${duration(now - at)} ago` : NONE);

/** 1 agent, 2 agents */
export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
