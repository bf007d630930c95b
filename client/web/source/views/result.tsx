/** What a kit came to: the best point, predicted against simulated, constraints, warnings. */

import { get, type Job, type Kit } from "../api";
import { number, t, named } from "../language";
import { ErrorNote, useLoaded } from "../parts";

export interface Parameter {
  name: string;
  kind?: string;
  low?: number;
  high?: number;
  choices?: (number | string | boolean)[];
  unit?: string;
  scale?: string;
  default_value?: number | string | boolean;
  description?: string;
}
export interface Response {
  name: string;
  unit?: string;
}
export interface Prediction {
  mean?: number;
  standard_deviation?: number;
  low95?: number;
  high95?: number;
}
export interface Trial {
  number?: string;
  origin?: string;
  parameters: Record<string, number | string>;
  responses?: Record<string, number>;
  objective?: number;
  feasible?: boolean;
  failure?: string;
  message?: string;
  log?: string;
  run_duration?: string;
  cached?: boolean;
  predicted?: Record<string, Prediction>;
}
export interface Study {
  study_id: string;
  goals?: string;
  best?: Trial;
  design_best?: Trial;
  comparisons?: { response: Response; predicted?: Prediction; simulated?: number; noise?: number; run_count?: number }[];
  constraints?: { text: string; value?: number; limit?: number; met?: boolean; miss?: number; unit?: string; margin?: number; active?: boolean }[];
  at_bounds?: { name: string; value?: number; low?: number; high?: number; end: string }[];
  evaluation_count?: number;
  simulated_count?: number;
  cached_count?: number;
  failed_count?: number;
  stop_reason?: string;
  notes?: string[];
  model_id?: string;
  model_row_count?: number;
}
export interface Model {
  model_id: string;
  parameters: Parameter[];
  responses: { response: Response; family: string; cross_validation_rmse?: Record<string, number>; log_scale?: boolean }[];
  training_row_count?: number;
}

export async function readStudy(id: string, signal?: AbortSignal): Promise<{ study: Study; model: Model | undefined }> {
  const { study } = await get<{ study: Study }>(`/v1/studies/${id}`, {}, signal);
  const model = study.model_id
    ? (await get<{ model: Model }>(`/v1/models/${study.model_id}`, {}, signal).catch(() => undefined))?.model
    : undefined;
  return { study, model };
}

/** Values by name, in the order of the model's parameters. */
export function inOrder<T>(values: Record<string, T>, model: Model | undefined): [string, T][] {
  const place = (name: string) => model?.parameters.findIndex((one) => one.name === name) ?? 0;
  return Object.entries(values).sort(([a], [b]) => place(a) - place(b));
}

/** Parameters of the best point that are at an end of their range, where more may be beyond it. */
function atEnds(study: Study): string[] {
  return (study.at_bounds ?? []).map(({ name, value = 0, low = 0, high = 0 }) =>
    t("result.at_end", { name, value: number(value), low: number(low), high: number(high) }),
  );
}

/** Whether a model may be trusted; nothing where that was not judged. */
function verdict(doubts: string[] | undefined): string {
  if (!doubts) return "";
  return doubts.length > 0 ? `⚠ ${doubts.join(", ")}` : "✔";
}

