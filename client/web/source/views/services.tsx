/** Services: which there are, and what the checks of the registry found. */

import { useEffect, useState } from "preact/hooks";
import { get } from "../api";
import { moment, named, t, whole } from "../language";
import { ErrorNote, Loading, useLoaded } from "../parts";
import { useChanges } from "./live";

/** Nothing tells when a check is made again. */
const PAUSE_MS = 10_000;

interface Server {
  version: string;
  revision?: string;
  now?: string;
  services?: { name: string; address: string; version?: string; status: string; seen_at?: string }[];
  findings?: { name: string; state: string; summary?: string; fix?: string }[];
}

export default function Services() {
  const changed = useChanges((state) => !state.job_type);
  const [count, setCount] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setCount((before) => before + 1), PAUSE_MS);
    return () => clearInterval(timer);
  }, []);
  const { value, error } = useLoaded((signal) => get<Server>("/v1/server", {}, signal), [changed, count]);
  const findings = [...(value?.findings ?? [])].sort((a, b) => Number(isFine(a.state)) - Number(isFine(b.state)));
  const lag = value?.findings?.find((one) => one.name === "lag");
  return (
    <div>
      <h1>{t("services.title")}</h1>
      <ErrorNote error={error} />
      {!value && !error && <Loading />}
      {value && (
        <>
          <p class="facts">
            <span>{t("services.version", { version: value.version })}</span>
            {value.revision && <span>{t("services.revision", { revision: whole(value.revision) })}</span>}
            {lag && <span>{t("services.lag", { summary: lag.summary ?? "" })}</span>}
          </p>
          <div class="card" tabIndex={0}>
            <table>
              <caption>{t("services.title")}</caption>
              <thead>
                <tr>
                  <th>{t("kits.name")}</th>
                  <th>{t("kits.status")}</th>
                  <th>{t("data.version")}</th>
                  <th>{t("services.address")}</th>
                  <th>{t("services.seen")}</th>
                </tr>
              </thead>
              <tbody>
                {value.services?.map((one) => (
                  <tr key={`${one.name} ${one.address}`}>
                    <th scope="row">{one.name}</th>
                    <td>
                      <Mark isFine={one.status === "SERVING"} text={named("services", one.status)} />
                    </td>
                    <td>{one.version}</td>
                    <td>
                      <code>{one.address}</code>
                    </td>
                    <td>{moment(one.seen_at)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
          <div class="card" tabIndex={0}>
            <table>
              <caption>{t("services.findings")}</caption>
              <thead>
                <tr>
                  <th>{t("services.check")}</th>
                  <th>{t("kits.status")}</th>
                  <th>{t("services.found")}</th>
                </tr>
              </thead>
              <tbody>
                {findings.map((one) => (
                  <tr key={one.name}>
                    <th scope="row">{one.name}</th>
                    <td>
                      <Mark isFine={isFine(one.state)} text={named("check", one.state.replace("CHECK_STATE_", ""))} />
                    </td>
                    <td>
                      {one.summary}
                      {one.fix && <div>{one.fix}</div>}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
            {!findings.length && <p class="muted">{t("services.no_findings")}</p>}
          </div>
        </>
      )}
    </div>
  );
}

const isFine = (state: string): boolean => /OK|NOTE/.test(state);

function Mark({ isFine, text }: { isFine: boolean; text: string }) {
  return (
    <span class={`status ${isFine ? "finished" : "failed"}`}>
      <span aria-hidden="true" class="mark" />
      {text}
    </span>
  );
}
