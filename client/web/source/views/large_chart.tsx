/** Parallel coordinates and contours by ECharts, of which only these parts are bundled. */

import { CustomChart, HeatmapChart, ParallelChart, ScatterChart } from "echarts/charts";
import { GridComponent, ParallelComponent, TooltipComponent, VisualMapComponent } from "echarts/components";
import { init, use, type EChartsCoreOption } from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";
import { useEffect, useRef } from "preact/hooks";
import { colours, type Colours } from "./charts";

use([
  CanvasRenderer,
  CustomChart,
  GridComponent,
  HeatmapChart,
  ParallelChart,
  ParallelComponent,
  ScatterChart,
  TooltipComponent,
  VisualMapComponent,
]);

export default function LargeChart(props: {
  label: string;
  height?: number;
  option(colours: Colours): EChartsCoreOption;
  /** Changes with what `option` returns. */
  version: string;
  onPick?(event: { dataIndex: number; seriesName?: string }): void;
}) {
  const box = useRef<HTMLDivElement>(null);
  const pick = useRef(props.onPick);
  pick.current = props.onPick;
  const option = useRef(props.option);
  option.current = props.option;
  const chart = useRef<ReturnType<typeof init> | undefined>(undefined);
  const draw = () => {
    const palette = colours();
    chart.current?.setOption(
      { textStyle: { color: palette.ink, fontFamily: "system-ui" }, animation: false, ...option.current(palette) },
      true,
    );
  };
  useEffect(() => {
    chart.current = init(box.current!);
    chart.current.on("click", (event) => pick.current?.(event as { dataIndex: number }));
    const observer = new ResizeObserver(() => chart.current?.resize());
    observer.observe(box.current!);
    window.addEventListener("vistaflow-colours", draw);
    return () => {
      observer.disconnect();
      window.removeEventListener("vistaflow-colours", draw);
      chart.current?.dispose();
    };
  }, []);
  useEffect(draw, [props.version]);
  return <div ref={box} class="chart" role="img" aria-label={props.label} style={{ height: `${props.height ?? 360}px` }} />;
}
