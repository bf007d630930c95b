/** SQL: tabs with editors, what became of their queries, and the history. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ApiError, get, post } from "../../api";
import { t } from "../../language";
import { ErrorNote } from "../../parts";
import { setParameters, type Place } from "../../router";
import type { Editor } from "./editor";
import { useChanges } from "../live";
import History from "./history";
import Outcome from "./outcome";
import {
  columnsOf, drop, newTab, parametersIn, quoted, read, seconds, store, storedTabs, submit, valuesOf, type Query, type Tab,
} from "./queries";

const TYPES = ["VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP"];
const CURRENT = "vistaflow.sql.current";

/** Names by which queries find tables. */
async function tables(): Promise<{ label: string; type: string; detail: string }[]> {
  const [{ datasets = [] }, { queries = [] }, { kits = [] }] = await Promise.all([
    get<{ datasets?: { name: string }[] }>("/v1/datasets", { page_size: 1000 }).catch(() => ({ datasets: [] })),
    get<{ queries?: Query[] }>("/v1/queries", { page_size: 20, statuses: "STATUS_FINISHED" }).catch(() => ({ queries: [] })),
    get<{ kits?: { kit_id: number; name: string; spec?: unknown }[] }>("/v1/kits", { page_size: 50 }).catch(() => ({ kits: [] })),
  ]);
  return [
    ...datasets.map(({ name }) => ({ label: /^[a-z_][a-z0-9_]*$/.test(name) ? name : quoted(name), type: "class", detail: t("sql.kind.dataset") })),
    ...["state.log", "state.jobs"].map((label) => ({ label, type: "class", detail: t("sql.kind.state") })),
    ...kits.filter((kit) => kit.spec).flatMap((kit) =>
      ["design", "trials"].map((table) => ({ label: `kit_${kit.kit_id}.${table}`, type: "class", detail: kit.name.slice(0, 40) })),
    ),
    ...queries.map((query) => ({
      label: `results.${quoted(query.query_id)}`,
      type: "class",
      detail: query.user_query.replace(/\s+/g, " ").slice(0, 40),
    })),
  ];
}

/** What a tab is called: the first line of its text. */
const titleOf = (tab: Tab): string => tab.text.replace(/\s+/g, " ").trim().slice(0, 24) || t("sql.empty_tab");

