/** The charts of a study. Their libraries are loaded when they are shown. */

import type { FunctionComponent } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { named, number, t } from "../language";
import { ErrorNote, Loading } from "../parts";
import { faint, type Colours } from "./charts";
import type { PointsProps, Series } from "./points_chart";
import type { Model, Trial } from "./result";
import type { Known } from "./study";
import { place, usePredictions, type Point } from "./what_if";

/** A component of a module that is loaded now. */
function useLater<P>(load: () => Promise<{ default: FunctionComponent<P> }>): FunctionComponent<P> | undefined {
  const [module, setModule] = useState<{ view: FunctionComponent<P> }>();
  useEffect(() => {
    let isOld = false;
    void load().then((loaded) => isOld || setModule({ view: loaded.default }));
    return () => void (isOld = true);
  }, []);
  return module?.view;
}

function Points(props: PointsProps) {
  const Chart = useLater(() => import("./points_chart"));
  return Chart ? <Chart {...props} /> : <Loading />;
}

function Large(props: Parameters<(typeof import("./large_chart"))["default"]>[0]) {
  const Chart = useLater(() => import("./large_chart"));
  return Chart ? <Chart {...props} /> : <Loading />;
}

const numberOf = (trial: Trial): number => Number(trial.number ?? 0);

/** The best feasible objective up to each trial. */
function bestSoFar({ trials, isMaximized }: Known): (number | null)[] {
  let best: number | null = null;
  return trials.map(({ objective, feasible }) => {
    if (objective !== undefined && feasible && (best === null || (isMaximized ? objective > best : objective < best)))
      best = objective;
    return best;
  });
}

/** Whether values are positive and span decades, so that a logarithmic axis shows more. */
function spansDecades(values: (number | null | undefined)[]): boolean {
  const known = values.filter((value): value is number => typeof value === "number");
  const low = Math.min(...known);
  return known.length > 1 && low > 0 && Math.max(...known) / low > 50;
}

export function Convergence({ all, onPick }: { all: Known[]; onPick(number: number): void }) {
  const main = all[0]!;
  const [x, series] = useMemo(() => {
    const last = Math.max(...all.flatMap(({ trials }) => trials.map(numberOf)));
    const numbers = Array.from({ length: last + 1 }, (_, index) => index);
    const spread = (known: Known, values: (number | null | undefined)[]) => {
      const line: (number | null)[] = numbers.map(() => null);
      known.trials.forEach((trial, index) => (line[numberOf(trial)] = values[index] ?? null));
      return line;
    };
    const points = (isFeasible: boolean) =>
      spread(main, main.trials.map((trial) => (!!trial.feasible === isFeasible ? trial.objective : null)));
    const lines: Series[] = [
      ...all.map(
        (known, index): Series => ({
          label: all.length > 1 ? `${t("study.best_so_far")}: ${known.kit.kit_id}` : t("study.best_so_far"),
          values: spread(known, bestSoFar(known)),
          kind: "steps",
          colour: ({ series }) => series[index]!,
        }),
      ),
      { label: t("study.feasible"), values: points(true), kind: "points", colour: ({ good }) => good },
      { label: t("study.infeasible"), values: points(false), kind: "points", colour: ({ bad }) => bad },
    ];
    return [numbers, lines] as const;
  }, [all]);
  return (
    <Points
      label={t("study.convergence")}
      x={x}
      xTitle={t("study.number")}
      yTitle={t("study.objective_axis")}
      series={series}
      isLogY={spansDecades(series.flatMap((one) => one.values))}
      onPick={onPick}
    />
  );
}

/** The responses in the order in which points were run, as long as there is no objective. */
export function Responses({ main, onPick }: { main: Known; onPick(trial: Trial): void }) {
  const names = [...new Set(main.trials.flatMap((trial) => Object.keys(trial.responses ?? {})))];
  const [chosen, setChosen] = useState("");
  const name = names.includes(chosen) ? chosen : (names[0] ?? "");
  const values = main.trials.map((trial) => trial.responses?.[name] ?? null);
  return (
    <>
      <div class="choices">
        <Choice label={t("result.response")} value={name} options={names} onChange={setChosen} />
      </div>
      <Points
        label={t("study.responses")}
        x={main.trials.map((_, index) => index)}
        xTitle={t("study.number")}
        yTitle={name}
        series={[{ label: name, values, kind: "points", colour: ({ series }) => series[0]! }]}
        isLogY={spansDecades(values)}
        onPick={(index) => main.trials[index] && onPick(main.trials[index])}
      />
    </>
  );
}

