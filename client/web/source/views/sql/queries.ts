/** Queries as the service keeps them, and the tabs that this browser keeps. */

import { get, post } from "../../api";

export interface Parameter {
  name: string;
  type?: string;
  value?: string;
}
export interface Query {
  query_id: string;
  kit_id: number;
  status: string;
  user_query: string;
  dialect?: string;
  parameters?: Parameter[];
  limit?: string;
  created_at: string;
  updated_at: string;
  row_count?: string;
  size_bytes?: string;
  limited?: boolean;
  columns?: { name: string; type: string }[];
  queue_duration?: string;
  plan_duration?: string;
  run_duration?: string;
  error?: { message: string; line?: number; column?: number };
  result_removed?: boolean;
  queue_place?: number;
}

/** Text that is not lost: each tab is stored by itself, so that two windows do not overwrite each other's. */
export interface Tab {
  id: string;
  created: number;
  text: string;
  limit: string;
  values: Record<string, { type: string; value: string }>;
  dialect: string;
  queryId: string;
  /** Seconds that the result was old when it was reused; unset: it was not. */
  age?: number;
}

const PREFIX = "vistaflow.sql.tab.";

export const newTab = (text = ""): Tab => ({
  id: uuid(),
  created: Date.now(),
  text,
  limit: "",
  values: {},
  dialect: "",
  queryId: "",
});

export function storedTabs(): Tab[] {
  const tabs: Tab[] = [];
  for (const key of Object.keys(localStorage)) {
    if (!key.startsWith(PREFIX)) continue;
    try {
      tabs.push({ ...newTab(), ...JSON.parse(localStorage.getItem(key)!) });
    } catch {
      localStorage.removeItem(key);
    }
  }
  return tabs.sort((a, b) => a.created - b.created);
}

export const store = (tab: Tab): void => localStorage.setItem(PREFIX + tab.id, JSON.stringify(tab));
export const drop = (tab: Tab): void => localStorage.removeItem(PREFIX + tab.id);

/** A UUID, also where the page has no secure context. */
export function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 15) | 64;
  bytes[8] = (bytes[8]! & 63) | 128;
  const text = [...bytes].map((one) => one.toString(16).padStart(2, "0")).join("");
  return text.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

export const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;

/** Names of the `:name`s of a query. */
export function parametersIn(text: string): string[] {
  const plain = text.replace(/'(?:[^']|'')*'|"(?:[^"]|"")*"|--.*|\/\*[^]*?\*\//g, " ");
  return [...new Set([...plain.matchAll(/(?<![:\w]):([A-Za-z_]\w*)/g)].map(([, name]) => name!))];
}

/** The values that a tab has for the parameters of its text; an empty one is NULL. */
export const valuesOf = (tab: Tab): Parameter[] =>
  parametersIn(tab.text).map((name) => {
    const { type = "VARCHAR", value = "" } = tab.values[name] ?? {};
    return value === "" ? { name, type } : { name, type, value };
  });

export const seconds = (text: string | undefined): number => Number((text ?? "0").replace(/s$/, ""));

export async function read(id: string, signal?: AbortSignal): Promise<Query> {
  return (await get<{ query: Query }>(`/v1/queries/${id}`, {}, signal)).query;
}

export async function submit(request: object): Promise<{ query: Query; reused?: boolean; age?: string }> {
  return post("/v1/queries", { request_id: uuid(), ...request });
}

/** Columns of a table, by checking a query that reads all of them. */
const known = new Map<string, Promise<{ name: string; type: string }[]>>();
export function columnsOf(table: string): Promise<{ name: string; type: string }[]> {
  if (!known.has(table)) {
    const asked = post<Query>("/v1/queries/validate", { user_query: `select * from ${table}` }).then(
      (answer) => answer.columns ?? [],
    );
    known.set(table, asked);
    // A table that is not there yet may come.
    asked.then(
      (columns) => columns.length || known.delete(table),
      () => known.delete(table),
    );
  }
  return known.get(table)!.catch(() => []);
}
