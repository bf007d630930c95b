/** The study of a kit: what was tried, what the surrogate says between, what if; up to four kits. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ApiError, artifact, get, post, type Job, type Kit } from "../api";
import { number, t, whole } from "../language";
import { Elapsed, ErrorNote, isOver, Loading, useLoaded } from "../parts";
import { Link, type Place } from "../router";
import { follow } from "../stream";
import { Contour, Convergence, Parallel, Responses, Slice } from "./study_charts";
import { inOrder, readStudy, type Model, type Prediction, type Study, type Trial } from "./result";
import RunningStudy from "./study_running";
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
  const isRunning = value !== undefined && value[0] === undefined;
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
      {isRunning ? (
        <RunningStudy key={ids[0]} id={ids[0]!} show={(one) => <Views key={one.job.job_id} main={one} all={[one, ...known]} />} />
      ) : (
        main && <Views key={main.study.study_id} main={main} all={known} />
      )}
    </>
  );
}

function Views({ main, all }: { main: Known; all: Known[] }) {
  const { study, model, trials, kit } = main;
  const [point, setPoint] = useState<Point>(() => ({ ...(model ? middle(model) : {}), ...study.best?.parameters }));
  const [picked, setPicked] = useState<Trial | undefined>(
    // Its row of the trials says more than the study does.
    () => study.best && (trials.find((trial) => numberOf(trial) === numberOf(study.best)) ?? study.best),
  );
  const hasObjective = trials.some((trial) => trial.objective !== undefined);
  const test = kit.jobs!.find((one) => one.job_type === "JOB_TYPE_ML_TEST" && one.result)?.result;
  const pictures: { name: string; uri: string }[] = [...(test?.plots ?? []), ...(main.job.result?.plots ?? [])].filter(
    (plot) => plot.name !== "convergence.png",
  );
  return (
    <>
      {all.length > 1 && <Compared all={all} />}
      <div class="grid">
        <section class="card">
          <h2>{hasObjective ? t("study.convergence") : t("study.responses")}</h2>
          {hasObjective ? (
            <Convergence all={all} onPick={(number) => setPicked(trials.find((trial) => numberOf(trial) === number))} />
          ) : (
            <Responses main={main} onPick={setPicked} />
          )}
        </section>
        <section class="card">
          <h2>{t("study.point")}</h2>
          {picked ? <Picked trial={picked} main={main} onTry={() => setPoint({ ...point, ...picked.parameters })} /> : <p class="muted">{t("study.pick")}</p>}
        </section>
        <section class="card wide">
          <h2>{t("study.parallel")}</h2>
          <div class="scroll" tabIndex={0} role="group" aria-label={t("study.parallel")}>
            <Parallel main={main} onPick={setPicked} picked={picked} />
          </div>
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
          {t("study.job_files")}
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
      <Run key={numberOf(trial)} trial={trial} main={main} />
    </>
  );
}

interface RunFile {
  path: string;
  content?: string;
  truncated?: boolean;
}

const MOST_SHOWN = 20_000;

const bytesOf = (file: RunFile): Uint8Array<ArrayBuffer> => Uint8Array.from(atob(file.content ?? ""), (one) => one.charCodeAt(0));

/** The text of a file; nothing of one that is none. */
function textOf(bytes: Uint8Array): string | undefined {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return text.includes("\0") ? undefined : text;
  } catch {
    return undefined;
  }
}

/** What a point's run printed and the files that it wrote, read when they are asked for. */
function Run({ trial, main }: { trial: Trial; main: Known }) {
  const [isOpen, setOpen] = useState(false);
  return (
    <details open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{t("study.files")}</summary>
      {isOpen && <Stored trial={trial} main={main} />}
    </details>
  );
}

function Stored({ trial, main }: { trial: Trial; main: Known }) {
  const design = main.kit.jobs!.find((one) => one.job_type === "JOB_TYPE_DOE" && one.status === "STATUS_FINISHED");
  const { value, error } = useLoaded(
    async (signal) => {
      if (!design) return undefined;
      try {
        return await post<{ run: { log?: string; files?: RunFile[] }; keeps_files?: boolean }>(
          "/v1/runs:find",
          { design_id: design.job_id, parameters: trial.parameters },
          signal,
        );
      } catch (error) {
        // What failed for a reason of the machine is in the list of trials only.
        if (error instanceof ApiError && error.status === 404) return undefined;
        throw error;
      }
    },
    [design?.job_id, numberOf(trial)],
  );
  const log = trial.log || value?.run.log;
  const files = value?.run.files ?? [];
  return (
    <>
      <ErrorNote error={error} />
      {log ? <pre tabIndex={0}>{log}</pre> : <p class="muted">{design ? t("study.nothing_printed") : t("study.files_later")}</p>}
      {files.length > 0 && (
        <ul class="files">
          {files.map((file) => (
            <li key={file.path}>
              <StoredFile file={file} />
            </li>
          ))}
        </ul>
      )}
      {value && !value.keeps_files && <p class="muted">{t("study.keeps_none")}</p>}
    </>
  );
}

function StoredFile({ file }: { file: RunFile }) {
  const bytes = bytesOf(file);
  const text = textOf(bytes);
  const save = () => {
    const url = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
    Object.assign(document.createElement("a"), { href: url, download: file.path.split("/").at(-1) }).click();
    setTimeout(() => URL.revokeObjectURL(url));
  };
  const title = (
    <>
      {file.path} <small class="muted">{t("study.bytes", { count: whole(bytes.length) })}</small>
    </>
  );
  return (
    <>
      {text === undefined ? (
        title
      ) : (
        <details>
          <summary>{title}</summary>
          <pre tabIndex={0}>{text.slice(0, MOST_SHOWN)}</pre>
        </details>
      )}
      {file.truncated && <span class="muted"> {t("study.truncated")}</span>}
      <button onClick={save}>{t("study.save")}</button>
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
