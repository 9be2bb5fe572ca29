/** The middle of the page: a thread's messages, what goes on, and the place to write. */

import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Assistant, Run, Schemas } from "./api.ts";
import type { Fork } from "./branches.ts";
import { Composer, type Draft } from "./composer.tsx";
import { inputMessages, type Conversation, type LiveRun, type Remnant, type SendFailure } from "./conversation.ts";
import { initialValue, SchemaForm } from "./form.tsx";
import { Icon } from "./icons.tsx";
import { newId } from "./ids.ts";
import { InterruptCard } from "./interrupts.tsx";
import { Markdown } from "./markdown.tsx";
import { memo } from "./memo.ts";
import { blocksOf, picturesOf, reasoningOf, textOf, type Message, type ToolCall } from "./messages.ts";
import { navigate, route } from "./router.ts";
import { isChat, may, schemasOf } from "./server-state.ts";
import { copy, duration, Empty, Id, JsonView, pretty, Problem, useLoaded, Waiting } from "./ui.tsx";
import { words } from "./words.ts";

const SHOWN_AT_FIRST = 80;
const MAX_ERROR_CHARS = 5000;

interface ChatProps {
  conversation: Conversation;
  assistant: Assistant | null;
  isNew: boolean;
}

export function Chat({ conversation, assistant, isNew }: ChatProps) {
  const schemas = useLoaded(() => (assistant ? schemasOf(assistant.assistant_id) : Promise.resolve(null)), assistant?.assistant_id ?? "");
  const hasMessages = conversation.messages.value.length > 0 || inputMessages(conversation.live.value?.run.kwargs.input).length > 0;
  const asChat = hasMessages || (schemas.value ? isChat(schemas.value) : schemas.error !== null);
  if (conversation.loadError.value && !conversation.state.value) return <div class="chat"><Problem error={conversation.loadError.value} again={() => void conversation.load()} /></div>;
  return (
    <div class="chat">
      <h1 class="unseen" dir="auto">{isNew ? words.newThread : conversation.title() || words.conversation}</h1>
      <Log conversation={conversation} assistant={assistant} isNew={isNew} asChat={asChat} />
      <Footer conversation={conversation} assistant={assistant} isNew={isNew} asChat={asChat} schemas={schemas.value} />
    </div>
  );
}

interface LogProps extends ChatProps {
  asChat: boolean;
}

/** Keeps the end of the log in sight while it grows, unless the reader has scrolled up. */
function useStickToEnd(deps: unknown[]) {
  const element = useRef<HTMLDivElement>(null);
  const isAtEnd = useRef(true);
  const [isAway, setAway] = useState(false);
  useLayoutEffect(() => {
    const log = element.current;
    // Before the drawing, or the reader would see the log jump.
    if (log && isAtEnd.current) log.scrollTop = log.scrollHeight;
    else onScroll();
  }, deps);
  function onScroll() {
    const log = element.current;
    if (!log) return;
    isAtEnd.current = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    setAway(!isAtEnd.current);
  }
  const toEnd = () => {
    isAtEnd.current = true;
    element.current?.scrollTo({ top: element.current.scrollHeight });
  };
  return { element, onScroll, isAway, toEnd };
}

