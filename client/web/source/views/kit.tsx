/** A kit: its tree of jobs and tasks, live or as it was, and what it came to. */

import { useEffect, useMemo, useState } from "preact/hooks";
import { get, post, type Job, type Kit, type State } from "../api";
import { duration, moment, named, number, t, whole, type Key } from "../language";
import { CountsBar, Dialog, Elapsed, ErrorNote, isOver, Loading, ProgressBar, Rows, Status, statusOf, useLoaded, useRefresh, type Column } from "../parts";
import { Link, setParameters, type Place } from "../router";
import { follow } from "../stream";
import { Failures, JobPanel, Log, Timeline } from "./kit_panels";
import { LiveKit, readKit } from "./kit_state";
import { remaining } from "./pace";
import Result from "./result";

const TABS = ["tree", "timeline", "log", "failures"] as const;
type Action = "pause" | "resume" | "cancel" | "retry";

/** A UUID also where the page has no secure origin. */
export function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 15) | 64;
  bytes[8] = (bytes[8]! & 63) | 128;
  const text = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return text.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

export default function KitView({ place, match }: { place: Place; match: RegExpMatchArray }) {
  const id = Number(match[1]);
  const refresh = useRefresh();
  const live = useMemo(() => new LiveKit(id, refresh), [id]);
  useEffect(() => follow(id, { read: (revision) => live.read(revision), apply: (rows) => live.apply(rows) }), [live]);
  const tab = TABS.find((one) => one === place.parameters.get("tab")) ?? "tree";
  const at = Number(place.parameters.get("at") ?? 0);
  const jobId = place.parameters.get("job");
  const { kit } = live;
  if (!kit) return live.error ? <ErrorNote error={live.error} /> : <Loading />;
  const job = kit.jobs!.find((one) => one.job_id === jobId);
  const study = kit.jobs!.find((one) => one.job_type === "JOB_TYPE_OPTIMIZE" && one.result?.kind === "design");
  return (
    <>
      <Head live={live} kit={kit} />
      <ErrorNote error={live.error} />
      {study && <Result job={study} kit={kit} />}
      <div role="tablist" aria-label={t("kit.parts")} class="tabs">
        {TABS.map((one) => (
          <button
            key={one}
            role="tab"
            id={`tab-${one}`}
            aria-selected={one === tab}
            aria-controls="tab"
            onClick={() => setParameters({ tab: one === "tree" ? "" : one })}
          >
            {t(`kit.${one}` as Key)}
            {one === "log" && <span class="figure"> {whole(live.rows.length)}</span>}
          </button>
        ))}
      </div>
      <div role="tabpanel" id="tab" aria-labelledby={`tab-${tab}`} class="full">
        {tab === "tree" && <Tree live={live} at={at} />}
        {tab === "timeline" && <Timeline kit={kit} rows={live.rows} />}
        {tab === "log" && <Log rows={live.rows} kit={kit} />}
        {tab === "failures" && <Failures rows={live.rows} kit={kit} />}
      </div>
      {job && <JobPanel key={job.job_id} job={job} />}
    </>
  );
}

