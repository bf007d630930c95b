/** A kit as its rows make it: the tree of jobs and tasks, and the rows themselves. */

import { get, type Job, type Kit, type State } from "../api";
import type { Rows } from "../stream";
import { paceAfter, type Pace } from "./pace";

/** Rows kept beside the tree; of larger kits, the last ones. */
export const MOST_ROWS = 50_000;
const PAGE = 5000;

const isTerminal = (status: string) => /FINISHED|FAILED|CANCELED/.test(status);

/** The kit with all pages of its jobs, now or as it was at a revision. */
export async function readKit(
  id: number,
  asked: { min_revision?: number; as_of_revision?: number },
  signal?: AbortSignal,
): Promise<{ kit: Kit; revision: number }> {
  const jobs = new Map<string, Job>();
  let kit: Kit | undefined;
  let token = "";
  for (;;) {
    const page = await get<{ kit: Kit; revision: string; next_page_token?: string }>(
      `/v1/kits/${id}`,
      { ...(token ? { as_of_revision: asked.as_of_revision } : asked), page_token: token },
      signal,
    );
    kit ??= page.kit;
    for (const job of page.kit.jobs ?? []) {
      // A job goes on where the page before ended.
      const begun = jobs.get(job.job_id);
      if (begun) begun.tasks = [...(begun.tasks ?? []), ...(job.tasks ?? [])];
      else jobs.set(job.job_id, job);
    }
    token = page.next_page_token ?? "";
    if (!token) return { kit: { ...kit, jobs: [...jobs.values()] }, revision: Number(page.revision) };
  }
}

/** A kit that follows the stream. */
export class LiveKit {
  kit: Kit | undefined;
  error: unknown;
  rows: State[] = [];
  pace: Pace | undefined;
  private jobs = new Map<string, Job>();
  private waiting: State[] | undefined;

  constructor(
    readonly id: number,
    private readonly refresh: () => void,
  ) {}

  /** Revision of the last row that is shown. */
  get last(): number {
    return Number(this.rows.at(-1)?.revision ?? 0);
  }

  async read(revision: number): Promise<number> {
    try {
      const answer = await readKit(this.id, revision ? { min_revision: revision } : {});
      this.take(answer.kit);
      await this.readRows(answer.revision);
      this.error = undefined;
      return answer.revision;
    } catch (error) {
      this.error = error;
      throw error;
    } finally {
      this.refresh();
    }
  }

  /** A change that this page asked for: its answer says what the stream will say, too. */
  private take(kit: Kit): void {
    this.kit = kit;
    this.jobs = new Map(kit.jobs!.map((job) => [job.job_id, { ...job, tasks: job.tasks ?? [] }]));
    this.kit.jobs = [...this.jobs.values()];
  }

  private async readRows(revision: number): Promise<void> {
    let after = this.last;
    for (;;) {
      const { states = [] } = await get<{ states?: State[] }>("/v1/states", {
        "filter.kit_ids": this.id,
        after_revision: after || "",
        min_revision: revision,
        page_size: PAGE,
      });
      for (const state of states) this.addRow(state);
      if (states.length < PAGE) return;
      after = this.last;
    }
  }

  private addRow(state: State): void {
    if (Number(state.revision) <= this.last) return;
    this.pace = paceAfter(this.pace, state);
    const { result, ...metadata } = state.metadata ?? {};
    this.rows.push({ ...state, metadata });
    if (this.rows.length > MOST_ROWS * 1.1) this.rows.splice(0, this.rows.length - MOST_ROWS);
  }

  apply(rows: Rows): void {
    for (const state of rows.states) {
      this.addRow(state);
      if (this.waiting) this.waiting.push(state);
      else this.applyRow(state);
    }
    for (const counts of rows.counts) {
      this.kit = { ...this.kit!, ...counts, jobs: this.kit!.jobs! };
    }
    this.refresh();
  }

  private applyRow(state: State): void {
    const kit = this.kit!;
    kit.updated_at = state.created_at;
    if (!state.job_type) {
      if (state.task_name === "pause") kit.paused = state.status === "STATUS_RUNNING";
      return;
    }
    const job = this.jobs.get(state.job_id);
    if (!job) {
      void this.readAgain(state);
      return;
    }
    const attempt = state.attempt ?? 0;
    if (attempt < (job.attempt ?? 0)) return;
    if (attempt > (job.attempt ?? 0)) Object.assign(job, { attempt, tasks: [], progress: undefined });
    if (state.task_name === "progress") {
      job.progress = state.metadata?.progress;
    } else if (state.task_name) {
      const place = job.tasks!.findIndex((task) => task.task_name === state.task_name);
      if (place < 0) job.tasks!.push(state);
      else if (Number(job.tasks![place]!.revision) < Number(state.revision)) job.tasks![place] = state;
    }
    if (state.task_name || Number(state.revision) <= Number(job.revision)) return;
    Object.assign(job, {
      status: state.status,
      revision: state.revision,
      reason: state.reason ?? "",
      actor: state.actor ?? "",
      finished_at: isTerminal(state.status) ? state.created_at : undefined,
    });
    if (state.status === "STATUS_RUNNING") job.started_at = state.created_at;
    if (state.status === "STATUS_FINISHED") job.result = state.metadata?.result;
  }

  /** For a row of a job that was not there, such as the successor of another one. */
  private async readAgain(state: State): Promise<void> {
    if (this.waiting) {
      this.waiting.push(state);
      return;
    }
    this.waiting = [];
    try {
      const { kit, revision } = await readKit(this.id, { min_revision: Number(state.revision) });
      const waiting = this.waiting.filter((row) => Number(row.revision) > revision);
      this.waiting = undefined;
      this.take(kit);
      for (const row of waiting) this.applyRow(row);
    } catch (error) {
      this.error = error;
    } finally {
      this.waiting = undefined;
      this.refresh();
    }
  }
}
