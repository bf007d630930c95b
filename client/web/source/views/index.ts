/** The views of the page, by the first part of their address. */

import type { FunctionComponent } from "preact";
import type { Key } from "../language";
import type { Place } from "../router";

export interface View {
  /** Which addresses it shows. */
  path: RegExp;
  /** What it is called. */
  title: Key;
  /** Where its entry of the menu leads; without one, it has none. */
  menu?: string;
  load(): Promise<{ default: FunctionComponent<{ place: Place; match: RegExpMatchArray }> }>;
}

export const VIEWS: View[] = [
  { path: /^\/(?:kits)?$/, title: "kits.title", menu: "/kits", load: () => import("./kits") },
  { path: /^\/kits\/(\d+)$/, title: "kit.title", load: () => import("./kit") },
  { path: /^\/kits\/(\d+)\/study$/, title: "study.title", load: () => import("./study") },
  { path: /^\/sql$/, title: "sql.title", menu: "/sql", load: () => import("./sql") },
  { path: /^\/data$/, title: "data.title", menu: "/data", load: () => import("./data") },
  { path: /^\/services$/, title: "services.title", menu: "/services", load: () => import("./services") },
];
