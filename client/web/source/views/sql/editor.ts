/** The editor: CodeMirror, in a shadow root, where its styles need no exception of the page's policy. */

import {
  acceptCompletion,
  autocompletion,
  closeBrackets,
  closeBracketsKeymap,
  completionKeymap,
  type Completion,
  type CompletionContext,
  type CompletionResult,
} from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { bracketMatching, HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { linter, lintGutter, lintKeymap, type Diagnostic } from "@codemirror/lint";
import { keywordCompletionSource, sql, StandardSQL } from "@codemirror/lang-sql";
import { Compartment, EditorState } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";

/** A mistake, its line and column from 1; 0 is unknown. */
export interface Mistake {
  message: string;
  line?: number;
  column?: number;
}

export interface Wishes {
  parent: HTMLElement;
  label: string;
  text: string;
  onText(text: string): void;
  onRun(): void;
  check(text: string): Promise<Mistake[]>;
  /** Tables that a query may name. */
  tables(): Promise<Completion[]>;
  /** Columns of a table, as a query names it. */
  columns(table: string): Promise<Completion[]>;
}

export interface Editor {
  show(text: string): void;
  /** Checks again, as something beside the text changed. */
  check(): void;
  focus(): void;
  close(): void;
}

const PAUSE = 500;

const colours = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--accent)", fontWeight: "600" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--finished)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--canceled)" },
  { tag: tags.comment, color: "var(--soft)", fontStyle: "italic" },
  { tag: tags.typeName, color: "var(--accent)" },
]);

const look = EditorView.theme({
  "&": { backgroundColor: "var(--paper)", color: "var(--ink)", border: "1px solid var(--line)", borderRadius: "8px", minHeight: "9rem", maxHeight: "26rem" },
  "&.cm-focused": { outline: "3px solid var(--accent)", outlineOffset: "1px" },
  ".cm-scroller": { fontFamily: 'ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace', fontSize: "0.93rem", overflow: "auto", minHeight: "9rem" },
  ".cm-content": { caretColor: "var(--ink)" },
  ".cm-cursor": { borderLeftColor: "var(--ink)" },
  ".cm-gutters": { backgroundColor: "var(--ground)", color: "var(--soft)", border: "none" },
  ".cm-activeLine": { backgroundColor: "transparent" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--tint) !important" },
  ".cm-tooltip": { backgroundColor: "var(--paper)", color: "var(--ink)", border: "1px solid var(--line)" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { backgroundColor: "var(--accent)", color: "var(--on-accent)" },
  ".cm-tooltip-autocomplete ul li[aria-selected] .cm-completionDetail": { color: "var(--on-accent)" },
  ".cm-completionDetail": { color: "var(--soft)", fontStyle: "normal", marginLeft: "1rem" },
});

/** Tables that a text names after FROM and JOIN, with what they are called. */
export function tablesIn(text: string): { name: string; alias: string }[] {
  const part = String.raw`(?:"(?:[^"]|"")*"|[\p{L}_][\p{L}\p{N}_]*)`;
  const pattern = new RegExp(String.raw`\b(?:from|join)\s+(${part}(?:\.${part})*)(?:\s+(?:as\s+)?([\p{L}_][\p{L}\p{N}_]*))?`, "giu");
  const word = /^(?:where|group|order|join|on|left|right|inner|full|cross|limit|union|having|offset|using|natural)$/i;
  return [...text.matchAll(pattern)].map(([, name, alias]) => ({
    name: name!,
    alias: alias && !word.test(alias) ? alias : name!.split(".").at(-1)!,
  }));
}

function completions(wishes: Wishes): (context: CompletionContext) => Promise<CompletionResult | null> {
  return async (context) => {
    const word = context.matchBefore(/[\p{L}\p{N}_."@/*-]*$/u);
    if (!word || (word.from === word.to && !context.explicit)) return null;
    const text = context.state.doc.toString();
    const named = tablesIn(text);
    const [, owner] = /^([\p{L}\p{N}_]+)\.[\p{L}\p{N}_]*$/u.exec(word.text) ?? [];
    const of = owner && named.find((one) => one.alias.toLowerCase() === owner.toLowerCase());
    if (of) {
      return { from: word.from + owner.length + 1, options: await wishes.columns(of.name), validFor: /^[\p{L}\p{N}_]*$/u };
    }
    const isTable = /\b(?:from|join)\s+$/i.test(text.slice(0, word.from));
    const tables = await wishes.tables();
    if (isTable) return { from: word.from, options: tables };
    const unique = [...new Set(named.map((one) => one.name))].filter((name) => name.length < 200).slice(0, 5);
    const columns = (await Promise.all(unique.map((name) => wishes.columns(name)))).flat();
    return { from: word.from, options: [...columns, ...tables] };
  };
}

export function open(wishes: Wishes): Editor {
  const root = wishes.parent.shadowRoot ?? wishes.parent.attachShadow({ mode: "open" });
  let isShowing = false;
  const trigger = new Compartment();
  const checking = () =>
    linter(
      async (view): Promise<Diagnostic[]> => {
        const text = view.state.doc.toString();
        if (!text.trim()) return [];
        const { doc } = view.state;
        return (await wishes.check(text).catch(() => [])).map(({ message, line = 0, column = 0 }) => {
          if (!line || line > doc.lines) return { from: 0, to: doc.length, severity: "error", message };
          const at = doc.line(line);
          const from = Math.min(at.to, at.from + Math.max(0, column - 1));
          const length = /^[\p{L}\p{N}_]+|^"[^"]*"|^./u.exec(doc.sliceString(from, at.to))?.[0].length ?? 0;
          return { from, to: from + length, severity: "error", message };
        });
      },
      { delay: PAUSE },
    );
  const view = new EditorView({
    root,
    parent: root,
    state: EditorState.create({
      doc: wishes.text,
      extensions: [
        keymap.of([
          { key: "Mod-Enter", run: () => (wishes.onRun(), true) },
          { key: "Tab", run: acceptCompletion },
          ...closeBracketsKeymap,
          ...defaultKeymap,
          ...historyKeymap,
          ...completionKeymap,
          ...lintKeymap,
        ]),
        lineNumbers(),
        history(),
        drawSelection(),
        bracketMatching(),
        closeBrackets(),
        highlightActiveLine(),
        syntaxHighlighting(colours),
        sql({ dialect: StandardSQL }),
        autocompletion({ override: [completions(wishes), keywordCompletionSource(StandardSQL)] }),
        trigger.of(checking()),
        lintGutter(),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ "aria-label": wishes.label }),
        EditorView.domEventHandlers({
          // Chromium would keep the style of what is replaced as an inline style, which the policy reports.
          beforeinput(event, view) {
            if (event.inputType !== "insertText" || !event.data || view.state.selection.main.empty) return false;
            event.preventDefault();
            view.dispatch(view.state.replaceSelection(event.data), { userEvent: "input.type" });
            return true;
          },
        }),
        EditorView.updateListener.of((update) => {
          if (update.docChanged && !isShowing) wishes.onText(update.state.doc.toString());
        }),
        look,
      ],
    }),
  });
  return {
    show(text) {
      if (view.state.doc.toString() === text) return;
      isShowing = true;
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } });
      isShowing = false;
    },
    check: () => view.dispatch({ effects: trigger.reconfigure(checking()) }),
    focus: () => view.focus(),
    close: () => view.destroy(),
  };
}
