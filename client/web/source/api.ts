/** Calls of the gateway: JSON over HTTP, with the names and statuses of the protos. */

/** An error that the gateway or a service answered with. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly fields: { field: string; description: string }[] = [],
  ) {
    super(message);
  }
}

/** Sent on `window` when the gateway asks for a token. */
export const LOGIN = "vistaflow-login";

type Value = string | number | boolean | undefined | null;
export type Parameters = Record<string, Value | readonly Value[]>;

/** Writes parameters of a URL; unset and empty ones are left out. */
export function query(parameters: Parameters): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value as Value]) {
      if (one !== undefined && one !== null && one !== "") search.append(name, String(one));
    }
  }
  const text = search.toString();
  return text && `?${text}`;
}

async function answer(response: Response): Promise<any> {
  const body = response.headers.get("content-type")?.includes("json")
    ? await response.json().catch(() => ({}))
    : {};
  if (response.ok) return body;
  if (response.status === 401) window.dispatchEvent(new Event(LOGIN));
  throw new ApiError(
    response.status,
    body.message || `${response.status} ${response.statusText}`,
    body.violations ?? [],
  );
}

/** Reads JSON. */
export async function get<T>(path: string, parameters: Parameters = {}, signal?: AbortSignal): Promise<T> {
  return answer(await fetch(path + query(parameters), { signal: signal ?? null }));
}

/** Sends JSON. */
export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  return answer(
    await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: signal ?? null,
    }),
  );
}

/** Starts a session with a token; whether the token is valid. */
export async function login(token: string): Promise<boolean> {
  const response = await fetch("/login", { method: "POST", body: new URLSearchParams({ token }) });
  return response.ok;
}

/** Ends the session. */
export async function logout(): Promise<void> {
  await fetch("/logout", { method: "POST" });
  window.dispatchEvent(new Event(LOGIN));
}

/** The address of a file in the artifact store. */
export const artifact = (uri: string): string => "/v1/artifacts/" + uri.replace(/^artifact:\/\//, "");

// Messages as JSON, as far as the page uses them. Numbers of 64 bits are texts, zeros left out.

export interface Counts {
  init_count?: number;
  queued_count?: number;
  running_count?: number;
  finished_count?: number;
  failed_count?: number;
  canceled_count?: number;
}
export interface Progress {
  phase?: string;
  completed?: number | string;
  total?: number | string;
  unit?: string;
  message?: string;
}
export interface State {
  revision: string;
  kit_id: number;
  job_id: string;
  job_type?: string;
  task_name?: string;
  status: string;
  attempt?: number;
  created_at: string;
  metadata?: any;
  actor?: string;
  reason?: string;
}
export interface Job {
  kit_id: number;
  job_id: string;
  name: string;
  job_type: string;
  status: string;
  current_order?: number;
  attempt?: number;
  max_attempts?: number;
  depends_on?: string[];
  progress?: Progress;
  revision: string;
  created_at: string;
  started_at?: string;
  finished_at?: string;
  reason?: string;
  actor?: string;
  worker?: string;
  external?: boolean;
  tasks?: State[];
  task_counts?: Counts;
  result?: any;
}
export interface Kit {
  kit_id: number;
  name: string;
  project: string;
  labels?: Record<string, string>;
  status: string;
  job_counts?: Counts;
  jobs?: Job[];
  revision: string;
  created_at: string;
  updated_at: string;
  actor?: string;
  spec?: any;
  paused?: boolean;
}
export interface KitCounts {
  kit_id: number;
  status: string;
  job_counts?: Counts;
}
