/** A study under way: what it has tried so far, fed by the stream of its kit. */

import { useEffect, useState } from "preact/hooks";
import { get, type Job, type Kit, type State } from "../api";
import { t, whole } from "../language";
import { ErrorNote, isOver, Loading, ProgressBar } from "../parts";
import { follow } from "../stream";
import type { Trial } from "./result";
import type { Known } from "./study";

interface DesignRow {
  row_id?: string;
  parameters: Trial["parameters"];
  responses?: Trial["responses"];
  failure?: string;
  message?: string;
  log?: string;
  run_duration?: string;
  origin?: string;
}

const PAGE = 2000;

/** The goals in the spec of a kit. */
function goalsOf(kit: Kit): string {
  const goals = kit.spec?.goals;
  return Array.isArray(goals) ? goals.join("; ") : String(goals ?? "");
}

/** The job that tries points now, or did last: the optimisation, before that the design. */
function tryingJob(kit: Kit): Job | undefined {
  const begun = (type: string) => kit.jobs?.find((job) => job.job_type === type && job.started_at);
  return begun("JOB_TYPE_OPTIMIZE") ?? begun("JOB_TYPE_DOE");
}

/** Reads what a job of a kit has tried, and what it tries from then on. */
class Running {
  kit: Kit | undefined;
  /** The job that tries points now. */
  job: Job | undefined;
  trials: Trial[] = [];
  /** The job that tried those that are shown: the one before, until this one has some. */
  source: Job | undefined;
  error: unknown;
  private isReading = false;
  private isBehind = false;
  private isOver = false;

  constructor(
    private readonly id: number,
    private readonly refresh: () => void,
  ) {}

  async read(revision: number): Promise<number> {
    const answer = await get<{ kit: Kit; revision: string }>(`/v1/kits/${this.id}`, { min_revision: revision || "" });
    this.kit = answer.kit;
    this.job = tryingJob(answer.kit);
    this.readTrials();
    this.refresh();
    return Number(answer.revision);
  }

  apply(states: State[]): void {
    const last = Number(states.at(-1)?.revision ?? 0);
    for (const state of states) {
      if (state.job_id === this.job?.job_id && state.task_name === "progress") this.job.progress = state.metadata?.progress;
    }
    // Another job or attempt begins, or one has ended.
    if (states.some((state) => state.job_type && !state.task_name)) void this.read(last).catch(this.fail);
    else this.readTrials();
  }

  stop(): void {
    this.isOver = true;
  }

  private readonly fail = (error: unknown): void => {
    this.error = error;
    this.refresh();
  };

  /** Reads what came since the last time; changes of one moment are read once. */
  private readTrials(): void {
    this.isBehind = true;
    if (this.isReading) return;
    this.isReading = true;
    void (async () => {
      try {
        while (this.isBehind && !this.isOver) {
          this.isBehind = false;
          await this.readMore();
          this.refresh();
        }
        this.error = undefined;
      } catch (error) {
        this.fail(error);
      } finally {
        this.isReading = false;
      }
    })();
  }

  private async readMore(): Promise<void> {
    const job = this.job;
    if (!job) return;
    for (;;) {
      const before = this.source?.job_id === job.job_id ? this.trials : [];
      const some = job.job_type === "JOB_TYPE_DOE" ? await readRows(job, before.length) : await readTrials(job, before.length);
      if (some.length) {
        this.source = job;
        // A new list, by which charts see that there is something new.
        this.trials = [...before, ...some];
      }
      if (some.length < PAGE) return;
    }
  }
}

async function readTrials(job: Job, from: number): Promise<Trial[]> {
  const asked = { allow_unfinished: true, from_number: from || "", page_size: PAGE };
  const { trials = [] } = await get<{ trials?: Trial[] }>(`/v1/studies/${job.job_id}/trials`, asked);
  return trials;
}

async function readRows(job: Job, offset: number): Promise<Trial[]> {
  const asked = { allow_unfinished: true, offset: offset || "", limit: PAGE };
  const rows = await get<DesignRow[]>(`/v1/designs/${job.job_id}/rows.json`, asked);
  return rows.map(({ row_id = "0", origin, ...row }) => ({ ...row, number: row_id, origin: origin || "doe" }));
}

/** What `known` calls for, with what a kit without a finished study has tried so far. */
export default function RunningStudy({ id, show }: { id: number; show(known: Known): preact.ComponentChildren }) {
  const [running, setRunning] = useState<{ of: Running }>();
  useEffect(() => {
    const one = new Running(id, () => setRunning({ of: one }));
    const leave = follow(id, { read: (revision) => one.read(revision), apply: ({ states }) => one.apply(states) });
    return () => {
      one.stop();
      leave();
    };
  }, [id]);
  const { kit, job, source, trials = [], error } = running?.of ?? {};
  if (!kit) return error ? <ErrorNote error={error} /> : <Loading />;
  const { progress } = job ?? {};
  const goals = goalsOf(kit);
  return (
    <>
      <ErrorNote error={error} />
      <p role="status">
        <strong>{kit.name}</strong>{" "}
        {job && !isOver(job.status)
          ? t("study.running", { job: job.name, count: whole(trials.length) })
          : t("study.so_far", { count: whole(trials.length) })}
        {progress?.message && <span class="muted"> {progress.message}</span>}
      </p>
      {job && !isOver(job.status) && Number(progress?.total ?? 0) > 0 && (
        <p>
          <ProgressBar done={Number(progress?.completed ?? 0)} total={Number(progress?.total)} label={job.name} />
        </p>
      )}
      {source &&
        trials.length > 0 &&
        show({ kit, job: source, study: { study_id: source.job_id, goals }, model: undefined, trials, isMaximized: /\bmaximize\b/i.test(goals) })}
    </>
  );
}
