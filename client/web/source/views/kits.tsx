/** The list of kits, newest first, which changes as they do. */

import { useEffect, useMemo, useRef } from "preact/hooks";
import { get, type Job, type Kit } from "../api";
import { duration, named, number, t, whole } from "../language";
import { CountsBar, Elapsed, ErrorNote, isOver, Rows, Status, useRefresh, type Column } from "../parts";
import { Link, setParameters, type Place } from "../router";
import { follow, type Rows as NewRows } from "../stream";
import { paceAfter, remaining, type Pace } from "./pace";

const PAGE = 200;
/** More new kits at once than this are read as a list. */
const SINGLY = 20;
const STATUSES = ["INIT", "QUEUED", "RUNNING", "FINISHED", "FAILED", "CANCELED"];

interface Row {
  kit: Kit;
  best?: string | undefined;
  pace?: Pace | undefined;
}

interface Filter {
  name: string;
  project: string;
  statuses: string[];
  label: string;
}

class List {
  rows: Row[] = [];
  isComplete = false;
  error: unknown;
  private readonly byId = new Map<number, Row>();
  private token = "";
  private isLoading = false;
  private unknown = new Set<number>();
  private generation = 0;

  constructor(
    private readonly filter: Filter,
    private readonly refresh: () => void,
  ) {}

  async read(revision: number): Promise<number> {
    const generation = ++this.generation;
    const first = await this.page("", revision).catch((error: unknown) => {
      this.error = error;
      this.refresh();
      throw error;
    });
    if (generation !== this.generation) return Number(first.revision ?? 0);
    this.error = undefined;
    this.rows = [];
    this.byId.clear();
    this.add(first);
    return Number(first.revision ?? 0);
  }

  async more(): Promise<void> {
    if (this.isLoading || !this.token) return;
    this.isLoading = true;
    const generation = this.generation;
    try {
      const next = await this.page(this.token);
      if (generation === this.generation) this.add(next);
    } catch (error) {
      this.error = error;
    } finally {
      this.isLoading = false;
      this.refresh();
    }
  }

  apply(rows: NewRows): void {
    for (const state of rows.states) {
      const row = this.byId.get(state.kit_id);
      if (!row) continue;
      row.kit.updated_at = state.created_at;
      if (!state.job_type && state.task_name === "pause") row.kit.paused = state.status === "STATUS_RUNNING";
      row.pace = paceAfter(row.pace, state);
      row.best = bestOf(state) ?? row.best;
    }
    for (const counts of rows.counts) {
      const row = this.byId.get(counts.kit_id);
      if (row && rows.revision >= Number(row.kit.revision)) {
        row.kit = { ...row.kit, ...counts, revision: String(rows.revision) };
        if (!this.matches(row.kit)) this.remove(counts.kit_id);
      } else if (!row && (this.isComplete || counts.kit_id > (this.rows.at(-1)?.kit.kit_id ?? 0))) {
        this.unknown.add(counts.kit_id);
      }
    }
    if (this.unknown.size) void this.fetchUnknown(rows.revision);
    this.refresh();
  }

  private async fetchUnknown(revision: number): Promise<void> {
    const ids = [...this.unknown];
    this.unknown.clear();
    if (ids.length > SINGLY) {
      await this.read(revision).catch(() => undefined);
      return;
    }
    for (const id of ids) {
      const { kit } = await get<{ kit: Kit }>(`/v1/kits/${id}`, { page_size: 1, min_revision: revision }).catch(
        () => ({ kit: undefined }),
      );
      if (kit && this.matches(kit) && !this.byId.has(id)) this.insert({ kit: slim(kit) });
    }
    this.refresh();
  }

  private matches(kit: Kit): boolean {
    const { name, project, statuses, label } = this.filter;
    const [key, value] = label.split("=", 2);
    return (
      (!statuses.length || statuses.includes(kit.status.replace("STATUS_", ""))) &&
      (!project || kit.project === project) &&
      kit.name.toLowerCase().includes(name.toLowerCase()) &&
      (!label || kit.labels?.[key!] === (value ?? ""))
    );
  }

