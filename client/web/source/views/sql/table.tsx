/** A stored result: all its rows by pages, sorted and filtered by new queries, and its files. */

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "../../api";
import { t, whole } from "../../language";
import { ErrorNote, useRefresh } from "../../parts";
import type { Query } from "./queries";

const PAGE = 200;
const KEPT_PAGES = 60;
const HEIGHT = 30;
/** Browsers have no taller elements; of longer results, the scroll bar has a coarser scale. */
const TALLEST = 8_000_000;

type Row = Record<string, unknown>;

/** Pages of a result, as they come into view. */
class Pages {
  error: unknown;
  private readonly pages = new Map<number, Row[] | undefined>();
  private readonly control = new AbortController();

  constructor(
    private readonly queryId: string,
    private readonly refresh: () => void,
  ) {}

  row(index: number): Row | undefined {
    return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
  }

  show(first: number, last: number): void {
    for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page++) {
      if (!this.pages.has(page)) void this.load(page);
    }
  }

  close(): void {
    this.control.abort();
  }

  private async load(page: number): Promise<void> {
    this.pages.set(page, undefined);
    try {
      const url = `/v1/queries/${this.queryId}/rows.json?offset=${page * PAGE}&limit=${PAGE}`;
      const response = await fetch(url, { signal: this.control.signal });
      if (!response.ok) {
        const body = await response.json().catch(() => ({}));
        throw new ApiError(response.status, body.message ?? response.statusText);
      }
      this.pages.set(page, exact(await response.text()));
      this.error = undefined;
    } catch (error) {
      if (this.control.signal.aborted) return;
      this.pages.delete(page);
      this.error = error;
    }
    for (const old of this.pages.keys()) {
      if (this.pages.size <= KEPT_PAGES) break;
      if (Math.abs(old - page) > 4) this.pages.delete(old);
    }
    this.refresh();
  }
}

/** JSON whose numbers are as they were sent: those of 64 bits and decimals would be rounded. */
function exact(text: string): Row[] {
  const parse = JSON.parse as (text: string, revive: (key: string, value: unknown, context?: { source?: string }) => unknown) => Row[];
  return parse(text, (_, value, context) => (typeof value === "number" ? new Figure(context?.source ?? String(value)) : value));
}

class Figure {
  constructor(readonly text: string) {}
  toJSON(): string {
    return this.text;
  }
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return "NULL";
  if (value instanceof Figure) return value.text;
  if (typeof value !== "object") return String(value);
  return JSON.stringify(value);
}

const isNumeric = (type: string): boolean => /^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DOUBLE|FLOAT|REAL|DECIMAL)/i.test(type);

export interface Order {
  column: string;
  isDown: boolean;
}

