// Numbers, times and names, as they are shown.

import { text } from "./strings";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const oneDigit = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (n: number): string => whole.format(n);
export const short = (n: number): string => (Math.abs(n) < 10_000 ? whole.format(n) : compact.format(n));
export const rate = (n: number): string => (n > 0 && n < 10 ? oneDigit.format(n) : short(n));

export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return text.none;
  const a = Math.abs(ms);
  if (a < 1) return a === 0 ? "0 ms" : ms.toFixed(2) + " ms";
  if (a < 10) return ms.toFixed(1) + " ms";
  if (a < 1000) return ms.toFixed(0) + " ms";
  if (a < 60_000) return (ms / 1000).toFixed(a < 10_000 ? 1 : 0) + " s";
  if (a < 3_600_000) return Math.round(ms / 60_000) + " min";
  if (a < 172_800_000) return Math.round(ms / 3_600_000) + " h";
  return Math.round(ms / 86_400_000) + " d";
}

export const ago = (at: number, now: number): string => (now - at < 1500 ? "now" : duration(Math.max(0, now - at)));

export function bytes(n: number | null): string {
  if (n === null) return text.none;
  if (n < 1000) return n + " B";
  for (const unit of ["kB", "MB", "GB"]) {
    n /= 1000;
    if (n < 1000) return n.toFixed(n < 10 ? 1 : 0) + " " + unit;
  }
  return (n / 1000).toFixed(1) + " TB";
}

export const clock = (at: number): string => new Date(at).toLocaleTimeString("en-GB");
export const date = (at: number): string => new Date(at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
export const kmh = (metresPerSecond: number | null): string => (metresPerSecond === null ? text.none : Math.round(metresPerSecond * 3.6) + " km/h");

const WINDS = ["N", "NE", "E", "SE", "S", "SW", "W", "NW"];
export const heading = (degrees: number | null): string =>
  degrees === null ? text.none : `${WINDS[Math.round(degrees / 45) % 8]} ${Math.round(degrees) % 360}°`;

/**
 * A name that somebody else chose, fit to be shown: what could turn the line around or hide in it is made visible, and it is not longer
 * than its place.
 */
export function named(s: string, most = 64): string {
  let out = "";
  let n = 0;
  for (const c of s) {
    if (++n > most) return out + "…";
    out += /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}]/u.test(c) ? "\ufffd" : c;
  }
  return out;
}

/** One cell of a CSV file, which a spreadsheet takes neither apart nor for a formula. */
export function csvCell(v: string | number | boolean | null): string {
  if (v === null) return "";
  if (typeof v !== "string") return String(v);
  if (/^[=+\-@\t\r]/.test(v)) v = "'" + v;
  return /[",\r\n]/.test(v) ? '"' + v.replaceAll('"', '""') + '"' : v;
}