function Head({ live, kit }: { live: LiveKit; kit: Kit }) {
  const [asked, setAsked] = useState<Action>();
  const running = kit.jobs!.find((job) => job.status === "STATUS_RUNNING");
  const over = isOver(kit.status);
  const done = Number(running?.progress?.completed ?? 0);
  const total = Number(running?.progress?.total ?? 0);
  const actions: Action[] = over
    ? statusOf(kit.status) === "FINISHED" ? [] : ["retry"]
    : [kit.paused ? "resume" : "pause", "cancel"];
  return (
    <section class="head-of-kit" aria-label={t("kit.title")}>
      <h1>
        {kit.name} <small class="muted">{t("kit.number", { id: kit.kit_id })}</small>
      </h1>
      <div class="facts">
        <Status status={kit.status} paused={kit.paused} />
        <CountsBar counts={kit.job_counts} />
        <span>
          <Elapsed from={kit.created_at} to={over ? kit.updated_at : undefined} />
        </span>
        {kit.spec?.deck?.name && <span>{t("kit.deck", { deck: kit.spec.deck.name })}</span>}
        {kit.spec?.goals && <code>{kit.spec.goals}</code>}
        {Object.entries(kit.labels ?? {}).map(([name, value]) => (
          <Link key={name} class="label" to="/kits" parameters={{ label: `${name}=${value}` }}>
            {name}={value}
          </Link>
        ))}
        <span class="space" />
        {actions.map((action) => (
          <button key={action} class={action === "cancel" ? "danger" : ""} onClick={() => setAsked(action)}>
            {t(`action.${action}`)}
          </button>
        ))}
        {kit.jobs!.some((job) => job.job_type === "JOB_TYPE_OPTIMIZE" && job.result) && (
          <Link class="button main" to={`/kits/${kit.kit_id}/study`}>
            {t("study.title")}
          </Link>
        )}
      </div>
      {running && total > 0 && (
        <div class="facts">
          <span>
            {running.name}: {running.progress?.phase} {whole(done)}/{whole(total)} {running.progress?.unit}
          </span>
          <ProgressBar done={done} total={total} label={t("kit.progress", { job: running.name })} />
          {Number.isFinite(remaining(live.pace)) && (
            <span>{t("kit.remaining", { time: duration(remaining(live.pace)) })}</span>
          )}
          <strong>{running.progress?.message}</strong>
        </div>
      )}
      {asked && (
        <Ask
          action={asked}
          title={t(`action.${asked}`)}
          path={`/v1/kits/${kit.kit_id}/${asked}`}
          onClose={() => setAsked(undefined)}
        />
      )}
    </section>
  );
}

