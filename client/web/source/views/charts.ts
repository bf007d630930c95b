/** Charts: one style for both libraries, loaded when the first chart is shown. */

/** The colours of the page now. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: of("ink"),
    soft: of("soft"),
    line: of("line"),
    paper: of("paper"),
    accent: of("accent"),
    good: of("finished"),
    bad: of("failed"),
    mark: of("canceled"),
    // Distinct also for those who see few colours, on light and dark (Okabe and Ito).
    series:
      document.documentElement.dataset["colours"] === "dark"
        ? ["#56b4e9", "#e69f00", "#2fc08f", "#e0a3c4"]
        : ["#0072b2", "#d55e00", "#009e73", "#cc79a7"],
  };
}
export type Colours = ReturnType<typeof colours>;

/** Of a colour, with an opacity from 0 to 1. */
export const faint = (colour: string, opacity: number): string =>
  `color-mix(in srgb, ${colour} ${Math.round(opacity * 100)}%, transparent)`;