export function Parallel({ main, picked, onPick }: { main: Known; picked: Trial | undefined; onPick(trial: Trial): void }) {
  // Before the optimisation begins, points have no objective: they are coloured by their last response.
  const hasObjective = main.trials.some((trial) => trial.objective !== undefined);
  const shown = main.trials.filter((trial) => (hasObjective ? trial.objective !== undefined : Object.keys(trial.responses ?? {}).length > 0));
  const names = main.model?.parameters.map((one) => one.name) ?? Object.keys(shown[0]?.parameters ?? {});
  const responses = [...new Set(shown.flatMap((trial) => Object.keys(trial.responses ?? {})))];
  const objective = names.length + responses.length - (hasObjective ? 0 : 1);
  const axes = [
    ...names.map((name, dim) => {
      const choices = main.model?.parameters[dim]?.choices;
      const type = spansDecades(shown.map((trial) => Number(trial.parameters[name]))) ? { type: "log" } : {};
      return { dim, name, scale: true, ...type, ...(choices?.length ? { type: "category", data: choices.map(String) } : {}) };
    }),
    ...responses.map((name, index) => ({
      dim: names.length + index,
      name,
      scale: true,
      ...(spansDecades(shown.map((trial) => trial.responses?.[name])) ? { type: "log" } : {}),
    })),
    ...(hasObjective ? [{ dim: objective, name: t("study.objective_axis"), scale: true }] : []),
  ];
  const values = shown.map((trial) => [
    ...names.map((name, dim) => {
      const value = trial.parameters[name];
      return main.model?.parameters[dim]?.choices?.length ? String(value) : value;
    }),
    ...responses.map((name) => trial.responses?.[name]),
    ...(hasObjective ? [trial.objective] : []),
  ]);
  const objectives = values.map((row) => Number(row[objective]));
  return (
    <Large
      label={t("study.parallel")}
      height={380}
      version={`${main.study.study_id} ${shown.length} ${picked?.number}`}
      onPick={({ dataIndex }) => shown[dataIndex] && onPick(shown[dataIndex])}
      option={(palette: Colours) => ({
        parallelAxis: axes,
        parallel: {
          left: 50,
          right: 150,
          top: 40,
          bottom: 30,
          parallelAxisDefault: {
            nameTextStyle: { color: palette.ink },
            axisLine: { lineStyle: { color: palette.soft } },
            axisLabel: { color: palette.ink, formatter: (value: number | string) => (typeof value === "number" ? number(value, 4) : value) },
          },
        },
        visualMap: {
          dimension: objective,
          min: Math.min(...objectives),
          max: Math.max(...objectives),
          right: 0,
          top: 40,
          calculable: true,
          precision: 4,
          formatter: (value: number) => number(value, 3),
          textStyle: { color: palette.ink },
          inRange: { color: main.isMaximized ? ["#d7e3f4", "#0072b2"] : ["#0072b2", "#d7e3f4"] },
        },
        series: [
          {
            type: "parallel",
            smooth: false,
            lineStyle: { width: 1.5, opacity: 0.6 },
            emphasis: { lineStyle: { width: 3 } },
            data: values.map((value, index) => ({
              value,
              ...(picked && numberOf(shown[index]!) === numberOf(picked)
                ? { lineStyle: { width: 4, opacity: 1, color: palette.bad } }
                : {}),
            })),
          },
        ],
      })}
    />
  );
}

function Choice(props: { label: string; value: string; options: string[]; onChange(value: string): void }) {
  return (
    <label>
      {props.label}
      <select value={props.value} onChange={(event) => props.onChange(event.currentTarget.value)}>
        {props.options.map((one) => (
          <option key={one} value={one}>
            {one}
          </option>
        ))}
      </select>
    </label>
  );
}

const ALONG = 41;

