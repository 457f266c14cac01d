import { useComputedColorScheme } from "@mantine/core";
import { useElementSize } from "@mantine/hooks";
import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { StepProgress, ValidationEvent } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";
import classes from "./LossChart.module.css";
import { type Curve, curve } from "./progress";

const HEIGHT = 260;
const MOST_POINTS = 2000;
const INKS = {
  light: { text: "#495057", grid: "#e3e6ea", loss: "#a5adf0", smoothed: "#414cc1", validation: "#c2410c" },
  dark: { text: "#c1c4c9", grid: "#3b3f45", loss: "#5a65db", smoothed: "#b7bcf1", validation: "#fb923c" },
};

interface LossChartProps {
  steps: readonly StepProgress[];
  validations: readonly ValidationEvent[];
}

/** Without the last line where nothing is held out: one that is hidden would still stand in the legend. */
const ofSeries = (data: Curve, validated: boolean) => (validated ? data : data.slice(0, 3)) as Curve;

/** The loss and its moving average over the steps, and the loss on pictures held out; it grows as steps come. */
export function LossChart({ steps, validations }: LossChartProps) {
  const { words, format, language } = useSpeech();
  const scheme = useComputedColorScheme("light");
  const { ref, width } = useElementSize<HTMLDivElement>();
  const holder = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const data = useRef<Curve>([[], [], [], []]);
  const { loss, smoothed, step, validationLoss } = words.training;
  const validated = validations.length > 0;

  useEffect(() => {
    if (width === 0 || holder.current === null) return;
    const ink = INKS[scheme];
    const axis = { stroke: ink.text, grid: { stroke: ink.grid, width: 1 }, ticks: { stroke: ink.grid, width: 1 } };
    const numbers = new Intl.NumberFormat(language, { maximumSignificantDigits: 4 });
    const made = new uPlot(
      {
        width,
        height: HEIGHT,
        scales: { x: { time: false } },
        legend: { live: true },
        cursor: { drag: { x: true, y: false } },
        axes: [
          { ...axis, values: (_, splits) => splits.map((at) => (Number.isInteger(at) ? numbers.format(at) : "")) },
          { ...axis, size: 60, values: (_, splits) => splits.map((at) => numbers.format(at)) },
        ],
        series: [
          { label: step, value: (_, at) => (at === null ? "–" : numbers.format(at)) },
          { label: loss, stroke: ink.loss, width: 1, value: (_, at) => (at === null ? "–" : numbers.format(at)) },
          { label: smoothed, stroke: ink.smoothed, width: 2, value: (_, at) => (at === null ? "–" : numbers.format(at)) },
          ...(validated
            ? [
                {
                  label: validationLoss,
                  stroke: ink.validation,
                  width: 2,
                  spanGaps: true,
                  points: { show: true, size: 6 },
                  value: (_: uPlot, at: number | null) => (at === null ? "–" : numbers.format(at)),
                },
              ]
            : []),
        ],
      },
      ofSeries(data.current, validated),
      holder.current,
    );
    chart.current = made;
    return () => {
      made.destroy();
      chart.current = null;
    };
  }, [width, scheme, language, loss, smoothed, step, validationLoss, validated]);

  useEffect(() => {
    data.current = curve(steps, MOST_POINTS, validations);
    chart.current?.setData(ofSeries(data.current, validated));
  }, [steps, validations, validated]);

  const last = steps.at(-1);
  return (
    <div
      ref={ref}
      className={classes.chart}
      role="img"
      aria-label={last ? words.training.chartLabel(format.decimal(last.smoothedLoss), last.step) : words.training.noSteps}
      data-testid="loss-chart"
      data-points={steps.length}
      data-last-step={last?.step ?? 0}
      data-validations={validations.length}
    >
      <div ref={holder} />
    </div>
  );
}