function Log({ conversation, assistant, isNew, asChat }: LogProps) {
  const messages = conversation.messages.value;
  const live = conversation.live.value;
  const [shownCount, setShownCount] = useState(SHOWN_AT_FIRST);
  const { element, onScroll, isAway, toEnd } = useStickToEnd([messages, live, conversation.interrupts.value, conversation.remnants.value, conversation.queue.value]);
  const results = useMemo(() => resultsOf([...messages, ...(live?.messages ?? [])]), [messages, live?.messages]);
  const hidden = Math.max(0, messages.length - shownCount);
  const remnants = placed(conversation);
  const isEmpty = !isNew && !conversation.isLoading.value && messages.length === 0 && !live && asChat && conversation.queue.value.length === 0 && remnants.size === 0;
  return (
    <div class="log" ref={element} onScroll={onScroll} tabIndex={0} role="region" aria-label={words.conversation}>
      <div class="log-inner">
        {isNew && !live && <Greeting assistant={assistant} />}
        {conversation.isLoading.value && !isNew && <Waiting what={words.loading} />}
        {isEmpty && <Empty title={words.emptyThread} />}
        {hidden > 0 && <button type="button" class="quiet" onClick={() => setShownCount(shownCount + 400)}>{words.showEarlier(hidden)}</button>}
        {messages.map((message, index) => index < hidden ? null : (
          <Entry key={message.id ?? index} message={message} results={results} conversation={conversation} assistant={assistant} fork={conversation.forks.value.get(index) ?? null}
            remnants={remnants.get(index + 1) ?? []} canChange={!live} />
        ))}
        {!asChat && <Values conversation={conversation} />}
        {messages.length === 0 && [...remnants.values()].flat().map((remnant) => <RemnantView key={remnant.run.run_id} remnant={remnant} conversation={conversation} assistant={assistant} />)}
        {live && <Live live={live} conversation={conversation} results={results} />}
        <Questions conversation={conversation} assistant={assistant} />
        {conversation.queue.value.map((run) => <Queued key={run.run_id} run={run} conversation={conversation} />)}
      </div>
      {isAway && <button type="button" class="to-end" onClick={toEnd}>{words.toEnd}</button>}
      <Announcer messages={messages} live={live} />
    </div>
  );
}

function resultsOf(messages: Message[]): Map<string, Message> {
  return new Map(messages.filter((message) => message.tool_call_id).map((message) => [message.tool_call_id as string, message]));
}

/** Remnants of runs that are not told by the messages themselves, by the index after which they stand. */
function placed(conversation: Conversation): Map<number, Remnant[]> {
  const places = new Map<number, Remnant[]>();
  for (const remnant of conversation.remnants.value) {
    if (remnant.run.run_id === conversation.live.value?.run.run_id) continue;
    const place = conversation.placeOf(remnant.run);
    if (place !== null) places.set(place, [...(places.get(place) ?? []), remnant]);
  }
  return places;
}

function Greeting({ assistant }: { assistant: Assistant | null }) {
  const tries = assistant?.graph_id === "agent" ? words.tries : [];
  return (
    <Empty title={assistant ? words.newChatWith(assistant.name) : words.noAssistant}>
      {assistant?.description && <p class="muted" dir="auto">{assistant.description}</p>}
      <div class="tries">
        {tries.map((text) => (
          <button type="button" key={text} onClick={() => dispatchEvent(new CustomEvent("threadkeep-draft", { detail: text }))}>{text}</button>
        ))}
      </div>
    </Empty>
  );
}

interface EntryProps {
  message: Message;
  results: Map<string, Message>;
  conversation: Conversation;
  assistant: Assistant | null;
  fork: Fork | null;
  remnants: Remnant[];
  canChange: boolean;
}

function Entry({ message, results, conversation, assistant, fork, remnants, canChange }: EntryProps) {
  const [isEditing, setEditing] = useState(false);
  const isHuman = message.type === "human";
  const canBranch = canChange && assistant !== null && may("threads.create_run");
  if (message.type === "tool" && message.tool_call_id && results.get(message.tool_call_id) === message && !fork && isPaired(message, conversation)) return <Remnants list={remnants} conversation={conversation} assistant={assistant} />;
  return (
    <>
      <article class={`message ${message.type}`} aria-label={words.roles[message.type] ?? message.type}>
        {isEditing && assistant ? (
          <Editor message={message} onCancel={() => setEditing(false)} onDone={(text) => {
            setEditing(false);
            void conversation.edit(assistant.assistant_id, message, editedContent(message, text));
          }} />
        ) : (
          <Body message={message} results={results} />
        )}
        {!isEditing && (fork !== null || textOf(message.content) !== "" || isHuman) && (
          <div class="tools">
            {fork && <Switcher fork={fork} conversation={conversation} />}
            {isHuman && canBranch && <button type="button" class="quiet" aria-label={words.edit} title={words.edit} onClick={() => setEditing(true)}><Icon name="edit" /></button>}
            {message.type === "ai" && canBranch && !message.tool_calls?.length && <button type="button" class="quiet" aria-label={words.regenerate} title={words.regenerate} onClick={() => void conversation.regenerate(assistant.assistant_id, message)}><Icon name="again" /></button>}
            {textOf(message.content) !== "" && <button type="button" class="quiet" aria-label={words.copy} title={words.copy} onClick={() => copy(textOf(message.content))}><Icon name="copy" /></button>}
          </div>
        )}
      </article>
      <Remnants list={remnants} conversation={conversation} assistant={assistant} />
    </>
  );
}

