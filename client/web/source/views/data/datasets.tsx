/** Datasets: their versions, and what a version has in its tables. */

import { useState } from "preact/hooks";
import { get } from "../../api";
import { moment, number, t, whole } from "../../language";
import { ErrorNote, Loading, useLoaded } from "../../parts";
import { setParameters } from "../../router";
import { bytes } from "../sql/outcome";

interface Version {
  version: string;
  created_at: string;
  source?: string;
  rows?: string;
  rejected_rows?: string;
  size_bytes?: string;
  pinned?: boolean;
  aliases?: string[];
  job_id?: string;
}
interface Dataset {
  project?: string;
  name: string;
  description?: string;
  latest?: Version;
  version_count?: number;
  size_bytes?: string;
  aliases?: Record<string, string>;
}
interface Table {
  name: string;
  rows?: string;
  read_rows?: string;
  rejected?: Record<string, string>;
  dropped_rows?: string;
  orphans?: Record<string, string>;
  primary_key?: string[];
  profiled?: boolean;
  columns?: {
    name: string; type: string; null_count?: string; distinct_count?: string; minimum?: string; maximum?: string;
    counts?: string[]; bounds?: number[];
  }[];
}

const idOf = (one: Dataset): string => (one.project ? `${one.project}.${one.name}` : one.name);

export default function Datasets({ open, changed }: { open: string; changed: number }) {
  const [name, setName] = useState("");
  const { value, error } = useLoaded(
    (signal) => get<{ datasets?: Dataset[]; next_page_token?: string }>("/v1/datasets", { page_size: 500, name_contains: name }, signal),
    [name, changed],
  );
  const [dataset] = open.split("@", 1);
  return (
    <>
      <div class="filters">
        <label>
          {t("data.name_contains")}
          <input type="search" value={name} onInput={(event) => setName(event.currentTarget.value)} />
        </label>
      </div>
      <ErrorNote error={error} />
      {!value && !error && <Loading />}
      {value && !value.datasets?.length && <p class="muted">{t("data.no_datasets")}</p>}
      {!!value?.datasets?.length && (
        <div class="card" tabIndex={0}>
          <table>
            <caption>{t("data.datasets")}</caption>
            <thead>
              <tr>
                <th>{t("kits.name")}</th>
                <th class="number">{t("data.version")}</th>
                <th class="number">{t("result.rows")}</th>
                <th class="number">{t("data.rejected")}</th>
                <th class="number">{t("data.size")}</th>
                <th>{t("data.aliases")}</th>
                <th>{t("data.recorded")}</th>
              </tr>
            </thead>
            <tbody>
              {value.datasets.map((one) => (
                <tr key={idOf(one)}>
                  <th scope="row">
                    <button class="link" aria-expanded={dataset === idOf(one)} onClick={() => setParameters({ dataset: dataset === idOf(one) ? "" : idOf(one) })}>
                      {idOf(one)}
                    </button>
                    <div class="muted">{one.description}</div>
                  </th>
                  <td class="number">{one.latest?.version ?? "–"}</td>
                  <td class="number">{whole(one.latest?.rows)}</td>
                  <td class="number">{whole(one.latest?.rejected_rows)}</td>
                  <td class="number">{bytes(Number(one.size_bytes ?? 0))}</td>
                  <td>{Object.entries(one.aliases ?? {}).map(([alias, version]) => `${alias} = ${version}`).join(", ")}</td>
                  <td>{moment(one.latest?.created_at)}</td>
                </tr>
              ))}
            </tbody>
          </table>
          {value.next_page_token && <p class="muted">{t("data.more")}</p>}
        </div>
      )}
      {open && <One key={dataset} dataset={dataset!} open={open} changed={changed} />}
    </>
  );
}

