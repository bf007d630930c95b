/** Schedules: when they fire next, what became of the last fires; run now, pause, resume. */

import { useState } from "preact/hooks";
import { post } from "../../api";
import { moment, named, t } from "../../language";
import { ErrorNote, Loading, Status, useLoaded } from "../../parts";
import { Link, setParameters } from "../../router";
import { uuid } from "../sql/queries";

interface Fire {
  fire_time: string;
  state: string;
  reason?: string;
  kit_id?: number;
  kit_status?: string;
  manual?: boolean;
}
interface Schedule {
  name: string;
  project?: string;
  timing?: Record<string, any>;
  paused?: boolean;
  note?: string;
  next_time?: string;
  last_fire?: Fire;
}

const call = <T,>(method: string, body: object): Promise<T> =>
  post<T>(`/v1/rpc/vistaflow.api.pipeline.v1.PipelineService/${method}`, body);
const stateOf = (fire: Fire): string => named("fire", fire.state.replace(/^FIRE_STATE_/, ""));

function timingOf(timing: Record<string, any> = {}): string {
  return Object.entries(timing)
    .map(([key, value]) => `${key.replaceAll("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(", ");
}

export default function Schedules({ open, changed }: { open: string; changed: number }) {
  const [count, setCount] = useState(0);
  const [error, setError] = useState<unknown>();
  const list = useLoaded(() => call<{ schedules?: Schedule[] }>("ListSchedules", { page_size: 1000 }), [changed, count]);
  const act = (method: string, schedule: Schedule) => {
    setError(undefined);
    call(method, { request_id: uuid(), name: schedule.name, project: schedule.project ?? "" }).then(
      () => setCount((before) => before + 1),
      setError,
    );
  };
  const keyOf = (one: Schedule): string => `${one.project ?? ""}/${one.name}`;
  const shown = list.value?.schedules?.find((one) => keyOf(one) === open);
  return (
    <>
      <ErrorNote error={error ?? list.error} />
      {!list.value && !list.error && <Loading />}
      {list.value && !list.value.schedules?.length && <p class="muted">{t("data.no_schedules")}</p>}
      {!!list.value?.schedules?.length && (
        <div class="card" tabIndex={0}>
          <table>
            <caption>{t("data.schedules")}</caption>
            <thead>
              <tr>
                <th>{t("kits.name")}</th>
                <th>{t("data.timing")}</th>
                <th>{t("data.next")}</th>
                <th>{t("data.last")}</th>
                <th>{t("data.do")}</th>
              </tr>
            </thead>
            <tbody>
              {list.value.schedules.map((one) => (
                <tr key={keyOf(one)}>
                  <th scope="row">
                    <button class="link" aria-expanded={open === keyOf(one)} onClick={() => setParameters({ schedule: open === keyOf(one) ? "" : keyOf(one) })}>
                      {one.name}
                    </button>{" "}
                    <span class="muted">{one.project}</span>
                  </th>
                  <td>{timingOf(one.timing)}</td>
                  <td>{one.paused ? `${named("status", "PAUSED")}${one.note ? `: ${one.note}` : ""}` : moment(one.next_time)}</td>
                  <td>{one.last_fire && <Last fire={one.last_fire} />}</td>
                  <td>
                    <button onClick={() => act("RunSchedule", one)}>{t("data.run_now")}</button>{" "}
                    <button onClick={() => act(one.paused ? "ResumeSchedule" : "PauseSchedule", one)}>
                      {t(one.paused ? "action.resume" : "action.pause")}
                    </button>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {shown && <One schedule={shown} changed={changed + count} />}
    </>
  );
}

function Last({ fire }: { fire: Fire }) {
  return (
    <>
      {moment(fire.fire_time)}{" "}
      {fire.kit_id ? (
        <>
          <Link to={`/kits/${fire.kit_id}`}>{t("data.kit", { id: fire.kit_id })}</Link>{" "}
          {fire.kit_status && <Status status={fire.kit_status} />}
        </>
      ) : (
        `${stateOf(fire)}${fire.reason ? `: ${fire.reason}` : ""}`
      )}
    </>
  );
}

function One({ schedule, changed }: { schedule: Schedule; changed: number }) {
  const { value, error } = useLoaded(
    () =>
      call<{ fires?: Fire[]; next_times?: string[] }>("GetSchedule", {
        name: schedule.name,
        project: schedule.project ?? "",
        fire_count: 50,
        next_count: 10,
      }),
    [schedule.name, schedule.project, changed],
  );
  if (!value) return <ErrorNote error={error} />;
  return (
    <section class="card tables" aria-label={schedule.name}>
      <div>
        <h2>{t("data.next")}</h2>
        <ul>
          {value.next_times?.map((time) => (
            <li key={time}>{moment(time)}</li>
          ))}
        </ul>
      </div>
      <div>
        <h2>{t("data.fires")}</h2>
        <ul>
          {value.fires?.map((fire) => (
            <li key={fire.fire_time}>
              <Last fire={fire} /> {fire.manual && <span class="muted">{t("data.by_hand")}</span>}
            </li>
          ))}
        </ul>
      </div>
    </section>
  );
}