/** A result is shown within its call, if the call is there. */
function isPaired(message: Message, conversation: Conversation): boolean {
  return conversation.messages.value.some((each) => each.tool_calls?.some((call) => call.id === message.tool_call_id));
}

function Remnants({ list, conversation, assistant }: { list: Remnant[]; conversation: Conversation; assistant: Assistant | null }) {
  return <>{list.map((remnant) => <RemnantView key={remnant.run.run_id} remnant={remnant} conversation={conversation} assistant={assistant} />)}</>;
}

function editedContent(message: Message, text: string): unknown {
  if (typeof message.content === "string") return text;
  return [...(text === "" ? [] : [{ type: "text", text }]), ...blocksOf(message.content).filter((block) => block.type !== "text")];
}

function Switcher({ fork, conversation }: { fork: Fork; conversation: Conversation }) {
  const go = (step: number) => void conversation.show(fork.children[fork.shown + step] as string);
  return (
    <span class="switcher" role="group" aria-label={words.versions}>
      <button type="button" class="quiet" aria-label={words.previousVersion} disabled={fork.shown === 0} onClick={() => go(-1)}>‹</button>
      <span>{fork.shown + 1}/{fork.children.length}</span>
      <button type="button" class="quiet" aria-label={words.nextVersion} disabled={fork.shown === fork.children.length - 1} onClick={() => go(1)}>›</button>
      <a class="quiet button" href={conversation.compareAddress(fork)}>{words.compare}</a>
    </span>
  );
}

function Editor({ message, onDone, onCancel }: { message: Message; onDone: (text: string) => void; onCancel: () => void }) {
  const [text, setText] = useState(textOf(message.content));
  const element = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => element.current?.focus(), []);  // before the next key
  return (
    <form class="editor" onSubmit={(event) => { event.preventDefault(); onDone(text); }} onKeyDown={(event) => {
      if (event.key === "Escape") { event.stopPropagation(); onCancel(); }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); onDone(text); }
    }}>
      <textarea ref={element} dir="auto" rows={Math.min(12, text.split("\n").length + 1)} aria-label={words.edit} value={text} onInput={(event) => setText(event.currentTarget.value)} />
      <div class="buttons"><button type="submit" class="primary" disabled={text.trim() === ""}>{words.sendEdited}</button><button type="button" onClick={onCancel}>{words.cancel}</button></div>
    </form>
  );
}

/** What a message says. It is rendered again only if the message, or the result of one of its calls, is another. */
const Body = memo(
  function Body({ message, results }: { message: Message; results: Map<string, Message> }) {
    const text = textOf(message.content);
    const reasoning = reasoningOf(message);
    return (
      <>
        {message.type === "tool" && <p class="muted">{words.resultOf(message.name ?? "")}</p>}
        {message.type === "system" && <p class="muted">{words.roles.system}</p>}
        {reasoning && <details class="reasoning"><summary>{words.reasoning}</summary><p dir="auto">{reasoning}</p></details>}
        {text !== "" && (message.type === "human" ? <p class="text" dir="auto">{text}</p> : <Markdown text={text} />)}
        <Pictures content={message.content} />
        {message.tool_calls?.map((call, index) => <Call key={call.id || index} call={call} result={results.get(call.id) ?? null} />)}
      </>
    );
  },
  (before, after) => before.message === after.message && (before.message.tool_calls ?? []).every((call) => before.results.get(call.id) === after.results.get(call.id)),
);