/** One dataset: its versions, and the tables of the one that is open. */
function One({ dataset, open, changed }: { dataset: string; open: string; changed: number }) {
  const path = encodeURIComponent(open);
  const versions = useLoaded(
    (signal) => get<{ versions?: Version[] }>(`/v1/datasets/${encodeURIComponent(dataset)}/versions`, { page_size: 100 }, signal),
    [dataset, changed],
  );
  const shown = useLoaded(
    (signal) => get<{ version?: Version; tables?: Table[] }>(`/v1/datasets/${path}`, {}, signal),
    [open, changed],
  );
  const now = shown.value?.version;
  return (
    <section class="card" aria-label={dataset}>
      <div class="facts">
        <h2>{open}</h2>
        <span class="space" />
        {now && (
          <span class="downloads">
            {t("sql.download")}{" "}
            {["csv", "json", "arrow"].map((format) => (
              <a key={format} class="button" download href={`/v1/datasets/${path}/rows.${format}`}>
                {format.toUpperCase()}
              </a>
            ))}
          </span>
        )}
      </div>
      <ErrorNote error={versions.error ?? shown.error} />
      <div class="tables">
        <table>
          <caption>{t("data.versions")}</caption>
          <thead>
            <tr>
              <th class="number">{t("data.version")}</th>
              <th>{t("data.recorded")}</th>
              <th class="number">{t("result.rows")}</th>
              <th class="number">{t("data.rejected")}</th>
              <th>{t("data.aliases")}</th>
              <th>{t("data.source")}</th>
            </tr>
          </thead>
          <tbody>
            {versions.value?.versions?.map((one) => (
              <tr key={one.version}>
                <td class="number">
                  <button class="link" aria-current={now?.version === one.version} onClick={() => setParameters({ dataset: `${dataset}@${one.version}` })}>
                    {one.version}
                  </button>
                </td>
                <td>{moment(one.created_at)}</td>
                <td class="number">{whole(one.rows)}</td>
                <td class="number">{whole(one.rejected_rows)}</td>
                <td>{[...(one.aliases ?? []), ...(one.pinned ? [t("data.pinned")] : [])].join(", ")}</td>
                <td>{one.source}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {shown.value?.tables?.map((table) => (
        <div key={table.name} class="wide-table" tabIndex={0}>
          <h3>{table.name || dataset}</h3>
          <p class="muted">
            {t("data.read", { read: whole(table.read_rows), rows: whole(table.rows), dropped: whole(table.dropped_rows) })}{" "}
            {table.primary_key?.length ? t("data.key", { key: table.primary_key.join(", ") }) : ""}
          </p>
          <Reasons title={t("data.rejects")} of={table.rejected} />
          <Reasons title={t("data.orphans")} of={table.orphans} />
          <table>
            <thead>
              <tr>
                <th>{t("sql.column")}</th>
                <th>{t("data.type")}</th>
                {table.profiled && (
                  <>
                    <th class="number">{t("data.nulls")}</th>
                    <th class="number">{t("data.distinct")}</th>
                    <th>{t("data.minimum")}</th>
                    <th>{t("data.maximum")}</th>
                    <th>{t("data.histogram")}</th>
                  </>
                )}
              </tr>
            </thead>
            <tbody>
              {table.columns?.map((column) => (
                <tr key={column.name}>
                  <th scope="row">{column.name}</th>
                  <td>{column.type}</td>
                  {table.profiled && (
                    <>
                      <td class="number">{whole(column.null_count)}</td>
                      <td class="number">{whole(column.distinct_count)}</td>
                      <td>{column.minimum?.slice(0, 40)}</td>
                      <td>{column.maximum?.slice(0, 40)}</td>
                      <td>
                        <Histogram counts={column.counts ?? []} bounds={column.bounds ?? []} />
                      </td>
                    </>
                  )}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ))}
    </section>
  );
}

function Reasons({ title, of = {} }: { title: string; of: Record<string, string> | undefined }) {
  const rows = Object.entries(of);
  if (!rows.length) return null;
  return (
    <ul class="warnings" aria-label={title}>
      {rows.map(([rule, count]) => (
        <li key={rule}>
          {title}: {rule}, {whole(count)}
        </li>
      ))}
    </ul>
  );
}

function Histogram({ counts, bounds }: { counts: string[]; bounds: number[] }) {
  if (!counts.length) return null;
  const most = Math.max(1, ...counts.map(Number));
  const text = counts.map((count, bin) => `≤ ${number(bounds[bin])}: ${whole(count)}`).join("; ");
  return (
    <span class="histogram" role="img" aria-label={text} title={text}>
      {counts.map((count, bin) => (
        <span key={bin} style={{ height: `${(100 * Number(count)) / most}%` }} />
      ))}
    </span>
  );
}