  private insert(row: Row): void {
    const place = this.rows.findIndex((one) => one.kit.kit_id < row.kit.kit_id);
    this.rows = place < 0 ? [...this.rows, row] : this.rows.toSpliced(place, 0, row);
    this.byId.set(row.kit.kit_id, row);
  }

  private remove(id: number): void {
    this.rows = this.rows.filter((row) => row.kit.kit_id !== id);
    this.byId.delete(id);
  }

  private add(answer: { kits?: Kit[]; next_page_token?: string }): void {
    const kits = (answer.kits ?? []).filter((kit) => !this.byId.has(kit.kit_id));
    const added = kits.map((kit): Row => ({ kit: slim(kit) }));
    for (const row of added) this.byId.set(row.kit.kit_id, row);
    this.rows = [...this.rows, ...added];
    this.token = answer.next_page_token ?? "";
    this.isComplete = !this.token;
    this.refresh();
    if (kits.length) void this.addBest(kits);
  }

  /** Lists of kits do not have what their optimisation found. */
  private async addBest(kits: Kit[]): Promise<void> {
    const { jobs = [] } = await get<{ jobs?: Job[] }>("/v1/jobs", {
      kit_ids: kits.map((kit) => kit.kit_id),
      job_types: "JOB_TYPE_OPTIMIZE",
      page_size: PAGE,
    }).catch(() => ({ jobs: [] }));
    for (const job of jobs) {
      const row = this.byId.get(job.kit_id);
      if (row) row.best ??= bestOf({ metadata: { result: job.result, progress: job.progress } });
    }
    this.refresh();
  }

  private page(token: string, revision = 0): Promise<{ kits?: Kit[]; next_page_token?: string; revision?: string }> {
    const { name, project, statuses, label } = this.filter;
    const [key, value] = label.split("=", 2);
    return get("/v1/kits", {
      page_size: PAGE,
      page_token: token,
      min_revision: revision || "",
      name_contains: name,
      project,
      statuses: statuses.map((status) => `STATUS_${status}`),
      ...(key ? { [`labels.${key}`]: value ?? "" } : {}),
    });
  }
}

/** Of 10^5 kits, only what the list shows is kept. */
const slim = (kit: Kit): Kit => ({ ...kit, jobs: [], spec: { deck: kit.spec?.deck, goals: kit.spec?.goals } });

function bestOf(state: { metadata?: any }): string | undefined {
  const best = state.metadata?.result?.best;
  if (best && typeof best === "object") return best.objective === undefined ? undefined : number(best.objective);
  const text: string = state.metadata?.progress?.message ?? "";
  const match = /best (?:.* = )?(\S+)/.exec(text);
  return match ? number(match[1]) : undefined;
}