function Pictures({ content }: { content: unknown }) {
  const { data, links } = picturesOf(content);
  if (data.length + links.length === 0) return null;
  return (
    <div class="pictures">
      {data.map((address, index) => <img key={index} src={address} alt={words.picture} />)}
      {links.map((address, index) => <a key={index} href={address} target="_blank" rel="noopener noreferrer nofollow">{address}</a>)}
    </div>
  );
}

function Call({ call, result }: { call: ToolCall; result: Message | null }) {
  const short = typeof call.args === "string" ? call.args : Object.values((call.args ?? {}) as object).map(pretty).join(", ");
  const resultText = result ? textOf(result.content) : "";
  const isError = result?.status === "error";
  return (
    <details class={`call ${isError ? "failed" : ""}`}>
      <summary>
        <code dir="auto">{call.name}({short.length > 80 ? `${short.slice(0, 80)}…` : short})</code>
        {result && <span class="result" dir="auto"> → {resultText.length > 80 ? `${resultText.slice(0, 80)}…` : resultText}</span>}
        {!result && <span class="muted"> …</span>}
      </summary>
      <h4>{words.arguments}</h4>
      <JsonView value={call.args} />
      {result && <><h4>{isError ? words.error : words.result}</h4><Markdown text={resultText} /><Pictures content={result.content} /></>}
    </details>
  );
}

function RemnantView({ remnant, conversation, assistant }: { remnant: Remnant; conversation: Conversation; assistant: Assistant | null }) {
  const { run, error } = remnant;
  const known = new Set(conversation.messages.value.map((message) => message.id));
  const rest = remnant.messages.filter((message) => !known.has(message.id) && message.type !== "tool" && (textOf(message.content) !== "" || message.tool_calls?.length));
  const results = resultsOf(remnant.messages);
  const asked = inputMessages(run.kwargs.input).filter((message) => !known.has(message.id) && message.id !== undefined && run.status !== "interrupted");
  const isNewest = conversation.runs.value[0]?.run_id === run.run_id && !conversation.live.value;
  return (
    <>
      {conversation.messages.value.length === 0 && asked.map((message) => <article key={message.id} class="message human"><Body message={message} results={results} /></article>)}
      {rest.map((message) => <article key={message.id} class={`message ${message.type} partial`} aria-label={words.roles[message.type]}><Body message={message} results={results} /></article>)}
      {run.status === "interrupted" ? (
        <p class="note stopped"><span aria-hidden="true">■</span> {words.stopped}</p>
      ) : (
        <div class="problem" role="alert">
          <p><strong>{run.status === "timeout" ? words.timedOut : words.failed}</strong> {error?.error && <code>{error.error}</code>}</p>
          {error?.message && <p dir="auto">{error.message.length > MAX_ERROR_CHARS ? `${error.message.slice(0, MAX_ERROR_CHARS)}… ${words.cut}` : error.message}</p>}
          {error?.request_id && <p class="muted">{words.requestId} <Id value={error.request_id} /></p>}
          {isNewest && assistant && <button type="button" onClick={() => void conversation.goOn(assistant.assistant_id)}>{words.again}</button>}
        </div>
      )}
    </>
  );
}

