/** The words of the page in the reader's language, and numbers and times as they are written there. */

import en from "./messages/en.json";

export type Key = keyof typeof en;
export type Language = "en" | "ko";

const STORED = "vistaflow.language";
let language: Language = "en";
let words: Record<Key, string> = en;

/** The language now. */
export const current = (): Language => language;

/** Loads the words of the language that the reader chose, else that of the browser. */
export async function load(chosen?: Language): Promise<void> {
  if (chosen) localStorage.setItem(STORED, chosen);
  const stored = localStorage.getItem(STORED);
  language = (stored ?? navigator.language).startsWith("ko") ? "ko" : "en";
  words = language === "ko" ? (await import("./messages/ko.json")).default : en;
  document.documentElement.lang = language;
}

/** A text, with values in the places of their names. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return words[key].replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
}

/** A text whose key is composed of a prefix and a value; the value itself if there is none. */
export function named(prefix: string, value: string): string {
  return (words as Record<string, string>)[`${prefix}.${value}`] ?? value;
}

/** A number with as many digits as are worth reading. */
export function number(value: number | string | undefined, digits = 5): string {
  const figure = Number(value);
  if (value === undefined || value === null || value === "" || Number.isNaN(figure)) return "–";
  const size = Math.abs(figure);
  if (size && (size >= 1e7 || size < 1e-3)) return figure.toExponential(Math.min(digits, 5) - 1).replace(/\.?0+e/, "e");
  return new Intl.NumberFormat(language, { maximumSignificantDigits: digits }).format(figure);
}

/** A whole number. */
export const whole = (value: number | string | undefined): string =>
  new Intl.NumberFormat(language).format(Number(value ?? 0));

/** A span of time. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return "–";
  if (seconds < 10) return t("time.seconds", { value: seconds.toFixed(1) });
  if (seconds < 60) return t("time.seconds", { value: Math.round(seconds) });
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return t("time.minutes", { minutes, seconds: Math.round(seconds % 60) });
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return t("time.hours", { hours, minutes: minutes % 60 });
  return t("time.days", { days: Math.floor(hours / 24), hours: hours % 24 });
}

/** A time of day, with the date unless it is today's. */
export function moment(text: string | undefined): string {
  if (!text) return "–";
  const time = new Date(text);
  const isToday = time.toDateString() === new Date().toDateString();
  return time.toLocaleString(language, isToday ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" });
}
