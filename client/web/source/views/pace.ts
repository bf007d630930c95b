/** How fast a phase of a job goes. */

import type { State } from "../api";

/** Two moments of a phase, from which follows how long it takes. */
export interface Pace {
  phase: string;
  from: [number, number];
  to: [number, number];
  total: number;
}

/** What a row adds to the pace of its kit. */
export function paceAfter(before: Pace | undefined, state: State): Pace | undefined {
  const progress = state.metadata?.progress;
  if (!progress) return state.task_name ? before : undefined;
  const phase = `${state.job_id} ${progress.phase}`;
  const here: [number, number] = [Date.parse(state.created_at), Number(progress.completed ?? 0)];
  const total = Number(progress.total ?? 0);
  return before?.phase === phase ? { ...before, to: here, total } : { phase, from: here, to: here, total };
}

/** Seconds that the phase under way still takes at its pace; NaN if that is not known. */
export function remaining(pace: Pace | undefined): number {
  if (!pace) return NaN;
  const done = pace.to[1] - pace.from[1];
  return done > 0 ? ((pace.total - pace.to[1]) * (pace.to[0] - pace.from[0])) / 1000 / done : NaN;
}