function Live({ live, conversation, results }: { live: LiveRun; conversation: Conversation; results: Map<string, Message> }) {
  const known = new Set(conversation.messages.value.map((message) => message.id));
  // The state has the input only after the first checkpoint. Until then it is shown from the request.
  const asked = inputMessages(live.run.kwargs.input).filter((message) => message.id === undefined || !known.has(message.id));
  const own = live.messages.filter((message) => !known.has(message.id));
  const calls = new Set([...conversation.messages.value, ...own].flatMap((message) => message.tool_calls?.map((call) => call.id) ?? []));
  const shown = own.filter((message) => !(message.tool_call_id && calls.has(message.tool_call_id)));
  // The stream sends the input's own messages too.
  const isInput = (message: Message) => asked.some((each) => each.id !== undefined && each.id === message.id);
  return (
    <>
      {asked.map((message, index) => <article key={message.id ?? index} class={`message ${message.type}`} aria-label={words.roles[message.type]}><Body message={message} results={results} /></article>)}
      {shown.filter((message) => !isInput(message)).map((message) => (
        <article key={message.id} class={`message ${message.type} streaming`} aria-label={words.roles[message.type] ?? message.type}><Body message={message} results={results} /></article>
      ))}
      {live.hasGap && <p class="note">{words.gap}</p>}
      <LiveLine live={live} />
    </>
  );
}

function LiveLine({ live }: { live: LiveRun }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 200);
    return () => clearInterval(timer);
  }, []);
  const text = live.isStopping ? words.stopping
    : live.connection === "lost" ? words.reconnecting
    : live.run.status === "pending" && live.connection === "connecting" ? words.waitingForSlot
    : live.node ? words.inNode(live.node) : words.running;
  return (
    <p class={`live ${live.connection}`} role="status">
      <span class="pulse" aria-hidden="true" /> <span>{text}</span>
      {live.attempt > 1 && <span class="muted"> · {words.attempt(live.attempt)}</span>}
      <span class="muted tabular" aria-hidden="true"> {duration(Math.max(0, now - live.startedAt))}</span>
    </p>
  );
}

function Questions({ conversation, assistant }: { conversation: Conversation; assistant: Assistant | null }) {
  const interrupts = conversation.interrupts.value;
  const state = conversation.state.value;
  const stopped = conversation.runs.value[0];
  const isBreakpoint = interrupts.length === 0 && !conversation.live.value && (state?.next.length ?? 0) > 0 && stopped?.status === "success" && conversation.queue.value.length === 0;
  return (
    <>
      {conversation.answeredElsewhere.value && <p class="note" role="status">{words.answeredElsewhere}</p>}
      {assistant && may("threads.create_run") && interrupts.map((interrupt, index) => (
        <InterruptCard key={interrupt.id} interrupt={interrupt} isFirst={index === 0} onAnswer={(answer) => void conversation.resume(assistant.assistant_id, { [interrupt.id]: answer })} />
      ))}
      {isBreakpoint && assistant && (
        <section class="interrupt">
          <h2>{words.breakpoint((state?.next ?? []).join(", "))}</h2>
          <div class="buttons"><button type="button" class="primary" onClick={() => void conversation.goOn(assistant.assistant_id)}>{words.goOn}</button></div>
        </section>
      )}
    </>
  );
}

function Queued({ run, conversation }: { run: Run; conversation: Conversation }) {
  const messages = inputMessages(run.kwargs.input);
  return (
    <div class="queued">
      {messages.length > 0 ? messages.map((message, index) => <article key={index} class={`message ${message.type}`}><Body message={message} results={new Map()} /></article>) : <Id value={run.run_id} />}
      <p class="note">{words.queued} <button type="button" class="quiet" onClick={() => void conversation.cancel(run.run_id)}>{words.cancel}</button></p>
    </div>
  );
}

function Values({ conversation }: { conversation: Conversation }) {
  const values = conversation.live.value?.values ?? conversation.state.value?.values;
  if (values === undefined || values === null || Object.keys(values as object).length === 0) return null;
  return <section class="values"><h2>{words.values}</h2><JsonView value={values} /></section>;
}

