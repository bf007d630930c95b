/** Conversions of JSON to tables: what runs and ran, their files, and a new one. */

import { useState } from "preact/hooks";
import { artifact, get, post, type Job } from "../../api";
import { moment, t, whole } from "../../language";
import { Elapsed, ErrorNote, isOver, Loading, ProgressBar, Status, useLoaded } from "../../parts";
import { Link, setParameters } from "../../router";
import { bytes } from "../sql/outcome";
import { uuid } from "../sql/queries";

const FORMATS = ["TABLE_FORMAT_CSV", "TABLE_FORMAT_PARQUET"];

interface Conversion {
  status?: string;
  msg?: string;
  records?: string;
  tables?: { table?: string; columns?: string[]; rows?: string; files?: number }[];
  files?: { file_name: string; size_bytes?: string; rows?: string }[];
  output?: string;
}

export default function Conversions({ open, changed }: { open: string; changed: number }) {
  const { value, error } = useLoaded(
    (signal) => get<{ jobs?: Job[] }>("/v1/jobs", { job_types: "JOB_TYPE_CONVERT", page_size: 100 }, signal),
    [changed],
  );
  return (
    <>
      <Start />
      <ErrorNote error={error} />
      {!value && !error && <Loading />}
      {value && !value.jobs?.length && <p class="muted">{t("data.no_conversions")}</p>}
      {!!value?.jobs?.length && (
        <div class="card" tabIndex={0}>
          <table>
            <caption>{t("data.conversions")}</caption>
            <thead>
              <tr>
                <th>{t("kits.name")}</th>
                <th>{t("kits.status")}</th>
                <th>{t("kits.progress")}</th>
                <th>{t("data.begun")}</th>
                <th class="number">{t("kits.duration")}</th>
                <th>{t("kits.id")}</th>
              </tr>
            </thead>
            <tbody>
              {value.jobs.map((job) => (
                <tr key={job.job_id}>
                  <th scope="row">
                    <button class="link" aria-expanded={open === job.job_id} onClick={() => setParameters({ conversion: open === job.job_id ? "" : job.job_id })}>
                      {job.name} {job.job_id.slice(0, 8)}
                    </button>
                  </th>
                  <td>
                    <Status status={job.status} />
                  </td>
                  <td>
                    {job.status === "STATUS_RUNNING" && Number(job.progress?.total) > 0 && (
                      <ProgressBar done={Number(job.progress!.completed ?? 0)} total={Number(job.progress!.total)} label={job.name} />
                    )}{" "}
                    {job.reason ?? job.progress?.message}
                  </td>
                  <td>{moment(job.created_at)}</td>
                  <td class="number">
                    <Elapsed from={job.started_at} to={isOver(job.status) ? (job.finished_at ?? job.created_at) : undefined} />
                  </td>
                  <td>
                    <Link to={`/kits/${job.kit_id}`}>{job.kit_id}</Link>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {open && <Files id={open} changed={changed} />}
    </>
  );
}

function Files({ id, changed }: { id: string; changed: number }) {
  const { value, error } = useLoaded((signal) => get<Conversion>(`/v1/conversions/${id}`, { page_size: 1000 }, signal), [id, changed]);
  if (!value) return <ErrorNote error={error} />;
  return (
    <section class="card" aria-label={t("kit.files")}>
      <h2>{t("kit.files")}</h2>
      {value.msg && <ErrorNote error={{ message: value.msg }} />}
      <p class="muted">{t("data.records", { count: whole(value.records) })} {value.output}</p>
      <div class="tables">
        <table>
          <caption>{t("data.tables")}</caption>
          <tbody>
            {value.tables?.map((one) => (
              <tr key={one.table ?? ""}>
                <th scope="row">{one.table || t("data.records_table")}</th>
                <td class="number">{whole(one.rows)}</td>
                <td>{one.columns?.join(", ").slice(0, 200)}</td>
              </tr>
            ))}
          </tbody>
        </table>
        <table>
          <caption>{t("kit.files")}</caption>
          <tbody>
            {value.files?.map((one) => {
              const uri = `${value.output}/${one.file_name}`;
              return (
                <tr key={uri}>
                  <th scope="row">
                    {uri.startsWith("artifact://") ? (
                      <a download href={artifact(uri)}>
                        {one.file_name}
                      </a>
                    ) : (
                      one.file_name
                    )}
                  </th>
                  <td class="number">{t("data.rows", { count: whole(one.rows) })}</td>
                  <td class="number">{bytes(Number(one.size_bytes ?? 0))}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
    </section>
  );
}

/** A form for a new conversion: files of a data root, or files that are dropped on it. */
function Start() {
  const [names, setNames] = useState("");
  const [output, setOutput] = useState("");
  const [format, setFormat] = useState(FORMATS[0]!);
  const [uploads, setUploads] = useState<{ name: string; done: number; total: number; file?: string }[]>([]);
  const [error, setError] = useState<unknown>();
  const [isOn, setOn] = useState(false);
  const take = (files: FileList | null | undefined) => {
    for (const file of files ?? []) {
      const entry: { name: string; done: number; total: number; file?: string } = { name: file.name, done: 0, total: file.size };
      const update = (changes: object) => {
        Object.assign(entry, changes);
        setUploads((before) => (before.includes(entry) ? [...before] : [...before, entry]));
      };
      update({});
      send(file, (done) => update({ done })).then(
        (name) => update({ file: name, done: file.size }),
        (problem: unknown) => {
          setUploads((before) => before.filter((one) => one !== entry));
          setError(problem);
        },
      );
    }
  };
  const sent = uploads.flatMap((one) => one.file ?? []);
  const files = [...names.split("\n").map((name) => name.trim()).filter(Boolean), ...sent];
  const isSending = sent.length < uploads.length;
  return (
    <form
      class={`card drop ${isOn ? "on" : ""}`}
      aria-label={t("data.convert")}
      onDragOver={(event) => {
        event.preventDefault();
        setOn(true);
      }}
      onDragLeave={() => setOn(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOn(false);
        take(event.dataTransfer?.files);
      }}
      onSubmit={(event) => {
        event.preventDefault();
        setError(undefined);
        post<{ job_id: string }>("/v1/conversions", { request_id: uuid(), file_names: files, output_file_name: output, merge: true, format }).then(
          ({ job_id }) => {
            setUploads([]);
            setNames("");
            setParameters({ conversion: job_id });
          },
          setError,
        );
      }}
    >
      <h2>{t("data.convert")}</h2>
      <div class="filters">
        <label>
          {t("data.files")}
          <textarea rows={2} placeholder="raw/orders.json" value={names} onInput={(event) => setNames(event.currentTarget.value)} />
        </label>
        <label>
          {t("data.drop")}
          <input type="file" multiple onChange={(event) => take(event.currentTarget.files)} />
        </label>
        <label>
          {t("data.output")}
          <input required value={output} placeholder="orders" onInput={(event) => setOutput(event.currentTarget.value)} />
        </label>
        <label>
          {t("data.format")}
          <select value={format} onChange={(event) => setFormat(event.currentTarget.value)}>
            {FORMATS.map((one) => (
              <option key={one} value={one}>
                {one.replace("TABLE_FORMAT_", "")}
              </option>
            ))}
          </select>
        </label>
        <button class="main" disabled={!files.length || !output || isSending}>
          {t("data.start")}
        </button>
      </div>
      {uploads.map((one) => (
        <div key={one.name} class="facts">
          {one.name} <ProgressBar done={one.done} total={one.total} label={one.name} />
        </div>
      ))}
      <ErrorNote error={error} />
    </form>
  );
}

/** Sends a file, and returns what calls name it by; `fetch` does not say how far it is. */
function send(file: File, progress: (done: number) => void): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", `/v1/files/${encodeURIComponent(file.name)}`);
    request.upload.onprogress = (event) => progress(event.loaded);
    request.responseType = "json";
    request.onload = () => {
      const { file_name, message } = request.response ?? {};
      if (request.status < 300) resolve(file_name);
      else reject(new Error(message ?? request.statusText));
    };
    request.onerror = () => reject(new Error(t("data.not_sent", { name: file.name })));
    request.send(file);
  });
}
