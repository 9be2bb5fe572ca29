/** The place to write: text, pictures and text files, kept as a draft for as long as the tab lives. */

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { ContentBlock } from "./messages.ts";
import { info } from "./server-state.ts";
import { toast } from "./ui.tsx";
import { words } from "./words.ts";

export interface Draft {
  text: string;
  blocks: ContentBlock[];
}

const PICTURE = /^image\/(png|jpeg|gif|webp|avif)$/;
const TEXT_FILE = /^(text\/|application\/(json|xml|yaml|x-yaml|toml|javascript|x-sh|sql))/;
const TEXT_NAME = /\.(txt|md|csv|tsv|json|ya?ml|toml|py|js|ts|tsx|jsx|css|html|xml|sql|sh|go|rs|java|c|h|cpp|rb|log)$/i;
const OVERHEAD_BYTES = 4096;

async function blockOf(file: File): Promise<ContentBlock | null> {
  if (PICTURE.test(file.type)) {
    const address = await new Promise<string>((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(String(reader.result));
      reader.onerror = () => reject(reader.error as Error);
      reader.readAsDataURL(file);
    });
    return { type: "image", base64: address.slice(address.indexOf(",") + 1), mime_type: file.type };
  }
  if (!TEXT_FILE.test(file.type) && !TEXT_NAME.test(file.name)) return null;
  return { type: "text", text: `${file.name}\n\n${await file.text()}` };
}

interface ComposerProps {
  draftKey: string;
  isRunning: boolean;
  isStopping: boolean;
  onSend: (draft: Draft) => Promise<boolean>;
  onStop: () => void;
}

export function Composer({ draftKey, isRunning, isStopping, onSend, onStop }: ComposerProps) {
  const key = `draft ${draftKey}`;
  const [text, setText] = useState(() => sessionStorage.getItem(key) ?? "");
  const [files, setFiles] = useState<{ name: string; block: ContentBlock }[]>([]);
  const [isSending, setSending] = useState(false);
  const isNextWanted = useRef(false);
  const area = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (text) sessionStorage.setItem(key, text);
    else sessionStorage.removeItem(key);
  }, [text]);
  // Before the next key: after a short cut to a new chat a quick hand writes at once.
  useLayoutEffect(() => {
    // A question that has the focus keeps it, because its keys would be typed into the box.
    const isAnswering = document.activeElement?.closest(".interrupt") != null;
    if (matchMedia("(min-width: 700px)").matches && !isAnswering) area.current?.focus();
    const take = (event: Event) => {
      setText((event as CustomEvent<string>).detail);
      area.current?.focus();
    };
    addEventListener("threadkeep-draft", take);
    return () => removeEventListener("threadkeep-draft", take);
  }, []);
  useLayoutEffect(() => {
    const element = area.current;
    if (!element) return;
    // First, because `scrollHeight` never shrinks below the present height.
    element.style.height = "auto";
    element.style.height = `${Math.min(element.scrollHeight, 240)}px`;
  }, [text]);

  async function add(list: File[]) {
    for (const file of list) {
      const block = await blockOf(file);
      if (!block) toast(words.notAttachable(file.name));
      else setFiles((before) => [...before, { name: file.name || words.picture, block }]);
    }
  }

  async function submit() {
    const draft = { text: text.trim(), blocks: files.map((each) => each.block) };
    if (draft.text === "" && draft.blocks.length === 0) return;
    if (isSending) {
      isNextWanted.current = true;
      return;
    }
    const limit = info.value?.limits.body_bytes ?? Infinity;
    // Checked here, because a browser whose body is refused while it is sent may only see a lost connection.
    if (new Blob([JSON.stringify(draft)]).size + OVERHEAD_BYTES > limit) {
      toast(words.tooLarge(limit));
      return;
    }
    setSending(true);
    setText("");
    setFiles([]);
    const isDone = await onSend(draft);
    setSending(false);
    if (!isDone) {
      isNextWanted.current = false;
      // The reader may have written on meanwhile. Nothing of it may be lost.
      setText((before) => (before ? `${draft.text}\n\n${before}` : draft.text));
      setFiles((before) => [...files, ...before]);
    }
  }
  // An Enter while the message before is being sent is kept until it is.
  useEffect(() => {
    if (isSending || !isNextWanted.current) return;
    isNextWanted.current = false;
    void submit();
  }, [isSending]);

  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); void submit(); }}
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => { event.preventDefault(); void add([...(event.dataTransfer?.files ?? [])]); }}>
      {files.length > 0 && (
        <ul class="files">
          {files.map((each, index) => (
            <li key={index}>
              {each.block.type === "image" && <img src={`data:${String(each.block.mime_type)};base64,${String(each.block.base64)}`} alt="" />}
              <span dir="auto">{each.name}</span>
              <button type="button" class="quiet" aria-label={words.remove} onClick={() => setFiles(files.filter((_, at) => at !== index))}>✕</button>
            </li>
          ))}
        </ul>
      )}
      <textarea ref={area} id="message" dir="auto" rows={1} aria-label={words.message} placeholder={isRunning ? words.messageQueued : words.messagePlaceholder} value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onPaste={(event) => {
          const pasted = [...(event.clipboardData?.files ?? [])];
          if (pasted.length > 0) { event.preventDefault(); void add(pasted); }
        }}
        onKeyDown={(event) => {
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); void submit(); }
          if (event.key === "Escape" && isRunning) { event.preventDefault(); onStop(); }
        }} />
      <div class="composer-tools">
        <input ref={picker} type="file" multiple hidden onChange={(event) => {
          const chosen = [...(event.currentTarget.files ?? [])]; // the list itself is emptied by the next line
          event.currentTarget.value = "";
          void add(chosen);
        }} />
        <button type="button" class="quiet" onClick={() => picker.current?.click()}>{words.attach}</button>
        <span class="grow" />
        {isRunning && <button type="button" disabled={isStopping} onClick={onStop}>{words.stop} <kbd>Esc</kbd></button>}
        <button type="submit" class="primary" disabled={isSending || (text.trim() === "" && files.length === 0)}>{isRunning ? words.queue : words.send}</button>
      </div>
    </form>
  );
}