export default function Table(props: {
  query: Query;
  order: Order | undefined;
  onOrder(order: Order | undefined): void;
}) {
  const { query } = props;
  const total = Number(query.row_count ?? 0);
  const columns = query.columns ?? [];
  const refresh = useRefresh();
  const [pages, setPages] = useState<Pages>();
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ first: 0, height: 400 });
  useEffect(() => {
    const opened = new Pages(query.query_id, refresh);
    setPages(opened);
    if (box.current) box.current.scrollTop = 0;
    return () => opened.close();
  }, [query.query_id]);

  const full = total * HEIGHT;
  const tall = Math.min(full, TALLEST);
  const visible = Math.max(1, Math.floor((view.height - HEIGHT - 2) / HEIGHT));
  // Rows of the result to a pixel of the scroll bar.
  const rate = (element: HTMLElement): number => {
    const room = element.scrollHeight - element.clientHeight;
    return room > 0 ? Math.max(0, total - (element.clientHeight - HEIGHT) / HEIGHT) / room : 0;
  };
  useEffect(() => {
    const element = box.current!;
    const update = () => setView({ first: element.scrollTop * rate(element), height: element.clientHeight });
    const observer = new ResizeObserver(update);
    observer.observe(element);
    element.addEventListener("scroll", update, { passive: true });
    // Where a pixel is many rows, wheel and keys still move by rows.
    const move = (rows: number) => {
      const step = rate(element);
      if (step) element.scrollTop += rows / step;
    };
    const wheel = (event: WheelEvent) => {
      if (full <= TALLEST || event.ctrlKey || !event.deltaY) return;
      event.preventDefault();
      move(event.deltaY / HEIGHT);
    };
    const key = (event: KeyboardEvent) => {
      const page = Math.max(1, Math.floor(element.clientHeight / HEIGHT) - 2);
      const rows = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page }[event.key];
      if (full <= TALLEST || !rows) return;
      event.preventDefault();
      move(rows);
    };
    element.addEventListener("wheel", wheel, { passive: false });
    element.addEventListener("keydown", key);
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", update);
      element.removeEventListener("wheel", wheel);
      element.removeEventListener("keydown", key);
    };
  }, [total, query.query_id]);

  const first = Math.max(0, Math.min(total - visible, Math.floor(view.first)));
  const last = Math.min(total - 1, first + visible + 1);
  useEffect(() => {
    if (total) pages?.show(first, last);
  }, [pages, first, last]);
  const tracks = [
    `${whole(total).length * 0.6 + 2}rem`,
    ...columns.map((column) => (isNumeric(column.type) ? "minmax(7rem, 1fr)" : "minmax(10rem, 2fr)")),
  ].join(" ");
  const width = columns.reduce((sum, column) => sum + (isNumeric(column.type) ? 7 : 10), 5);
  const shift = Math.max(0, view.first - first) * HEIGHT;
  return (
    <>
      <ErrorNote error={pages?.error} />
      <div
        ref={box}
        class="rows result-rows"
        role="table"
        aria-label={t("sql.rows")}
        aria-rowcount={total + 1}
        tabIndex={0}
        style={{ "--tracks": tracks, "--narrow": tracks, "--row": `${HEIGHT}px` }}
      >
        <div role="rowgroup" class="head" style={{ minWidth: `${width}rem` }}>
          <div role="row" class="row">
            <div role="columnheader" class="number">
              #
            </div>
            {columns.map((column) => {
              const order = props.order?.column === column.name ? props.order : undefined;
              return (
                <div
                  key={column.name}
                  role="columnheader"
                  class={isNumeric(column.type) ? "number" : ""}
                  aria-sort={order ? (order.isDown ? "descending" : "ascending") : "none"}
                >
                  <button
                    class="quiet order"
                    title={`${column.name} ${column.type}`}
                    onClick={() =>
                      props.onOrder(order?.isDown ? undefined : { column: column.name, isDown: !!order })
                    }
                  >
                    {column.name} <span aria-hidden="true">{order ? (order.isDown ? "↓" : "↑") : ""}</span>
                  </button>
                </div>
              );
            })}
          </div>
        </div>
        <div role="rowgroup" class="body" style={{ height: `${tall}px`, minWidth: `${width}rem` }}>
          <div role="presentation" class="window" style={{ top: `${HEIGHT}px` }}>
            {Array.from({ length: Math.max(0, last - first + 1) }, (_, place) => {
              const index = first + place;
              const row = pages?.row(index);
              return (
                <div
                  key={index}
                  role="row"
                  class="row"
                  aria-rowindex={index + 2}
                  style={{ top: `${place * HEIGHT - (tall > view.height ? shift : 0)}px` }}
                >
                  <div role="rowheader" class="number muted">
                    {whole(index + 1)}
                  </div>
                  {columns.map((column) => {
                    const text = row ? shown(row[column.name]) : "…";
                    const isNull = row && (row[column.name] === null || row[column.name] === undefined);
                    return (
                      <div
                        key={column.name}
                        role="cell"
                        class={`${isNumeric(column.type) ? "number" : ""} ${isNull ? "muted" : ""}`}
                        title={text.length > 16 ? text.slice(0, 2000) : undefined}
                      >
                        {text.length > 500 ? `${text.slice(0, 500)}…` : text}
                      </div>
                    );
                  })}
                </div>
              );
            })}
          </div>
        </div>
        {!total && <p class="muted empty">{t("sql.no_rows")}</p>}
      </div>
    </>
  );
}
