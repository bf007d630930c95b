/** The study of a kit: what was tried, what the surrogate says between, what if; up to four kits. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { artifact, get, type Job, type Kit } from "../api";
import { number, t, whole } from "../language";
import { Elapsed, ErrorNote, isOver, Loading, useLoaded } from "../parts";
import { Link, type Place } from "../router";
import { follow } from "../stream";
import { Contour, Convergence, Parallel, Slice } from "./study_charts";
import { inOrder, readStudy, type Model, type Prediction, type Study, type Trial } from "./result";
import WhatIf, { middle, type Point } from "./what_if";

const MOST_KITS = 4;
const DRAWN = ["effects", "importance", "correlation"];

const numberOf = (trial: Trial | undefined): number => Number(trial?.number ?? 0);

export interface Known {
  kit: Kit;
  job: Job;
  study: Study;
  model: Model | undefined;
  trials: Trial[];
  isMaximized: boolean;
}

async function readTrials(id: string, signal: AbortSignal): Promise<Trial[]> {
  const all: Trial[] = [];
  for (let token = ""; ; ) {
    const page = await get<{ trials?: Trial[]; next_page_token?: string }>(
      `/v1/studies/${id}/trials`,
      { page_size: 10_000, page_token: token },
      signal,
    );
    all.push(...(page.trials ?? []));
    token = page.next_page_token ?? "";
    if (!token) return all;
  }
}

async function readAll(id: number, signal: AbortSignal): Promise<Known | undefined> {
  const { kit } = await get<{ kit: Kit }>(`/v1/kits/${id}`, {}, signal);
  const job = kit.jobs?.find((one) => one.result?.kind === "design" && one.job_type === "JOB_TYPE_OPTIMIZE");
  if (!job) return undefined;
  const [{ study, model }, trials] = await Promise.all([readStudy(job.job_id, signal), readTrials(job.job_id, signal)]);
  return { kit, job, study, model, trials, isMaximized: /\bmaximize\b/i.test(study.goals ?? "") };
}

export default function StudyView({ place, match }: { place: Place; match: RegExpMatchArray }) {
  const ids = [Number(match[1]), ...place.parameters.getAll("with").map(Number)].filter((id) => id > 0).slice(0, MOST_KITS);
  const [version, setVersion] = useState(0);
  useEffect(
    () =>
      follow(ids[0]!, {
        // What is read here is not the stream's: it changes once, when the optimisation ends.
        read: async (revision) => Number((await get<{ revision: string }>(`/v1/kits/${ids[0]}`, { page_size: 1, min_revision: revision || "" })).revision),
        apply: ({ states }) => {
          const ended = states.some((row) => row.job_type === "JOB_TYPE_OPTIMIZE" && !row.task_name && row.status === "STATUS_FINISHED");
          if (ended) setVersion((before) => before + 1);
        },
      }),
    [ids[0]],
  );
  const { value, error } = useLoaded((signal) => Promise.all(ids.map((id) => readAll(id, signal))), [ids.join(), version]);
  const known = value?.filter((one) => one !== undefined) ?? [];
  if (error) return <ErrorNote error={error} />;
  if (!value) return <Loading />;
  const [main] = known;
  return (
    <>
      <h1>
        {t("study.title")} <small class="muted">{known.map(({ kit }) => kit.name).join(" · ")}</small>
      </h1>
      {known.length < ids.length && (
        <p class="muted">
          {t("study.none")} <Link to={`/kits/${ids[0]}`}>{t("kit.number", { id: ids[0]! })}</Link>
        </p>
      )}
      {main && <Views key={main.study.study_id} main={main} all={known} />}
    </>
  );
}

function Views({ main, all }: { main: Known; all: Known[] }) {
  const { study, model, trials, kit } = main;
  const [point, setPoint] = useState<Point>(() => ({ ...(model ? middle(model) : {}), ...study.best?.parameters }));
  const [picked, setPicked] = useState<Trial | undefined>(
    // Its row of the trials says more than the study does.
    () => trials.find((trial) => numberOf(trial) === numberOf(study.best)) ?? study.best,
  );
  const test = kit.jobs!.find((one) => one.job_type === "JOB_TYPE_ML_TEST" && one.result)?.result;
  const pictures: { name: string; uri: string }[] = [...(test?.plots ?? []), ...(main.job.result.plots ?? [])].filter(
    (plot) => plot.name !== "convergence.png",
  );
  return (
    <>
      {all.length > 1 && <Compared all={all} />}
      <div class="grid">
        <section class="card">
          <h2>{t("study.convergence")}</h2>
          <Convergence all={all} onPick={(number) => setPicked(trials.find((trial) => Number(trial.number ?? 0) === number))} />
        </section>
        <section class="card">
          <h2>{t("study.point")}</h2>
          {picked ? <Picked trial={picked} main={main} onTry={() => setPoint({ ...point, ...picked.parameters })} /> : <p class="muted">{t("study.pick")}</p>}
        </section>
        <section class="card wide">
          <h2>{t("study.parallel")}</h2>
          <Parallel main={main} onPick={setPicked} picked={picked} />
        </section>
        {model && (
          <>
            <section class="card">
              <h2>{t("study.what_if")}</h2>
              <WhatIf model={model} point={point} onChange={setPoint} best={study.best?.parameters} />
            </section>
            <section class="card">
              <h2>{t("study.slice")}</h2>
              <Slice main={main} model={model} point={point} onPick={setPicked} />
            </section>
            {model.parameters.filter((one) => one.low !== undefined).length > 1 && (
              <section class="card">
                <h2>{t("study.contour")}</h2>
                <Contour main={main} model={model} point={point} onPick={setPicked} />
              </section>
            )}
          </>
        )}
        {model && (
          <section class="card wide">
            <h2>{t("study.drawn")}</h2>
            <div class="pictures">
              {DRAWN.map((name) => (
                <Drawn key={name} source={`/v1/kits/${kit.kit_id}/pictures/${name}`} name={name} />
              ))}
            </div>
          </section>
        )}
        {pictures.length > 0 && (
          <section class="card wide">
            <h2>{t("study.quality")}</h2>
            <div class="pictures">
              {pictures.map((plot) => (
                <a key={plot.uri} href={artifact(plot.uri)}>
                  <img src={artifact(plot.uri)} alt={plot.name.replace(".png", "")} loading="lazy" />
                </a>
              ))}
            </div>
          </section>
        )}
      </div>
    </>
  );
}

/** A picture that the service draws of the kit; nothing where the kit has too little for it. */
function Drawn({ source, name }: { source: string; name: string }) {
  const [isMissing, setMissing] = useState(false);
  if (isMissing) return null;
  return (
    <a href={source}>
      <img src={source} alt={name} loading="lazy" onError={() => setMissing(true)} />
    </a>
  );
}