/** A response against a parameter: the trials, and the surrogate with the rest as in the what-if panel. */
export function Slice(props: { main: Known; model: Model; point: Point; onPick(trial: Trial): void }) {
  const { main, model, point } = props;
  const numeric = model.parameters.filter((one) => one.low !== undefined);
  const [name, setName] = useState(numeric[0]?.name ?? "");
  const [response, setResponse] = useState(model.responses[0]?.response.name ?? "");
  const parameter = numeric.find((one) => one.name === name);
  const along = parameter ? [...new Set(Array.from({ length: ALONG }, (_, index) => place(parameter, index / (ALONG - 1))))] : [];
  const { value, error, asked } = usePredictions(
    model,
    along.length ? along.map((at) => ({ ...point, [name]: at })) : [point],
  );
  const [x, series, trials] = useMemo(() => {
    const said = (value ?? []).map((one, index) => ({ x: asked[index]![name] as number, ...one[response] }));
    const run = main.trials.filter((trial) => trial.responses?.[response] !== undefined);
    const all = [
      ...said.map((one) => ({ x: one.x, one, trial: undefined })),
      ...run.map((trial) => ({ x: trial.parameters[name] as number, one: undefined, trial })),
    ].sort((a, b) => a.x - b.x);
    const of = (pick: "mean" | "low95" | "high95") => all.map(({ one }) => (one ? (one[pick] ?? 0) : null));
    const lines: Series[] = [
      { label: t("study.high95"), values: of("high95"), kind: "line", colour: ({ series }) => faint(series[0]!, 0.4) },
      { label: t("study.low95"), values: of("low95"), kind: "line", colour: ({ series }) => faint(series[0]!, 0.4) },
      { label: t("study.mean"), values: of("mean"), kind: "line", colour: ({ series }) => series[0]! },
      {
        label: t("study.trials"),
        values: all.map(({ trial }) => trial?.responses![response] ?? null),
        kind: "points",
        colour: ({ series }) => series[1]!,
      },
    ];
    return [all.map((one) => one.x), lines, all.map((one) => one.trial)] as const;
  }, [value, asked, main, name, response]);
  if (!parameter) return <p class="muted">{t("study.no_numbers")}</p>;
  const unitOf = (unit: string | undefined) => (unit ? ` (${unit})` : "");
  const family = model.responses.find((one) => one.response.name === response);
  return (
    <>
      <div class="choices">
        <Choice label={t("result.response")} value={response} options={model.responses.map((one) => one.response.name)} onChange={setResponse} />
        <Choice label={t("result.parameter")} value={name} options={numeric.map((one) => one.name)} onChange={setName} />
        <span class="muted">{named("family", (family?.family ?? "").replace("FAMILY_", "").toLowerCase())}</span>
      </div>
      <ErrorNote error={error} />
      <Points
        label={t("study.slice")}
        x={x as number[]}
        xTitle={name + unitOf(parameter.unit)}
        yTitle={response + unitOf(family?.response.unit)}
        series={series as Series[]}
        bands={[{ between: [1, 2], colour: ({ series }) => faint(series[0]!, 0.15) }]}
        isLogX={parameter.scale === "PARAMETER_SCALE_LOG"}
        isLogY={!!family?.log_scale}
        onPick={(index) => {
          const trial = trials[index];
          if (trial) props.onPick(trial);
        }}
      />
    </>
  );
}

const SIDE = 31;
const BANDS = 9;