/** Tells a screen reader whole sentences of an answer as they are complete, and the end of each message. */
function Announcer({ messages, live }: { messages: Message[]; live: LiveRun | null }) {
  const text = textOf((live?.messages.at(-1) ?? messages.at(-1))?.content);
  const whole = live ? (/^[\s\S]*[.!?:\n](?=\s|$)/.exec(text)?.[0] ?? "") : text;
  const told = useRef({ from: "", sentences: [] as string[] });
  // Only whole sentences: a screen reader would begin anew with each token.
  if (live && whole !== told.current.from) {
    const isLonger = whole.startsWith(told.current.from);
    const added = isLonger ? whole.slice(told.current.from.length) : whole;
    told.current = { from: whole, sentences: [...(isLonger ? told.current.sentences.slice(-3) : []), added.slice(0, 1000)] };
  }
  return <div class="unseen" role="log" aria-live="polite">{told.current.sentences.map((each, index) => <p key={index}>{each}</p>)}</div>;
}

function Failure({ failure }: { failure: SendFailure }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, [failure]);
  const leftS = failure.retryAt === null ? 0 : Math.ceil((failure.retryAt - now) / 1000);
  return (
    <div class="problem" role="alert">
      <p dir="auto">{failure.detail}</p>
      {failure.requestId && <p class="muted">{words.requestId} <Id value={failure.requestId} /></p>}
      <button type="button" disabled={leftS > 0} onClick={failure.again}>{leftS > 0 ? words.againIn(leftS) : words.again}</button>
    </div>
  );
}

interface FooterProps extends LogProps {
  schemas: Schemas | null;
}

function Footer({ conversation, assistant, isNew, asChat, schemas }: FooterProps) {
  const failure = conversation.failure.value;
  if (!assistant || !may("threads.create_run")) return <footer class="composer-area">{!assistant ? null : <p class="muted">{words.mayNotRun}</p>}</footer>;
  async function submit(input: unknown): Promise<boolean> {
    const isDone = await conversation.send(assistant!.assistant_id, input);
    if (isDone && isNew) navigate(`threads/${conversation.threadId}`);
    return isDone;
  }
  function submitDraft(draft: Draft): Promise<boolean> {
    const content = draft.blocks.length === 0 ? draft.text : [...(draft.text ? [{ type: "text", text: draft.text }] : []), ...draft.blocks];
    return submit({ messages: [{ type: "human", content, id: newId() }] });
  }
  return (
    <footer class="composer-area">
      {failure && <Failure failure={failure} />}
      {conversation.shownLeaf.value && <p class="note">{words.olderVersion} <button type="button" class="quiet" onClick={() => void conversation.show(null)}>{words.toNewest}</button></p>}
      {asChat ? (
        <Composer key={isNew ? "new" : conversation.threadId} draftKey={isNew ? "new" : conversation.threadId} isRunning={conversation.live.value !== null} isStopping={conversation.live.value?.isStopping ?? false}
          onSend={submitDraft} onStop={() => void conversation.stop()} />
      ) : (
        <InputForm key={`${assistant.assistant_id}${conversation.threadId}`} schemas={schemas} isRunning={conversation.live.value !== null} onSend={submit} onStop={() => void conversation.stop()} />
      )}
    </footer>
  );
}

function InputForm({ schemas, isRunning, onSend, onStop }: { schemas: Schemas | null; isRunning: boolean; onSend: (input: unknown) => Promise<boolean>; onStop: () => void }): ComponentChildren {
  const prefill = route.value.query.get("input");
  const [value, setValue] = useState<unknown>(() => parsedInput(prefill) ?? (schemas?.input_schema ? initialValue(schemas.input_schema) : {}));
  if (!schemas) return null;
  return (
    <form class="input-form" onSubmit={(event) => { event.preventDefault(); void onSend(value ?? {}); }}>
      <h2>{words.input}</h2>
      <SchemaForm schema={schemas.input_schema} value={value} onChange={setValue} />
      <div class="buttons">
        <button type="submit" class="primary">{words.run}</button>
        {isRunning && <button type="button" onClick={onStop}>{words.stop}</button>}
      </div>
    </form>
  );
}

function parsedInput(text: string | null): unknown {
  try {
    return text ? JSON.parse(text) : undefined;
  } catch {
    return undefined;
  }
}
