/** Data: datasets, conversions, schedules. */

import { t } from "../../language";
import { setParameters, type Place } from "../../router";
import { useChanges } from "../live";
import Conversions from "./conversions";
import Datasets from "./datasets";
import Schedules from "./schedules";

const PARTS = ["datasets", "conversions", "schedules"] as const;

export default function Data({ place }: { place: Place }) {
  const shown = PARTS.find((one) => one === place.parameters.get("tab")) ?? "datasets";
  const changed = useChanges(
    (state) => !state.task_name || (state.job_type === "JOB_TYPE_CONVERT" && !!state.metadata?.progress),
  );
  return (
    <div>
      <h1>{t("data.title")}</h1>
      <div class="tabs" role="tablist" aria-label={t("data.title")}>
        {PARTS.map((one) => (
          <button
            key={one}
            id={`tab-${one}`}
            role="tab"
            aria-selected={one === shown}
            tabIndex={one === shown ? 0 : -1}
            onClick={() => setParameters({ tab: one })}
            onKeyDown={(event) => {
              const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
              if (!step) return;
              const next = PARTS[(PARTS.indexOf(one) + step + PARTS.length) % PARTS.length]!;
              setParameters({ tab: next });
              document.getElementById(`tab-${next}`)?.focus();
            }}
          >
            {t(`data.${one}`)}
          </button>
        ))}
      </div>
      <div role="tabpanel" aria-labelledby={`tab-${shown}`}>
        {shown === "datasets" && <Datasets open={place.parameters.get("dataset") ?? ""} changed={changed} />}
        {shown === "conversions" && <Conversions open={place.parameters.get("conversion") ?? ""} changed={changed} />}
        {shown === "schedules" && <Schedules open={place.parameters.get("schedule") ?? ""} changed={changed} />}
      </div>
    </div>
  );
}