export default function Result({ job, kit }: { job: Job; kit: Kit }) {
  const { value, error } = useLoaded((signal) => readStudy(job.job_id, signal), [job.job_id, job.revision]);
  if (!value) return <ErrorNote error={error} />;
  const { study, model } = value;
  const test = kit.jobs!.find((one) => one.job_type === "JOB_TYPE_ML_TEST" && one.result)?.result;
  const warnings = [...atEnds(study), ...(study.notes ?? []), ...((test?.warnings as string[]) ?? [])];
  const units = new Map(model?.parameters.map((one) => [one.name, one.unit]) ?? []);
  return (
    <section class="card result" aria-label={t("result.title")}>
      <h2>{t("result.title")}</h2>
      {warnings.length > 0 && (
        <ul class="warnings" aria-label={t("result.warnings")}>
          {warnings.map((warning) => (
            <li key={warning}>{warning}</li>
          ))}
        </ul>
      )}
      <div class="tables">
        <table>
          <caption>{t("result.best")}</caption>
          <thead>
            <tr>
              <th>{t("result.parameter")}</th>
              <th class="number">{t("result.value")}</th>
              <th>{t("result.unit")}</th>
            </tr>
          </thead>
          <tbody>
            {inOrder(study.best?.parameters ?? {}, model).map(([name, at]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td class="number">{typeof at === "number" ? number(at) : String(at)}</td>
                <td>{units.get(name) ?? ""}</td>
              </tr>
            ))}
          </tbody>
        </table>
        {(study.comparisons?.length ?? 0) > 0 && (
          <table>
            <caption>{t("result.compared")}</caption>
            <thead>
              <tr>
                <th>{t("result.response")}</th>
                <th class="number">{t("result.predicted")}</th>
                <th class="number">± sd</th>
                <th class="number">{t("result.simulated")}</th>
                <th>{t("result.unit")}</th>
              </tr>
            </thead>
            <tbody>
              {study.comparisons!.map((one) => (
                <tr key={one.response.name}>
                  <th scope="row">{one.response.name}</th>
                  <td class="number">{number(one.predicted?.mean)}</td>
                  <td class="number">{number(one.predicted?.standard_deviation, 3)}</td>
                  <td class="number">{number(one.simulated ?? 0)}</td>
                  <td>{one.response.unit}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
        {(study.constraints?.length ?? 0) > 0 && (
          <table>
            <caption>{t("result.constraints")}</caption>
            <thead>
              <tr>
                <th>{t("result.constraint")}</th>
                <th class="number">{t("result.value")}</th>
                <th class="number">{t("result.margin")}</th>
                <th>{t("result.unit")}</th>
                <th>{t("kits.status")}</th>
              </tr>
            </thead>
            <tbody>
              {study.constraints!.map((one) => (
                <tr key={one.text}>
                  <th scope="row">
                    <code>{one.text}</code>
                  </th>
                  <td class="number">{number(one.value ?? 0)}</td>
                  <td class="number">{number(one.margin ?? 0)}</td>
                  <td>{one.unit}</td>
                  <td>{t(one.active ? "result.active" : one.met ? "result.met" : "result.missed")}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
        {test?.metrics && (
          <table>
            <caption>{t("result.model")}</caption>
            <thead>
              <tr>
                <th>{t("result.response")}</th>
                <th>{t("result.family")}</th>
                <th class="number">R²</th>
                <th class="number">RMSE</th>
                <th class="number">{t("result.coverage")}</th>
                <th class="number">{t("result.rows")}</th>
                <th />
              </tr>
            </thead>
            <tbody>
              {Object.entries(test.metrics as Record<string, any>).map(([name, metrics]) => (
                <tr key={name}>
                  <th scope="row">{name}</th>
                  <td>{named("family", test.families?.[name] ?? "")}</td>
                  <td class="number">{number(metrics.r2, 3)}</td>
                  <td class="number">{number(metrics.rmse, 3)}</td>
                  <td class="number">{number(metrics.coverage95, 3)}</td>
                  <td class="number">{number(metrics.rows)}</td>
                  <td>{verdict(metrics.doubts)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </div>
      <p class="muted">
        {t("result.cost", {
          points: study.evaluation_count ?? 0,
          runs: study.simulated_count ?? 0,
          cached: study.cached_count ?? 0,
          failed: study.failed_count ?? 0,
          reason: study.stop_reason ?? "",
        })}
        {study.design_best?.objective !== undefined &&
          ` ${t("result.before", { value: number(study.design_best.objective), best: number(study.best?.objective) })}`}
      </p>
    </section>
  );
}
