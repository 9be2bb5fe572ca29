/** Messages of LangChain as the API sends them: their text, their parts, and messages put together from chunks. */

export interface ToolCall {
  id: string;
  name: string;
  args: unknown;
}

export interface ContentBlock {
  type: string;
  [key: string]: unknown;
}

export interface ToolCallChunk {
  index?: number | null;
  id?: string | null;
  name?: string | null;
  args?: string | null;
}

export interface Message {
  id?: string;
  type: string;
  content: string | ContentBlock[];
  name?: string | null;
  tool_calls?: ToolCall[];
  tool_call_chunks?: ToolCallChunk[];
  tool_call_id?: string;
  status?: string;
  usage_metadata?: { input_tokens?: number; output_tokens?: number } | null;
  response_metadata?: Record<string, unknown>;
  additional_kwargs?: Record<string, unknown>;
}

/** Whether the value is a list of messages. An empty list is one. */
export function isMessageList(value: unknown): value is Message[] {
  return Array.isArray(value) && value.every((each) => typeof each === "object" && each !== null && "type" in each && "content" in each);
}

export function blocksOf(content: unknown): ContentBlock[] {
  if (typeof content === "string") return content === "" ? [] : [{ type: "text", text: content }];
  if (!Array.isArray(content)) return content == null ? [] : [{ type: "text", text: JSON.stringify(content) }];
  return content.map((each) => (typeof each === "string" ? { type: "text", text: each } : (each as ContentBlock)));
}

/** The text that a reader sees, without reasoning and pictures. */
export function textOf(content: unknown): string {
  return blocksOf(content)
    .filter((block) => block.type === "text" && typeof block.text === "string")
    .map((block) => block.text as string)
    .join("");
}

/** What a model thought before it spoke. The providers name the field in three ways. */
export function reasoningOf(message: Message): string {
  const parts = blocksOf(message.content).map((block) => {
    const text = block.reasoning ?? block.thinking ?? (block.type === "reasoning" ? block.text : undefined);
    return typeof text === "string" ? text : "";
  });
  const additional = message.additional_kwargs?.reasoning_content;
  if (typeof additional === "string") parts.push(additional);
  return parts.join("");
}

// No SVG: it may contain scripts.
const PICTURE_TYPES = /^(image\/(png|jpeg|gif|webp|avif))$/;

/** The pictures of a message as `data:` addresses, and the addresses of pictures that are elsewhere. */
export function picturesOf(content: unknown): { data: string[]; links: string[] } {
  const data: string[] = [];
  const links: string[] = [];
  for (const block of blocksOf(content)) {
    const url = pictureAddress(block);
    if (url === null) continue;
    if (/^data:image\/(png|jpeg|gif|webp|avif);base64,[A-Za-z0-9+/=]*$/.test(url)) data.push(url);
    else if (/^https?:\/\//i.test(url)) links.push(url);
  }
  return { data, links };
}

function pictureAddress(block: ContentBlock): string | null {
  if (block.type === "image_url") {
    const image = block.image_url as string | { url?: unknown } | undefined;
    const url = typeof image === "object" ? image.url : image;
    return typeof url === "string" ? url : null;
  }
  if (block.type !== "image") return null;
  const source = (block.source ?? block) as Record<string, unknown>;
  const type = source.mime_type ?? source.media_type ?? source.mimeType;
  const base64 = source.base64 ?? source.data;
  if (typeof base64 === "string" && typeof type === "string" && PICTURE_TYPES.test(type)) return `data:${type};base64,${base64}`;
  return typeof source.url === "string" ? source.url : null;
}

/** Messages that a run streams, put together from their chunks. */
export class MessageCollector {
  private readonly messages = new Map<string, Message>();
  private readonly order: string[] = [];

  /** Adds a chunk, or takes a whole message in place of its chunks. */
  add(chunk: Message): void {
    const id = chunk.id ?? "";
    // Chunks without an id can't be told apart.
    if (id === "") return;
    const known = this.messages.get(id);
    if (!known) this.order.push(id);
    const isChunk = chunk.type.endsWith("Chunk");
    // A node may return the whole message after its chunks, and then has the last word.
    this.messages.set(id, isChunk ? merge(known, chunk) : { ...chunk });
  }

  list(): Message[] {
    return this.order.map((id) => this.messages.get(id) as Message);
  }
}

const CHUNK_TYPES: Record<string, string> = {
  AIMessageChunk: "ai",
  HumanMessageChunk: "human",
  ToolMessageChunk: "tool",
  SystemMessageChunk: "system",
};

function merge(known: Message | undefined, chunk: Message): Message {
  const base: Message = known ?? { ...chunk, type: CHUNK_TYPES[chunk.type] ?? chunk.type, content: "", tool_call_chunks: [], tool_calls: [] };
  const calls = mergeCalls(base.tool_call_chunks ?? [], chunk.tool_call_chunks ?? []);
  return {
    ...base,
    content: mergeContent(base.content, chunk.content),
    tool_call_chunks: calls,
    tool_calls: calls.map((call) => ({ id: call.id ?? "", name: call.name ?? "", args: parsedArguments(call.args ?? "") })),
    usage_metadata: chunk.usage_metadata ?? base.usage_metadata ?? null,
  };
}

function mergeContent(before: string | ContentBlock[], added: string | ContentBlock[]): string | ContentBlock[] {
  if (typeof before === "string" && typeof added === "string") return before + added;
  if (typeof added === "string" && added === "") return before;
  const blocks = blocksOf(before).map((block) => ({ ...block }));
  for (const block of blocksOf(added)) {
    // Providers number the blocks of a message, and send the pieces of each under its number.
    const same = block.index === undefined ? undefined : blocks.find((each) => each.index === block.index && each.type === block.type);
    const last = same ?? (block.index === undefined && blocks.at(-1)?.type === block.type && block.type === "text" ? blocks.at(-1) : undefined);
    if (last) mergeBlock(last, block);
    else blocks.push({ ...block });
  }
  return blocks;
}

function mergeBlock(into: ContentBlock, block: ContentBlock): void {
  for (const key of ["text", "reasoning", "thinking"]) {
    if (typeof block[key] === "string") into[key] = `${typeof into[key] === "string" ? into[key] : ""}${block[key] as string}`;
  }
}

function mergeCalls(before: ToolCallChunk[], added: ToolCallChunk[]): ToolCallChunk[] {
  const calls = before.map((call) => ({ ...call }));
  for (const chunk of added) {
    // The index first: only the first piece of a call has an id.
    const same = calls.find((call) => (chunk.index != null ? call.index === chunk.index : chunk.id != null && call.id === chunk.id));
    if (!same) calls.push({ ...chunk });
    else {
      same.args = (same.args ?? "") + (chunk.args ?? "");
      same.id ??= chunk.id;
      same.name ??= chunk.name;
    }
  }
  return calls;
}

/** The arguments as an object once they are complete, and the text so far until then. */
function parsedArguments(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
