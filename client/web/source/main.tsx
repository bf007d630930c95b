/** The frame around the views: menu, state of the stream, language, colours, login. */

import { render, type FunctionComponent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { get, LOGIN, login, logout } from "./api";
import { current, load, t } from "./language";
import { Loading } from "./parts";
import { Link, usePlace, type Place } from "./router";
import { again, whenLive } from "./stream";
import { VIEWS } from "./views";

const COLOURS = "vistaflow.colours";

function colours(): string {
  return localStorage.getItem(COLOURS) ?? "system";
}

function paint(): void {
  const chosen = colours();
  const isDark = chosen === "dark" || (chosen === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset["colours"] = isDark ? "dark" : "light";
  window.dispatchEvent(new Event("vistaflow-colours"));
}

function Login({ onDone }: { onDone(): void }) {
  const [problem, setProblem] = useState("");
  return (
    <main id="main" class="login">
      <form
        onSubmit={async (event) => {
          event.preventDefault();
          const token = new FormData(event.currentTarget).get("token") as string;
          if (await login(token.trim()).catch(() => false)) onDone();
          else setProblem(t("login.refused"));
        }}
      >
        <h1>vistaflow</h1>
        <p>{t("login.why")}</p>
        <label>
          {t("login.token")}
          <input type="password" name="token" autocomplete="current-password" required autofocus />
        </label>
        {problem && (
          <p role="alert" class="error">
            {problem}
          </p>
        )}
        <button class="main">{t("login.enter")}</button>
      </form>
    </main>
  );
}

function Current({ place }: { place: Place }) {
  const [shown, setShown] = useState<{ path: string; view: FunctionComponent<any> } | undefined>();
  const view = VIEWS.find((one) => one.path.test(place.path));
  useEffect(() => {
    let isOld = false;
    void view?.load().then((module) => isOld || setShown({ path: view.path.source, view: module.default }));
    document.title = view ? `${t(view.title)} – vistaflow` : "vistaflow";
    return () => void (isOld = true);
  }, [view]);
  if (!view) return <p>{t("missing", { path: place.path })}</p>;
  if (shown?.path !== view.path.source) return <Loading />;
  return <shown.view key={place.path} place={place} match={place.path.match(view.path)!} />;
}

function Page() {
  const place = usePlace();
  const [isLive, setLive] = useState(false);
  const [needsLogin, setNeedsLogin] = useState(false);
  const [hasSession, setHasSession] = useState(false);
  const [count, setCount] = useState(0);
  useEffect(() => whenLive(setLive), []);
  useEffect(() => {
    const ask = () => setNeedsLogin(true);
    window.addEventListener(LOGIN, ask);
    void get<{ caller?: object }>("/v1/server").then(
      (server) => setHasSession(!!server.caller),
      () => undefined,
    );
    return () => window.removeEventListener(LOGIN, ask);
  }, [count]);
  if (needsLogin) {
    return (
      <Login
        onDone={() => {
          setNeedsLogin(false);
          setCount(count + 1);
          again();
        }}
      />
    );
  }
  return (
    <>
      <a class="skip" href="#main">
        {t("skip")}
      </a>
      <header class="top">
        <Link to="/kits" class="brand">
          vistaflow
        </Link>
        <nav aria-label={t("menu")}>
          {VIEWS.filter((view) => view.menu).map((view) => (
            <Link key={view.menu} to={view.menu!} current={place.path.startsWith(view.menu!) || view.path.test(place.path)}>
              {t(view.title)}
            </Link>
          ))}
        </nav>
        <span class={`live ${isLive ? "on" : "off"}`} role="status">
          {isLive ? t("live.on") : t("live.off")}
        </span>
        <select
          aria-label={t("language")}
          value={current()}
          onChange={async (event) => {
            await load(event.currentTarget.value as "en" | "ko");
            setCount(count + 1);
          }}
        >
          <option value="en">English</option>
          <option value="ko">한국어</option>
        </select>
        <select
          aria-label={t("colours")}
          value={colours()}
          onChange={(event) => {
            localStorage.setItem(COLOURS, event.currentTarget.value);
            paint();
          }}
        >
          <option value="system">{t("colours.system")}</option>
          <option value="light">{t("colours.light")}</option>
          <option value="dark">{t("colours.dark")}</option>
        </select>
        {hasSession && (
          <button class="quiet" onClick={() => void logout()}>
            {t("login.leave")}
          </button>
        )}
      </header>
      <main id="main" tabIndex={-1} key={count}>
        <Current place={place} />
      </main>
    </>
  );
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
paint();
void load().then(() => render(<Page />, document.getElementById("page")!));
