/**
 * One stream of events for all tabs of a browser.
 *
 * A browser opens six connections to an origin, so that a stream a tab would stop the seventh tab.
 * `Hub` runs in a SharedWorker, or in the tab where there is none, and holds one EventSource for
 * all kits that any tab follows. A tab subscribes, learns the revision at which the stream is, reads
 * what it shows at that revision or later, and applies the rows after it. So nothing is missed and
 * nothing applied twice, whichever tab came when.
 */

import type { KitCounts, State } from "./api";

declare const WORKER: string;

/** 0 is all kits. */
export type Topic = number;

/** Rows of a delta, or of a snapshot after `restart`. */
export interface Rows {
  kind: "rows";
  revision: number;
  states: State[];
  counts: KitCounts[];
}
export type Message =
  | Rows
  | { kind: "state"; live: boolean }
  /** The reader is subscribed; the stream goes on after this revision. */
  | { kind: "begin"; number: number; revision: number }
  /** What was read before no longer holds: the log was restored, or rows are no longer kept. */
  | { kind: "restart" }
  | { kind: "login" };
export type Order =
  | { kind: "follow"; number: number; topic: Topic; revision: number }
  | { kind: "leave"; number: number }
  | { kind: "again" }
  | { kind: "bye" };

/** A port of a tab. */
export interface Port {
  send(message: Message): void;
}

const RETRY = 1000;

export class Hub {
  private readonly topics = new Map<Port, Map<number, Topic>>();
  private source: EventSource | undefined;
  private watched = "";
  private revision = 0;
  private epoch = "";
  private live = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private beginning: { port: Port; number: number }[] = [];

  /** Takes an order of a tab. */
  take(port: Port, order: Order): void {
    if (order.kind === "bye") {
      this.topics.delete(port);
    } else if (order.kind === "leave") {
      this.topics.get(port)?.delete(order.number);
    } else if (order.kind === "again") {
      this.watched = "";
    } else {
      if (!this.topics.has(port)) this.topics.set(port, new Map());
      this.topics.get(port)!.set(order.number, order.topic);
      // Without a stream, it begins where the first reader is.
      if (!this.source) this.revision = order.revision;
      this.beginning.push({ port, number: order.number });
    }
    // Several orders of one moment, such as those of a change of views, open one stream.
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.open();
      // Only now does the stream have the rows of these topics after its revision.
      for (const { port, number } of this.beginning.splice(0)) {
        port.send({ kind: "begin", number, revision: this.revision });
        port.send({ kind: "state", live: this.live });
      }
    }, 0);
  }

  private open(): void {
    const topics = new Set([...this.topics.values()].flatMap((one) => [...one.values()]));
    const kits = topics.has(0) || topics.size > 500 ? [] : [...topics].sort((a, b) => a - b);
    const watched = topics.size ? `kits ${kits.join(" ")}` : "";
    if (watched === this.watched && (!this.source || this.source.readyState !== EventSource.CLOSED)) return;
    this.source?.close();
    this.source = undefined;
    this.watched = watched;
    if (!watched) return;
    const search = new URLSearchParams({ after_revision: String(this.revision) });
    if (this.epoch) search.set("epoch", this.epoch);
    for (const kit of kits) search.append("filter.kit_ids", String(kit));
    this.source = this.listen(new EventSource(`/v1/events?${search}`));
  }

  private listen(source: EventSource): EventSource {
    const on = (kind: string, take: (message: any) => void) =>
      source.addEventListener(kind, (event) => {
        if (this.source === source) take(JSON.parse((event as MessageEvent).data));
      });
    on("delta", (message) => this.rows(message.delta, message.revision));
    on("snapshot", (message) => {
      // Asked for only where the log was empty.
      if (this.revision) this.restart();
      else this.rows(message.snapshot, message.revision);
    });
    on("bookmark", (message) => this.reached(message.revision));
    on("synced", (message) => {
      const epoch = message.synced.epoch ?? "";
      if (this.epoch && epoch !== this.epoch) {
        this.restart();
        return;
      }
      this.epoch = epoch;
      this.reached(message.revision);
      this.say(true);
    });
    on("end", (message) => {
      if (message.end.code === "END_REASON_UNAUTHENTICATED") this.all({ kind: "login" });
      else if (message.end.code === "END_REASON_EPOCH_CHANGED" || message.end.code === "END_REASON_EXPIRED")
        this.restart();
    });
    source.onerror = () => {
      if (this.source !== source) return;
      this.say(false);
      // The browser comes back by itself after a lost connection, and not after an error.
      if (source.readyState === EventSource.CLOSED) void this.refused(source);
    };
    return source;
  }

  private async refused(source: EventSource): Promise<void> {
    const response = await fetch("/v1/server").catch(() => undefined);
    if (this.source !== source) return;
    if (response?.status === 401 || response?.status === 403) {
      this.all({ kind: "login" });
      return;
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (this.source === source) this.open();
    }, RETRY);
  }

  private rows(delta: { states?: State[]; kit_counts?: KitCounts[] }, revision: string): void {
    const states = delta.states ?? [];
    // A partial delta has the revision before it.
    const last = states.length ? Number(states[states.length - 1]!.revision) : 0;
    this.reached(Math.max(Number(revision ?? 0), last));
    this.all({ kind: "rows", revision: this.revision, states, counts: delta.kit_counts ?? [] });
    this.say(true);
  }

  private reached(revision: string | number | undefined): void {
    this.revision = Math.max(this.revision, Number(revision ?? 0));
  }

  private restart(): void {
    this.source?.close();
    this.source = undefined;
    this.watched = this.epoch = "";
    this.revision = 0;
    this.all({ kind: "restart" });
  }

  private say(live: boolean): void {
    if (live !== this.live) this.all({ kind: "state", live });
    this.live = live;
  }

  private all(message: Message): void {
    for (const port of this.topics.keys()) port.send(message);
  }
}

