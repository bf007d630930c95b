/** What the surrogate says of a point that the reader sets. */

import { useEffect, useState } from "preact/hooks";
import { post } from "../api";
import { number, t } from "../language";
import { ErrorNote } from "../parts";
import type { Model, Parameter, Prediction } from "./result";

export type Value = number | string | boolean;
export type Point = Record<string, Value>;
export type Predictions = Record<string, Prediction>[];

/** The default of each parameter, else the middle of its range. */
export function middle(model: Model): Point {
  return Object.fromEntries(
    model.parameters.map((one) => [one.name, one.default_value ?? one.choices?.[0] ?? place(one, 0.5)]),
  );
}

/** The value at a part of a range, as the range is spaced. */
export function place({ low = 0, high = 1, scale, kind }: Parameter, part: number): number {
  const value = scale === "PARAMETER_SCALE_LOG" ? low * (high / low) ** part : low + (high - low) * part;
  return kind === "PARAMETER_KIND_INTEGER" ? Math.round(value) : Math.min(high, Math.max(low, value));
}

/** Where in its range a value is, from 0 to 1. */
function partOf({ low = 0, high = 1, scale }: Parameter, value: number): number {
  return scale === "PARAMETER_SCALE_LOG" ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
}

/** Asks the model for points. */
export async function predict(model: Model, points: Point[], signal?: AbortSignal): Promise<Predictions> {
  const answer = await post<{ predictions: { responses?: Record<string, Prediction> }[] }>(
    `/v1/models/${model.model_id}/predict`,
    { points },
    signal,
  );
  return answer.predictions.map((one) => one.responses ?? {});
}

/** The predictions at points that change as fast as a slider moves; the former stay until then. */
export function usePredictions(model: Model, points: Point[]): { value: Predictions | undefined; error: unknown; asked: Point[] } {
  const [state, setState] = useState<{ value: Predictions | undefined; error: unknown; asked: Point[] }>({
    value: undefined,
    error: undefined,
    asked: [],
  });
  const key = JSON.stringify(points);
  useEffect(() => {
    const control = new AbortController();
    const timer = setTimeout(() => {
      predict(model, points, control.signal).then(
        (value) => setState({ value, error: undefined, asked: points }),
        (error: unknown) => control.signal.aborted || setState((before) => ({ ...before, error })),
      );
    }, 40);
    return () => {
      clearTimeout(timer);
      control.abort();
    };
  }, [model.model_id, key]);
  return state;
}

export default function WhatIf(props: { model: Model; point: Point; best: Point | undefined; onChange(point: Point): void }) {
  const { model, point } = props;
  const { value, error } = usePredictions(model, [point]);
  const set = (name: string, to: Value) => props.onChange({ ...point, [name]: to });
  return (
    <>
      <div class="knobs">
        {model.parameters.map((one) => (
          <label key={one.name}>
            <span title={one.description}>{one.name}</span>
            {one.choices?.length ? (
              <select
                value={String(point[one.name])}
                onChange={(event) => set(one.name, one.choices![event.currentTarget.selectedIndex]!)}
              >
                {one.choices.map((choice) => (
                  <option key={String(choice)} value={String(choice)}>
                    {String(choice)}
                  </option>
                ))}
              </select>
            ) : (
              <input
                type="range"
                min={0}
                max={1}
                step={one.kind === "PARAMETER_KIND_INTEGER" ? 1 / Math.max(1, one.high! - one.low!) : 0.001}
                value={partOf(one, Number(point[one.name]))}
                aria-valuetext={`${number(point[one.name] as number)} ${one.unit ?? ""}`}
                onInput={(event) => set(one.name, place(one, Number(event.currentTarget.value)))}
              />
            )}
            <output>
              {typeof point[one.name] === "number" ? number(point[one.name] as number) : ""} {one.unit}
            </output>
          </label>
        ))}
      </div>
      <ErrorNote error={error} />
      <table aria-live="polite">
        <caption>{t("study.predicted")}</caption>
        <tbody>
          {model.responses.map(({ response }) => {
            const said = value?.[0]?.[response.name];
            return (
              <tr key={response.name}>
                <th scope="row">{response.name}</th>
                <td class="number big">{said ? number(said.mean ?? 0) : "–"}</td>
                <td class="number">± {said ? number(said.standard_deviation ?? 0, 3) : "–"}</td>
                <td>{response.unit}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
      {props.best && <button onClick={() => props.onChange({ ...point, ...props.best })}>{t("study.to_best")}</button>}
    </>
  );
}
