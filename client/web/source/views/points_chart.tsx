/** Points and curves by uPlot, which draws many of them fast. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { number } from "../language";
import { colours, faint, type Colours } from "./charts";

export interface Series {
  label: string;
  /** One value an x; null where there is none. */
  values: (number | null)[];
  kind: "points" | "line" | "steps";
  colour(colours: Colours): string;
  dash?: number[];
}

export interface PointsProps {
  label: string;
  x: number[];
  xTitle: string;
  yTitle: string;
  series: Series[];
  /** Pairs of series, from 1, between which the area is filled. */
  bands?: { between: [number, number]; colour(colours: Colours): string }[];
  isLogX?: boolean;
  isLogY?: boolean;
  height?: number;
  /** Called with the index in `x` of the point that was clicked. */
  onPick?(index: number): void;
}

export default function PointsChart(props: PointsProps) {
  const box = useRef<HTMLDivElement>(null);
  const pick = useRef(props.onPick);
  pick.current = props.onPick;
  const chart = useRef<uPlot | undefined>(undefined);
  const data = [props.x, ...props.series.map((one) => one.values)] as uPlot.AlignedData;
  const latest = useRef(data);
  latest.current = data;
  const shape = JSON.stringify([
    props.series.map((one) => [one.label, one.kind]),
    props.xTitle,
    props.yTitle,
    props.isLogX,
    props.isLogY,
    props.bands?.map((band) => band.between),
  ]);
  useEffect(() => {
    const element = box.current!;
    const draw = () => {
      chart.current?.destroy();
      chart.current = new uPlot(options(props, element.clientWidth, (index) => pick.current?.(index)), latest.current, element);
    };
    draw();
    const observer = new ResizeObserver(() => {
      if (chart.current && chart.current.width !== element.clientWidth && element.clientWidth)
        chart.current.setSize({ width: element.clientWidth, height: props.height ?? 300 });
    });
    observer.observe(element);
    window.addEventListener("vistaflow-colours", draw);
    return () => {
      observer.disconnect();
      window.removeEventListener("vistaflow-colours", draw);
      chart.current?.destroy();
      chart.current = undefined;
    };
  }, [shape]);
  useEffect(() => chart.current?.setData(data), [data]);
  return <div ref={box} class="chart" role="img" aria-label={props.label} style={{ minHeight: `${(props.height ?? 300) + 30}px` }} />;
}

function options(props: PointsProps, width: number, onPick: (index: number) => void): uPlot.Options {
  const palette = colours();
  const axis = (title: string): uPlot.Axis => ({
    label: title,
    stroke: palette.ink,
    grid: { stroke: palette.line, width: 1 },
    ticks: { stroke: palette.line, width: 1 },
    font: "12px system-ui",
    labelFont: "13px system-ui",
    values: (_, splits) => splits.map((one) => (one === null ? "" : number(one, 4))),
  });
  let cursor: number | null | undefined;
  return {
    width,
    height: props.height ?? 300,
    scales: {
      x: { time: false, distr: props.isLogX ? 3 : 1 },
      y: { distr: props.isLogY ? 3 : 1 },
    },
    axes: [axis(props.xTitle), { ...axis(props.yTitle), size: 70 }],
    legend: { live: true },
    cursor: { drag: { x: true, y: true, uni: 20 }, points: { size: 9 } },
    series: [
      { label: props.xTitle, value: (_, value) => number(value) },
      ...props.series.map((one): uPlot.Series => {
        const colour = one.colour(palette);
        return {
          label: one.label,
          value: (_: uPlot, value: number | null) => number(value ?? undefined),
          stroke: colour,
          width: one.kind === "points" ? 0 : 2,
          points: { show: one.kind === "points", size: 7, stroke: colour, fill: faint(colour, 0.55) },
          ...(one.kind === "points" ? { paths: () => null } : {}),
          ...(one.kind === "steps" ? { paths: uPlot.paths.stepped!({ align: 1 }) } : {}),
          ...(one.dash ? { dash: one.dash } : {}),
          spanGaps: one.kind !== "points",
        };
      }),
    ],
    bands: (props.bands ?? []).map((band) => ({ series: band.between, fill: band.colour(palette) })),
    hooks: {
      setCursor: [(chart) => void (cursor = chart.cursor.idx)],
      ready: [
        (chart) => {
          let from = [0, 0];
          chart.over.addEventListener("mousedown", (event) => void (from = [event.clientX, event.clientY]));
          chart.over.addEventListener("click", (event) => {
            const moved = Math.abs(event.clientX - from[0]!) + Math.abs(event.clientY - from[1]!);
            if (moved < 5 && typeof cursor === "number") onPick(cursor);
          });
        },
      ],
    },
  };
}
