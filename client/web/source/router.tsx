/** Addresses: a path names the view, its parameters what the view shows. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { query, type Parameters } from "./api";

export interface Place {
  path: string;
  parameters: URLSearchParams;
}

const CHANGED = "vistaflow-place";
const here = (): Place => ({
  path: location.pathname.replace(/\/+$/, "") || "/",
  parameters: new URLSearchParams(location.search),
});

/** Goes to an address. `replace`: the former one is not in the history. */
export function go(to: string, replace = false): void {
  history[replace ? "replaceState" : "pushState"](null, "", to);
  window.dispatchEvent(new Event(CHANGED));
}

/** Changes parameters of the address; unset and empty ones leave it. */
export function setParameters(changes: Parameters, replace = true): void {
  const search = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    search.delete(name);
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "" && one !== false) search.append(name, String(one));
    }
  }
  const text = search.toString();
  go(location.pathname + (text && `?${text}`), replace);
}

/** The address, as it changes. */
export function usePlace(): Place {
  const [place, setPlace] = useState(here);
  useEffect(() => {
    const update = () => setPlace(here());
    window.addEventListener(CHANGED, update);
    window.addEventListener("popstate", update);
    return () => {
      window.removeEventListener(CHANGED, update);
      window.removeEventListener("popstate", update);
    };
  }, []);
  return place;
}

/** A link within the page. */
export function Link(props: {
  to: string;
  parameters?: Parameters;
  class?: string;
  current?: boolean;
  children: ComponentChildren;
}) {
  const to = props.to + query(props.parameters ?? {});
  return (
    <a
      href={to}
      class={props.class}
      aria-current={props.current ? "page" : undefined}
      onClick={(event: MouseEvent) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
        event.preventDefault();
        go(to);
        window.scrollTo(0, 0);
      }}
    >
      {props.children}
    </a>
  );
}