export default function Sql({ place }: { place: Place }) {
  const [tabs, setTabs] = useState<Tab[]>(() => {
    const stored = storedTabs();
    return stored.length ? stored : [newTab()];
  });
  const [currentId, setCurrentId] = useState(() => sessionStorage.getItem(CURRENT) ?? "");
  const tab = tabs.find((one) => one.id === currentId) ?? tabs.at(-1)!;
  const [error, setError] = useState<unknown>();
  const [isFresh, setFresh] = useState(false);
  const changed = useChanges((state) => state.job_type === "JOB_TYPE_QUERY" && !state.task_name);
  const [isSending, setSending] = useState(false);
  const holder = useRef<HTMLDivElement>(null);
  const editor = useRef<Editor | undefined>(undefined);
  const now = useRef({ tab, run: () => {} });
  const lastTables = useRef<{ at: number; value: ReturnType<typeof tables> } | undefined>(undefined);

  const change = (id: string, changes: Partial<Tab>) =>
    setTabs((before) =>
      before.map((one) => {
        if (one.id !== id) return one;
        const next = { ...one, ...changes };
        store(next);
        return next;
      }),
    );
  const select = (id: string) => {
    sessionStorage.setItem(CURRENT, id);
    setCurrentId(id);
    setError(undefined);
  };
  const add = (made: Tab) => {
    store(made);
    setTabs((before) => [...before, made]);
    select(made.id);
  };
  const close = (gone: Tab) => {
    drop(gone);
    const rest = tabs.filter((one) => one !== gone);
    const left = rest.length ? rest : [newTab()];
    setTabs(left);
    if (gone.id === tab.id) select(left.at(-1)!.id);
  };
  const run = (again = false) => {
    if (isSending || !tab.text.trim()) return;
    setSending(true);
    setError(undefined);
    submit({
      user_query: tab.text,
      parameters: valuesOf(tab),
      ...(tab.dialect ? { dialect: tab.dialect } : {}),
      ...(tab.limit ? { limit: tab.limit } : {}),
      ...(isFresh || again ? { reuse: "REUSE_POLICY_NEVER" } : {}),
    })
      .then(({ query, reused, age }) => {
        setTabs((before) =>
          before.map((one) => {
            if (one.id !== tab.id) return one;
            const { age: _, ...rest } = one;
            const next: Tab = { ...rest, queryId: query.query_id, ...(reused ? { age: seconds(age) } : {}) };
            store(next);
            return next;
          }),
        );
      }, setError)
      .finally(() => setSending(false));
  };
  now.current = { tab, run };

  useEffect(() => {
    let isGone = false;
    void import("./editor").then((module) => {
      if (isGone || !holder.current) return;
      editor.current = module.open({
        parent: holder.current,
        label: t("sql.editor"),
        text: now.current.tab.text,
        onText: (text) => change(now.current.tab.id, { text }),
        onRun: () => now.current.run(),
        check: async (text) => {
          const { tab } = now.current;
          try {
            const answer = await post<{ errors?: { message: string }[] }>("/v1/queries/validate", {
              user_query: text,
              parameters: valuesOf({ ...tab, text }),
              ...(tab.dialect ? { dialect: tab.dialect } : {}),
            });
            return answer.errors ?? [];
          } catch (problem) {
            return problem instanceof ApiError && problem.status < 500 ? [{ message: problem.message }] : [];
          }
        },
        tables: () => {
          if (!lastTables.current || Date.now() - lastTables.current.at > 30_000) {
            lastTables.current = { at: Date.now(), value: tables() };
          }
          return lastTables.current.value;
        },
        columns: async (table) =>
          (await columnsOf(table)).map(({ name, type }) => ({
            label: /^[a-z_][a-z0-9_]*$/.test(name) ? name : quoted(name),
            type: "property",
            detail: type,
            boost: 2,
          })),
      });
    });
    return () => {
      isGone = true;
      editor.current?.close();
    };
  }, []);
  // Not when its text changes: that comes from the editor, which may be further already.
  useEffect(() => editor.current?.show(tab.text), [tab.id]);
  useEffect(() => editor.current?.check(), [tab.values, tab.dialect]);

  const asked = place.parameters.get("query");
  useEffect(() => {
    if (!asked) return;
    read(asked).then(open, setError).finally(() => setParameters({ query: "" }));
  }, [asked]);

  function open(query: Query): void {
    const same = tabs.find((one) => one.queryId === query.query_id);
    if (same) {
      select(same.id);
      return;
    }
    const values = Object.fromEntries(
      (query.parameters ?? []).map(({ name, type = "VARCHAR", value = "" }) => [name, { type, value }]),
    );
    const filled: Partial<Tab> = {
      text: query.user_query, queryId: query.query_id, values, limit: query.limit ?? "",
      dialect: query.dialect === "QUERY_DIALECT_DUCKDB" ? query.dialect : "",
    };
    // Text that was not run stays in its own tab.
    if (!tab.text.trim() || tab.text === query.user_query) {
      const { age: _, ...rest } = tab;
      const next = { ...rest, ...filled };
      store(next);
      setTabs(tabs.map((one) => (one === tab ? next : one)));
      editor.current?.show(query.user_query);
    } else {
      add({ ...newTab(), ...filled });
    }
    setError(undefined);
  }

  const names = useMemo(() => parametersIn(tab.text), [tab.text]);
  return (
    <div class="sql">
      <h1>SQL</h1>
      <div class="tabs">
        <div role="tablist" aria-label={t("sql.tabs")} class="tab-list">
          {tabs.map((one) => (
            <button
              key={one.id}
              role="tab"
              aria-selected={one === tab}
              tabIndex={one === tab ? 0 : -1}
              title={one.text.slice(0, 500)}
              onClick={() => select(one.id)}
              onKeyDown={(event) => {
                const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
                if (event.key === "Delete") close(one);
                if (!step) return;
                const at = (tabs.indexOf(one) + step + tabs.length) % tabs.length;
                select(tabs[at]!.id);
                (event.currentTarget.parentElement!.children[at] as HTMLElement).focus();
              }}
            >
              {titleOf(one)}
            </button>
          ))}
        </div>
        <button class="quiet" aria-label={t("sql.close")} title={t("sql.close")} onClick={() => close(tab)}>
          ×
        </button>
        <button class="quiet" aria-label={t("sql.new")} title={t("sql.new")} onClick={() => add(newTab())}>
          +
        </button>
      </div>
      <div ref={holder} class="editor" />
      <div class="filters run">
        {names.map((name) => {
          const { type = "VARCHAR", value = "" } = tab.values[name] ?? {};
          const set = (next: object) => change(tab.id, { values: { ...tab.values, [name]: { type, value, ...next } } });
          return (
            <fieldset key={name} class="parameter">
              <legend>:{name}</legend>
              <input
                aria-label={t("sql.parameter", { name })}
                placeholder="NULL"
                value={value}
                onInput={(event) => set({ value: event.currentTarget.value })}
              />
              <select aria-label={t("sql.type", { name })} value={type} onChange={(event) => set({ type: event.currentTarget.value })}>
                {TYPES.map((one) => (
                  <option key={one}>{one}</option>
                ))}
              </select>
            </fieldset>
          );
        })}
        <label>
          {t("sql.limit")}
          <input
            type="number"
            min="0"
            placeholder={t("sql.no_limit")}
            value={tab.limit}
            onInput={(event) => change(tab.id, { limit: event.currentTarget.value.replace(/\D/g, "") })}
          />
        </label>
        <label>
          {t("sql.dialect")}
          <select value={tab.dialect} onChange={(event) => change(tab.id, { dialect: event.currentTarget.value })}>
            <option value="">Trino</option>
            <option value="QUERY_DIALECT_DUCKDB">DuckDB</option>
          </select>
        </label>
        <div class="choice">
          <input id="fresh" type="checkbox" checked={isFresh} onChange={(event) => setFresh(event.currentTarget.checked)} />
          <label for="fresh">{t("sql.fresh")}</label>
        </div>
        <button class="main" disabled={isSending || !tab.text.trim()} title="Ctrl+Enter" onClick={() => run()}>
          {t("sql.run")}
        </button>
      </div>
      <ErrorNote error={error} />
      <Outcome
        key={tab.id}
        queryId={tab.queryId}
        age={tab.age}
        onAgain={() => run(true)}
      />
      <History changed={changed} onOpen={open} />
    </div>
  );
}
