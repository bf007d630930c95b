/** All queries there were, newest first, with their results. */

import { useEffect, useState } from "preact/hooks";
import { get } from "../../api";
import { duration, moment, t, whole } from "../../language";
import { ErrorNote, Rows, Status, type Column } from "../../parts";
import { seconds, type Query } from "./queries";

const PAGE = 100;

export default function History(props: { changed: number; onOpen(query: Query): void }) {
  const [search, setSearch] = useState("");
  const [since, setSince] = useState("");
  const [text, setText] = useState("");
  const [list, setList] = useState<{ queries: Query[]; token: string }>({ queries: [], token: "" });
  const [error, setError] = useState<unknown>();
  const [isLoading, setLoading] = useState(true);
  const read = (token: string, signal?: AbortSignal) =>
    get<{ queries?: Query[]; next_page_token?: string }>(
      "/v1/queries",
      {
        page_size: PAGE,
        page_token: token,
        text_contains: search,
        created_after: since && new Date(`${since}T00:00:00`).toISOString(),
      },
      signal,
    );
  useEffect(() => {
    const timer = setTimeout(() => setSearch(text), 250);
    return () => clearTimeout(timer);
  }, [text]);
  useEffect(() => {
    const control = new AbortController();
    setLoading(true);
    read("", control.signal).then(
      (page) => {
        setList({ queries: page.queries ?? [], token: page.next_page_token ?? "" });
        setLoading(false);
        setError(undefined);
      },
      (problem: unknown) => control.signal.aborted || (setError(problem), setLoading(false)),
    );
    return () => control.abort();
  }, [search, since, props.changed]);
  const more = () => {
    if (isLoading || !list.token) return;
    setLoading(true);
    read(list.token)
      .then((page) => setList({ queries: [...list.queries, ...(page.queries ?? [])], token: page.next_page_token ?? "" }), setError)
      .finally(() => setLoading(false));
  };
  const columns: Column<Query>[] = [
    {
      key: "text",
      title: t("sql.query"),
      width: "minmax(9rem, 5fr)",
      cell: (query) => (
        <button class="link" title={query.user_query.slice(0, 2000)} onClick={() => props.onOpen(query)}>
          {query.user_query.replace(/\s+/g, " ").slice(0, 160)}
        </button>
      ),
    },
    { key: "status", title: t("kits.status"), width: "7.5rem", cell: (query) => <Status status={query.status} /> },
    {
      key: "rows",
      title: t("sql.row_count"),
      width: "7rem",
      isNumber: true,
      isSecondary: true,
      cell: (query) =>
        query.result_removed ? t("sql.removed") : query.status === "STATUS_FINISHED" ? whole(query.row_count) : "",
    },
    {
      key: "took",
      title: t("kits.duration"),
      width: "6rem",
      isNumber: true,
      isSecondary: true,
      cell: (query) => (query.run_duration ? duration(seconds(query.plan_duration) + seconds(query.run_duration)) : ""),
    },
    { key: "when", title: t("sql.when"), width: "11rem", isSecondary: true, cell: (query) => moment(query.created_at) },
  ];
  return (
    <section class="card history" aria-label={t("sql.history")}>
      <div class="filters">
        <h2>{t("sql.history")}</h2>
        <label>
          {t("sql.contains")}
          <input type="search" value={text} onInput={(event) => setText(event.currentTarget.value)} />
        </label>
        <label>
          {t("sql.since")}
          <input type="date" value={since} onInput={(event) => setSince(event.currentTarget.value)} />
        </label>
      </div>
      <ErrorNote error={error} />
      <Rows
        label={t("sql.history")}
        rows={list.queries}
        columns={columns}
        keyOf={(query) => query.query_id}
        onEnd={more}
        rowHeight={36}
        total={list.token ? -1 : undefined}
        empty={isLoading ? t("loading") : t("sql.no_queries")}
      />
    </section>
  );
}
