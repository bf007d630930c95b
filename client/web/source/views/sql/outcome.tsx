/** What became of a query: its place, progress, mistake, or its rows. */

import { useEffect, useRef, useState } from "preact/hooks";
import { get, post, type Progress } from "../../api";
import { duration, moment, t, whole } from "../../language";
import { Elapsed, ErrorNote, isOver, Loading, ProgressBar, Status } from "../../parts";
import { follow } from "../../stream";
import { quoted, read, seconds, submit, type Parameter, type Query } from "./queries";
import Table, { type Order } from "./table";

const FORMATS = ["csv", "parquet", "arrow", "json"] as const;
const OPERATORS = ["contains", "=", "<>", "<", "<=", ">", ">=", "is null", "is not null"] as const;
/** Nothing tells how the queue moves. */
const QUEUE_MS = 2000;

interface Filter {
  column: string;
  operator: (typeof OPERATORS)[number];
  value: string;
}

/** A query as it goes on. */
function useQuery(id: string): { query: Query | undefined; progress: Progress | undefined; error: unknown } {
  const [query, setQuery] = useState<Query>();
  const [progress, setProgress] = useState<Progress>();
  const [error, setError] = useState<unknown>();
  useEffect(() => {
    setQuery(undefined);
    setProgress(undefined);
    setError(undefined);
    if (!id) return undefined;
    const control = new AbortController();
    let leave: (() => void) | undefined;
    let timer = 0;
    const update = async () => {
      const now = await read(id, control.signal);
      if (control.signal.aborted) return now;
      setQuery(now);
      clearTimeout(timer);
      if (/INIT|QUEUED/.test(now.status)) timer = window.setTimeout(() => void update().catch(() => undefined), QUEUE_MS);
      if (isOver(now.status)) leave?.();
      return now;
    };
    update().then(
      (now) => {
        if (control.signal.aborted || isOver(now.status)) return;
        leave = follow(now.kit_id, {
          read: async (revision) => {
            const answer = await get<{ revision: string }>(`/v1/kits/${now.kit_id}`, {
              page_size: 1,
              min_revision: revision || "",
            });
            await update();
            return Number(answer.revision);
          },
          apply: ({ states }) => {
            const last = states.findLast((state) => state.metadata?.progress);
            if (last) setProgress(last.metadata.progress);
            if (states.length) void update().catch(() => undefined);
          },
        });
      },
      (problem: unknown) => control.signal.aborted || setError(problem),
    );
    return () => {
      control.abort();
      clearTimeout(timer);
      leave?.();
    };
  }, [id]);
  return { query, progress, error };
}

/** A query over the result of another one. */
function viewOf(base: Query, order: Order | undefined, filter: Filter | undefined): { text: string; parameters: Parameter[] } {
  const parameters: Parameter[] = [];
  let text = `select * from results."${base.query_id}"`;
  if (filter) {
    const name = quoted(filter.column);
    if (filter.operator.startsWith("is ")) text += ` where ${name} ${filter.operator}`;
    else if (filter.operator === "contains") text += ` where strpos(lower(cast(${name} as varchar)), lower(:value)) > 0`;
    else text += ` where ${name} ${filter.operator} cast(:value as ${typeOf(base, filter.column)})`;
    if (!filter.operator.startsWith("is ")) parameters.push({ name: "value", type: "VARCHAR", value: filter.value });
  }
  if (order) text += ` order by ${quoted(order.column)}${order.isDown ? " desc" : ""} nulls last`;
  return { text, parameters };
}

function typeOf(query: Query, column: string): string {
  const type = query.columns?.find((one) => one.name === column)?.type ?? "VARCHAR";
  if (/INT/i.test(type)) return "bigint";
  if (/^(FLOAT|DOUBLE|REAL)/i.test(type)) return "double";
  return /^(DECIMAL.*|DATE|TIMESTAMP|BOOLEAN)$/i.test(type) ? type.toLowerCase() : "varchar";
}