export default function Kits({ place }: { place: Place }) {
  const { parameters } = place;
  const filter: Filter = {
    name: parameters.get("name") ?? "",
    project: parameters.get("project") ?? "",
    statuses: parameters.getAll("status"),
    label: parameters.get("label") ?? "",
  };
  const key = JSON.stringify(filter);
  const refresh = useRefresh();
  const list = useMemo(() => new List(filter, refresh), [key]);
  useEffect(
    () => follow(0, { read: (revision) => list.read(revision), apply: (rows) => list.apply(rows) }),
    [list],
  );
  const compared = parameters.getAll("compare").map(Number);
  const columns: Column<Row>[] = [
    { key: "id", title: t("kits.id"), width: "3.8rem", isNumber: true, cell: ({ kit }) => kit.kit_id },
    {
      key: "name",
      title: t("kits.name"),
      width: "minmax(7rem, 3fr)",
      cell: ({ kit }) => <Link to={`/kits/${kit.kit_id}`}>{kit.name}</Link>,
    },
    {
      key: "status",
      title: t("kits.status"),
      width: "7.5rem",
      cell: ({ kit }) => <Status status={kit.status} paused={kit.paused} />,
    },
    {
      key: "progress",
      title: t("kits.progress"),
      width: "minmax(7rem, 1fr)",
      isSecondary: true,
      cell: ({ kit }) => <CountsBar counts={kit.job_counts} />,
    },
    { key: "best", title: t("kits.best"), width: "6.5rem", isNumber: true, isSecondary: true, cell: (row) => row.best ?? "–" },
    {
      key: "eta",
      title: t("kits.eta"),
      width: "6rem",
      isNumber: true,
      isSecondary: true,
      cell: (row) => (isOver(row.kit.status) ? "" : duration(remaining(row.pace))),
    },
    {
      key: "duration",
      title: t("kits.duration"),
      width: "7rem",
      isNumber: true,
      isSecondary: true,
      cell: ({ kit }) => <Elapsed from={kit.created_at} to={isOver(kit.status) ? kit.updated_at : undefined} />,
    },
    {
      key: "deck",
      title: t("kits.deck"),
      width: "minmax(6rem, 1fr)",
      isSecondary: true,
      cell: ({ kit }) => kit.spec?.deck?.name ?? "",
    },
    {
      key: "project",
      title: t("kits.project"),
      width: "minmax(5rem, 1fr)",
      isSecondary: true,
      cell: ({ kit }) => kit.project,
    },
    {
      key: "labels",
      title: t("kits.labels"),
      width: "minmax(6rem, 1.5fr)",
      isSecondary: true,
      cell: ({ kit }) =>
        Object.entries(kit.labels ?? {}).map(([name, value]) => (
          <button key={name} class="label" onClick={() => setParameters({ label: `${name}=${value}` })}>
            {name}={value}
          </button>
        )),
    },
    {
      key: "compare",
      title: t("kits.compare"),
      width: "6rem",
      isSecondary: true,
      cell: ({ kit }) => (
        <input
          type="checkbox"
          aria-label={t("kits.compare_one", { id: kit.kit_id })}
          checked={compared.includes(kit.kit_id)}
          disabled={compared.length >= 4 && !compared.includes(kit.kit_id)}
          onChange={(event) =>
            setParameters({
              compare: event.currentTarget.checked
                ? [...compared, kit.kit_id]
                : compared.filter((id) => id !== kit.kit_id),
            })
          }
        />
      ),
    },
  ];
  return (
    <div class="full">
      <h1>{t("kits.title")}</h1>
      <form class="filters" role="search" aria-label={t("kits.filters")} onSubmit={(event) => event.preventDefault()}>
        <Later label={t("kits.name")} value={filter.name} onChange={(name) => setParameters({ name })} />
        <Later label={t("kits.project")} value={filter.project} onChange={(project) => setParameters({ project })} />
        <Later
          label={t("kits.label")}
          value={filter.label}
          hint="team=photonics"
          onChange={(label) => setParameters({ label })}
        />
        <fieldset>
          <legend>{t("kits.status")}</legend>
          {STATUSES.map((status) => (
            <label key={status} class="choice">
              <input
                type="checkbox"
                checked={filter.statuses.includes(status)}
                onChange={(event) =>
                  setParameters({
                    status: event.currentTarget.checked
                      ? [...filter.statuses, status]
                      : filter.statuses.filter((one) => one !== status),
                  })
                }
              />
              {named("status", status)}
            </label>
          ))}
        </fieldset>
        {compared.length > 1 && (
          <Link class="button" to={`/kits/${compared[0]}/study`} parameters={{ with: compared.slice(1) }}>
            {t("kits.compare_these", { count: compared.length })}
          </Link>
        )}
        <output class="muted">
          {t(list.isComplete ? "kits.count" : "kits.count_more", { count: whole(list.rows.length) })}
        </output>
      </form>
      <ErrorNote error={list.error} />
      <Rows
        label={t("kits.title")}
        rows={list.rows}
        columns={columns}
        keyOf={(row) => row.kit.kit_id}
        onEnd={() => void list.more()}
        total={list.isComplete ? undefined : -1}
        empty={list.isComplete ? t("kits.none") : t("loading")}
      />
    </div>
  );
}

/** A field that reports a pause in typing. */
function Later(props: { label: string; value: string; hint?: string; onChange(value: string): void }) {
  const timer = useRef(0);
  return (
    <label>
      {props.label}
      <input
        type="search"
        value={props.value}
        placeholder={props.hint}
        onInput={(event) => {
          const { value } = event.currentTarget;
          clearTimeout(timer.current);
          timer.current = window.setTimeout(() => props.onChange(value), 250);
        }}
      />
    </label>
  );
}