/** What a view does with the stream. */
export interface Follower {
  /** Reads the state at `revision` or later; the revision it is of. Rows after it are applied. */
  read(revision: number): Promise<number>;
  /** Applies rows in the order of their revisions. */
  apply(rows: Rows): void;
}

interface Reader {
  topic: Topic;
  follower: Follower;
  waiting: Rows[] | undefined;
  revision: number;
}

let send: ((order: Order) => void) | undefined;
let count = 0;
let isLive = false;
const readers = new Map<number, Reader>();
const watchers = new Set<(live: boolean) => void>();

/** Follows a kit, or all of them; the function that ends it. */
export function follow(topic: Topic, follower: Follower): () => void {
  const number = ++count;
  readers.set(number, { topic, follower, waiting: [], revision: 0 });
  void begin(number);
  return () => {
    readers.delete(number);
    send?.({ kind: "leave", number });
  };
}

/** Calls back with whether the stream is live; the function that ends it. */
export function whenLive(watch: (live: boolean) => void): () => void {
  watchers.add(watch);
  watch(isLive);
  return () => void watchers.delete(watch);
}

/** Begins again, such as with another token. */
export function again(): void {
  connect()({ kind: "again" });
  for (const number of readers.keys()) void begin(number);
}

async function begin(number: number): Promise<void> {
  const reader = readers.get(number);
  if (!reader) return;
  reader.waiting = [];
  // A stream that is to begin anywhere begins at what was read.
  const revision = await attempt(reader, 0);
  if (revision === undefined || readers.get(number) !== reader) return;
  reader.revision = revision;
  connect()({ kind: "follow", number, topic: reader.topic, revision });
}

async function attempt(reader: Reader, least: number): Promise<number | undefined> {
  for (let pause = 500; ; pause = Math.min(pause * 2, 8000)) {
    try {
      return await reader.follower.read(least);
    } catch (error) {
      const status = (error as { status?: number }).status ?? 0;
      if (status >= 400 && status < 500 && status !== 429) return undefined;
      if (![...readers.values()].includes(reader)) return undefined;
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

async function receive(message: Message): Promise<void> {
  if (message.kind === "state") {
    isLive = message.live;
    for (const watch of watchers) watch(isLive);
  } else if (message.kind === "login") {
    window.dispatchEvent(new Event("vistaflow-login"));
  } else if (message.kind === "restart") {
    for (const number of readers.keys()) void begin(number);
  } else if (message.kind === "rows") {
    for (const reader of readers.values()) {
      if (reader.waiting) reader.waiting.push(message);
      else apply(reader, message);
    }
  } else {
    const reader = readers.get(message.number);
    if (!reader) return;
    // The stream is further than what was read: what lies between did not come to this tab.
    if (message.revision > reader.revision) {
      const revision = await attempt(reader, message.revision);
      if (revision === undefined || readers.get(message.number) !== reader) return;
      reader.revision = revision;
    }
    const waiting = reader.waiting ?? [];
    reader.waiting = undefined;
    for (const rows of waiting) apply(reader, rows);
  }
}

function apply(reader: Reader, rows: Rows): void {
  const isNew = (state: State) => Number(state.revision) > reader.revision;
  const isOwn = (one: { kit_id: number }) => !reader.topic || one.kit_id === reader.topic;
  const states = rows.states.filter((state) => isNew(state) && isOwn(state));
  const counts = rows.revision > reader.revision ? rows.counts.filter(isOwn) : [];
  reader.revision = Math.max(reader.revision, rows.revision);
  if (states.length || counts.length) reader.follower.apply({ ...rows, states, counts });
}

function connect(): (order: Order) => void {
  if (send) return send;
  if (typeof SharedWorker === "function") {
    try {
      const { port } = new SharedWorker(WORKER, { type: "module", name: "vistaflow" });
      port.onmessage = (event) => void receive(event.data);
      send = (order) => port.postMessage(order);
    } catch {
      // Some browsers have none in private windows.
    }
  }
  if (!send) {
    const hub = new Hub();
    const port: Port = { send: (message) => void receive(message) };
    send = (order) => hub.take(port, order);
  }
  window.addEventListener("pagehide", () => send?.({ kind: "bye" }));
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) for (const number of readers.keys()) void begin(number);
  });
  return send;
}