/** A response over two parameters, in bands, with the trials. */
export function Contour(props: { main: Known; model: Model; point: Point; onPick(trial: Trial): void }) {
  const { main, model, point } = props;
  const numeric = model.parameters.filter((one) => one.low !== undefined);
  const [first, setFirst] = useState(numeric[0]!.name);
  const [second, setSecond] = useState(numeric[1]!.name);
  const [response, setResponse] = useState(model.responses[0]?.response.name ?? "");
  const x = numeric.find((one) => one.name === first)!;
  const y = numeric.find((one) => one.name === second)!;
  // The middles of the cells.
  const part = (index: number) => (index + 0.5) / SIDE;
  const points: Point[] = [];
  for (let row = 0; row < SIDE; row++)
    for (let column = 0; column < SIDE; column++)
      points.push({ ...point, [first]: place(x, part(column)), [second]: place(y, part(row)) });
  const { value, error } = usePredictions(model, points);
  const values = (value ?? []).map((one) => one[response]?.mean ?? 0);
  const isLog = spansDecades(values);
  const scaled = isLog ? values.map(Math.log10) : values;
  const low = Math.min(...scaled);
  const high = Math.max(...scaled);
  const back = (level: number) => number(isLog ? 10 ** level : level, 3);
  const unitOf = (unit: string | undefined) => (unit ? ` (${unit})` : "");
  return (
    <>
      <div class="choices">
        <Choice label={t("result.response")} value={response} options={model.responses.map((one) => one.response.name)} onChange={setResponse} />
        <Choice label="x" value={first} options={numeric.map((one) => one.name).filter((one) => one !== second)} onChange={setFirst} />
        <Choice label="y" value={second} options={numeric.map((one) => one.name).filter((one) => one !== first)} onChange={setSecond} />
      </div>
      <ErrorNote error={error} />
      {values.length > 0 && (
        <Large
          label={t("study.contour")}
          version={`${response} ${first} ${second} ${values.join()}`}
          onPick={({ dataIndex, seriesName }) => {
            const trial = main.trials[dataIndex];
            if (seriesName === "trials" && trial) props.onPick(trial);
          }}
          option={(palette: Colours) => {
            const axis = (one: typeof x) => ({
              name: one.name + unitOf(one.unit),
              nameLocation: "middle",
              nameGap: 32,
              nameTextStyle: { color: palette.ink },
              axisLabel: { color: palette.ink, formatter: (at: number) => number(at, 4) },
              axisLine: { lineStyle: { color: palette.soft } },
              splitLine: { show: false },
            });
            const categories = (one: typeof x) => Array.from({ length: SIDE }, (_, index) => number(place(one, part(index)), 3));
            return {
              grid: [{ left: 70, right: 100, top: 15, bottom: 55 }],
              tooltip: { renderMode: "richText", formatter: ({ value: at }: { value: number[] }) => back(at[2]!) },
              xAxis: [
                { ...axis(x), type: "category", data: categories(x), axisLabel: { color: palette.ink, interval: 5 } },
                { type: x.scale === "PARAMETER_SCALE_LOG" ? "log" : "value", min: x.low, max: x.high, show: false },
              ],
              yAxis: [
                { ...axis(y), nameGap: 50, type: "category", data: categories(y), axisLabel: { color: palette.ink, interval: 5 } },
                { type: y.scale === "PARAMETER_SCALE_LOG" ? "log" : "value", min: y.low, max: y.high, show: false },
              ],
              visualMap: {
                type: "piecewise",
                seriesIndex: 0,
                right: 0,
                top: 15,
                itemGap: 4,
                textStyle: { color: palette.ink },
                pieces: Array.from({ length: BANDS }, (_, index) => {
                  const min = low + ((high - low) * index) / BANDS;
                  const max = low + ((high - low) * (index + 1)) / BANDS;
                  return { min, max, label: `≤ ${back(max)}` };
                }).reverse(),
                // Viridis: even steps of lightness, also without colour.
                inRange: { color: ["#fde725", "#7ad151", "#22a884", "#2a788e", "#414487", "#440154"].reverse() },
              },
              series: [
                {
                  type: "heatmap",
                  data: scaled.map((level, index) => [index % SIDE, Math.floor(index / SIDE), level]),
                  progressive: 0,
                },
                {
                  name: "trials",
                  type: "scatter",
                  xAxisIndex: 1,
                  yAxisIndex: 1,
                  symbolSize: 8,
                  itemStyle: { color: "#ffffff", borderColor: "#000000", borderWidth: 1.5 },
                  data: main.trials.map((trial) => [trial.parameters[first], trial.parameters[second], trial.objective]),
                  tooltip: { formatter: ({ dataIndex }: { dataIndex: number }) => t("study.trial", { number: main.trials[dataIndex]?.number ?? 0 }) },
                },
              ],
            };
          }}
        />
      )}
    </>
  );
}