const predictionOf = (known: Prediction | undefined): string =>
  known ? t("study.was_predicted", { mean: number(known.mean), deviation: number(known.standard_deviation) }) : "";

function Picked({ trial, main, onTry }: { trial: Trial; main: Known; onTry(): void }) {
  const units = new Map(main.model?.parameters.map((one) => [one.name, one.unit]) ?? []);
  const responseUnits = new Map(main.model?.responses.map(({ response }) => [response.name, response.unit]) ?? []);
  return (
    <>
      <div class="facts">
        <strong>{t("study.trial", { number: trial.number ?? 0 })}</strong>
        <span>{trial.origin}</span>
        <span>{trial.failure ? t("study.failed", { reason: trial.failure }) : trial.feasible ? t("study.feasible") : t("study.infeasible")}</span>
        {trial.objective !== undefined && <span>{t("study.objective", { value: number(trial.objective) })}</span>}
        {trial.run_duration && <span>{t("study.run_time", { seconds: number(parseFloat(trial.run_duration)) })}</span>}
        {trial.cached && <span class="muted">{t("study.cached")}</span>}
        <span class="space" />
        {main.model && <button onClick={onTry}>{t("study.try")}</button>}
        <Link class="button" to={`/kits/${main.kit.kit_id}`} parameters={{ job: main.job.job_id }}>
          {t("study.files")}
        </Link>
      </div>
      <div class="tables">
        <table>
          <caption>{t("study.parameters")}</caption>
          <tbody>
            {inOrder(trial.parameters, main.model).map(([name, value]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td class="number">{typeof value === "number" ? number(value) : value}</td>
                <td>{units.get(name)}</td>
              </tr>
            ))}
          </tbody>
        </table>
        <table>
          <caption>{t("study.responses")}</caption>
          <tbody>
            {Object.entries(trial.responses ?? {}).map(([name, value]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td class="number">{number(value)}</td>
                <td>{responseUnits.get(name)}</td>
                {trial.predicted && <td class="muted">{predictionOf(trial.predicted[name])}</td>}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {trial.message && <p role="note">{trial.message}</p>}
      {trial.log && (
        <details>
          <summary>{t("study.printed")}</summary>
          <pre tabIndex={0}>{trial.log}</pre>
        </details>
      )}
    </>
  );
}

function Compared({ all }: { all: Known[] }) {
  const names = [...new Set(all.flatMap(({ study }) => Object.keys(study.best?.parameters ?? {})))];
  const rows: [string, (one: Known) => ComponentChildren][] = [
    [t("study.goals"), ({ study }) => <code>{study.goals}</code>],
    [t("kits.best"), ({ study }) => <strong>{number(study.best?.objective)}</strong>],
    [t("study.design_best"), ({ study }) => number(study.design_best?.objective)],
    [t("study.points"), ({ study }) => whole(study.evaluation_count)],
    [t("kits.duration"), ({ kit }) => <Elapsed from={kit.created_at} to={isOver(kit.status) ? kit.updated_at : undefined} />],
    ...names.map((name): [string, (one: Known) => ComponentChildren] => [
      name,
      ({ study }) => {
        const value = study.best?.parameters[name];
        return typeof value === "number" ? number(value) : (value ?? "–");
      },
    ]),
  ];
  return (
    <section class="card">
      <table>
        <caption>{t("study.compared")}</caption>
        <thead>
          <tr>
            <td />
            {all.map(({ kit }) => (
              <th key={kit.kit_id} class="number">
                <Link to={`/kits/${kit.kit_id}`}>
                  {kit.kit_id} {kit.name}
                </Link>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(([title, cell]) => (
            <tr key={title}>
              <th scope="row">{title}</th>
              {all.map((one) => (
                <td key={one.kit.kit_id} class="number">
                  {cell(one)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
