/** What views are composed of. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { ApiError, Counts } from "./api";
import { duration, named, t, whole } from "./language";

/** The status without its prefix, such as RUNNING. */
export const statusOf = (status: string): string => status.replace(/^STATUS_/, "");

export const isOver = (status: string): boolean => /FINISHED|FAILED|CANCELED/.test(status);

/** A status, in words and by a mark that needs no colour. */
export function Status({ status, paused }: { status: string; paused?: boolean | undefined }) {
  const name = paused && !isOver(status) ? "PAUSED" : statusOf(status);
  return (
    <span class={`status ${name.toLowerCase()}`}>
      <span aria-hidden="true" class="mark" />
      {named("status", name)}
    </span>
  );
}

const ORDER = ["finished", "running", "queued", "failed", "canceled", "init"] as const;

/** How many children are in which status, as a bar. */
export function CountsBar({ counts = {} }: { counts: Counts | undefined }) {
  const all = ORDER.map((name) => [name, counts[`${name}_count`] ?? 0] as const).filter(([, count]) => count);
  const total = all.reduce((sum, [, count]) => sum + count, 0);
  const text = all.map(([name, count]) => `${named("status", name.toUpperCase())} ${whole(count)}`).join(", ");
  return (
    <span class="counts" title={text}>
      <span class="bar" role="img" aria-label={text}>
        {all.map(([name, count]) => (
          <span key={name} class={name} style={{ flexGrow: count }} />
        ))}
      </span>
      <span class="figure">
        {whole(counts.finished_count)}/{whole(total)}
      </span>
    </span>
  );
}

/** How far something is. */
export function ProgressBar({ done, total, label }: { done: number; total: number; label: string }) {
  return <progress value={done} max={total || 1} aria-label={label} />;
}

/** An error, for people. */
export function ErrorNote({ error }: { error: unknown }) {
  if (!error) return null;
  const { message, fields = [] } = error as ApiError;
  return (
    <div role="alert" class="error">
      {message}
      {fields.map((one) => (
        <div key={one.field}>
          <code>{one.field}</code> {one.description}
        </div>
      ))}
    </div>
  );
}

/** A word while something loads. */
export const Loading = () => <p class="muted">{t("loading")}</p>;

/** The time, every second, while something is under way. */
export function useNow(running: boolean): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!running) return undefined;
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [running]);
  return now;
}

/** The time between two moments, or up to now. */
export function Elapsed({ from, to }: { from?: string | undefined; to?: string | undefined }) {
  const now = useNow(!!from && !to);
  if (!from) return <>–</>;
  return <>{duration(Math.max(0, ((to ? Date.parse(to) : now) - Date.parse(from)) / 1000))}</>;
}

/** What is loaded when its keys change; `undefined` while it loads. */
export function useLoaded<T>(
  load: (signal: AbortSignal) => Promise<T>,
  keys: readonly unknown[],
): { value: T | undefined; error: unknown } {
  const [state, setState] = useState<{ value: T | undefined; error: unknown }>({ value: undefined, error: undefined });
  useEffect(() => {
    const control = new AbortController();
    setState((before) => ({ ...before, error: undefined }));
    load(control.signal).then(
      (value) => control.signal.aborted || setState({ value, error: undefined }),
      (error: unknown) => control.signal.aborted || setState({ value: undefined, error }),
    );
    return () => control.abort();
  }, keys);
  return state;
}

/** Renders again at most once a frame, whatever changes meanwhile. */
export function useRefresh(): () => void {
  const [, setCount] = useState(0);
  const frame = useRef(0);
  useEffect(() => () => clearTimeout(frame.current), []);
  return useRef(() => {
    // Not by requestAnimationFrame, which stands still in a hidden tab.
    frame.current ||= window.setTimeout(() => {
      frame.current = 0;
      setCount((count) => count + 1);
    }, 16);
  }).current;
}

export interface Column<T> {
  key: string;
  title: string;
  /** Track of the grid, such as "8rem" or "minmax(10rem, 2fr)". */
  width: string;
  /** Numbers are aligned to the right. */
  isNumber?: boolean;
  /** Left out on narrow screens. */
  isSecondary?: boolean;
  cell(row: T): ComponentChildren;
}

/** A table that has only the visible rows in the document, however many there are. */
export function Rows<T>(props: {
  label: string;
  rows: readonly T[];
  columns: Column<T>[];
  keyOf(row: T): string | number;
  /** Called when the end comes near. */
  onEnd?: () => void;
  rowHeight?: number;
  /** All rows there are, if more than `rows`. */
  total?: number | undefined;
  empty: string;
}) {
  const height = props.rowHeight ?? 40;
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 800 });
  useEffect(() => {
    const element = box.current!;
    const update = () => setView({ top: element.scrollTop, height: element.clientHeight });
    const observer = new ResizeObserver(update);
    observer.observe(element);
    element.addEventListener("scroll", update, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", update);
    };
  }, []);
  const first = Math.max(0, Math.floor(view.top / height) - 8);
  const last = Math.min(props.rows.length, Math.ceil((view.top + view.height) / height) + 8);
  useEffect(() => {
    if (props.onEnd && last + 20 >= props.rows.length) props.onEnd();
  });
  const tracks = props.columns.map((column) => column.width).join(" ");
  const narrow = props.columns.filter((column) => !column.isSecondary).map((column) => column.width).join(" ");
  const cellClass = (column: Column<T>) =>
    [column.isNumber ? "number" : "", column.isSecondary ? "secondary" : "", `c-${column.key}`].join(" ");
  return (
    <div
      ref={box}
      class="rows"
      role="table"
      aria-label={props.label}
      aria-rowcount={props.total ?? props.rows.length + 1}
      tabIndex={0}
      style={{ "--tracks": tracks, "--narrow": narrow, "--row": `${height}px` }}
    >
      <div role="rowgroup" class="head">
        <div role="row" class="row">
          {props.columns.map((column) => (
            <div key={column.key} role="columnheader" class={cellClass(column)}>
              {column.title}
            </div>
          ))}
        </div>
      </div>
      <div role="rowgroup" class="body" style={{ height: `${props.rows.length * height}px` }}>
        {props.rows.slice(first, last).map((row, index) => (
          <div
            key={props.keyOf(row)}
            role="row"
            class="row"
            aria-rowindex={first + index + 2}
            style={{ top: `${(first + index) * height}px` }}
          >
            {props.columns.map((column) => (
              <div key={column.key} role="cell" class={cellClass(column)}>
                {column.cell(row)}
              </div>
            ))}
          </div>
        ))}
      </div>
      {!props.rows.length && <p class="muted empty">{props.empty}</p>}
    </div>
  );
}

/** A dialogue over the page. */
export function Dialog(props: { title: string; onClose(): void; children: ComponentChildren }) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => element.current!.showModal(), []);
  return (
    <dialog ref={element} aria-label={props.title} onClose={props.onClose}>
      <h2>{props.title}</h2>
      {props.children}
    </dialog>
  );
}
