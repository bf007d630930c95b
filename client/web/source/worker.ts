/** The worker that all tabs share: see `stream.ts`. */

import { Hub } from "./stream";

const hub = new Hub();

(self as unknown as { onconnect: (event: MessageEvent) => void }).onconnect = (event) => {
  const port = event.ports[0]!;
  const tab = { send: (message: unknown) => port.postMessage(message) };
  port.onmessage = ({ data }) => hub.take(tab, data);
};
