/** The command palette: threads, views and actions by a few letters. */

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { navigate } from "./router.ts";
import { assistants, may } from "./server-state.ts";
import { searchThreads, titleOf } from "./threads.tsx";
import { Dialog } from "./ui.tsx";
import { words } from "./words.ts";

export interface Command {
  label: string;
  hint: string;
  run: () => void;
}

function fixedCommands(actions: Command[]): Command[] {
  const views = Object.entries(words.views).map(([view, label]) => ({ label: words.goTo(label), hint: "", run: () => navigate(view) }));
  const chats = assistants.value.map((each) => ({ label: words.newChatWith(each.name), hint: "", run: () => navigate(`?assistant=${each.assistant_id}`) }));
  return [{ label: words.newThread, hint: "Ctrl Shift O", run: () => navigate("") }, ...actions, ...views, ...chats];
}

export function Palette({ actions, onClose }: { actions: Command[]; onClose: () => void }) {
  const [text, setText] = useState("");
  const [threads, setThreads] = useState<Command[]>([]);
  const [chosen, setChosen] = useState(0);
  const input = useRef<HTMLInputElement>(null);
  const list = useRef<HTMLUListElement>(null);
  useLayoutEffect(() => input.current?.focus(), []);
  useEffect(() => {
    if (!may("threads.search")) return;
    const abort = new AbortController();
    const timer = setTimeout(() => {
      searchThreads({ text, status: "", graph: "" }, 20, abort.signal).then(
        (found) => setThreads(found.threads.slice(0, 20).map((thread) => ({ label: titleOf(thread), hint: words.openThread, run: () => navigate(`threads/${thread.thread_id}`) }))),
        () => undefined,
      );
    }, 120);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [text]);
  const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fixed = fixedCommands(actions).filter((each) => wanted.every((word) => each.label.toLowerCase().includes(word)));
  const commands = [...fixed.slice(0, text ? 8 : 14), ...threads];
  // The list may have become shorter since.
  const at = Math.min(chosen, commands.length - 1);
  useEffect(() => list.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" }), [at]);
  function run(command: Command | undefined) {
    if (!command) return;
    onClose();
    command.run();
  }
  return (
    <Dialog label={words.palette} onClose={onClose}>
      <div class="palette" onKeyDown={(event) => {
        const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (step) { event.preventDefault(); setChosen((at + step + commands.length) % Math.max(1, commands.length)); }
        if (event.key === "Enter") { event.preventDefault(); run(commands[at]); }
      }}>
        <input ref={input} role="combobox" aria-expanded="true" aria-controls="palette-list" aria-activedescendant={`command-${at}`} aria-label={words.palette} placeholder={words.paletteHelp} value={text}
          onInput={(event) => { setText(event.currentTarget.value); setChosen(0); }} />
        <ul id="palette-list" role="listbox" aria-label={words.palette} ref={list}>
          {commands.map((command, index) => (
            <li key={index} id={`command-${index}`} role="option" aria-selected={index === at} onClick={() => run(command)} onPointerMove={() => setChosen(index)}>
              <span dir="auto">{command.label}</span><span class="muted">{command.hint}</span>
            </li>
          ))}
        </ul>
        {commands.length === 0 && <p class="muted pad">{words.nothingFound}</p>}
      </div>
    </Dialog>
  );
}

export function KeyboardHelp({ onClose }: { onClose: () => void }) {
  return (
    <Dialog label={words.help} onClose={onClose}>
      <h2>{words.help}</h2>
      <dl class="keys">{words.keys.map(([key, meaning]) => <div key={key}><dt>{key.split(" ").map((each) => <kbd key={each}>{each}</kbd>)}</dt><dd>{meaning}</dd></div>)}</dl>
      <div class="buttons"><button type="button" onClick={onClose}>{words.close}</button></div>
    </Dialog>
  );
}
