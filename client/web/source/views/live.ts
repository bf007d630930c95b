/** Lists that are read again when what they list changes. */

import { useEffect, useState } from "preact/hooks";
import { get, type State } from "../api";
import { follow } from "../stream";

const PAUSE = 300;

/** How often rows came that concern a list. */
export function useChanges(concerns: (state: State) => boolean): number {
  const [count, setCount] = useState(0);
  useEffect(() => {
    let timer = 0;
    const change = () => {
      // Many rows of one moment are one change.
      timer ||= window.setTimeout(() => {
        timer = 0;
        setCount((before) => before + 1);
      }, PAUSE);
    };
    const leave = follow(0, {
      read: async (revision) => {
        const page = await get<{ revision?: string }>("/v1/kits", { page_size: 1, min_revision: revision || "" });
        change();
        return Number(page.revision ?? 0);
      },
      apply: ({ states }) => {
        if (states.some(concerns)) change();
      },
    });
    return () => {
      clearTimeout(timer);
      leave();
    };
  }, []);
  return count;
}