/** Asks why, and for the change. What came of it comes by the stream, to all tabs. */
export function Ask(props: { action: string; title: string; path: string; onClose(): void }) {
  const [error, setError] = useState<unknown>();
  const [id] = useState(uuid);
  return (
    <Dialog title={props.title} onClose={props.onClose}>
      <form
        class="stack"
        onSubmit={async (event) => {
          event.preventDefault();
          const reason = new FormData(event.currentTarget).get("reason");
          try {
            await post(props.path, { request_id: id, reason, actor: "page" });
            props.onClose();
          } catch (problem) {
            setError(problem);
          }
        }}
      >
        <label class="stack">
          {t("action.reason")}
          <input name="reason" maxLength={400} autofocus />
        </label>
        <ErrorNote error={error} />
        <div class="facts">
          <button class="main">{props.title}</button>
          <button type="button" onClick={props.onClose}>
            {t("action.back")}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

interface Line {
  key: string;
  job: Job;
  task?: State;
}

function Tree({ live, at }: { live: LiveKit; at: number }) {
  const past = useLoaded(
    async (signal) => {
      if (!at) return undefined;
      // Not for each place that the slider passes.
      await new Promise((resolve) => setTimeout(resolve, 120));
      if (signal.aborted) return undefined;
      const [then, changes] = await Promise.all([
        readKit(live.id, { as_of_revision: at }, signal),
        get<{ changes?: { before?: State; after?: State }[]; next_page_token?: string }>(
          `/v1/kits/${live.id}/diff`,
          { from_revision: at, page_size: 1000 },
          signal,
        ),
      ]);
      return { kit: then.kit, changes };
    },
    [at],
  );
  const [closed, setClosed] = useState<Set<string>>(() =>
    live.kit!.jobs!.length > 50 ? new Set(live.kit!.jobs!.map((job) => job.job_id)) : new Set(),
  );
  const kit = (at && past.value?.kit) || live.kit!;
  const lines: Line[] = [];
  for (const job of kit.jobs!) {
    lines.push({ key: job.job_id, job });
    if (closed.has(job.job_id)) continue;
    for (const task of job.tasks ?? []) {
      if (task.task_name !== "progress") lines.push({ key: `${job.job_id}/${task.task_name}`, job, task });
    }
  }
  const changed = new Map(
    (at ? (past.value?.changes?.changes ?? []) : []).map(({ before, after }) => {
      const row = (after ?? before)!;
      return [row.task_name ? `${row.job_id}/${row.task_name}` : row.job_id, after] as const;
    }),
  );
  const columns: Column<Line>[] = [
    {
      key: "name",
      title: t("kit.job"),
      width: "minmax(9rem, 2fr)",
      cell: ({ job, task }) =>
        task ? (
          <span class="leaf">{task.task_name}</span>
        ) : (
          <>
            <button
              class="quiet toggle"
              aria-expanded={!closed.has(job.job_id)}
              aria-label={t("kit.tasks_of", { job: job.name })}
              onClick={() => {
                const next = new Set(closed);
                if (!next.delete(job.job_id)) next.add(job.job_id);
                setClosed(next);
              }}
            />
            <button class="quiet link" onClick={() => setParameters({ job: job.job_id }, false)}>
              {job.name}
            </button>
          </>
        ),
    },
    {
      key: "status",
      title: t("kits.status"),
      width: "7.5rem",
      cell: ({ job, task }) => <Status status={(task ?? job).status} />,
    },
    ...(at
      ? [
          {
            key: "since",
            title: t("kit.since"),
            width: "9rem",
            cell: ({ key }: Line) => {
              const after = changed.get(key);
              return after && <Status status={after.status} />;
            },
          },
        ]
      : []),
    {
      key: "took",
      title: t("kits.duration"),
      width: "7rem",
      isNumber: true,
      cell: ({ job, task }) =>
        task ? "" : <Elapsed from={job.started_at} to={job.finished_at ?? (at ? job.started_at : undefined)} />,
    },
    {
      key: "attempt",
      title: t("kit.attempt"),
      width: "5.5rem",
      isNumber: true,
      isSecondary: true,
      cell: ({ job, task }) => (task ? "" : `${job.attempt ?? 0}/${job.max_attempts ?? 1}`),
    },
    {
      key: "what",
      title: t("kit.what"),
      width: "minmax(8rem, 3fr)",
      isSecondary: true,
      cell: ({ job, task }) => (task ? told(task) : (job.reason ?? "")),
    },
    {
      key: "revision",
      title: t("kit.revision"),
      width: "6rem",
      isNumber: true,
      isSecondary: true,
      cell: ({ job, task }) => (task ?? job).revision,
    },
  ];
  const { rows } = live;
  const place = at ? rows.findLastIndex((row) => Number(row.revision) <= at) : rows.length - 1;
  return (
    <>
      <div class="slider">
        <label>
          {t("kit.moment")}
          <input
            type="range"
            min={0}
            max={rows.length - 1}
            value={place}
            aria-valuetext={at ? t("kit.then", { revision: at }) : t("kit.now")}
            onInput={(event) => {
              const next = Number(event.currentTarget.value);
              setParameters({ at: next >= rows.length - 1 ? "" : rows[next]!.revision });
            }}
          />
        </label>
        <output>
          {at
            ? t("kit.past", { revision: at, time: moment(rows[place]?.created_at), count: whole(changed.size) })
            : t("kit.now")}
        </output>
        {at > 0 && <button onClick={() => setParameters({ at: "" })}>{t("kit.to_now")}</button>}
        {at > 0 && past.value && <Status status={past.value.kit.status} />}
      </div>
      <ErrorNote error={past.error} />
      <Rows label={t("kit.tree")} rows={lines} columns={columns} keyOf={(line) => line.key} rowHeight={34} empty={t("kit.no_jobs")} />
    </>
  );
}

/** What a row says beside its status. */
export function told(row: State): string {
  if (row.reason) return row.reason;
  const progress = row.metadata?.progress;
  if (progress) return `${progress.phase} ${progress.completed ?? 0}/${progress.total ?? 0} ${progress.unit ?? ""} ${progress.message ?? ""}`;
  return Object.entries(row.metadata ?? {})
    .filter(([, value]) => typeof value !== "object" && value !== "")
    .map(([name, value]) => `${named("fact", name)} ${typeof value === "number" ? number(value) : value}`)
    .join(", ");
}