export default function Outcome(props: {
  queryId: string;
  age: number | undefined;
  onAgain(): void;
}) {
  const base = useQuery(props.queryId);
  const [order, setOrder] = useState<Order>();
  const [filter, setFilter] = useState<Filter>();
  const [draft, setDraft] = useState<Filter>({ column: "", operator: "contains", value: "" });
  const [viewId, setViewId] = useState("");
  const [error, setError] = useState<unknown>();
  const view = useQuery(viewId);
  const newest = useRef(0);
  useEffect(() => {
    newest.current++;
    setOrder(undefined);
    setFilter(undefined);
    setViewId("");
    setError(undefined);
    setDraft({ column: "", operator: "contains", value: "" });
  }, [props.queryId]);

  const look = (nextOrder: Order | undefined, nextFilter: Filter | undefined) => {
    const number = ++newest.current;
    setOrder(nextOrder);
    setFilter(nextFilter);
    setError(undefined);
    if (!nextOrder && !nextFilter) {
      setViewId("");
      return;
    }
    const { text, parameters } = viewOf(base.query!, nextOrder, nextFilter);
    submit({ user_query: text, parameters }).then(
      ({ query }) => {
        if (number === newest.current) setViewId(query.query_id);
      },
      (problem: unknown) => number === newest.current && setError(problem),
    );
  };

  if (!props.queryId) return <p class="muted">{t("sql.begin")}</p>;
  const { query, progress } = base;
  if (!query) return base.error ? <ErrorNote error={base.error} /> : <Loading />;
  const isViewing = !!viewId && view.query?.status === "STATUS_FINISHED";
  const shown = isViewing ? view.query! : query;
  const isBusy = !!viewId && !isViewing && !isOver(view.query?.status ?? "");
  return (
    <section class="outcome" aria-label={t("sql.result")}>
      <div class="facts" role="status">
        <Status status={query.status} />
        {/INIT|QUEUED/.test(query.status) && (
          <span>{query.queue_place ? t("sql.place", { place: query.queue_place }) : t("sql.waiting")}</span>
        )}
        {query.status === "STATUS_RUNNING" && (
          <>
            {Number(progress?.total) > 0 && (
              <ProgressBar done={Number(progress!.completed ?? 0)} total={Number(progress!.total)} label={t("kits.progress")} />
            )}
            <span>{progress?.message || progress?.phase || ""}</span>
          </>
        )}
        {!isOver(query.status) && (
          <>
            <span class="muted">
              <Elapsed from={query.created_at} />
            </span>
            <button
              class="danger"
              onClick={() => void post(`/v1/queries/${query.query_id}/cancel`, { query_id: query.query_id }).catch(setError)}
            >
              {t("action.cancel")}
            </button>
          </>
        )}
        {query.status === "STATUS_FINISHED" && (
          <>
            <span>{t("sql.count", { count: whole(query.row_count), size: bytes(Number(query.size_bytes ?? 0)) })}</span>
            <span class="muted">
              {t("sql.took", {
                wait: duration(seconds(query.queue_duration)),
                run: duration(seconds(query.plan_duration) + seconds(query.run_duration)),
              })}
            </span>
            <span class="muted">{moment(query.created_at)}</span>
          </>
        )}
      </div>
      {props.age !== undefined && (
        <p class="note">
          {t("sql.reused", { age: duration(props.age) })}{" "}
          <button onClick={props.onAgain}>{t("sql.again")}</button>
        </p>
      )}
      {query.limited && <p class="note">{t("sql.limited", { count: whole(query.row_count) })}</p>}
      {query.error && <ErrorNote error={{ message: place(query.error) + query.error.message }} />}
      <ErrorNote error={error ?? view.error} />
      {view.query?.error && <ErrorNote error={view.query.error} />}
      {query.status === "STATUS_FINISHED" && query.result_removed && (
        <p class="note">
          {t("sql.result_removed")} <button onClick={props.onAgain}>{t("sql.again")}</button>
        </p>
      )}
      {query.status === "STATUS_FINISHED" && !query.result_removed && (
        <>
          <form
            class="filters"
            aria-label={t("sql.filter")}
            onSubmit={(event) => {
              event.preventDefault();
              look(order, { ...draft, column: draft.column || (query.columns?.[0]?.name ?? "") });
            }}
          >
            <label>
              {t("sql.column")}
              <select value={draft.column || query.columns?.[0]?.name} onChange={(event) => setDraft({ ...draft, column: event.currentTarget.value })}>
                {query.columns?.map((column) => <option key={column.name}>{column.name}</option>)}
              </select>
            </label>
            <label>
              {t("sql.operator")}
              <select
                value={draft.operator}
                onChange={(event) => setDraft({ ...draft, operator: event.currentTarget.value as Filter["operator"] })}
              >
                {OPERATORS.map((operator) => (
                  <option key={operator} value={operator}>
                    {operator === "contains" ? t("sql.contains") : operator}
                  </option>
                ))}
              </select>
            </label>
            {!draft.operator.startsWith("is ") && (
              <label>
                {t("result.value")}
                <input value={draft.value} onInput={(event) => setDraft({ ...draft, value: event.currentTarget.value })} />
              </label>
            )}
            <button>{t("sql.filter")}</button>
            {(filter || order) && (
              <button type="button" onClick={() => look(undefined, undefined)}>
                {t("sql.all_rows")}
              </button>
            )}
            <output class="muted">
              {isBusy ? t("loading") : isViewing ? t("sql.shown", { count: whole(shown.row_count) }) : ""}
            </output>
            <span class="space" />
            <span class="downloads">
              {t("sql.download")}{" "}
              {FORMATS.map((format) => (
                <a key={format} class="button" download href={`/v1/queries/${shown.query_id}/rows.${format}`}>
                  {format.toUpperCase()}
                </a>
              ))}
            </span>
          </form>
          <Table query={shown} order={order} onOrder={(next) => look(next, filter)} />
        </>
      )}
    </section>
  );
}

const place = (error: { line?: number; column?: number }): string =>
  error.line ? `${t("sql.line", { line: error.line, column: error.column ?? 0 })} ` : "";

export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = count ? Math.min(units.length - 1, Math.floor(Math.log2(count) / 10)) : 0;
  return `${(count / 1024 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}
