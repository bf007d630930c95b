/** Parts of the view of a kit: timeline, log, failures, and what one job printed and wrote. */

import { useEffect, useRef, useState } from "preact/hooks";
import { artifact, get, type Job, type Kit, type State } from "../api";
import { duration, moment, t, whole } from "../language";
import { isOver, Rows, Status, statusOf, useLoaded, useNow, type Column } from "../parts";
import { setParameters } from "../router";
import { Ask, told } from "./kit";

/** When each attempt of each job ran, and how it ended. */
export function Timeline({ kit, rows }: { kit: Kit; rows: State[] }) {
  const now = useNow(!isOver(kit.status));
  const spans = new Map<string, { from: number; to: number; status: string }[]>();
  for (const row of rows) {
    if (row.task_name || !row.job_type) continue;
    const all = spans.get(row.job_id) ?? [];
    spans.set(row.job_id, all);
    const time = Date.parse(row.created_at);
    const last = all.at(-1);
    if (last?.status === "RUNNING") Object.assign(last, { to: time, status: statusOf(row.status) });
    if (row.status === "STATUS_RUNNING") all.push({ from: time, to: NaN, status: "RUNNING" });
  }
  const begin = Date.parse(kit.created_at);
  const end = Math.max(begin + 1000, isOver(kit.status) ? Date.parse(kit.updated_at) : now);
  const part = (time: number) => (100 * (time - begin)) / (end - begin);
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  return (
    <div class="timeline card">
      <div class="scale" aria-hidden="true">
        {ticks.map((tick) => (
          <span key={tick} style={{ left: `${100 * tick}%` }}>
            {duration((tick * (end - begin)) / 1000)}
          </span>
        ))}
      </div>
      <ol>
        {kit.jobs!.map((job) => (
          <li key={job.job_id}>
            <span class="who">{job.name}</span>
            <span class="lane">
              {(spans.get(job.job_id) ?? []).map((span, index) => {
                const to = Number.isNaN(span.to) ? end : span.to;
                const text = `${job.name}: ${duration((to - span.from) / 1000)}`;
                return (
                  <span
                    key={index}
                    role="img"
                    aria-label={text}
                    title={text}
                    class={`span ${span.status.toLowerCase()}`}
                    style={{ left: `${part(span.from)}%`, width: `${Math.max(0.2, part(to) - part(span.from))}%` }}
                  />
                );
              })}
            </span>
          </li>
        ))}
      </ol>
    </div>
  );
}

/** The rows of a kit, newest first. */
export function Log({ kit, rows }: { kit: Kit; rows: State[] }) {
  const names = new Map(kit.jobs!.map((job) => [job.job_id, job.name]));
  const columns: Column<State>[] = [
    { key: "revision", title: t("kit.revision"), width: "6rem", isNumber: true, cell: (row) => row.revision },
    { key: "time", title: t("kit.time"), width: "8rem", isSecondary: true, cell: (row) => moment(row.created_at) },
    {
      key: "job",
      title: t("kit.job"),
      width: "minmax(8rem, 2fr)",
      cell: (row) => `${names.get(row.job_id) ?? kit.name}${row.task_name ? ` / ${row.task_name}` : ""}`,
    },
    { key: "status", title: t("kits.status"), width: "7.5rem", cell: (row) => <Status status={row.status} /> },
    { key: "what", title: t("kit.what"), width: "minmax(8rem, 3fr)", isSecondary: true, cell: told },
    { key: "actor", title: t("kit.actor"), width: "minmax(6rem, 1fr)", isSecondary: true, cell: (row) => row.actor ?? "" },
  ];
  return (
    <Rows
      label={t("kit.log")}
      rows={rows.toReversed()}
      columns={columns}
      keyOf={(row) => row.revision}
      rowHeight={32}
      empty={t("loading")}
    />
  );
}

/** What failed, by reason, the most frequent first. */
export function Failures({ kit, rows }: { kit: Kit; rows: State[] }) {
  const groups = new Map<string, { count: number; jobs: Set<string>; last: State }>();
  const names = new Map(kit.jobs!.map((job) => [job.job_id, job.name]));
  const add = (reason: string, row: State, count = 1) => {
    const group = groups.get(reason) ?? { count: 0, jobs: new Set<string>(), last: row };
    group.count += count;
    group.jobs.add(names.get(row.job_id) ?? "");
    group.last = row;
    groups.set(reason, group);
  };
  for (const row of rows) {
    if (row.status === "STATUS_FAILED") add(row.reason || t("kit.no_reason"), row);
    // Runs of the simulator that failed, by kind: their job goes on.
    else if (row.status === "STATUS_FINISHED" && row.task_name)
      for (const [kind, count] of Object.entries(row.metadata?.failures ?? {})) add(kind, row, Number(count));
  }
  if (!groups.size) return <p class="muted">{t("kit.no_failures")}</p>;
  return (
    <table class="card">
      <thead>
        <tr>
          <th class="number">{t("kit.count")}</th>
          <th>{t("action.reason")}</th>
          <th>{t("kit.job")}</th>
          <th>{t("kit.last")}</th>
        </tr>
      </thead>
      <tbody>
        {[...groups].sort(([, a], [, b]) => b.count - a.count).map(([reason, group]) => (
          <tr key={reason}>
            <td class="number">{whole(group.count)}</td>
            <td>{reason}</td>
            <td>{[...group.jobs].slice(0, 5).join(", ")}</td>
            <td>{moment(group.last.created_at)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

const MOST_CHARACTERS = 400_000;

/** One job: its log as it is written, its files, and what it came to. */
export function JobPanel({ job }: { job: Job }) {
  const [asked, setAsked] = useState<"cancel" | "retry">();
  const panel = useRef<HTMLElement>(null);
  useEffect(() => panel.current?.scrollIntoView({ block: "nearest" }), []);
  const attempt = job.attempt ?? 0;
  const files = useLoaded(
    (signal) =>
      attempt
        ? get<{ entries?: { name: string; size_bytes?: string; is_folder?: boolean }[] }>(
            "/v1/artifacts",
            { uri: `artifact://jobs/${job.job_id}/${attempt}` },
            signal,
          )
        : Promise.resolve({ entries: [] }),
    [attempt, job.status],
  );
  const entries = files.value?.entries ?? [];
  const urlOf = (name: string) => artifact(`artifact://jobs/${job.job_id}/${attempt}/${name}`);
  return (
    <section ref={panel} class="card" aria-label={t("kit.job_named", { job: job.name })}>
      <div class="facts">
        <h2>{job.name}</h2>
        <Status status={job.status} />
        <span class="muted">{job.worker || job.actor}</span>
        <span class="space" />
        {!isOver(job.status) && <button onClick={() => setAsked("cancel")}>{t("action.cancel")}</button>}
        {/FAILED|CANCELED/.test(job.status) && <button onClick={() => setAsked("retry")}>{t("action.retry")}</button>}
        <button onClick={() => setParameters({ job: "" })}>{t("action.close")}</button>
      </div>
      {job.reason && <p>{job.reason}</p>}
      <h3>{t("kit.prints")}</h3>
      <Prints id={job.job_id} />
      {entries.length > 0 && (
        <>
          <h3>{t("kit.files")}</h3>
          <ul class="files">
            {entries.filter((entry) => !entry.is_folder).map((entry) => (
              <li key={entry.name}>
                <a href={urlOf(entry.name)}>{entry.name}</a>{" "}
                <span class="muted">{t("kit.bytes", { count: whole(entry.size_bytes) })}</span>
              </li>
            ))}
          </ul>
          <div class="pictures">
            {entries.filter((entry) => entry.name.endsWith(".png")).map((entry) => (
              <a key={entry.name} href={urlOf(entry.name)}>
                <img src={urlOf(entry.name)} alt={entry.name} loading="lazy" />
              </a>
            ))}
          </div>
        </>
      )}
      {job.result && (
        <details>
          <summary>{t("kit.manifest")}</summary>
          <pre tabIndex={0}>{JSON.stringify(job.result, null, 2)}</pre>
        </details>
      )}
      {asked && (
        <Ask
          action={asked}
          title={t(`action.${asked}`)}
          path={`/v1/jobs/${job.job_id}/${asked}`}
          onClose={() => setAsked(undefined)}
        />
      )}
    </section>
  );
}

/** What a job prints. Hidden tabs give their connection back and go on where they were. */
function Prints({ id }: { id: string }) {
  const [text, setText] = useState("");
  const box = useRef<HTMLPreElement>(null);
  useEffect(() => {
    let source: EventSource | undefined;
    let place = "";
    let isWhole = false;
    const open = () => {
      if (document.hidden || source || isWhole) return;
      const [attempt, offset] = place.split(".");
      source = new EventSource(
        `/v1/jobs/${id}/logs?follow=true${place && `&attempt=${attempt}&offset=${offset}`}`,
      );
      source.onmessage = (event) => {
        place = event.lastEventId || place;
        const added: string = JSON.parse(event.data).text;
        setText((before) => (before + added).slice(-MOST_CHARACTERS));
      };
      source.addEventListener("end", () => {
        isWhole = true;
        close();
      });
    };
    const close = () => {
      source?.close();
      source = undefined;
    };
    const change = () => (document.hidden ? close() : open());
    document.addEventListener("visibilitychange", change);
    open();
    return () => {
      document.removeEventListener("visibilitychange", change);
      close();
    };
  }, [id]);
  useEffect(() => {
    const element = box.current!;
    if (element.scrollHeight - element.scrollTop - element.clientHeight < 200) element.scrollTop = element.scrollHeight;
  }, [text]);
  return (
    <pre ref={box} class="log" tabIndex={0} role="log" aria-label={t("kit.prints")}>
      {text || t("kit.prints_nothing")}
    </pre>
  );
}
